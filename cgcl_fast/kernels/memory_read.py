r"""Reading the class-aware memory.

Forward: each program reads a tile of content once, one block of channels at a time, for the products with all keys and
the lengths; then a softmax over items; then it writes the tile of the result. Bytes per pixel: C·size read, Cv·size
written, 4·(N + 1) written for the backward pass. The items come from the L2 cache, once per tile.

Backward, with α the weights, d the cosines over τ, ĉ content of unit length and k̂ keys of length 1/τ:
dv = Σ_p α g, dα = g·v, dd = α(dα - Σ_n α dα), dk̂ = Σ_p dd ĉ, dc = (Σ_n dd k̂ - ĉ Σ_n dd d)/‖c‖. The first kernel reads
the gradient for dα and writes α and dd; the second reads the gradient again, from the L2 cache if it fits, for dv; the
third reads content once for dc and dk̂. Bytes per pixel: (C + 2·Cv)·size read, C·size written, about 20·N for α, d and
dd; partial sums over pixels are 4·N·(C + Cv) bytes per chunk of tiles.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._launch import ceil_div, launch
from ._layout import empty_map
from ._memory import (
    MASKED,
    addressed,
    blocks,
    combine,
    item_gradients,
    map_offsets,
    plane_size,
    reciprocal_norm,
    similarity,
    tile_of,
    weight_offsets,
)

READ_P, BACKWARD_P = 32, 64  # pixels per tile


@triton.jit
def _softmax_scale(total):
    """The softmax normaliser: the factor of e^cosine, given their sum. 0 if all are masked; NaN stays."""
    return tl.where(total == 0, 0.0, 1.0 / tl.where(total == 0, 1.0, total))


@triton.jit
def _softmax(d, scale):
    """Weights from cosines over τ: 0 for a masked item, even if the normaliser is NaN."""
    return tl.where(d == MASKED, 0.0, tl.exp(d) * scale[None, :])


@triton.jit
def _read(
    content, keys, values, pixel_class, item_class, out, cosines, rnorm, C, Cv, N, H, W, tiles, rtemperature,
    x_b, x_c, x_h, x_w, o_b, o_c, o_h, o_w,
    LINEAR: tl.constexpr, ALIGN: tl.constexpr, PLANE: tl.constexpr, PRECISION: tl.constexpr, BLOCKS: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    positions = plane_size(H, W, PLANE)
    image, p, inside = tile_of(tl.program_id(0), tiles, positions, BLOCK_P)
    total = tl.zeros((BLOCK_P,), tl.float32)
    d = tl.zeros((BLOCK_N, BLOCK_P), tl.float32)
    for block in range(BLOCKS):
        n = block * BLOCK_N + tl.arange(0, BLOCK_N)
        products, item_squares, pixel_squares = similarity(
            content, keys, image, n, p, inside, C, N, W, x_b, x_c, x_h, x_w,
            LINEAR, ALIGN, PRECISION, BLOCK_N, BLOCK_C, BLOCK_P,
        )  # fmt: skip
        r = reciprocal_norm(pixel_squares)
        tl.store(rnorm + image * positions + p, r, mask=inside)
        d = products * (reciprocal_norm(item_squares) * rtemperature)[:, None] * r[None, :]
        d = tl.where(addressed(image, n, p, inside, N, positions, pixel_class, item_class), d, MASKED)
        saved = cosines + weight_offsets(image, n, p, N, positions)
        tl.store(saved, d, mask=(n < N)[:, None] & inside[None, :])
        total += tl.sum(tl.exp(d), 0)  # cosines over τ are bounded: no maximum is needed
    scale = _softmax_scale(total)
    weights = _softmax(d, scale)
    if BLOCKS > 1:
        tl.debug_barrier()  # the cosines are read back below
    for start in range(0, Cv, BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)
        y = tl.zeros((BLOCK_C, BLOCK_P), tl.float32)
        for block in range(BLOCKS):
            n = block * BLOCK_N + tl.arange(0, BLOCK_N)
            v = tl.load(values + n[None, :] * Cv + c[:, None], mask=(n < N)[None, :] & (c < Cv)[:, None], other=0.0)
            if BLOCKS > 1:
                saved = cosines + weight_offsets(image, n, p, N, positions)
                d = tl.load(saved, mask=(n < N)[:, None] & inside[None, :], other=MASKED)
                weights = _softmax(d, scale)
            y = tl.dot(v.to(tl.float32), weights, y, input_precision=PRECISION)
        to = out + map_offsets(image, c, p, W, o_b, o_c, o_h, o_w, LINEAR, ALIGN)
        tl.store(to, y.to(out.dtype.element_ty), mask=(c < Cv)[:, None] & inside[None, :])


@triton.jit
def _weights_backward(
    grad, keys, values, cosines, rnorm, weights, dcosines, along, C, Cv, N, H, W, tiles, rtemperature,
    g_b, g_c, g_h, g_w,
    LINEAR: tl.constexpr, ALIGN: tl.constexpr, PLANE: tl.constexpr, PRECISION: tl.constexpr, BLOCKS: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """α, dd/(τ‖c‖‖k‖) and Σ_n dd d/‖c‖² of a tile; α or the other two may be None."""
    positions = plane_size(H, W, PLANE)
    image, p, inside = tile_of(tl.program_id(0), tiles, positions, BLOCK_P)
    total = tl.zeros((BLOCK_P,), tl.float32)
    for block in range(BLOCKS):
        n = block * BLOCK_N + tl.arange(0, BLOCK_N)
        at = weight_offsets(image, n, p, N, positions)
        total += tl.sum(tl.exp(tl.load(cosines + at, mask=(n < N)[:, None] & inside[None, :], other=MASKED)), 0)
    scale = _softmax_scale(total)
    inner = tl.zeros((BLOCK_P,), tl.float32)
    dweights = tl.zeros((BLOCK_N, BLOCK_P), tl.float32)
    for block in range(BLOCKS):
        n = block * BLOCK_N + tl.arange(0, BLOCK_N)
        at = weight_offsets(image, n, p, N, positions)
        mask = (n < N)[:, None] & inside[None, :]
        d = tl.load(cosines + at, mask=mask, other=MASKED)
        alpha = _softmax(d, scale)
        if weights is not None:
            tl.store(weights + at, alpha, mask=mask)
        if dcosines is not None:
            dweights, _, _ = similarity(
                grad, values, image, n, p, inside, Cv, N, W, g_b, g_c, g_h, g_w,
                LINEAR, ALIGN, PRECISION, BLOCK_N, BLOCK_C, BLOCK_P,
            )  # fmt: skip
            inner += tl.sum(tl.where(d == MASKED, 0.0, alpha * dweights), 0)
            if BLOCKS > 1:
                tl.store(dcosines + at, dweights, mask=mask)
    if dcosines is not None:
        r = tl.load(rnorm + image * positions + p, mask=inside, other=0.0)
        inner_d = tl.zeros((BLOCK_P,), tl.float32)
        if BLOCKS > 1:
            tl.debug_barrier()  # dα is read back below
        for block in range(BLOCKS):
            n = block * BLOCK_N + tl.arange(0, BLOCK_N)
            squares = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
            for start in range(0, C, BLOCK_C):
                c = start + tl.arange(0, BLOCK_C)
                k = tl.load(keys + n[:, None] * C + c[None, :], mask=(n < N)[:, None] & (c < C)[None, :], other=0.0)
                squares += k.to(tl.float32) * k.to(tl.float32)
            at = weight_offsets(image, n, p, N, positions)
            mask = (n < N)[:, None] & inside[None, :]
            d = tl.load(cosines + at, mask=mask, other=MASKED)
            if BLOCKS > 1:
                dweights = tl.load(dcosines + at, mask=mask, other=0.0)
            dd = tl.where(d == MASKED, 0.0, _softmax(d, scale) * (dweights - inner[None, :]))
            inner_d += tl.sum(dd * d, 0)
            dd *= r[None, :] * (reciprocal_norm(tl.sum(squares, 1)) * rtemperature)[:, None]
            if BLOCKS > 1:
                tl.debug_barrier()  # wait until every thread has read
            tl.store(dcosines + at, dd, mask=mask)
        tl.store(along + image * positions + p, inner_d * r * r, mask=inside)


def forward(
    content: Tensor,
    keys: Tensor,
    values: Tensor,
    pixel_class: Tensor | None,
    item_class: Tensor | None,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    B, C, H, W = content.shape
    N, Cv = values.shape
    out = empty_map(content, Cv)
    cosines = content.new_empty((B, N, H * W), dtype=torch.float32)
    rnorm = content.new_empty((B, H * W), dtype=torch.float32)
    tiles = ceil_div(H * W, READ_P)
    launch(
        _read, B * tiles, content, keys.contiguous(), values.contiguous(),
        None if pixel_class is None else pixel_class.contiguous(),
        None if item_class is None else item_class.contiguous(),
        out, cosines, rnorm, C, Cv, N, H, W, tiles, 1 / temperature, *content.stride(), *out.stride(),
        **blocks([content, out], N, READ_P),
    )  # fmt: skip
    return out, cosines, rnorm


def backward(
    grad: Tensor,
    content: Tensor,
    keys: Tensor,
    values: Tensor,
    cosines: Tensor,
    rnorm: Tensor,
    need_content: bool,
    need_keys: bool,
    need_values: bool,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    B, C, H, W = content.shape
    N, Cv = values.shape
    keys = keys.contiguous()
    dcontent = empty_map(content, C) if need_content else content.new_empty((0, C, H, W))
    if rnorm.numel() == 0:  # no pixels; if there are no channels, the values still have a gradient
        dkeys = content.new_zeros((N if need_keys else 0, C), dtype=torch.float32)
        return dcontent, dkeys, content.new_zeros((N if need_values else 0, Cv), dtype=torch.float32)
    dkeys = content.new_empty((N if need_keys else 0, C), dtype=torch.float32)
    dvalues = content.new_empty((N if need_values else 0, Cv), dtype=torch.float32)
    tiles = ceil_div(H * W, BACKWARD_P)
    need_weights = need_content or need_keys
    weights = cosines.new_empty(cosines.shape) if need_values else None
    dcosines = cosines.new_empty(cosines.shape) if need_weights else None
    along = rnorm.new_empty(rnorm.shape) if need_weights else None
    launch(
        _weights_backward, B * tiles, grad, keys, values.contiguous(), cosines.contiguous(), rnorm.contiguous(),
        weights, dcosines, along, C, Cv, N, H, W, tiles, 1 / temperature, *grad.stride(),
        **blocks([grad], N, BACKWARD_P), num_stages=3,
    )  # fmt: skip
    value_parts = None if weights is None else combine(weights, None, 1.0, values, grad, None, None, True)
    key_parts = None
    if dcosines is not None:
        key_parts = combine(dcosines, None, 1.0, keys, content, along, dcontent if need_content else None, need_keys)
    item_gradients(key_parts, keys, dkeys, value_parts, dvalues)
    return dcontent, dkeys, dvalues
