"""Anti-aliased resampling by 2 with binomial filters (Zhang, "Making Convolutional Networks Shift-Invariant Again")."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_input


def _halve(x: Tensor, dim: int) -> Tensor:
    """[1, 2, 1] / 4 along one dimension at every second position, x[-1] being x[1], and x[n] being x[n - 2]."""
    even, odd = _every_second(x, dim)
    n = odd.shape[dim]
    y = torch.mul(even, 0.5)
    y.narrow(dim, 0, n).add_(odd, alpha=0.25)
    later = y.shape[dim] - 1
    y.narrow(dim, 1, later).add_(odd.narrow(dim, 0, later), alpha=0.25)
    y.narrow(dim, 0, 1).add_(odd.narrow(dim, 0, 1), alpha=0.25)
    if later == n:
        y.narrow(dim, n, 1).add_(odd.narrow(dim, n - 1, 1), alpha=0.25)
    return y


def _halve_backward(grad: Tensor, dim: int, length: int) -> Tensor:
    shape = list(grad.shape)
    shape[dim] = length
    x = torch.empty(shape, dtype=grad.dtype, device=grad.device, memory_format=torch.channels_last)
    even, odd = _every_second(x, dim)
    n = odd.shape[dim]
    torch.mul(grad, 0.5, out=even)
    torch.mul(grad.narrow(dim, 0, n), 0.25, out=odd)
    later = grad.shape[dim] - 1
    odd.narrow(dim, 0, later).add_(grad.narrow(dim, 1, later), alpha=0.25)
    odd.narrow(dim, 0, 1).add_(grad.narrow(dim, 0, 1), alpha=0.25)
    if later == n:
        odd.narrow(dim, n - 1, 1).add_(grad.narrow(dim, n, 1), alpha=0.25)
    return x


def _every_second(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    return (x[:, :, ::2], x[:, :, 1::2]) if dim == 2 else (x[..., ::2], x[..., 1::2])


def _kernel(x: Tensor) -> Tensor:
    taps = torch.full((3,), 0.25, dtype=x.dtype, device=x.device)
    taps[1:2].fill_(0.5)  # a list of values would be copied from the host, for which a CUDA graph cannot wait
    return torch.outer(taps, taps).expand(x.shape[1], 1, 3, 3).contiguous()


def _convolve(x: Tensor) -> Tensor:
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), _kernel(x), stride=2, groups=x.shape[1])


def _separable(x: Tensor) -> bool:
    """On a CPU six strided sums are several times faster than a depthwise convolution forward and backward; on a GPU
    one convolution is, and in half precision it rounds once."""
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)


class _BlurDown(torch.autograd.Function):
    """The map is linear, so nothing needs to be kept for the backward pass; a convolution would keep its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.shape = x.shape
        if _separable(x):
            return _halve(_halve(x.contiguous(memory_format=torch.channels_last), 2), 3)
        return _convolve(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        batch, channels, height, width = ctx.shape
        if _separable(grad):
            return _halve_backward(_halve_backward(grad, 3, width), 2, height)
        padded = (batch, channels, height + 2, width + 2)
        grad = conv2d_input(padded, _kernel(grad), grad, stride=2, groups=channels)
        like = grad[..., 1:-1, 1:-1]  # right in shape; its values are not read
        return torch.ops.aten.reflection_pad2d_backward(grad, like, [1, 1, 1, 1])


def blur_down(x: Tensor) -> Tensor:
    """Blur with [1, 2, 1] / 4 along both axes after a reflection padding of 1, and keep every second pixel.

    Args:
        x: (B, C, H, W), H and W at least 2.

    Returns:
        (B, C, ceil(H / 2), ceil(W / 2)).

    Raises:
        ValueError: ``x`` has another shape.
    """
    if x.dim() != 4 or min(x.shape[2:]) < 2:
        raise ValueError(f"x: expected (B, C, H, W) with H and W at least 2, got {tuple(x.shape)}")
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return _convolve(x)
    return _BlurDown.apply(x)


def blur_up(x: Tensor) -> Tensor:
    """Twice the size, by the transposed filter [1, 3, 3, 1] / 4 along both axes after a replication padding of 1.

    An output pixel lies a quarter of a pixel from the nearer of its two neighbours, which is 3/4 and 1/4 of them: the
    published transposed convolution is bilinear interpolation, and the interpolation kernel is several times faster.

    Args:
        x: (B, C, H, W).

    Returns:
        (B, C, 2 H, 2 W).
    """
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def blur(x: Tensor, padding: int, stride: int = 1) -> Tensor:
    """Blur with [1, 3, 3, 1] / 8 along both axes, of StyleGAN2, with zeros around the map.

    Three means of two neighbours, one after the other, are that filter. Made of operations that can be differentiated
    twice, which ``blur_down`` cannot.

    Args:
        x: (B, C, H, W).
        padding: zeros on each side, 1 or 2.
        stride: keep every ``stride``-th pixel.

    Returns:
        (B, C, H', W'), H' = (H + 2 padding - 4) // stride + 1.
    """
    if padding not in (1, 2):
        raise ValueError(f"padding: expected 1 or 2, got {padding}")
    x = F.avg_pool2d(x, 2, stride=1, padding=1)
    x = F.avg_pool2d(x, 2, stride=1, padding=padding - 1)
    return F.avg_pool2d(x, 2, stride=stride)
