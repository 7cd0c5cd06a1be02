"""A run continues from a checkpoint only if all of it fits; otherwise one line says what does not, and nothing
changes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_checks import assert_same, last_state
from torch import Tensor
from toy_run import make_trainer

from cgcl_fast.engine import CheckpointError, rng_state
from cgcl_fast.engine.fitting import check_module
from cgcl_fast.nn import ImagePool

State = dict[str, Any]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 4 steps."""
    folder = tmp_path_factory.mktemp("run")
    make_trainer(folder, 4).fit()
    return folder


def adam(state: State, phase: str = "generator") -> State:
    return state["optimizers"][phase]


def put(container: Any, *path: Any) -> None:
    """``put(x, "a", 1, value)``: x["a"][1] = value."""
    *steps, last, value = path
    for step in steps:
        container = container[step]
    container[last] = value


def nan(tensor: Tensor) -> None:
    tensor.view(-1)[0] = float("nan")


WRONG: dict[str, tuple[Callable[[State], object], str]] = {
    "no weights": (lambda s: s.pop("method"), "lacks 'method'"),
    "a list of weights": (lambda s: put(s, "method", []), "weights: expected named values, got list"),
    "a weight less": (lambda s: s["method"].pop("D.bias"), "weights: lacks D.bias"),
    "a weight more": (lambda s: put(s, "method", "E.bias", torch.ones(1)), "weights: has the unknown E.bias"),
    "a weight of another type": (lambda s: put(s, "method", "D.bias", 3), "D.bias: expected a tensor, got int"),
    "a weight of another shape": (lambda s: put(s, "method", "D.bias", torch.ones(2)), r"D.bias: expected \(1,\)"),
    "a weight of integers": (lambda s: put(s, "method", "D.bias", torch.tensor([1])), "D.bias: .* got .*int64"),
    "a weight of NaN": (lambda s: nan(s["method"]["D.bias"]), "weights D.bias: expected finite numbers"),
    "a later step than the end": (lambda s: put(s, "step", 9), "of step 9, and this run ends at 6"),
    "no optimisers": (lambda s: s.pop("optimizers"), "lacks 'optimizers'"),
    "no optimiser": (lambda s: s["optimizers"].pop("generator"), "lacks 'generator'"),
    "a list of optimisers": (lambda s: put(s, "optimizers", [1]), "optimizers: expected a dict, got list"),
    "an optimiser that is none": (lambda s: put(s, "optimizers", "generator", [1]), "generator: expected named values"),
    "a group that is none": (lambda s: put(adam(s), "param_groups", [3]), "generator: expected named values, got int"),
    "a list of states": (lambda s: put(adam(s), "state", [3]), "generator: state: expected named values, got list"),
    "a state that is none": (lambda s: put(adam(s), "state", 0, torch.ones(2)), "parameter 0: expected named values"),
    "no groups": (lambda s: put(adam(s), "param_groups", []), "generator: expected 1 groups"),
    "a group of others": (lambda s: put(adam(s), "param_groups", 0, "params", [9]), "generator: params: expected"),
    "a group without betas": (lambda s: adam(s)["param_groups"][0].pop("betas"), "lacks betas"),
    "a group with other betas": (lambda s: put(adam(s), "param_groups", 0, "betas", (2.0, 9.0)), "betas: expected"),
    "a group with a rate of NaN": (lambda s: put(adam(s), "param_groups", 0, "lr", float("nan")), "lr: expected"),
    "a parameter without state": (lambda s: adam(s)["state"].pop(1), "generator: lacks the state of parameter 1"),
    "a state of no parameter": (lambda s: put(adam(s), "state", 9, {}), "state of 9, which is no parameter"),
    "half a state": (lambda s: adam(s)["state"][0].pop("exp_avg"), "parameter 0: lacks exp_avg"),
    "a moment of another shape": (
        lambda s: put(adam(s), "state", 0, "exp_avg", torch.ones(1)),
        r"parameter 0: exp_avg: expected \(4, 3, 3, 3\)",
    ),
    "a moment of NaN": (lambda s: nan(adam(s)["state"][1]["exp_avg"]), "parameter 1: exp_avg: expected finite"),
    "a negative square": (lambda s: adam(s)["state"][1]["exp_avg_sq"].sub_(9), "parameter 1: .*positive"),
    "a step of Adam that is none": (lambda s: put(adam(s), "state", 1, "step", "x"), "step: expected a tensor"),
    "no loader": (lambda s: s.pop("loader"), "lacks 'loader'"),
    "a position that is no number": (lambda s: put(s, "loader", "position", "x"), "loader position: expected a int"),
    "a position of another epoch": (lambda s: put(s, "loader", "position", 99), "position must be from 0 to 4"),
    "no random numbers": (lambda s: s.pop("rng"), "lacks 'rng'"),
    "one for all processes": (lambda s: put(s, "rng", 3), "rng: expected a list, got int"),
    "random numbers that are none": (lambda s: put(s, "rng", 0, 3), "random numbers of process 0"),
    "a generator that is none": (lambda s: put(s, "rng", 0, "torch", torch.ones(3)), "random numbers of process 0"),
    "too few words of Python": (
        lambda s: put(s, "rng", 0, "python", "words", torch.ones(3, dtype=torch.int64)),
        "random numbers of process 0",
    ),
    "a position beyond NumPy's words": (lambda s: put(s, "rng", 0, "numpy", "position", 10**6), "expected 0 to 624"),
    "a state of CUDA that is none": (lambda s: put(s, "rng", 0, "cuda", [3]), "cuda: expected tensors of bytes"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_checkpoint_that_does_not_fit_is_refused_in_one_line_and_changes_nothing(kind: str, run: Path) -> None:
    change, said = WRONG[kind]
    trainer = make_trainer(run, 6)
    state = last_state(run)
    change(state)
    path = run / "checkpoints" / "step_00000004.pt"
    trainer.checkpoints.newest = lambda: (path, state)  # type: ignore[method-assign]
    files = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    before = copy.deepcopy(everything(trainer))
    with pytest.raises(CheckpointError, match=rf"^{path}: does not fit this run \([^\n]*{said}[^\n]*\)$"):
        trainer.fit(resume=True)
    assert_same(everything(trainer), before)
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == files


def everything(trainer: Any) -> State:
    return {
        "method": trainer.method.state_dict(),
        "optimizers": [running.optimizer.state_dict() for running in trainer.phases],
        "loader": trainer.loader.state_dict(),
        "rng": rng_state(),
        "step": trainer.step,
    }


def test_checkpoints_from_before_every_parameter_had_an_entry_are_taken(run: Path, tmp_path: Path) -> None:
    """A parameter that had no gradient yet has an empty entry now, and had none then."""
    trainer, state = make_trainer(tmp_path, 6), last_state(run)
    del state["complete"], adam(state)["state"][1]
    trainer.checkpoints.newest = lambda: (run / "checkpoints" / "step_00000004.pt", state)  # type: ignore[method-assign]
    assert trainer.fit(resume=True).step == 6


def test_states_of_other_devices_and_of_older_runs_go_on_alike(run: Path, tmp_path: Path) -> None:
    """How Adam computes, and with which learning rate in the last step, is not taken from them."""

    def resumed(folder: Path, change: Callable[[State], object]) -> State:
        trainer, state = make_trainer(folder, 6), last_state(run)
        for name in state["optimizers"]:
            change(adam(state, name))
        trainer.checkpoints.newest = lambda: (run / "checkpoints" / "step_00000004.pt", state)  # type: ignore[method-assign]
        rates = [group["lr"] for running in trainer.phases for group in running.optimizer.param_groups]
        assert trainer.fit(resume=True).step == 6
        groups = [group for running in trainer.phases for group in running.optimizer.param_groups]
        assert all(group["lr"] is rate for group, rate in zip(groups, rates, strict=True))
        assert all(group["fused"] is True and group["capturable"] is False for group in groups)
        return last_state(folder)

    def of_a_gpu(state: State) -> None:
        state["param_groups"][0].update(lr=0.3, capturable=True, foreach=None)

    def of_before(state: State) -> None:
        state["param_groups"][0].update(lr=1, fused=None)
        del state["param_groups"][0]["capturable"]

    expected = resumed(tmp_path / "own", lambda state: None)
    assert_same(resumed(tmp_path / "gpu", of_a_gpu), expected)
    assert_same(resumed(tmp_path / "before", of_before), expected)


def test_parameters_without_a_gradient_have_an_empty_entry(tmp_path: Path) -> None:
    make_trainer(tmp_path, 1).fit()
    first = torch.load(tmp_path / "checkpoints" / "step_00000000.pt", weights_only=True)
    assert adam(first)["state"] == {0: {}, 1: {}, 2: {}, 3: {}}
    assert make_trainer(tmp_path, 2).fit(resume=True).step == 2


@pytest.mark.parametrize(
    "images",
    [3, [3], [torch.ones(3, 4, 4)] * 3, [torch.ones(3)],
     [torch.full((3, 4, 4), float("nan"))], [torch.ones(3, 4, 4, dtype=torch.int64)]],
)  # fmt: skip
def test_a_history_of_images_that_is_none_is_refused(images: object) -> None:
    module = torch.nn.ModuleDict({"pool": ImagePool(2)})
    with pytest.raises(ValueError, match="pool._extra_state: "):
        check_module({"pool._extra_state": {"images": images}}, module)
    check_module({"pool._extra_state": {"images": [torch.ones(3, 4, 4)]}}, module)
    assert module["pool"].get_extra_state() == {"images": []}  # type: ignore[operator]
