r"""Anti-aliased halving and doubling of a map: a binomial filter along both axes, as the published networks resample.

Halving reads [1, 2, 1] / 4 at every second position of the map reflected by one pixel (Zhang 2019, "Making
Convolutional Networks Shift-Invariant Again"):

$$y_i = \tfrac14 x_{2i-1} + \tfrac12 x_{2i} + \tfrac14 x_{2i+1}, \qquad x_{-1} = x_1,\; x_n = x_{n-2}$$

Doubling is the transposed convolution with [1, 3, 3, 1] / 4 of the map replicated by one pixel, which is bilinear
interpolation: a position of the result lies a quarter of a pixel from the nearer of its two neighbours.

$$y_{2i} = \tfrac34 x_i + \tfrac14 x_{i-1}, \quad y_{2i+1} = \tfrac34 x_i + \tfrac14 x_{i+1},
\qquad x_{-1} = x_0,\; x_n = x_{n-1}$$

Published code pads the map, which copies it, and then convolves each channel separately. Here source and result pass
through memory once, and nothing is saved for the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .._backend import choose
from ..kernels import _layout
from . import _check, _registry


def blur_down_reference(x: Tensor) -> Tensor:
    """The first equation above in plain PyTorch, in float32 or wider."""
    return _along_both_axes(_halved, x)


def blur_up_reference(x: Tensor) -> Tensor:
    """The second equation above in plain PyTorch, in float32 or wider."""
    return _along_both_axes(_doubled, x)


def _halved(x: Tensor) -> Tensor:
    n = x.shape[-1]
    padded = torch.cat([x[..., 1:2], x, x[..., n - 2 : n - 1]], -1)
    return 0.25 * padded[..., 0:n:2] + 0.5 * padded[..., 1 : n + 1 : 2] + 0.25 * padded[..., 2 : n + 2 : 2]


def _doubled(x: Tensor) -> Tensor:
    before = torch.cat([x[..., :1], x[..., :-1]], -1)
    after = torch.cat([x[..., 1:], x[..., -1:]], -1)
    return torch.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], -1).flatten(-2)


def _along_both_axes(resample: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    y = x.to(torch.promote_types(x.dtype, torch.float32))
    y = resample(resample(y).mT).mT.to(x.dtype)
    return y.contiguous(memory_format=_layout.kernel_format(x))


def blur_down(x: Tensor) -> Tensor:
    """Halve a map: blur with [1, 2, 1] / 4 along both axes after a reflection by one pixel, keep every second pixel.

    Args:
        x: (B, C, H, W), H and W at least 2, any strides; float32 and bfloat16 have kernels (on a GPU float16 too),
            others take the reference.

    Returns:
        (B, C, ceil(H / 2), ceil(W / 2)) in x's dtype, channels_last if x is. Sums are in float32.

    Raises:
        ValueError: x has another shape.
        TypeError: x is not a floating-point tensor.

    Gradients to x, of any order, in x's memory format. Source: Zhang 2019; CUT's networks (Park et al. 2020).

    Example:
        >>> import torch
        >>> from cgcl_fast import ops
        >>> x = torch.zeros(1, 1, 4, 4)
        >>> x[0, 0, 1, 1] = 16
        >>> ops.blur_down(x)
        tensor([[[[4., 2.],
                  [2., 1.]]]])
    """
    op = "blur_down"
    _check.tensor(op, "x", x, 4, "(B, C, H, W)")
    if x.shape[2] < 2 or x.shape[3] < 2:
        raise ValueError(f"{op}: expected x of shape (B, C, H, W) with H and W at least 2, got {tuple(x.shape)}")
    backend = choose(op, x)
    return blur_down_reference(x) if backend == "reference" else _blur_down(backend, x)


def blur_up(x: Tensor) -> Tensor:
    """Double a map: the transposed filter [1, 3, 3, 1] / 4 along both axes after a replication by one pixel.

    Args:
        x: (B, C, H, W), H and W at least 1, any strides; float32 and bfloat16 have kernels (on a GPU float16 too),
            others take the reference.

    Returns:
        (B, C, 2 H, 2 W) in x's dtype, channels_last if x is. Sums are in float32.

    Raises:
        ValueError: x has another shape.
        TypeError: x is not a floating-point tensor.

    Gradients to x, of any order, in x's memory format. Source: CUT's generator (Park et al. 2020).

    Example:
        >>> import torch
        >>> from cgcl_fast import ops
        >>> ops.blur_up(torch.tensor([[[[0.0, 16.0]]]]))
        tensor([[[[ 0.,  4., 12., 16.],
                  [ 0.,  4., 12., 16.]]]])
    """
    op = "blur_up"
    _check.tensor(op, "x", x, 4, "(B, C, H, W)")
    if x.shape[2] < 1 or x.shape[3] < 1:
        raise ValueError(f"{op}: expected x of shape (B, C, H, W) with H and W at least 1, got {tuple(x.shape)}")
    backend = choose(op, x)
    return blur_up_reference(x) if backend == "reference" else _blur_up(backend, x)


def _fake_map(like: Tensor, height: int, width: int, layout: torch.memory_format) -> Tensor:
    shape = (like.shape[0], like.shape[1], height, width)
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=layout)


def _layout_of(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def _fake_down(x: Tensor) -> Tensor:
    return _fake_map(x, (x.shape[2] + 1) // 2, (x.shape[3] + 1) // 2, _layout.kernel_format(x))


def _fake_down_backward(grad: Tensor, height: int, width: int, channels_last: bool) -> Tensor:
    return _fake_map(grad, height, width, _layout_of(channels_last))


def _fake_up(x: Tensor) -> Tensor:
    return _fake_map(x, 2 * x.shape[2], 2 * x.shape[3], _layout.kernel_format(x))


def _fake_up_backward(grad: Tensor, channels_last: bool) -> Tensor:
    return _fake_map(grad, grad.shape[2] // 2, grad.shape[3] // 2, _layout_of(channels_last))


def _setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    (x,) = inputs
    ctx.size = x.shape[2], x.shape[3]
    ctx.channels_last = _layout.is_channels_last(x)


def _backward_of_down(ctx: Any, needs: Sequence[bool], grad: Tensor) -> tuple[Tensor]:
    return (_blur_down_backward(ctx.backend, grad, *ctx.size, ctx.channels_last),)


def _backward_of_up(ctx: Any, needs: Sequence[bool], grad: Tensor) -> tuple[Tensor]:
    return (_blur_up_backward(ctx.backend, grad, ctx.channels_last),)


# The backward operators are linear maps whose gradients are the blurs: they need to save nothing.


def _setup_nothing(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    pass


def _backward_of_down_backward(ctx: Any, needs: Sequence[bool], grad: Tensor) -> tuple[Tensor | None, ...]:
    return _blur_down(ctx.backend, grad), None, None, None


def _backward_of_up_backward(ctx: Any, needs: Sequence[bool], grad: Tensor) -> tuple[Tensor | None, ...]:
    return _blur_up(ctx.backend, grad), None


_registry.fake("_blur_down", _fake_down)
_registry.fake("_blur_down_backward", _fake_down_backward)
_registry.fake("_blur_up", _fake_up)
_registry.fake("_blur_up_backward", _fake_up_backward)
_blur_down = _registry.gradient("_blur_down", _backward_of_down, _setup_context)
_blur_down_backward = _registry.gradient("_blur_down_backward", _backward_of_down_backward, _setup_nothing)
_blur_up = _registry.gradient("_blur_up", _backward_of_up, _setup_context)
_blur_up_backward = _registry.gradient("_blur_up_backward", _backward_of_up_backward, _setup_nothing)
_registry.native_on_cpu("blur_down")
_registry.native_on_cpu("blur_up")
_registry.native_on_cuda("blur_down")
_registry.native_on_cuda("blur_up")
_registry.triton(("blur_down",), "blur_pool", _blur_down="down", _blur_down_backward="down_backward")
_registry.triton(("blur_up",), "blur_pool", _blur_up="up", _blur_up_backward="up_backward")
_registry.public("blur_down(Tensor x) -> Tensor", blur_down)
_registry.public("blur_up(Tensor x) -> Tensor", blur_up)
