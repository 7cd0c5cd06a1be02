"""The cache of compiled kernels: hits for the same dtypes, alignments and numbers, and for no others."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")
sys.path.insert(0, str(Path(__file__).parent.parent / "gpu"))

from gpu_cases import CASES, NAMES, OpCase  # noqa: E402

from cgcl_fast.kernels import INTERPRET, _launch, adain, gather_patches  # noqa: E402
from cgcl_fast.ops import _check, _operator  # noqa: E402

pytestmark = pytest.mark.skipif(INTERPRET, reason="the interpreter holds nothing")


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Any, ...]]]:
    """The arguments of each kernel that would be compiled."""
    with _launch.launching_nothing():
        first, seen = _launch._first, list[tuple[Any, ...]]()

        def noted(kernel: Any, programs: int, device: Any, arguments: tuple[Any, ...], *rest: Any) -> Any:
            seen.append(arguments)
            return first(kernel, programs, device, arguments, *rest)

        monkeypatch.setattr(_launch, "_first", noted)
        yield seen


def forward(x: Tensor, eps: float = 1e-5, activation: str = "none", residual: Tensor | None = None) -> None:
    adain.forward(x, None, None, eps, activation, residual)


CHANGES: dict[str, Callable[[Tensor], Any]] = {
    "a dtype": lambda x: forward(x.half()),
    "a size": lambda x: forward(x[:, :, :5]),
    "strides": lambda x: forward(x.transpose(2, 3)),
    "an alignment": lambda x: forward(torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)),
    "a number": lambda x: forward(x, eps=1e-4),
    "a constant": lambda x: forward(x, activation="relu"),
    "a tensor for None": lambda x: forward(x, residual=x),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_another_call_takes_another_kernel(change: Callable[[Tensor], Any], compiled: list[Any]) -> None:
    x = torch.randn(2, 3, 6, 6)
    forward(x)
    forward(torch.randn(2, 3, 6, 6))
    assert len(compiled) == 1
    change(x)
    change(x)
    forward(x)
    assert len(compiled) == 2


def test_few_are_held(compiled: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_launch, "_MOST_HELD", 3)
    for size in range(1, 9):
        gather_patches.forward(torch.randn(1, 2, size, 3), torch.zeros(2, dtype=torch.int64))
        assert 1 <= len(_launch._held) <= 3
    assert len(compiled) == 8


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_tensors_come_first(case: OpCase, compiled: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor among the numbers would be looked up by what it is, not by its dtype and alignment."""
    monkeypatch.setattr(_check, "readable", lambda value: False)
    monkeypatch.setattr(_operator, "_found", {})
    find = _operator.find_kernel
    monkeypatch.setattr(_operator, "find_kernel", lambda name, backend, device: find(name, "triton", device))
    case.run(case.arguments("cpu"))
    assert compiled
    for arguments in compiled:
        numbers = [argument is not None and not _holds_tensors(argument) for argument in arguments]
        assert not any(_holds_tensors(argument) for argument in arguments[numbers.index(True) :])


def _holds_tensors(argument: Any) -> bool:
    several = argument if isinstance(argument, tuple) else (argument,)
    return any(isinstance(one, Tensor) for one in several)
