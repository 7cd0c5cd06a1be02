"""Ops under autocast do not cast: numbers and dtypes are the same as without it, and losses stay in float32."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from op_cases import CASES, DIFFERENTIABLE, Case, by_name
from op_checks import DEVICE, randn
from torch import Tensor

import cgcl_fast
from cgcl_fast import ops
from cgcl_fast.kernels import INTERPRET

#: In Triton's slow interpreter only what it adds to the other kernels.
DTYPES = [torch.float32, *([] if INTERPRET else [torch.bfloat16, torch.float16, torch.float64])]
AUTOCAST = [torch.float16, *([] if INTERPRET else [torch.bfloat16])]
BACKENDS = ["auto", *([] if INTERPRET else ["reference"])]


def run(case: Case, dtype: torch.dtype, backend: str, namespace: object = ops) -> tuple[list[Tensor], list[Tensor]]:
    """Results and leaves."""
    leaves = [t.requires_grad_() for t in case.tensors(dtype=dtype)]
    with cgcl_fast.backend(backend):
        return list(case(*leaves, namespace=namespace)), leaves


def gradients(case: Case, results: list[Tensor], leaves: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    upstream = [randn(*result.shape, generator=generator).to(dtype).to(result.dtype) for result in results]
    return list(torch.autograd.grad(results, leaves, upstream)) if case.gradient else []


def assert_same(result: Tensor, expected: Tensor) -> None:
    """Bit for bit in what autocast would cast; on a GPU products of other layouts are summed in other orders."""
    rounding = 1e-14 if expected.dtype is torch.float64 else 0 if DEVICE.type == "cpu" else 1e-5
    torch.testing.assert_close(result, expected, rtol=rounding, atol=rounding)


@pytest.mark.parametrize("autocast", AUTOCAST)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES, ids=by_name)
def test_nothing_is_cast(case, backend, dtype, autocast):
    plain, leaves = run(case, dtype, backend)
    expected = gradients(case, plain, leaves, dtype)
    with torch.autocast(DEVICE.type, autocast):
        results, leaves = run(case, dtype, backend)
    for result, without in zip(results, plain, strict=True):
        assert result.dtype == (torch.promote_types(dtype, torch.float32) if case.loss else without.dtype)
        assert torch.equal(result.to(without.dtype), without)
    for result, without in zip(gradients(case, results, leaves, dtype), expected, strict=True):
        assert_same(result, without)


@pytest.mark.parametrize("autocast", AUTOCAST)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", DIFFERENTIABLE, ids=by_name)
def test_backward_inside_the_block(case, dtype, autocast):
    """Which PyTorch advises against, since it casts the products of a backward pass too."""
    with torch.autocast(DEVICE.type, autocast):
        results, leaves = run(case, dtype, "auto")
        inside = gradients(case, results, leaves, dtype)
    assert inside
    outside = gradients(case, *run(case, dtype, "auto"), dtype)
    for result, expected in zip(inside, outside, strict=True):
        assert_same(result, expected)


@pytest.mark.parametrize("autocast", AUTOCAST)
@pytest.mark.parametrize("case", DIFFERENTIABLE, ids=by_name)
def test_other_derivatives(case, autocast):
    """Tangents, gradients of each sample and second derivatives of the reference: float32 keeps its digits."""
    first, *others = case.tensors()
    tangent = case.tensors(seed=1)[0]

    def function(x: Tensor) -> Tensor:
        return case(x, *others)[0].square().sum()

    def derivatives() -> list[Tensor]:
        return [
            torch.func.jvp(function, (first,), (tangent,))[1],
            torch.vmap(torch.func.grad(function))(torch.stack([first, tangent])),
            torch.func.jvp(torch.func.grad(function), (first,), (tangent,))[1],
            torch.func.grad(lambda x: (torch.func.grad(function)(x) * tangent).sum())(first),
        ]

    expected = derivatives()
    with torch.autocast(DEVICE.type, autocast):
        found = derivatives()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[2], found[3], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("autocast", AUTOCAST)
@pytest.mark.parametrize("case", CASES, ids=by_name)
def test_backends_agree(case, autocast):
    """In value and dtype; float32 keeps its digits."""
    found = []
    for backend, namespace in (("auto", ops), ("reference", ops), ("auto", torch.ops.cgcl_fast)):
        with torch.autocast(DEVICE.type, autocast):
            results, leaves = run(case, torch.float32, backend, namespace)
        found.append([*results, *gradients(case, results, leaves, torch.float32)])
    fast, slow, public = found
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(*pair) for pair in zip(fast, public, strict=True))


@pytest.mark.compile
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES, ids=by_name)
def test_compiled(case, backend):
    torch._dynamo.reset()

    def function(call: Callable, *tensors: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast(DEVICE.type, torch.bfloat16):
            return call(*tensors)

    compiled = torch.compile(lambda *t: function(case, *t), fullgraph=True, backend="aot_eager")
    with cgcl_fast.backend(backend):
        expected, found = function(case, *case.tensors()), compiled(*case.tensors())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
