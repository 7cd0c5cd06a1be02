"""Padding of maps and its gradient, in plain PyTorch and, by reflection, as operators.

PyTorch's own kernels keep the memory format and give the same bits every time on a CPU. On a GPU they only take and
return contiguous maps, so that a channels_last map is copied on the way in and again on the way out, and their
gradients use atomic additions, whose order varies. `folded` and the operators do neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernels import _layout
from . import _registry


def padded(x: Tensor, pad: int, mode: str) -> Tensor:
    """(B, C, H, W) to (B, C, H + 2 pad, W + 2 pad), `mode` "reflect" or "replicate"; with derivatives of any order."""
    # For maps without channels F.pad only supports constant padding.
    return F.pad(x, (pad,) * 4, mode="constant" if x.shape[1] == 0 else mode)


def folded(grad: Tensor, pad: int, mode: str) -> Tensor:
    """The gradient of `padded`: (B, C, H + 2 pad, W + 2 pad) to (B, C, H, W).

    One pass over the map; the small margins are added to the positions that they copy.
    """
    middle, low, high = (_folded(part, 2, pad, mode) for part in _parts(grad, 3, pad))
    return _with_ends(middle, low, high, 3, mode)


def _folded(grad: Tensor, dim: int, pad: int, mode: str) -> Tensor:
    middle, low, high = _parts(grad, dim, pad)
    return _with_ends(middle.clone(), low, high, dim, mode)


def _parts(grad: Tensor, dim: int, pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """The middle of a padded side, and its two margins."""
    size = grad.shape[dim]
    return grad.narrow(dim, pad, size - 2 * pad), grad.narrow(dim, 0, pad), grad.narrow(dim, size - pad, pad)


def _with_ends(middle: Tensor, low: Tensor, high: Tensor, dim: int, mode: str) -> Tensor:
    """`middle`, changed in place, with both margins added to the positions that they copy."""
    size, pad = middle.shape[dim], low.shape[dim]
    if mode == "replicate":
        middle.narrow(dim, 0, 1).add_(low.sum(dim, keepdim=True))
        middle.narrow(dim, size - 1, 1).add_(high.sum(dim, keepdim=True))
    else:
        middle.narrow(dim, 1, pad).add_(low.flip(dim))
        middle.narrow(dim, size - 1 - pad, pad).add_(high.flip(dim))
    return middle


def _fake(x: Tensor, size: int) -> Tensor:
    B, C, H, W = x.shape
    shape = (B, C, H + 2 * size, W + 2 * size)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=_layout.kernel_format(x))


def _fake_backward(grad: Tensor, size: int, channels_last: bool) -> Tensor:
    B, C, H, W = grad.shape
    layout = torch.channels_last if channels_last else torch.contiguous_format
    shape = (B, C, H - 2 * size, W - 2 * size)
    return torch.empty(shape, dtype=grad.dtype, device=grad.device, memory_format=layout)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, ctx.size = inputs
    ctx.channels_last = _layout.is_channels_last(x)


def _backward(ctx: Any, needs: Sequence[bool], grad: Tensor) -> tuple[Tensor | None, ...]:
    return _reflect_pad_backward(ctx.backend, grad, ctx.size, ctx.channels_last), None


# Padding is linear, and so is its gradient, whose own gradient is the padding. Neither saves a map.


def _setup_context_of_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, ctx.size, _ = inputs


def _backward_of_backward(ctx: Any, needs: Sequence[bool], grad: Tensor) -> tuple[Tensor | None, ...]:
    return reflect_pad(ctx.backend, grad, ctx.size), None, None


_registry.fake("_reflect_pad", _fake)
_registry.fake("_reflect_pad_backward", _fake_backward)
#: Of a backend, a map (B, C, H, W) and a size.
reflect_pad = _registry.gradient("_reflect_pad", _backward, _setup_context)
_reflect_pad_backward = _registry.gradient("_reflect_pad_backward", _backward_of_backward, _setup_context_of_backward)
_registry.native_on_cuda("reflect_pad")
_registry.triton(("reflect_pad",), "reflect_pad", _reflect_pad="forward", _reflect_pad_backward="backward")
