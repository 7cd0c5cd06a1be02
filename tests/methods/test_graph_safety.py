"""No step of any method waits for the device, decides on the host or copies from it.

The steps run on the meta device, whose tensors have no values: reading one raises. So does, in these tests, every
operation on a host tensor, wherever it comes from: a draw from the CPU's generator, a list, a copy.
tests/kernels/test_graph_safety.py tests the ops' kernels.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cgcl_fast.methods import METHODS, Method

from .graph_cases import CASES, KEYS, batch_of, method_of
from .one_step import phases_of_a_step

FROM_PYTHON = (torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy, Tensor.new_tensor)
"""What copies values that Python has to the device."""


class NothingFromPython(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in FROM_PYTHON, f"{func.__name__} in a step"
        return func(*args, **(kwargs or {}))


class OnTheDevice(TorchDispatchMode):
    """Every operation has tensors of the meta device only."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        out = func(*args, **(kwargs or {}))
        tensors = [tensor for tensor in tree_leaves((args, kwargs, out)) if isinstance(tensor, Tensor)]
        assert all(tensor.is_meta for tensor in tensors), f"{name} of a tensor on the host"
        return out


@pytest.fixture(autouse=True)
def no_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Autocast does not know the meta device, on which there is none."""

    def known(function: Callable) -> Callable:
        return lambda device, *arguments, **more: function("cpu" if device == "meta" else device, *arguments, **more)

    for name in ("autocast", "is_autocast_enabled", "get_autocast_dtype"):
        monkeypatch.setattr(torch, name, known(getattr(torch, name)))


def generators() -> tuple[Hashable, ...]:
    """State of those of the host."""
    return random.getstate(), str(np.random.get_state()), torch.get_rng_state().numpy().tobytes()


def run(method: Method, batch: dict[str, Any], choices: dict[str, Any]) -> None:
    """A step without the optimisers, on the meta device."""
    method = method.to("meta")
    part = {name: value.to("meta") for name, value in method.prepare(batch).items() if isinstance(value, Tensor)}
    before = generators()
    with NothingFromPython(), OnTheDevice():
        for _ in phases_of_a_step(method, part, choices):
            pass
    assert generators() == before, "a number drawn on the host in a step"


def choices_of(method: Method) -> list[dict[str, Any]]:
    """All that the method chooses in a training."""
    found = {tuple(sorted(method.choose(step / 20).items())) for step in range(20)}
    return [dict(choices) for choices in sorted(found)]


@pytest.mark.parametrize("case", CASES)
def test_a_step_reads_nothing_and_decides_nothing(case: str) -> None:
    method = method_of(case)
    choices = choices_of(method)
    assert len(choices) == KEYS.get(case, 1)
    for each in choices:
        run(method, batch_of(case), each)


def test_every_method_is_looked_at() -> None:
    assert {name for name, _ in CASES.values()} == set(METHODS)


NO_VALUE = "meta tensor"
"""What PyTorch says of a tensor whose value is asked for."""
PLANTED: dict[str, tuple[Callable[[Tensor], object], str]] = {
    "item": (lambda x: x.sum().item(), NO_VALUE),
    "bool": (lambda x: bool(x.sum() > 0), NO_VALUE),
    "tolist": (lambda x: x.flatten()[:2].tolist(), NO_VALUE),
    "nonzero": (lambda x: x.nonzero(), "nonzero"),
    "mask": (lambda x: x[x > 0], "nonzero"),
    "to the host": (lambda x: x.cpu(), NO_VALUE),
    "a decision by a draw": (
        lambda x: x.flip(3) if torch.rand((), device="cpu") < 0.5 else x, "rand of a tensor on the host"
    ),
    "a draw of Python's": (lambda x: x * random.random(), "a number drawn on the host"),
    "a draw of NumPy's": (lambda x: x * np.random.rand(), "a number drawn on the host"),
    "a list": (lambda x: x * torch.tensor([1.0, 2.0], device="cpu").sum(), "tensor in a step"),
    "a list, to the device": (lambda x: x * torch.tensor([1.0, 2.0], device=x.device).sum(), "tensor in a step"),
    "one-hot": (lambda x: torch.nn.functional.one_hot(x.flatten()[:4].long()), NO_VALUE),
}  # fmt: skip
HARMLESS = "nothing"


@pytest.mark.parametrize("where", ["loss", "after"])
@pytest.mark.parametrize("plant", [*PLANTED, HARMLESS])
def test_what_is_planted_is_found(plant: str, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = "cut, external negatives"
    method = method_of(case)
    name = "contrast" if where == "loss" else "update_queues"
    original = getattr(method, name)
    function, said = PLANTED.get(plant, (lambda x: x + 1, ""))

    def planted(first: Any, second: Any) -> Any:
        function(first["output"] if where == "loss" else first[0]["A"])
        return original(first, second)

    monkeypatch.setattr(method, name, planted)
    with nullcontext() if plant == HARMLESS else pytest.raises((AssertionError, RuntimeError), match=said):
        run(method, batch_of(case), method.choose(0.0))
