"""Reflection padding of a map and its gradient, for convolutions whose input no kernel has padded as it wrote it.

One launch each. A program writes positions of some channels and reads the source positions that they copy, or in the
gradient sums over the copies, so that source and result pass through memory once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._launch import ceil_div, launch, power_of_2
from ._layout import kernel_format
from ._map import offsets
from ._pad import load_folded, shown

TILE = 512  # elements per program; the gradient has four or nine loads of each in registers


@triton.jit
def _pad(
    x, y, C, H, W, x_b, x_c, x_h, x_w, y_b, y_c, y_h, y_w,
    PAD: tl.constexpr, BACKWARD: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """H and W are those of the unpadded map: x, or with BACKWARD y, the gradient to it."""
    MARGIN: tl.constexpr = 0 if BACKWARD else PAD  # of what is written
    width = W + 2 * MARGIN
    positions = (H + 2 * MARGIN) * width
    program = tl.program_id(0)
    blocks_p, blocks_c = tl.cdiv(positions, BLOCK_P), tl.cdiv(C, BLOCK_C)
    q = program % blocks_p * BLOCK_P + tl.arange(0, BLOCK_P)
    program = program // blocks_p
    c = program % blocks_c * BLOCK_C + tl.arange(0, BLOCK_C)
    image = (program // blocks_c).to(tl.int64)
    mask = (q < positions)[:, None] & (c < C)[None, :]
    source = x + image * x_b + (c.to(tl.int64) * x_c)[None, :]
    if BACKWARD:
        v = load_folded(source, q[:, None], mask, H, W, x_h, x_w, False, PAD, False)
    else:
        v = tl.load(source + offsets(shown(q, H, W, PAD, False), W, x_h, x_w, False)[:, None], mask=mask, other=0.0)
    target = y + image * y_b + (c.to(tl.int64) * y_c)[None, :] + offsets(q, width, y_h, y_w, False)[:, None]
    tl.store(target, v.to(y.dtype.element_ty), mask=mask)


def _launched(x: Tensor, size: int, height: int, width: int, layout: torch.memory_format, backward: bool) -> Tensor:
    """`height` and `width` of the result."""
    B, C, H, W = x.shape
    y = torch.empty((B, C, height, width), dtype=x.dtype, device=x.device, memory_format=layout)
    if y.numel() == 0:
        return y
    # Neighbouring threads write neighbouring addresses: along channels if channels_last, along rows otherwise.
    block_c = min(power_of_2(C), 128) if layout is torch.channels_last else 1
    block_p = TILE // block_c
    launch(
        _pad, B * ceil_div(C, block_c) * ceil_div(height * width, block_p), x, y, C, min(H, height), min(W, width),
        *x.stride(), *y.stride(), PAD=size, BACKWARD=backward, BLOCK_P=block_p, BLOCK_C=block_c,
    )  # fmt: skip
    return y


def forward(x: Tensor, size: int) -> Tensor:
    H, W = x.shape[2:]
    if not 0 <= size < min(H, W):
        raise RuntimeError(f"reflect_pad: expected size from 0 to below H and W, got {size} for ({H}, {W})")
    return _launched(x, size, H + 2 * size, W + 2 * size, kernel_format(x), False)


def backward(grad: Tensor, size: int, channels_last: bool) -> Tensor:
    H, W = (n - 2 * size for n in grad.shape[2:])
    if not 0 <= size < min(H, W):
        raise RuntimeError(
            f"reflect_pad: expected size from 0 to below the unpadded H and W, got {size} for ({H}, {W})"
        )
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return _launched(grad, size, H, W, layout, True)
