"""The mean whose gradient is not written out."""

from __future__ import annotations

import pytest
import torch

from cgcl_fast.nn.map_mean import map_mean


@pytest.mark.parametrize("first", [0, 1, 2, 4])
def test_values_and_derivatives(first: int) -> None:
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    expected = x.mean(tuple(range(first, 4))) if first < 4 else x
    torch.testing.assert_close(map_mean(x, first), expected)
    assert torch.autograd.gradcheck(lambda x: map_mean(x.square(), first), x)
    assert torch.autograd.gradgradcheck(lambda x: map_mean(x.square(), first), x)


def test_gradient_takes_no_memory_and_leaves_the_memory_format() -> None:
    x = torch.randn(2, 8, 4, 5).contiguous(memory_format=torch.channels_last).requires_grad_()
    found = []
    x.register_hook(found.append)
    y = x.abs()
    y.register_hook(found.append)
    map_mean(y, first=1).sum().backward()
    of_mean, of_x = found
    assert of_mean.untyped_storage().nbytes() == 2 * of_mean.element_size()
    assert of_x.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mean_is_float32_and_its_gradient_is_not(dtype: torch.dtype) -> None:
    """A sum of as many numbers is beyond what float16 holds."""
    x = torch.full((1, 1 << 17), 3.0, dtype=dtype, requires_grad=True)
    y = map_mean(x, first=1)
    assert y.dtype == torch.float32 and y.item() == 3
    (1024 * y.sum()).backward()
    assert x.grad is not None and x.grad.dtype == dtype
    torch.testing.assert_close(x.grad.float(), torch.full_like(x, 2.0**-7).float())


def test_of_nothing() -> None:
    x = torch.zeros(0, 3, requires_grad=True)
    map_mean(x, first=1).sum().backward()
    assert x.grad is not None and x.grad.shape == (0, 3)
