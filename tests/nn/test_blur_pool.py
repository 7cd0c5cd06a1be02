from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from methods import plain_cut
from op_checks import DEVICE

from cgcl_fast.nn import blur, blur_down, blur_up

SIZES = [(8, 8), (7, 9), (2, 3), (3, 2), (2, 2), (15, 6)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_down_is_the_published_filter(size: tuple[int, int], channels_last: bool) -> None:
    x = torch.randn(2, 5, *size, dtype=torch.float64, device=DEVICE)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    plain = plain_cut.Blur(5, up=False).to(DEVICE).double()
    torch.testing.assert_close(blur_down(x), plain(x))
    assert blur_down(x.requires_grad_()).shape[2:] == ((size[0] + 1) // 2, (size[1] + 1) // 2)
    assert torch.autograd.gradcheck(blur_down, (x,))


@pytest.mark.parametrize("size", [*SIZES, (1, 1), (1, 4)])
def test_up_is_the_published_filter(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True, device=DEVICE)
    expected = plain_cut.Blur(3, up=True).to(DEVICE).double()(x)
    found = blur_up(x)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(expected)
    a, b = (torch.autograd.grad((y * weights).sum(), x)[0] for y in (found, expected))
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize("padding", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
def test_blur_is_stylegan2s_and_can_be_differentiated_twice(padding: int, stride: int) -> None:
    x = torch.randn(2, 3, 6, 9, dtype=torch.float64, requires_grad=True, device=DEVICE)
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64, device=DEVICE) / 8
    kernel = torch.outer(taps, taps).expand(3, 1, 4, 4)
    expected = F.conv2d(F.pad(x, (padding,) * 4), kernel, stride=stride, groups=3)
    torch.testing.assert_close(blur(x, padding, stride), expected)
    assert torch.autograd.gradgradcheck(lambda y: blur(y * y, padding, stride), (x,), fast_mode=True)
    with pytest.raises(ValueError, match="padding: expected 1 or 2, got 3"):
        blur(x, 3)
