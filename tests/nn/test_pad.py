from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from op_checks import DEVICE
from torch import Tensor

from cgcl_fast.nn import reflect_pad
from cgcl_fast.nn.pad import inner


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("channels_last", [False, True])
def test_values_and_gradient(size: int, channels_last: bool) -> None:
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64, device=DEVICE)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    expected = F.pad(x, (size,) * 4, mode="reflect")
    assert torch.equal(reflect_pad(x, size), expected)
    weights = torch.randn_like(expected)
    a, b = (torch.autograd.grad((y * weights).sum(), x)[0] for y in (reflect_pad(x, size), expected))
    torch.testing.assert_close(a, b)


def test_the_input_is_not_kept() -> None:
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, keep):
        reflect_pad(torch.randn(1, 2, 4, 4, requires_grad=True, device=DEVICE), 1)
    assert not saved


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
def test_inner_part(format: torch.memory_format) -> None:
    x = torch.randn(2, 3, 8, 7, device=DEVICE).contiguous(memory_format=format).requires_grad_()
    y = inner(x, 2)
    assert torch.equal(y, x[:, :, 2:-2, 2:-2]) and y.data_ptr() == x[:, :, 2:, 2:].data_ptr()
    upstream = torch.randn_like(y).contiguous(memory_format=format)
    (gradient,) = torch.autograd.grad(y, x, upstream)
    assert torch.equal(gradient, F.pad(upstream, (2,) * 4)) and gradient.is_contiguous(memory_format=format)
