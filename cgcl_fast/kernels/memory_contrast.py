r"""The feature contrastive loss of the memory, and the gradient to its logits.

Forward: each program reads a tile of features once, multiplies it with all items, and writes the loss and the softmax
minus one-hot of the nearest item: C·size bytes read per pixel, 4·(N + 1) written. Backward: one kernel reads those, and
the features if items need a gradient: at most C·size + 4·(N + 1) bytes read, C·size written; partial sums over pixels
are 4·N·C bytes per chunk of tiles.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._launch import ceil_div, launch
from ._layout import empty_map
from ._memory import (
    addressed,
    blocks,
    combine,
    item_gradients,
    plane_size,
    similarity,
    tile_of,
    weight_offsets,
)

CONTRAST_P = 64  # pixels per tile


@triton.jit
def _log1p(x):
    """log(1 + x), accurate for small x (Goldberg 1991, theorem 4)."""
    u = 1.0 + x
    return tl.where(u == 1.0, x, tl.log(u) * x / tl.where(u == 1.0, 1.0, u - 1.0))


@triton.jit
def _contrast(
    features, items, pixel_class, item_class, loss, logit_grad, counts, C, N, H, W, tiles, temperature,
    x_b, x_c, x_h, x_w,
    LINEAR: tl.constexpr, ALIGN: tl.constexpr, PLANE: tl.constexpr, PRECISION: tl.constexpr, BLOCKS: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    positions = plane_size(H, W, PLANE)
    tile = tl.program_id(0)
    image, p, inside = tile_of(tile, tiles, positions, BLOCK_P)
    best = tl.full((BLOCK_P,), float("-inf"), tl.float32)
    nearest = tl.full((BLOCK_P,), -1, tl.int32)
    has_items = tl.zeros((BLOCK_P,), tl.int32)
    logits = tl.zeros((BLOCK_N, BLOCK_P), tl.float32)
    for block in range(BLOCKS):
        n = block * BLOCK_N + tl.arange(0, BLOCK_N)
        products, _, _ = similarity(
            features, items, image, n, p, inside, C, N, W, x_b, x_c, x_h, x_w,
            LINEAR, ALIGN, PRECISION, BLOCK_N, BLOCK_C, BLOCK_P,
        )  # fmt: skip
        own = addressed(image, n, p, inside, N, positions, pixel_class, item_class)
        logits = tl.where(own, products / temperature, float("-inf"))
        has_items = tl.maximum(has_items, tl.max(own.to(tl.int32), 0))
        here = tl.max(logits, 0)
        first = tl.min(tl.where(logits == here[None, :], n[:, None], N), 0)
        nearest = tl.where(here > best, first, nearest)
        best = tl.maximum(best, here)
        if BLOCKS > 1:
            saved = logit_grad + weight_offsets(image, n, p, N, positions)
            tl.store(saved, logits, mask=(n < N)[:, None] & inside[None, :])
    if BLOCKS > 1:
        tl.debug_barrier()  # the logits are read back below
    # log(1 + Σ_{n ≠ n₊} e^(l_n - l_n₊)); the sum is at most N - 1. If a logit is infinite or NaN, the loss is NaN and
    # the gradient to the logits is that of torch.logsumexp: equal infinities count 1, so that the sum stays finite.
    infinite = best - best  # 0 or NaN
    rest = tl.zeros((BLOCK_P,), tl.float32)
    others = tl.zeros((BLOCK_N, BLOCK_P), tl.float32)
    for block in range(BLOCKS):
        n = block * BLOCK_N + tl.arange(0, BLOCK_N)
        if BLOCKS > 1:
            saved = logit_grad + weight_offsets(image, n, p, N, positions)
            logits = tl.load(saved, mask=(n < N)[:, None] & inside[None, :], other=float("-inf"))
        others = tl.exp(logits - best[None, :])
        e = tl.where(logits == best[None, :], 1.0, others)
        rest += tl.sum(tl.where((n[:, None] == nearest[None, :]) | (n >= N)[:, None], 0.0, e), 0)
    scale = 1.0 / (1.0 + rest)
    for block in range(BLOCKS):
        n = block * BLOCK_N + tl.arange(0, BLOCK_N)
        saved = logit_grad + weight_offsets(image, n, p, N, positions)
        if BLOCKS > 1:
            logits = tl.load(saved, mask=(n < N)[:, None] & inside[None, :], other=float("-inf"))
            others = tl.exp(logits - best[None, :])
            tl.debug_barrier()  # wait until every thread has read
        d = tl.where(n[:, None] == nearest[None, :], (infinite - rest)[None, :], others) * scale[None, :]
        own = addressed(image, n, p, inside, N, positions, pixel_class, item_class)
        tl.store(saved, tl.where(own, d, 0.0), mask=(n < N)[:, None] & inside[None, :])
    # The loss of a pixel without items is 0.
    tl.store(loss + image * positions + p, _log1p(tl.where(has_items > 0, rest + infinite, 0.0)), mask=inside)
    if counts is not None:
        tl.store(counts + tile, tl.sum(has_items, 0))


def forward(
    features: Tensor, items: Tensor, temperature: float, pixel_class: Tensor | None, item_class: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    B, C, H, W = features.shape
    N = items.shape[0]
    loss = features.new_empty((B, H, W), dtype=torch.float32)
    logit_grad = features.new_empty((B, N, H * W), dtype=torch.float32)
    tiles = ceil_div(H * W, CONTRAST_P)
    counts = None if pixel_class is None else features.new_empty(B * tiles, dtype=torch.int32)
    launch(
        _contrast, B * tiles, features, items.contiguous(), None if pixel_class is None else pixel_class.contiguous(),
        None if item_class is None else item_class.contiguous(), loss, logit_grad, counts, C, N, H, W, tiles,
        float(temperature), *features.stride(), **blocks([features], N, CONTRAST_P), num_stages=3,
    )  # fmt: skip
    if counts is None:  # all pixels count
        return loss, logit_grad, features.new_full((), B * H * W, dtype=torch.int64)
    return loss, logit_grad, counts.sum()


def backward(
    grad: Tensor,
    features: Tensor,
    items: Tensor,
    logit_grad: Tensor,
    temperature: float,
    need_features: bool,
    need_items: bool,
) -> tuple[Tensor, Tensor]:
    N, C = items.shape
    _, _, H, W = features.shape
    dfeatures = empty_map(features, C) if need_features else features.new_empty((0, C, H, W))
    if features.numel() == 0:
        return dfeatures, features.new_zeros((N if need_items else 0, C), dtype=torch.float32)
    ditems = features.new_empty((N if need_items else 0, C), dtype=torch.float32)
    parts = combine(
        logit_grad.contiguous(), grad.contiguous(), temperature, items.contiguous(), features, None,
        dfeatures if need_features else None, need_items,
    )  # fmt: skip
    item_gradients(parts, None, ditems, None, ditems)
    return dfeatures, ditems
