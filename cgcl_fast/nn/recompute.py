"""Convolutions that recompute their input in the backward pass instead of keeping it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def conv_of(conv: Callable[[Tensor], Tensor], prepare: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``conv(prepare(x))``, with ``prepare(x)`` computed again in the backward pass instead of kept for it.

    A convolution keeps its input for the gradient of its weight. Where that input is a norm, an activation or a
    resampling of another convolution's output, which is kept anyway, computing it again costs a hundredth of the
    convolution and saves half of the memory of the layer (Chen et al. 2016, "Training Deep Nets with Sublinear Memory
    Cost", for single ops).

    Args:
        conv: a convolution.
        prepare: deterministic, cheap, and linear or with a derivative that does not need its own output.
        x: what it starts from.

    Example:
        >>> import torch
        >>> from cgcl_fast.nn import blur_up, conv_of
        >>> conv = torch.nn.Conv2d(4, 2, 3, padding=1)
        >>> conv_of(conv, blur_up, torch.randn(1, 4, 8, 8, requires_grad=True)).shape
        torch.Size([1, 2, 16, 16])
    """
    y = prepare(x)
    # A compiler decides by itself what to compute again; a tracer must see plain operations.
    if not (torch.is_grad_enabled() and y.requires_grad) or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return conv(y)
    source, pointer, shape = x.detach(), y.data_ptr(), y.shape
    enabled, dtype = torch.is_autocast_enabled(x.device.type), torch.get_autocast_dtype(x.device.type)

    def pack(tensor: Tensor) -> Any:
        return None if tensor.data_ptr() == pointer and tensor.shape == shape else tensor

    def unpack(packed: Any) -> Tensor:
        if packed is not None:
            return packed
        with torch.no_grad(), torch.autocast(source.device.type, dtype, enabled):
            return prepare(source)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return conv(y)
