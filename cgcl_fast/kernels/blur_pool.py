"""Halving and doubling of maps with binomial filters, and their gradients.

All four are weighted sums of a few neighbours with fixed weights: two along each axis when the result is larger than
the source, three or four when it is smaller. A program writes a tile of the result. Inputs that neighbouring positions
share come from the L1 cache, so that source and result pass through memory once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._launch import ceil_div, launch, power_of_2
from ._layout import kernel_format

DOWN, DOWN_BACKWARD, UP, UP_BACKWARD = (tl.constexpr(kind) for kind in range(4))
TAPS = (3, 2, 2, 4)  # per axis, for each kind
TILE = 1024  # elements per program


@triton.jit
def _tap(i, k: tl.constexpr, length, source, KIND: tl.constexpr):
    """The k-th source position for position i of `length` (the source has `source` positions), and its weight.

    Weights are never zero: zero times infinity would be NaN.
    """
    if KIND == DOWN:
        at = tl.abs(2 * i + (k - 1))  # reflected at both ends
        at = (source - 1) - tl.abs((source - 1) - at)
        weight = tl.where(i >= 0, 0.5 if k == 1 else 0.25, 0.0)
    elif KIND == UP_BACKWARD:
        at = tl.minimum(tl.maximum(2 * i + (k - 1), 0), source - 1)
        weight = tl.where(i >= 0, 0.75 if k == 1 or k == 2 else 0.25, 0.0)
    elif KIND == UP:
        at = i // 2 + (2 * (i % 2) - 1) * k
        at = tl.minimum(tl.maximum(at, 0), source - 1)
        weight = tl.where(i >= 0, 0.25 if k == 1 else 0.75, 0.0)
    else:
        odd = i % 2 == 1
        last = i // 2 + 1 == source  # of an even length: one position is left, and read twice
        at = i // 2 + tl.where(odd & (last == 0), k, 0)
        # Reflection reads positions 1 and length - 2 (if length is odd) one more time.
        before = tl.where(i == 1, 0.5, 0.25)
        if k == 0:
            weight = tl.where(odd, tl.where(last, 0.5 * before, before), 0.25)
        else:
            after = tl.where(i == length - 2, 0.5, 0.25)
            weight = tl.where(odd, tl.where(last, 0.5 * before, after), 0.25)
    return at, weight


@triton.jit
def _blur(
    x, y, C, H, W, from_h, from_w, x_b, x_c, x_h, x_w, y_b, y_c, y_h, y_w,
    KIND: tl.constexpr, TAPS: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    blocks_w, blocks_h, blocks_c = tl.cdiv(W, BLOCK_W), tl.cdiv(H, BLOCK_H), tl.cdiv(C, BLOCK_C)
    w = program % blocks_w * BLOCK_W + tl.arange(0, BLOCK_W)
    program = program // blocks_w
    h = program % blocks_h * BLOCK_H + tl.arange(0, BLOCK_H)
    program = program // blocks_h
    c = program % blocks_c * BLOCK_C + tl.arange(0, BLOCK_C)
    image = (program // blocks_c).to(tl.int64)
    mask = (h < H)[:, None, None] & (w < W)[None, :, None] & (c < C)[None, None, :]
    source = x + image * x_b + (c.to(tl.int64) * x_c)[None, None, :]
    total = tl.zeros((BLOCK_H, BLOCK_W, BLOCK_C), tl.float32)
    for i in tl.static_range(TAPS):
        row, down = _tap(h, i, H, from_h, KIND)
        rows = source + (row.to(tl.int64) * x_h)[:, None, None]
        for j in tl.static_range(TAPS):
            column, across = _tap(w, j, W, from_w, KIND)
            v = tl.load(rows + (column.to(tl.int64) * x_w)[None, :, None], mask=mask, other=0.0).to(tl.float32)
            total += v * (down[:, None, None] * across[None, :, None])
    target = y + image * y_b + (c.to(tl.int64) * y_c)[None, None, :] + (h.to(tl.int64) * y_h)[:, None, None]
    tl.store(target + (w.to(tl.int64) * y_w)[None, :, None], total.to(y.dtype.element_ty), mask=mask)


def _blurred(kind: int, x: Tensor, height: int, width: int, memory_format: torch.memory_format) -> Tensor:
    B, C, H, W = x.shape
    y = torch.empty((B, C, height, width), dtype=x.dtype, device=x.device, memory_format=memory_format)
    if y.numel() == 0:
        return y
    # Neighbouring threads write neighbouring addresses: along channels if channels_last, along rows otherwise.
    block_c = min(power_of_2(C), 128) if memory_format is torch.channels_last else 1
    block_w = min(power_of_2(width), 128 if block_c == 1 else max(TILE // block_c, 8))
    block_h = min(power_of_2(height), max(TILE // (block_w * block_c), 1))
    programs = B * ceil_div(C, block_c) * ceil_div(height, block_h) * ceil_div(width, block_w)
    launch(
        _blur, programs, x, y, C, height, width, H, W, *x.stride(), *y.stride(),
        KIND=kind, TAPS=TAPS[kind], BLOCK_H=block_h, BLOCK_W=block_w, BLOCK_C=block_c,
    )  # fmt: skip
    return y


def down(x: Tensor) -> Tensor:
    H, W = x.shape[2:]
    if H < 2 or W < 2:
        raise RuntimeError(f"blur_down: expected x with H and W of at least 2, got ({H}, {W})")
    return _blurred(0, x, (H + 1) // 2, (W + 1) // 2, kernel_format(x))


def down_backward(grad: Tensor, height: int, width: int, channels_last: bool) -> Tensor:
    size = tuple(grad.shape[2:])
    if height < 2 or width < 2 or size != ((height + 1) // 2, (width + 1) // 2):
        raise RuntimeError(f"blur_down: expected grad with H and W of half ({height}, {width}) rounded up, got {size}")
    return _blurred(1, grad, height, width, torch.channels_last if channels_last else torch.contiguous_format)


def up(x: Tensor) -> Tensor:
    H, W = x.shape[2:]
    if H < 1 or W < 1:
        raise RuntimeError(f"blur_up: expected x with H and W of at least 1, got ({H}, {W})")
    return _blurred(2, x, 2 * H, 2 * W, kernel_format(x))


def up_backward(grad: Tensor, channels_last: bool) -> Tensor:
    H, W = grad.shape[2:]
    if H < 2 or W < 2 or H % 2 or W % 2:
        raise RuntimeError(f"blur_up: expected grad with even H and W, got ({H}, {W})")
    return _blurred(3, grad, H // 2, W // 2, torch.channels_last if channels_last else torch.contiguous_format)
