"""Reflection padding that keeps no activation for the backward pass, and the inner part of a padded map."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cgcl_fast._backend import choose
from cgcl_fast.ops import _pad


class _ReflectPad(torch.autograd.Function):
    """For where there are no kernels: ``F.pad`` keeps its whole input for the backward pass, which needs only its
    shape.

    In a chain of norm, pad and convolution nothing else keeps that input, so this saves one activation per convolution.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, size: int) -> Tensor:
        ctx.size = size
        return _pad.padded(x, size, "reflect")

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
    # A tracer must see plain operations, and a compiler chooses layouts by itself.
    plain = x.device.type == "cpu" or torch.compiler.is_compiling() or torch.jit.is_tracing()
    if not plain and x.dim() == 4 and 0 < size < min(x.shape[2:]):  # else PyTorch's padding says what is wrong
        backend = choose("reflect_pad", x)
        if backend != "reference":
            return _pad.reflect_pad(backend, x, size)
    if torch.is_grad_enabled() and x.requires_grad and not torch.jit.is_tracing():
        return _ReflectPad.apply(x, size)
    return _pad.padded(x, size, "reflect")


class _Inner(torch.autograd.Function):
    """The gradients of two slices are two maps of zeros and two copies, all of them contiguous."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, size: int) -> Tensor:
        ctx.size = size
        return x[..., size:-size, size:-size]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return F.pad(grad, (ctx.size,) * 4), None


def inner(x: Tensor, size: int) -> Tensor:
    """A padded map without its margin.

    Args:
        x: (B, C, H + 2 size, W + 2 size).
        size: pixels on each side, at least 1.

    Returns:
        (B, C, H, W), a view. Its gradient is in its memory format.

    Example:
        >>> import torch
        >>> from cgcl_fast.nn.pad import inner, reflect_pad
        >>> x = torch.randn(1, 3, 8, 8)
        >>> torch.equal(inner(reflect_pad(x, 2), 2), x)
        True
    """
    if torch.jit.is_scripting() or torch.jit.is_tracing() or torch.compiler.is_compiling():
        return x[:, :, size:-size, size:-size]
    return _Inner.apply(x, size)
