"""The feature vectors at chosen positions, and their gradient: a zero fill followed by plain stores.

The gradient's fill writes each byte of the map once. The stores after it touch P of H·W positions: 256 of 65536 in
CUT's widest layer, 0.4 % of the elements and 3 % of the 32-byte sectors, most of them still in the L2 cache. A single
kernel would save one launch, but every block of the fill would have to scan the ids.

Ids may repeat, and atomic additions are not reproducible. Instead, the first occurrence of an id finds the later ones,
sums their gradients in float32 and stores once. Finding the next occurrence compares with all P ids, P² comparisons per
pass, with one pass for each time that an id occurs in the program's patches: negligible for the hundreds of patches in
the papers, 16 million for 4096.

An id out of range reads NaN, and its gradient is dropped.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._launch import ceil_div, launch, power_of_2
from ._layout import is_linear
from ._map import offsets

# Elements per program: few, because the kernels are bound by memory latency, not by bandwidth.
TILE, TILE_BACKWARD = 512, 256
BLOCK_IDS = 128  # ids compared per step


@triton.jit
def _tile(P, C, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):
    """Image, patches (BLOCK_P,) and channels (BLOCK_C,) of a program."""
    program = tl.program_id(0)
    blocks_c, blocks_p = tl.cdiv(C, BLOCK_C), tl.cdiv(P, BLOCK_P)
    channels = program % blocks_c * BLOCK_C + tl.arange(0, BLOCK_C)
    block = program // blocks_c
    return (block // blocks_p).to(tl.int64), block % blocks_p * BLOCK_P + tl.arange(0, BLOCK_P), channels


@triton.jit
def _positions(row, places, count, stride, positions):
    """The ids at `places` of a row as int32, -1 if out of range. No map has 2³¹ positions."""
    id = tl.load(row + places.to(tl.int64) * stride, mask=places < count, other=-1)
    return tl.where((id >= 0) & (id < positions), id, -1).to(tl.int32)


@triton.jit
def _gather(
    features, ids, out, P, C, positions, W, x_b, x_c, x_h, x_w, i_b, i_p,
    LINEAR: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    image, patches, channels = _tile(P, C, BLOCK_P, BLOCK_C)
    id = _positions(ids + image * i_b, patches, P, i_p, positions)
    within = channels < C
    places = offsets(tl.maximum(id, 0).to(tl.int64), W, x_h, x_w, LINEAR)
    source = features + image * x_b + places[:, None] + channels.to(tl.int64)[None, :] * x_c
    v = tl.load(source, mask=(id >= 0)[:, None] & within[None, :], other=float("nan"))
    target = out + (image * P + patches)[:, None] * C + channels[None, :]
    tl.store(target, v, mask=(patches < P)[:, None] & within[None, :])


@triton.jit
def _next_occurrence(row, P, stride, positions, mine, after, BLOCK_IDS: tl.constexpr):
    """For each id in `mine`, its next place after `after` in the row of ids, or P if there is none."""
    nearest = tl.zeros_like(after)[:, None] + tl.zeros((1, BLOCK_IDS), tl.int32) + P
    for start in range(0, P, BLOCK_IDS):
        places = start + tl.arange(0, BLOCK_IDS)
        ids = _positions(row, places, P, stride, positions)
        later = (ids[None, :] == mine[:, None]) & (places[None, :] > after[:, None])
        nearest = tl.minimum(nearest, tl.where(later, places[None, :], P))
    return tl.min(nearest, 1)


@triton.jit
def _scatter(
    grad, ids, out, P, C, positions, g_b, g_p, g_c, i_b, i_p, o_b, o_c, o_p,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_IDS: tl.constexpr,
):  # fmt: skip
    image, patches, channels = _tile(P, C, BLOCK_P, BLOCK_C)
    row = ids + image * i_b
    id = _positions(row, patches, P, i_p, positions)
    within = channels < C
    columns = grad + image * g_b + channels.to(tl.int64)[None, :] * g_c
    first = (id >= 0) & (_next_occurrence(row, P, i_p, positions, id, patches * 0 - 1, BLOCK_IDS) == patches)
    total = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    place = tl.where(first, patches, P)
    while tl.min(place, 0) < P:
        mask = (place < P)[:, None] & within[None, :]
        total += tl.load(columns + place.to(tl.int64)[:, None] * g_p, mask=mask, other=0.0).to(tl.float32)
        place = tl.where(place < P, _next_occurrence(row, P, i_p, positions, id, place, BLOCK_IDS), P)
    target = out + image * o_b + id.to(tl.int64)[:, None] * o_p + channels.to(tl.int64)[None, :] * o_c
    tl.store(target, total.to(out.dtype.element_ty), mask=first[:, None] & within[None, :])


def _blocks(P: int, C: int, tile: int) -> tuple[int, int]:
    """(BLOCK_P, BLOCK_C): the channels of a patch are contiguous in the result and in a channels_last map."""
    block_c = min(power_of_2(C), 128)
    return min(power_of_2(P), tile // block_c, 16), block_c


def _row_strides(ids: Tensor, batch: int) -> tuple[int, int]:
    """Strides of ids (P,), shared by all images, or (B, P)."""
    if ids.dim() != 1 and (ids.dim() != 2 or ids.shape[0] != batch):
        raise RuntimeError(
            f"gather_patches: expected ids of shape (P,) or (B, P) with B = {batch}, got {tuple(ids.shape)}"
        )
    return (ids.stride(0) if ids.dim() == 2 else 0), ids.stride(-1)


def forward(features: Tensor, ids: Tensor) -> Tensor:
    B, C, H, W = features.shape
    i_b, i_p = _row_strides(ids, B)
    P = ids.shape[-1]
    out = features.new_empty((B, P, C))
    if out.numel() == 0:
        return out
    block_p, block_c = _blocks(P, C, TILE)
    launch(
        _gather, B * ceil_div(P, block_p) * ceil_div(C, block_c), features, ids, out, P, C, H * W, W,
        *features.stride(), i_b, i_p, LINEAR=is_linear(features), BLOCK_P=block_p, BLOCK_C=block_c,
    )  # fmt: skip
    return out


def backward(grad: Tensor, ids: Tensor, channels: int, height: int, width: int, channels_last: bool) -> Tensor:
    B, P, C = grad.shape
    i_b, i_p = _row_strides(ids, B)
    if (ids.shape[-1], channels) != (P, C):
        expected = (B, ids.shape[-1], channels)
        raise RuntimeError(f"gather_patches: expected grad of shape (B, P, C) = {expected}, got {tuple(grad.shape)}")
    layout = torch.channels_last if channels_last else torch.contiguous_format
    out = torch.empty((B, C, height, width), dtype=grad.dtype, device=grad.device, memory_format=layout).zero_()
    if grad.numel() == 0 or out.numel() == 0:
        return out
    block_p, block_c = _blocks(P, C, TILE_BACKWARD)
    launch(
        _scatter, B * ceil_div(P, block_p) * ceil_div(C, block_c), grad, ids, out, P, C, height * width,
        *grad.stride(), i_b, i_p, C * height * width, *((1, C) if channels_last else (height * width, 1)),
        BLOCK_P=block_p, BLOCK_C=block_c, BLOCK_IDS=BLOCK_IDS, num_warps=4,
    )  # fmt: skip
    return out
