"""Anti-aliased resampling by 2 with binomial filters (Zhang, "Making Convolutional Networks Shift-Invariant Again")."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from cgcl_fast.ops import blur_down, blur_up

__all__ = ["BlurDown", "BlurUp", "blur", "blur_down", "blur_up"]


class BlurDown(nn.Module):
    """Halve a map without aliasing: :func:`cgcl_fast.ops.blur_down`.

    Example:
        >>> import torch
        >>> from cgcl_fast.nn import BlurDown
        >>> halve = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), BlurDown())
        >>> halve(torch.randn(1, 3, 64, 48)).shape
        torch.Size([1, 8, 32, 24])
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, ceil(H / 2), ceil(W / 2))."""
        return blur_down(x)


class BlurUp(nn.Module):
    """Double a map without aliasing: :func:`cgcl_fast.ops.blur_up`.

    Example:
        >>> import torch
        >>> from cgcl_fast.nn import BlurUp
        >>> BlurUp()(torch.randn(1, 8, 32, 24)).shape
        torch.Size([1, 8, 64, 48])
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, 2 H, 2 W)."""
        return blur_up(x)


def blur(x: Tensor, padding: int, stride: int = 1) -> Tensor:
    """Blur with [1, 3, 3, 1] / 8 along both axes, of StyleGAN2, with zeros around the map.

    Three means of two neighbours, one after the other, are that filter. Made of operations that can be differentiated
    twice.

    Args:
        x: (B, C, H, W).
        padding: zeros on each side, 1 or 2.
        stride: keep every ``stride``-th pixel.

    Returns:
        (B, C, H', W'), H' = (H + 2 padding - 4) // stride + 1.

    Example:
        >>> import torch
        >>> from cgcl_fast.nn import blur
        >>> blur(torch.ones(1, 1, 5, 5), padding=1)[0, 0, 1:-1, 1:-1]  # away from the zeros ones stay ones
        tensor([[1., 1.],
                [1., 1.]])
    """
    if padding < 1 or padding > 2:
        raise ValueError(f"padding: expected 1 or 2, got {padding}")
    x = F.avg_pool2d(x, 2, stride=1, padding=1)
    x = F.avg_pool2d(x, 2, stride=1, padding=padding - 1)
    return F.avg_pool2d(x, 2, stride=stride)
