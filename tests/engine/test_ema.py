"""The average of the generator's weights is the formula's, goes on exactly, and is what a run shows and shares."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from engine_checks import assert_same, last_state
from graph_runs import everything, train, trainer_of
from tape import TapeRecorder
from torch import Tensor
from toy_run import make_trainer

from cgcl_fast.engine import CheckpointError, Trainer
from cgcl_fast.engine.ema import GeneratorAverage
from cgcl_fast.engine.log import RunLog

pytestmark = pytest.mark.usefixtures("one_thread")

DECAY = 0.9


def averages(trainer: Trainer) -> dict[str, Tensor]:
    assert trainer.average is not None
    return trainer.average.networks.state_dict()


@pytest.mark.parametrize("options", [{}, {"accumulate": 2}], ids=str)
@pytest.mark.parametrize("case", ["cut", "sincut", "mguit", "cgcl", "cyclegan, batch norm"])
def test_it_is_the_formulas_after_every_step(case: str, options: dict[str, Any], tmp_path: Path) -> None:
    trainer = trainer_of(case, tmp_path, ema_decay=DECAY, sizes=(16,), **options)
    method = trainer.method
    names = [name for name in (method.generator_name, method.backward_name) if name]
    live = {f"{name}.{key}": t for name in names for key, t in getattr(method, name).state_dict().items()}
    weights = {f"{name}.{key}" for name in names for key, _ in getattr(method, name).named_parameters()}
    expected = {key: live[key].double().clone() for key in weights}
    assert live.keys() == averages(trainer).keys()
    for _ in range(6):
        train(trainer, 1)
        expected = {key: DECAY * old + (1 - DECAY) * live[key].double() for key, old in expected.items()}
    for key, average in averages(trainer).items():
        if key in weights:
            torch.testing.assert_close(average.double(), expected[key], rtol=1e-6, atol=1e-7)
        else:
            assert torch.equal(average, live[key]), key
    moved = [key for key in weights if not torch.equal(averages(trainer)[key], live[key])]
    assert len(moved) > len(weights) / 2
    assert ("mguit" in case or "batch norm" in case) == (live.keys() > weights)


@pytest.mark.parametrize(
    ("case", "options"),
    [
        ("cut", {}),
        ("mguit", {}),
        ("cyclegan, batch norm", {}),
        ("cut", {"accumulate": 2}),
        ("cut", {"precision": "bf16"}),
    ],
)
def test_a_graph_of_the_step_has_it_and_the_training_does_not_notice(
    case: str, options: dict[str, Any], tmp_path: Path
) -> None:
    plain = trainer_of(case, tmp_path, sizes=(16,), **options)
    losses, expected = train(plain, 8), everything(plain)
    eager = trainer_of(case, tmp_path, sizes=(16,), ema_decay=DECAY, **options)
    assert_same(train(eager, 8), losses)
    found = everything(eager)
    assert found["ema"] and not expected["ema"]
    assert_same({**found, "ema": {}}, expected)
    graphed = trainer_of(case, tmp_path, sizes=(16,), ema_decay=DECAY, recorder=TapeRecorder(), **options)
    assert_same(train(graphed, 8), losses)
    assert_same(everything(graphed), found)
    assert graphed.graphs is not None and graphed.graphs.recorded == 1


# ---------------------------------------------------------------------------------------------------------- going on


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 10 steps that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    make_trainer(folder, 10, ema_decay=DECAY).fit()
    return folder


def newest_generator(folder: Path) -> dict[str, Tensor]:
    return safetensors.torch.load(max((folder / "checkpoints").glob("step_*.safetensors")).read_bytes())


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path: Path, whole: Path) -> None:
    outcome = make_trainer(tmp_path, 10, ema_decay=DECAY, trouble=("term", 5)).fit()
    assert (outcome.step, outcome.signal) == (5, signal.SIGTERM)
    make_trainer(tmp_path, 10, ema_decay=DECAY).fit(resume=True)
    assert "ema" in last_state(whole)
    assert_same(last_state(tmp_path), last_state(whole))
    assert_same(newest_generator(tmp_path), newest_generator(whole))


def test_graphs_go_on_with_it_and_without(tmp_path: Path) -> None:
    trainer_of("mguit", tmp_path / "whole", 16, sizes=(16,), ema_decay=DECAY).fit()
    for steps, recorder in ((8, TapeRecorder()), (16, None)):
        trainer = trainer_of("mguit", tmp_path / "parts", steps, sizes=(16,), ema_decay=DECAY, recorder=recorder)
        trainer.fit(resume=steps == 16)
    assert_same(last_state(tmp_path / "parts"), last_state(tmp_path / "whole"))


def test_it_begins_where_a_run_had_none_and_ends_where_it_is_not_wanted(tmp_path: Path) -> None:
    make_trainer(tmp_path, 6).fit()
    begun = last_state(tmp_path)["method"]
    assert "ema" not in last_state(tmp_path)
    trainer = make_trainer(tmp_path, 7, ema_decay=DECAY)
    with pytest.warns(UserWarning, match=r"step_00000006\.pt: has no average .* begins with them"):
        trainer.fit(resume=True)
    state = last_state(tmp_path)
    for key, average in state["ema"].items():
        torch.testing.assert_close(average, DECAY * begun[key] + (1 - DECAY) * state["method"][key])
    make_trainer(tmp_path, 10).fit(resume=True)
    state = last_state(tmp_path)
    assert "ema" not in state
    assert_same(newest_generator(tmp_path), {k: state["method"][f"G.{k}"] for k in newest_generator(tmp_path)})


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("G.0.bias", torch.zeros(5), r"weights G\.0\.bias: expected \(4,\)"),
        ("G.0.bias", torch.full((4,), float("nan")), r"weights G\.0\.bias: expected finite numbers"),
        ("G.9.bias", torch.zeros(4), r"weights: has the unknown G\.9\.bias"),
    ],
)
def test_an_average_that_does_not_fit_is_refused(name: str, value: Tensor, reason: str, tmp_path: Path) -> None:
    make_trainer(tmp_path, 1, ema_decay=DECAY).fit()
    path = tmp_path / "checkpoints" / "step_00000001.pt"
    state = last_state(tmp_path)
    torch.save({**state, "ema": {**state["ema"], name: value}}, path)
    with pytest.raises(CheckpointError, match=rf"step_00000001\.pt: does not fit this run \({reason}"):
        make_trainer(tmp_path, 2, ema_decay=DECAY).fit(resume=True)


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.5, float("nan")])
def test_a_decay_out_of_range_is_refused(decay: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ema_decay: expected a number above 0 and below 1, got"):
        GeneratorAverage(make_trainer(tmp_path, 1).method, decay)


# ------------------------------------------------------------------------------------------------- what is made of it


def test_grids_figures_and_generator_files_are_of_the_average(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grids: dict[int, dict[str, Tensor]] = {}
    measured: list[Tensor] = []
    monkeypatch.setattr(RunLog, "images", lambda log, step, images: grids.update({step: images}))

    def evaluate(method: Any) -> dict[str, float]:
        assert not method.training and not method.G.training
        measured.append(method.translate(trainer.sample_batch["A"]))
        return {"figure": 1.0}

    trainer = make_trainer(tmp_path, 3, ema_decay=DECAY, evaluate=evaluate)
    live = trainer.method.G
    trainer.fit()
    assert trainer.method.G is live and live.training and trainer.method.D.training
    assert trainer.average is not None
    with torch.no_grad():
        of_average = trainer.average.networks["G"](trainer.sample_batch["A"])
        of_weights = live.eval()(trainer.sample_batch["A"])
    assert not torch.allclose(of_average, of_weights)
    assert torch.equal(grids[3]["translated"], of_average) and torch.equal(measured[-1], of_average)
    state = last_state(tmp_path)
    assert_same(newest_generator(tmp_path), {k: state["ema"][f"G.{k}"] for k in newest_generator(tmp_path)})
    assert_same(dict(live.state_dict()), {k: state["method"][f"G.{k}"] for k in live.state_dict()})
