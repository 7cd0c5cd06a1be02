"""Shared by the memory kernels: tiles of pixels, item-pixel products, sums over pixels.

A tile is BLOCK_P consecutive pixels of one image. A sum over pixels has two steps: each chunk of tiles writes a partial
sum into its own part of a buffer, then a second kernel adds the parts in order. There are no atomics, so results are
reproducible. Items are processed in blocks of BLOCK_N (at least 16, for tensor cores). With one block the weights stay
in registers; with more they go through memory, where a program reads only what it wrote itself.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import INTERPRET
from ._launch import ceil_div, launch, power_of_2
from ._layout import is_linear
from ._map import offsets
from ._sums import sum_of_products

ZERO_NORM = tl.constexpr(1e-12)  # vectors up to this length count as zero: cosine 0, gradient 0
MASKED = tl.constexpr(-1e30)  # similarity to an item of another class
COMBINE_P = 32  # pixels of a tile of `combine`
MOST_CHUNKS, CHUNK = 128, 4  # of `combine`: at most this many chunks, of at least this many tiles


@triton.jit
def tile_of(tile, tiles, positions, BLOCK_P: tl.constexpr):
    """Image, positions and in-range mask of a tile, for maps with `tiles` tiles per image."""
    p = tile % tiles * BLOCK_P + tl.arange(0, BLOCK_P)
    return (tile // tiles).to(tl.int64), p, p < positions


@triton.jit
def plane_size(H, W, PLANE: tl.constexpr):
    """H·W, marked as a multiple of PLANE, so that the compiler uses vector loads and stores of that many elements."""
    positions = H * W
    if PLANE > 1:
        positions = tl.multiple_of(positions, PLANE)
    return positions


@triton.jit
def map_offsets(image, channels, p, W, s_b, s_c, s_h, s_w, LINEAR: tl.constexpr, ALIGN: tl.constexpr):
    """Offsets of (channels, p) in an image of a map."""
    rows = image * s_b + channels.to(tl.int64) * s_c
    if ALIGN > 1:
        rows = tl.multiple_of(rows, ALIGN)
    return rows[:, None] + offsets(p, W, s_h, s_w, LINEAR)[None, :]


@triton.jit
def weight_offsets(image, n, p, N, positions):
    """Offsets of (n, p) in an image of a (B, N, H·W) tensor."""
    return ((image * N + n) * positions)[:, None] + p[None, :]


@triton.jit
def reciprocal_norm(squares):
    norm = tl.sqrt(squares)
    return tl.where(norm <= ZERO_NORM, 0.0, 1.0 / tl.where(norm <= ZERO_NORM, 1.0, norm))  # NaN passes through


@triton.jit
def similarity(
    x, items, image, n, p, inside, C, N, W, x_b, x_c, x_h, x_w,
    LINEAR: tl.constexpr, ALIGN: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Inner products of items n with the pixels of a tile (BLOCK_N, BLOCK_P), and both squared lengths."""
    products = tl.zeros((BLOCK_N, BLOCK_P), tl.float32)
    item_squares = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
    pixel_squares = tl.zeros((BLOCK_C, BLOCK_P), tl.float32)
    for start in range(0, C, BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)
        k = tl.load(items + n[:, None] * C + c[None, :], mask=(n < N)[:, None] & (c < C)[None, :], other=0.0)
        v = tl.load(
            x + map_offsets(image, c, p, W, x_b, x_c, x_h, x_w, LINEAR, ALIGN),
            mask=(c < C)[:, None] & inside[None, :],
            other=0.0,
        )
        k = k.to(tl.float32)
        v = v.to(tl.float32)
        item_squares += k * k
        pixel_squares += v * v
        products = tl.dot(k, v, products, input_precision=PRECISION)
    return products, tl.sum(item_squares, 1), tl.sum(pixel_squares, 0)


@triton.jit
def addressed(image, n, p, inside, N, positions, pixel_class, item_class):
    """Whether pixel p of the tile addresses item n: (BLOCK_N, BLOCK_P)."""
    mask = (n < N)[:, None] & inside[None, :]
    if pixel_class is not None:
        of_pixels = tl.load(pixel_class + image * positions + p, mask=inside, other=0)
        of_items = tl.load(item_class + n, mask=n < N, other=0)
        mask = mask & (of_items[:, None] == of_pixels[None, :])
    return mask


@triton.jit
def row_sum(parts, row, rows, C, chunks, BLOCK: tl.constexpr, BLOCK_CHUNKS: tl.constexpr):
    """One of `rows` rows, summed over the parts of all chunks: (BLOCK,)."""
    c = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK_CHUNKS, BLOCK), tl.float32)
    for start in range(0, chunks, BLOCK_CHUNKS):
        k = start + tl.arange(0, BLOCK_CHUNKS)
        at = (k.to(tl.int64) * rows + row)[:, None] * C + c[None, :]
        total += tl.load(parts + at, mask=(k < chunks)[:, None] & (c < C)[None, :], other=0.0)
    return tl.sum(total, 0)


@triton.jit
def _combine(
    weights, factor, items, x, along, dx, parts, C, N, H, W, tiles, all_tiles, length, temperature,
    x_b, x_c, x_h, x_w, d_b, d_c, d_h, d_w,
    LINEAR: tl.constexpr, ALIGN: tl.constexpr, PLANE: tl.constexpr, PRECISION: tl.constexpr, BLOCKS: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """One block of channels for one chunk of tiles; see `combine`."""
    positions = plane_size(H, W, PLANE)
    channel_blocks = tl.cdiv(C, BLOCK_C)
    program = tl.program_id(0)
    c = program % channel_blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    chunk = program // channel_blocks % tl.cdiv(all_tiles, length)
    # The block of items to sum parts for. There is only one if dx is needed too.
    n = program // channel_blocks // tl.cdiv(all_tiles, length) * BLOCK_N + tl.arange(0, BLOCK_N)
    first = chunk * length
    sums = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
    for tile in range(first, tl.minimum(first + length, all_tiles)):
        image, p, inside = tile_of(tile, tiles, positions, BLOCK_P)
        at = weight_offsets(image, n, p, N, positions)
        w = tl.load(weights + at, mask=(n < N)[:, None] & inside[None, :], other=0.0)
        f = tl.full((BLOCK_P,), 1.0, tl.float32)
        if factor is not None:
            f = tl.load(factor + image * positions + p, mask=inside, other=0.0).to(tl.float32) / temperature
            w *= f[None, :]
        y = tl.zeros((BLOCK_C, BLOCK_P), tl.float32)
        if x is not None:
            v = tl.load(
                x + map_offsets(image, c, p, W, x_b, x_c, x_h, x_w, LINEAR, ALIGN),
                mask=(c < C)[:, None] & inside[None, :],
                other=0.0,
            ).to(tl.float32)
            if parts is not None:
                sums = tl.dot(w, tl.trans(v), sums, input_precision=PRECISION)
            if along is not None:
                y -= v * tl.load(along + image * positions + p, mask=inside, other=0.0)[None, :]
        if dx is not None:
            if BLOCKS == 1:
                k = tl.load(items + n[None, :] * C + c[:, None], mask=(n < N)[None, :] & (c < C)[:, None], other=0.0)
                y = tl.dot(k.to(tl.float32), w, y, input_precision=PRECISION)
            else:
                for block in range(BLOCKS):
                    m = block * BLOCK_N + tl.arange(0, BLOCK_N)
                    k = tl.load(
                        items + m[None, :] * C + c[:, None], mask=(m < N)[None, :] & (c < C)[:, None], other=0.0
                    )
                    at = weight_offsets(image, m, p, N, positions)
                    w = tl.load(weights + at, mask=(m < N)[:, None] & inside[None, :], other=0.0) * f[None, :]
                    y = tl.dot(k.to(tl.float32), w, y, input_precision=PRECISION)
            to = dx + map_offsets(image, c, p, W, d_b, d_c, d_h, d_w, LINEAR, ALIGN)
            tl.store(to, y.to(dx.dtype.element_ty), mask=(c < C)[:, None] & inside[None, :])
    if parts is not None:
        to = parts + (chunk.to(tl.int64) * N + n)[:, None] * C + c[None, :]
        tl.store(to, sums, mask=(n < N)[:, None] & (c < C)[None, :])


def combine(
    weights: Tensor, factor: Tensor | None, temperature: float, items: Tensor, x: Tensor, along: Tensor | None,
    dx: Tensor | None, need_items: bool,
) -> Tensor | None:  # fmt: skip
    """Gradients from item weights w: dx = itemsᵀ w - x·along and, if need_items, partial sums of w xᵀ.

    Args:
        weights: (B, N, H·W). If `factor` (B, H, W) is given, w is weights·factor / temperature.
        along: (B, H·W), or None for 0.
        dx: receives its result, or None.

    Returns:
        The partial sums (chunks, N, C), for `item_gradients` to add.
    """
    B, C, H, W = x.shape
    N = items.shape[0]
    constants = blocks([x, x if dx is None else dx], N, COMBINE_P)
    if dx is not None and need_items and constants["BLOCKS"] > 1:
        combine(weights, factor, temperature, items, x, along, dx, False)
        return combine(weights, factor, temperature, items, x, along, None, True)
    tiles = ceil_div(H * W, COMBINE_P)
    length = max(CHUNK, ceil_div(B * tiles, MOST_CHUNKS))
    chunks = ceil_div(B * tiles, length)
    parts = x.new_empty((chunks, N, C), dtype=torch.float32) if need_items else None
    item_blocks = constants["BLOCKS"] if need_items else 1
    warps = 4 if dx is None and constants["PRECISION"] == "tf32x3" else 8  # such that no registers spill
    launch(
        _combine, ceil_div(C, constants["BLOCK_C"]) * chunks * item_blocks,
        weights, factor, items, x if need_items or along is not None else None, along if dx is not None else None,
        dx, parts, C, N, H, W, tiles, B * tiles, length, float(temperature),
        *x.stride(), *(x if dx is None else dx).stride(), **constants, num_warps=warps,
    )  # fmt: skip
    return parts


@triton.jit
def _item_gradients(
    key_parts, keys, dkeys, value_parts, dvalues, N, C, Cv, chunks, BLOCK: tl.constexpr, BLOCK_CHUNKS: tl.constexpr,
):  # fmt: skip
    """One program per row: of dkeys if there are key_parts, then of dvalues. With keys: projected."""
    c = tl.arange(0, BLOCK)
    row = tl.program_id(0)
    if key_parts is not None:
        if row < N:
            d = row_sum(key_parts, row, N, C, chunks, BLOCK, BLOCK_CHUNKS)
            if keys is not None:
                k = tl.load(keys + row * C + c, mask=c < C, other=0.0).to(tl.float32)
                k *= reciprocal_norm(sum_of_products(k, k, 0))
                d -= sum_of_products(d, k, 0) * k
            tl.store(dkeys + row * C + c, d, mask=c < C)
        row -= N
    if value_parts is not None:  # noqa: SIM102  known at compile time, unlike the row
        if row >= 0:
            d = row_sum(value_parts, row, N, Cv, chunks, BLOCK, BLOCK_CHUNKS)
            tl.store(dvalues + row * Cv + c, d, mask=c < Cv)


def item_gradients(
    key_parts: Tensor | None, keys: Tensor | None, dkeys: Tensor, value_parts: Tensor | None, dvalues: Tensor
) -> None:
    """Sum the parts (chunks, N, C) into dkeys and (chunks, N, Cv) into dvalues, for those that are not None.

    Args:
        keys: if given, the component along each key is removed from dkeys: the parts are gradients to unit keys, with
            weights already scaled for the keys' lengths.
    """
    parts = [part for part in (key_parts, value_parts) if part is not None]
    if not parts:
        return
    chunks, N, _ = parts[0].shape
    C, Cv = dkeys.shape[1], dvalues.shape[1]
    launch(
        _item_gradients, N * len(parts), key_parts, keys, dkeys, value_parts, dvalues, N, C, Cv, chunks,
        **row_blocks(chunks, *(part.shape[2] for part in parts)),
    )  # fmt: skip


def row_blocks(chunks: int, *widths: int) -> dict[str, Any]:
    """Block sizes and number of warps of a kernel that sums rows of parts of the given `widths`."""
    block = max(power_of_2(width) for width in widths)
    block_chunks = min(power_of_2(chunks), max(8192 // block, 1))
    return {"BLOCK": block, "BLOCK_CHUNKS": block_chunks, "num_warps": 8 if block * block_chunks >= 4096 else 4}


def blocks(maps: list[Tensor], N: int, block_p: int) -> dict[str, Any]:
    """The constants shared by all kernels over tiles, for launches over `maps` and N items."""
    return _blocks(tuple([(x.shape, x.stride()) for x in maps]), N, block_p, precision())


@functools.lru_cache(4096)
def _blocks(
    layouts: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...], N: int, block_p: int, precision: str
) -> dict[str, Any]:
    maps = [torch.empty_strided(shape, strides, device="meta") for shape, strides in layouts]
    channels = max(x.shape[1] for x in maps)
    block_n = min(max(power_of_2(N), 16), 32)
    return {
        "LINEAR": is_linear(*maps),
        "ALIGN": alignment(maps),
        "PLANE": math.gcd(16, maps[0].shape[2] * maps[0].shape[3]),
        "PRECISION": precision,
        "BLOCKS": ceil_div(N, block_n),
        "BLOCK_N": block_n,
        "BLOCK_C": min(max(power_of_2(channels), 16), 32),
        "BLOCK_P": block_p,
    }


def alignment(maps: list[Tensor]) -> int:
    """The alignment of rows, planes and images in `maps`: up to 16 elements, dividing all starts.

    Triton itself only distinguishes multiples of 16; a plane of 90x90 allows vectors of 4, too.
    """
    if not all(x.stride(3) == 1 for x in maps) or not is_linear(*maps):
        return 1
    return math.gcd(16, *(n for x in maps for n in (x.shape[2] * x.shape[3], x.stride(0), x.stride(1))))


def precision() -> str:
    """The precision of float32 products on tensor cores, following PyTorch's setting. Both of its settings,
    `torch.set_float32_matmul_precision` and `torch.backends.cuda.matmul.fp32_precision`, show in the latter."""
    if INTERPRET:
        return "ieee"
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "tf32x3"
