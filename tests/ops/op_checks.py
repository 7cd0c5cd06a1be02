"""Checks of every op: values and gradients against its reference, gradcheck, opcheck, compile, TorchScript."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import settings
from torch import Tensor

import cgcl_fast
from cgcl_fast import _backend
from cgcl_fast.kernels import INTERPRET

Op = Callable[..., Tensor]

#: Where the tests put their tensors: the CPU, or what CGCL_FAST_TEST_DEVICE says (see tests/conftest.py).
DEVICE = torch.empty(0, device=os.environ.get("CGCL_FAST_TEST_DEVICE") or "cpu").device
#: The backend that has the kernel under test.
KERNEL = "native" if DEVICE.type == "cpu" else "auto"
only_on_cpu = pytest.mark.skipif(DEVICE.type != "cpu", reason="of the CPU's kernels: a GPU would have to be waited for")


def randn(*shape: int, generator: torch.Generator, dtype: torch.dtype | None = None) -> Tensor:
    """Drawn where the generator is, so that every device tests the same numbers."""
    return torch.randn(shape, generator=generator, dtype=dtype, device=generator.device).to(DEVICE)


def randint(low: int, high: int, size: Sequence[int], *, generator: torch.Generator) -> Tensor:
    return torch.randint(low, high, tuple(size), generator=generator, device=generator.device).to(DEVICE)


def randperm(n: int, *, generator: torch.Generator) -> Tensor:
    return torch.randperm(n, generator=generator, device=generator.device).to(DEVICE)


def by_hand(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compute on the CPU what reads its tensors element by element, and give the results to the device."""

    def moved(value: Any, device: torch.device | str) -> Any:
        if isinstance(value, Tensor):
            return value.to(device)
        return type(value)(moved(v, device) for v in value) if isinstance(value, (list, tuple)) else value

    @functools.wraps(function)
    def compute(*args: Any, **kwargs: Any) -> Any:
        with torch.device("cpu"):
            result = function(*moved(args, "cpu"), **{name: moved(value, "cpu") for name, value in kwargs.items()})
        return moved(result, DEVICE)

    return function if DEVICE.type == "cpu" else compute


def values_and_gradients(op: Op, inputs: Sequence[Tensor], backend: str, dtype: torch.dtype) -> list[Tensor]:
    """The result of `op` and its gradients to all `inputs`, for an upstream gradient that differs at each element."""
    leaves = [tensor.detach().to(dtype).requires_grad_() for tensor in inputs]
    with cgcl_fast.backend(backend):
        result = op(*leaves)
        generator = torch.Generator().manual_seed(7)
        upstream = randn(*result.shape, generator=generator, dtype=torch.float64).to(result.dtype)
        gradients = torch.autograd.grad(result, leaves, upstream, materialize_grads=True)
    return [result.detach(), *gradients]


def assert_as_exact_as_eager(
    op: Op, inputs: Sequence[Tensor], dtype: torch.dtype = torch.float32, scale: float = 1.0, ulps: float = 8.0
) -> None:
    """The error against float64 is at most twice that of the reference in the same dtype, plus a few roundings.

    `scale` is the size of the largest intermediate value: its rounding no implementation can avoid.
    """
    exact = values_and_gradients(op, [tensor.to(dtype) for tensor in inputs], "reference", torch.float64)
    eager = values_and_gradients(op, inputs, "reference", dtype)
    fast = values_and_gradients(op, inputs, "auto", dtype)
    for index, (truth, plain, result) in enumerate(zip(exact, eager, fast, strict=True)):
        assert result.dtype == plain.dtype and result.shape == plain.shape
        if truth.numel() == 0:
            continue
        allowed = 2 * (plain.double() - truth).abs().max()
        allowed += ulps * torch.finfo(dtype).eps * max(scale, float(truth.abs().max()))
        error = (result.double() - truth).abs().max()
        what = "result" if index == 0 else f"gradient {index - 1}"
        assert error <= allowed, f"{what}: error {error:.3g}, allowed {allowed:.3g}"


def assert_gradcheck(op: Op, inputs: Sequence[Tensor]) -> None:
    """float64 gradients of the reference against finite differences."""
    leaves = [tensor.detach().double().requires_grad_() for tensor in inputs]
    with cgcl_fast.backend("reference"):
        assert torch.autograd.gradcheck(op, leaves)


def assert_compiles(op: Op, inputs: Sequence[Tensor]) -> None:
    """torch.compile(fullgraph=True) gives the same result and gradients as the op without it."""
    torch._dynamo.reset()
    compiled = torch.compile(op, fullgraph=True, backend="aot_eager")
    plain = values_and_gradients(op, inputs, "auto", torch.float32)
    for expected, result in zip(plain, values_and_gradients(compiled, inputs, "auto", torch.float32), strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


def assert_not_twice_differentiable(op: Op, inputs: Sequence[Tensor], match: str) -> None:
    """A second derivative through the kernels raises and names the op: it is never silently zero."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    (gradient,) = torch.autograd.grad(op(*leaves).square().sum(), leaves[:1], create_graph=True)
    with pytest.raises(RuntimeError, match=match):
        torch.autograd.grad(gradient.square().sum(), leaves[:1])


def native(op: str) -> bool:
    """Whether `op` has a kernel on the tests' device, native or interpreted: what only a kernel does is then tested."""
    return any(_backend.has_kernel(op, name, DEVICE.type) for name in ("native", "triton"))


def examples(count: int) -> int:
    """How many examples hypothesis draws: fewer where Triton interprets, or compiles for each shape.

    `count` is for the usual profile, of 100 examples where a test asks for no other number; see tests/conftest.py.
    """
    count = count * settings.default.max_examples // 100
    return count if DEVICE.type == "cpu" and not INTERPRET else max(count // 8, 5)


def layouts(x: Tensor) -> dict[str, Tensor]:
    """The values of a (B, C, H, W) map in every kind of memory layout that an op meets."""
    B, C, H, W = x.shape
    padded = torch.zeros(B, C + 1, H + 2, W + 3, dtype=x.dtype)
    padded[:, 1:, 1:-1, 2:-1] = x
    pixels = torch.zeros(B, H, W, C + 5, dtype=x.dtype)
    pixels[..., 2:-3] = x.permute(0, 2, 3, 1)
    return {
        "contiguous": x.contiguous(),
        "channels_last": x.contiguous(memory_format=torch.channels_last),
        "transposed": x.transpose(2, 3).contiguous().transpose(2, 3),
        "cropped": padded[:, 1:, 1:-1, 2:-1],
        "cropped channels_last": pixels.permute(0, 3, 1, 2)[:, 2:-3],
        "batch last": x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    }
