r"""Updating the class-aware memory.

For each domain, a first kernel reads content and computes the weights e^d, where d is the cosine over τ, and partial
sums of them; a second sums e·c and e·s over the pixels of each chunk of tiles. After the last domain a third adds the
parts in order, divides and normalises. Dividing by the softmax denominator comes last, so that no pass over pixels
waits for it.
Bytes per pixel: (2·C + Cv)·size read (content the second time from the L2 cache if it fits), 4·N written and read back
twice for e.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._launch import ceil_div, launch
from ._memory import (
    addressed,
    blocks,
    combine,
    plane_size,
    reciprocal_norm,
    row_blocks,
    row_sum,
    similarity,
    tile_of,
    weight_offsets,
)
from ._sums import sum_of_products

UPDATE_P = 64  # pixels per tile


@triton.jit
def _address(
    content, keys, pixel_class, item_class, weights, totals, C, N, H, W, tiles, rtemperature, x_b, x_c, x_h, x_w,
    LINEAR: tl.constexpr, ALIGN: tl.constexpr, PLANE: tl.constexpr, PRECISION: tl.constexpr, BLOCKS: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """e^d of a tile, 0 where a pixel does not address an item, and the sums over the tile's pixels."""
    positions = plane_size(H, W, PLANE)
    tile = tl.program_id(0)
    image, p, inside = tile_of(tile, tiles, positions, BLOCK_P)
    for block in range(BLOCKS):
        n = block * BLOCK_N + tl.arange(0, BLOCK_N)
        products, item_squares, pixel_squares = similarity(
            content, keys, image, n, p, inside, C, N, W, x_b, x_c, x_h, x_w,
            LINEAR, ALIGN, PRECISION, BLOCK_N, BLOCK_C, BLOCK_P,
        )  # fmt: skip
        d = products * (reciprocal_norm(item_squares) * rtemperature)[:, None] * reciprocal_norm(pixel_squares)[None, :]
        e = tl.where(addressed(image, n, p, inside, N, positions, pixel_class, item_class), tl.exp(d), 0.0)
        to = weights + weight_offsets(image, n, p, N, positions)
        tl.store(to, e, mask=(n < N)[:, None] & inside[None, :])
        tl.store(totals + tile.to(tl.int64) * N + n, tl.sum(e, 1), mask=n < N)


@triton.jit
def _mean(parts, totals, row, rows, C, chunks, tiles, BLOCK: tl.constexpr, BLOCK_CHUNKS: tl.constexpr):
    """A row's weighted mean over a domain's pixels, and the sum of the weights."""
    t = tl.zeros((1024,), tl.float32)
    for start in range(0, tiles, 1024):
        k = start + tl.arange(0, 1024)
        t += tl.load(totals + k.to(tl.int64) * rows + row, mask=k < tiles, other=0.0)
    total = tl.sum(t, 0)
    sums = row_sum(parts, row, rows, C, chunks, BLOCK, BLOCK_CHUNKS)
    return sums / tl.where(total == 0, 1.0, total), total


@triton.jit
def _unit(v):
    return v * reciprocal_norm(sum_of_products(v, v, 0))


@triton.jit
def _domain(
    key_parts, value_parts, totals, keys, old, new, means, new_keys, N, C, Cv, chunks, tiles,
    FIRST: tl.constexpr, LAST: tl.constexpr, BLOCK: tl.constexpr, BLOCK_CHUNKS: tl.constexpr,
):  # fmt: skip
    """One program per row: first a domain's new values, then the keys, to which all domains contribute.

    means: (N, C + 1) float32, what earlier domains contribute to each key, and the sum of their weights.
    """
    row = tl.program_id(0)
    c = tl.arange(0, BLOCK)
    if row < N:
        mean, total = _mean(value_parts, totals, row, N, Cv, chunks, tiles, BLOCK, BLOCK_CHUNKS)
        v = tl.load(old + row * Cv + c, mask=c < Cv, other=0.0).to(tl.float32)
        v = tl.where(total == 0, v, _unit(v + mean))
        tl.store(new + row * Cv + c, v.to(new.dtype.element_ty), mask=c < Cv)
    else:
        row -= N
        mean, total = _mean(key_parts, totals, row, N, C, chunks, tiles, BLOCK, BLOCK_CHUNKS)
        if not FIRST:
            mean += tl.load(means + row * (C + 1) + c, mask=c < C, other=0.0)
            total += tl.load(means + row * (C + 1) + C)
        if LAST:
            k = tl.load(keys + row * C + c, mask=c < C, other=0.0).to(tl.float32)
            k = tl.where(total == 0, k, _unit(k + mean))
            tl.store(new_keys + row * C + c, k.to(new_keys.dtype.element_ty), mask=c < C)
        else:
            tl.store(means + row * (C + 1) + c, mean, mask=c < C)
            tl.store(means + row * (C + 1) + C, total)


def forward(
    keys: Tensor,
    values: Tensor,
    contents: list[Tensor],
    styles: list[Tensor],
    pixel_classes: list[Tensor],
    item_class: Tensor | None,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    D, N, Cv = values.shape
    C = keys.shape[1]
    keys, values = keys.contiguous(), values.contiguous()
    new_keys, new_values = torch.empty_like(keys), torch.empty_like(values)
    means = keys.new_empty((N, C + 1), dtype=torch.float32)
    for d, (content, style) in enumerate(zip(contents, styles, strict=True)):
        B, _, H, W = content.shape
        tiles = ceil_div(H * W, UPDATE_P)
        weights = content.new_empty((B, N, H * W), dtype=torch.float32)
        totals = content.new_empty((B * tiles, N), dtype=torch.float32)
        launch(
            _address, B * tiles, content, keys, pixel_classes[d].contiguous() if pixel_classes else None,
            item_class.contiguous() if pixel_classes and item_class is not None else None, weights, totals,
            C, N, H, W, tiles, 1 / temperature, *content.stride(), **blocks([content], N, UPDATE_P), num_stages=3,
        )  # fmt: skip
        key_parts = combine(weights, None, 1.0, keys, content, None, None, True)
        value_parts = combine(weights, None, 1.0, keys, style, None, None, True)
        assert key_parts is not None and value_parts is not None
        launch(
            _domain, 2 * N, key_parts, value_parts, totals, keys, values[d], new_values[d], means, new_keys,
            N, C, Cv, key_parts.shape[0], B * tiles, FIRST=d == 0, LAST=d == D - 1,
            **row_blocks(key_parts.shape[0], C, Cv),
        )  # fmt: skip
    return new_keys, new_values
