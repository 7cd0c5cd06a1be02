"""The operator behind `cgcl_fast.nn.reflect_pad`, which has kernels on GPUs only."""

import pytest
import torch
import torch.nn.functional as F
from op_checks import DEVICE, layouts, native, randn

from cgcl_fast.ops import _pad  # noqa: F401  registers the operator

LAYOUTS = tuple(layouts(torch.zeros(1, 1, 1, 1)))
SHAPES = [(2, 3, 5, 4, 1), (2, 3, 5, 4, 3), (1, 37, 9, 8, 1), (3, 1, 33, 40, 3), (0, 3, 4, 4, 1), (2, 0, 4, 4, 1)]
pytestmark = pytest.mark.skipif(not native("reflect_pad"), reason="no kernel on this device")


def drawn(*shape, seed=0):
    return randn(*shape, generator=torch.Generator().manual_seed(seed))


def pad(x, size):
    return torch.ops.cgcl_fast._reflect_pad(x, size)


def expected_of(x, size):
    return (
        F.pad(x, (size,) * 4, mode="reflect")
        if x.numel()
        else x.new_empty(*x.shape[:2], *(n + 2 * size for n in x.shape[2:]))
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_of_every_layout(shape, layout):
    *shape, size = shape
    x = layouts(drawn(*shape))[layout].detach().requires_grad_()
    y, expected = pad(x, size), expected_of(x, size)
    assert torch.equal(y, expected)
    if layout in ("contiguous", "channels_last") and x.numel():
        format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
        assert y.is_contiguous(memory_format=format)
    upstream = layouts(drawn(*y.shape, seed=1))[layout]
    (gradient,) = torch.autograd.grad(y, x, upstream)
    if x.numel():
        torch.testing.assert_close(gradient, torch.autograd.grad(expected, x, upstream)[0])
        assert gradient.is_contiguous(memory_format=torch.channels_last) or layout != "channels_last"
    assert gradient.shape == x.shape


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    if dtype == torch.bfloat16 and DEVICE.type == "cpu":
        pytest.skip("the interpreter computes bfloat16 wrongly")
    x = drawn(2, 5, 6, 7).to(dtype).requires_grad_()
    y = pad(x, 2)
    assert torch.equal(y, expected_of(x, 2))
    upstream = drawn(*y.shape, seed=1).to(dtype)
    (gradient,) = torch.autograd.grad(y, x, upstream)
    exact = torch.autograd.grad(expected_of(x.double(), 2), x, upstream.double())[0]
    torch.testing.assert_close(gradient, exact)  # summed in float32 and rounded once


def test_expanded_gradient():
    x = drawn(2, 5, 6, 6).requires_grad_()
    (gradient,) = torch.autograd.grad(pad(x, 2).sum(), x)
    assert torch.equal(gradient, torch.autograd.grad(expected_of(x, 2).sum(), x)[0])


def test_second_derivatives():
    """The gradient is linear in the upstream one: differentiated by that, it pads."""
    x, upstream, weights = (drawn(2, 3, n, n, seed=n) for n in (5, 7, 5))
    x.requires_grad_()
    upstream.requires_grad_()
    (gradient,) = torch.autograd.grad(pad(x, 1), x, upstream, create_graph=True)
    assert torch.equal(torch.autograd.grad(gradient, upstream, weights)[0], expected_of(weights, 1))


def test_opcheck():
    x = drawn(2, 5, 4, 6).requires_grad_()
    for of in (x, x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()):
        torch.library.opcheck(torch.ops.cgcl_fast._reflect_pad.default, (of, 3))
        torch.library.opcheck(torch.ops.cgcl_fast._reflect_pad_backward.default, (of, 1, True))


@pytest.mark.parametrize("size", [-1, 4])
def test_size_out_of_range(size):
    with pytest.raises(RuntimeError, match="reflect_pad"):
        pad(drawn(1, 1, 4, 6), size)
    with pytest.raises(RuntimeError, match="reflect_pad"):
        torch.ops.cgcl_fast._reflect_pad_backward(drawn(1, 1, 4, 6), 2, False)
