"""The mean of a map, whose gradient is not written out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Mean(torch.autograd.Function):
    """PyTorch's own mean writes its gradient, one number, to a whole contiguous map. What comes before it would then
    read and write maps in two orders, if they are channels_last."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, first: int) -> Tensor:
        ctx.shape, ctx.first, ctx.dtype = x.shape, first, x.dtype
        return _mean(x, first)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        averaged = ctx.shape[ctx.first :]
        grad = (grad / max(averaged.numel(), 1)).to(ctx.dtype)
        return grad.view(*grad.shape, *[1] * len(averaged)).expand(ctx.shape), None


def _mean(x: Tensor, first: int) -> Tensor:
    wide = torch.promote_types(x.dtype, torch.float32)
    dims = tuple(range(first, x.dim()))
    return x.mean(dims, dtype=wide) if dims else x.to(wide)


def map_mean(x: Tensor, first: int = 0) -> Tensor:
    """The mean over the dimensions from ``first`` on.

    Args:
        x: a tensor, in any memory format.
        first: 0 for the mean of all values, 1 for that of each image.

    Returns:
        x.shape[:first], in float32 or wider. The gradient to x is an expanded number, without memory of its own.

    Example:
        >>> import torch
        >>> from cgcl_fast.nn.map_mean import map_mean
        >>> map_mean(torch.tensor([[1.0, 3.0], [5.0, 7.0]]), first=1)
        tensor([2., 6.])
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return _mean(x, first)
    return _Mean.apply(x, first)
