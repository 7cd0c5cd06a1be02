"""Reflection padding that keeps no activation for the backward pass."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cgcl_fast.ops import _pad


class _ReflectPad(torch.autograd.Function):
    """``F.pad`` keeps its whole input for the backward pass, which needs only its shape.

    In a chain of norm, pad and convolution nothing else keeps that input, so this saves one activation per convolution.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, size: int) -> Tensor:
        ctx.size = size
        return _padded(x, size)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        size = ctx.size
        if grad.device.type != "cpu":
            return _pad.folded(grad, size, "reflect"), None
        like = grad[..., size:-size, size:-size]  # stands for the input: right in shape, and its values are not read
        return torch.ops.aten.reflection_pad2d_backward(grad, like, [size] * 4), None


def reflect_pad(x: Tensor, size: int) -> Tensor:
    """Pad a map by reflection on its four sides.

    Args:
        x: (B, C, H, W), H and W larger than ``size``.
        size: pixels on each side.

    Returns:
        (B, C, H + 2 size, W + 2 size), in x's memory format.

    Example:
        >>> import torch
        >>> from cgcl_fast.nn import reflect_pad
        >>> reflect_pad(torch.tensor([[[[1, 2], [3, 4]]]]).float(), 1)[0, 0, 0]
        tensor([4., 3., 4., 3.])
    """
    if torch.jit.is_scripting():
        return F.pad(x, [size, size, size, size], mode="reflect")
    # A tracer must see plain operations.
    if torch.is_grad_enabled() and x.requires_grad and not torch.jit.is_tracing():
        return _ReflectPad.apply(x, size)
    return _padded(x, size)


def _padded(x: Tensor, size: int) -> Tensor:
    # A compiler chooses layouts by itself; a tracer would keep the size of the map.
    plain = x.device.type == "cpu" or torch.compiler.is_compiling() or torch.jit.is_tracing()
    if plain or min(x.shape[2:]) <= size or not x.is_contiguous(memory_format=torch.channels_last):
        return _pad.padded(x, size, "reflect")
    return _pad.gathered(x, size)
