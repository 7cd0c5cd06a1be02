"""Replayed steps equal steps without graphs: losses, weights, optimisers, memories, generators, bit for bit.

A CUDA graph is simulated on the CPU in two ways (tape.py): by calling the step again on the memory of the recording,
and by repeating the recorded operations on their original tensors, without any of the step's Python.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from engine_checks import assert_same, last_state, log_of
from graph_runs import everything, train, trainer_of
from tape import AgainRecorder, TapeRecorder
from torch import Tensor

from cgcl_fast.engine import CaptureError, Trainer, graphs
from cgcl_fast.engine.graphs import R, StepGraphs, obstacle
from cgcl_fast.methods import METHODS

from graph_cases import CASES, KEYS  # isort: skip  graph_runs says where it is


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("case", CASES)
def test_twenty_steps_are_those_without_graphs(case: str, tmp_path: Path) -> None:
    eager = trainer_of(case, tmp_path)
    losses = train(eager)
    expected = everything(eager)
    recorders = (AgainRecorder(), TapeRecorder()) if case in METHODS else (TapeRecorder(),)
    for recorder in recorders:
        graphed = trainer_of(case, tmp_path, recorder=recorder)
        assert_same(train(graphed), losses)
        assert_same(everything(graphed), expected)
        assert graphed.graphs is not None and graphed.graphs.recorded == KEYS.get(case, 1)


@pytest.mark.parametrize("options", [{"accumulate": 3}, {"precision": "bf16"}, {"sizes": (32, 48)}], ids=str)
def test_parts_precision_and_sizes(options: dict[str, Any], tmp_path: Path) -> None:
    case = "cut, external negatives"
    eager = trainer_of(case, tmp_path, **options)
    losses, expected = train(eager), everything(eager)
    graphed = trainer_of(case, tmp_path, recorder=TapeRecorder(), **options)
    assert_same(train(graphed), losses)
    assert_same(everything(graphed), expected)
    assert graphed.graphs is not None and graphed.graphs.recorded == len(options.get("sizes", "1"))


@pytest.mark.parametrize("case", ["mguit", "cgl", "cyclegan"])
def test_memory_penalty_and_pool_of_several_parts(case: str, tmp_path: Path) -> None:
    eager = trainer_of(case, tmp_path, accumulate=2, sizes=(16,))
    losses, expected = train(eager, 6), everything(eager)
    graphed = trainer_of(case, tmp_path, accumulate=2, sizes=(16,), recorder=TapeRecorder())
    assert_same(train(graphed, 6), losses)
    assert_same(everything(graphed), expected)
    assert graphed.graphs is not None and graphed.graphs.recorded == 1


def values_as_numbers(x: Tensor) -> Tensor:
    return x * (1 + 0.01 * float(x.detach().sum()))


def decided_by_a_draw(x: Tensor) -> Tensor:
    return x.flip(3) if torch.rand(()) < 0.5 else x


@pytest.mark.parametrize("plant", [values_as_numbers, decided_by_a_draw])
def test_what_a_graph_would_get_wrong_shows(
    plant: Callable[[Tensor], Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tape has none of the step's Python, so what was decided in it stays as it was recorded."""

    def trained(recorder: TapeRecorder | None) -> list[dict[str, float]]:
        trainer = trainer_of("cut", tmp_path, recorder=recorder)
        contrast = trainer.method.contrast
        monkeypatch.setattr(
            trainer.method, "contrast", lambda shared, n: contrast({**shared, "output": plant(shared["output"])}, n)
        )
        return train(trainer, 12)

    eager, replayed = trained(None), trained(TapeRecorder())
    assert replayed[: graphs.WARM_UP] == eager[: graphs.WARM_UP] and replayed != eager


# --------------------------------------------------------------------------------------------------------- whole runs


@pytest.mark.parametrize("case", ["fastcut", "cut, all negatives, attention, dropout", "cyclegan", "mguit"])
@pytest.mark.parametrize("graphed_first", [True, False])
def test_a_checkpoint_goes_on_with_graphs_and_without(case: str, graphed_first: bool, tmp_path: Path) -> None:
    """With grids and checkpoints between the replays."""
    whole = trainer_of(case, tmp_path / "whole", 18)
    whole.fit()
    for steps, graphed in ((9, graphed_first), (18, not graphed_first)):
        trainer = trainer_of(case, tmp_path / "parts", steps, recorder=TapeRecorder() if graphed else None)
        trainer.fit(resume=steps == 18)
        assert graphed == (trainer.graphs is not None and trainer.graphs.recorded > 0)
    assert_same(last_state(tmp_path / "parts"), last_state(tmp_path / "whole"))
    # The step at which a run ends has a line.
    parts, log = ({line["step"]: line for line in log_of(tmp_path / name)} for name in ("parts", "whole"))
    assert {step: parts[step] for step in log} == log
    for running in whole.phases:
        assert log[18][f"lr/{running.phase.name}"] == pytest.approx(running.rates[0] * 0.9**17, rel=1e-12)


def test_a_trainer_that_resumes_records_anew(tmp_path: Path) -> None:
    """The tensors of its optimisers are others then."""
    trainer = trainer_of("cut", tmp_path / "twice", 10, recorder=TapeRecorder())
    trainer.fit()
    trainer.options = trainer_of("cut", tmp_path / "none", 20).options
    trainer.fit(resume=True)
    trainer_of("cut", tmp_path / "whole", 20).fit()
    assert_same(last_state(tmp_path / "twice"), last_state(tmp_path / "whole"))


# ------------------------------------------------------------------------------------------- what cannot be captured


class Refusing(TapeRecorder):
    """A capture that fails in the middle of a step and again at its end, as those of CUDA do."""

    def __init__(self) -> None:
        self.attempts = 0
        self.recording = False

    def record(self, function: Callable[[], R]) -> Callable[[], R]:
        self.attempts += 1
        self.recording = True
        try:
            return super().record(function)
        except RuntimeError as error:
            raise RuntimeError("operation failed due to a previous error during capture") from error
        finally:
            self.recording = False


def refused(folder: Path, monkeypatch: pytest.MonkeyPatch, required: bool) -> tuple[Trainer, Refusing]:
    trainer, recorder = trainer_of("cut, flips, no adversary", folder, accumulate=2), Refusing()
    trainer.graphs = StepGraphs(trainer._run, torch.device("cpu"), recorder, required=required)
    method = trainer.method
    contrast, parts = method.contrast, iter(range(10**6))

    def failing(shared: dict[str, Any], n: int) -> Tensor:
        if recorder.recording and next(parts) % 2:  # the second part, when gradients of the first are there
            raise RuntimeError("operation not permitted when stream is capturing\nCUDA kernel errors might be reported")
        return contrast(shared, n)

    monkeypatch.setattr(method, "contrast", failing)
    return trainer, recorder


def test_a_step_that_cannot_be_captured_is_run_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    eager = trainer_of("cut, flips, no adversary", tmp_path, accumulate=2)
    losses, expected = train(eager), everything(eager)
    trainer, recorder = refused(tmp_path, monkeypatch, required=False)
    with pytest.warns(UserWarning) as caught:
        assert_same(train(trainer), losses)
    assert_same(everything(trainer), expected)
    (said,) = [str(warning.message) for warning in caught if "CUDA graph" in str(warning.message)]
    reason = "this step cannot be captured as a CUDA graph (operation not permitted when stream is capturing)"
    assert said == f"{reason}; training goes on without graphs"
    assert recorder.attempts == 1 and trainer.graphs is not None and trainer.graphs.recorded == 0


def test_where_graphs_are_demanded_a_step_that_cannot_be_captured_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, _ = refused(tmp_path, monkeypatch, required=True)
    with pytest.raises(CaptureError, match=r"\(operation not permitted [^\n]*\); --graphs auto or off goes on"):
        train(trainer)
    assert all(p.grad is None for p in trainer.method.parameters())


def test_more_kinds_of_steps_than_are_kept_run_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "MOST_KINDS", 2)
    eager = trainer_of("cut", tmp_path, sizes=(32, 36, 40))
    losses, expected = train(eager), everything(eager)
    trainer = trainer_of("cut", tmp_path, recorder=TapeRecorder(), sizes=(32, 36, 40))
    with pytest.warns(UserWarning, match="steps are of more than 2 kinds .* the others run without") as caught:
        assert_same(train(trainer), losses)
    assert len(caught) == 1 and trainer.graphs is not None and trainer.graphs.recorded == 2
    assert_same(everything(trainer), expected)


def accelerator(device: str = "cuda", processes: int = 1, scaler: object = None) -> Any:
    return SimpleNamespace(device=torch.device(device), num_processes=processes, scaler=scaler)


@pytest.mark.parametrize(
    ("where", "why"),
    [
        (accelerator("cpu"), "device cpu has no CUDA graphs"),
        (accelerator(processes=2), "several processes exchange their gradients within a step"),
        (accelerator(scaler=object()), "the gradient scaler of fp16 is not captured"),
    ],
)
def test_where_there_are_no_graphs(where: Any, why: str) -> None:
    assert obstacle("auto", where) == why and obstacle("off", where) == "graphs is off"
    with pytest.raises(ValueError, match=f"graphs must be auto or off here, got 'on': {why}"):
        obstacle("on", where)


def test_where_there_are_graphs() -> None:
    assert obstacle("auto", accelerator()) is None and obstacle("on", accelerator()) is None
    assert obstacle("off", accelerator()) == "graphs is off"
    with pytest.raises(ValueError, match="graphs must be auto, on or off, got 'yes'"):
        obstacle("yes", accelerator())


def test_a_trainer_has_none_on_a_cpu_and_does_not_take_the_demand(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert trainer_of("cut", tmp_path, graphs="auto").graphs is None
    with pytest.raises(ValueError, match="graphs must be auto or off here"):
        trainer_of("cut", tmp_path, graphs="on")
