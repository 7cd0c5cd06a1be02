"""EnCo's choice of patches: bilinear scores at the candidates only, then selection by rank.

A candidate's rank is the number of candidates of its image that come before it: those with a smaller score, or an equal
score and an earlier place. The rank decides whether and where the id appears in the result. So no sort is needed, and
the programs of an image are independent. This takes K² comparisons per image: a million for the papers' 1024
candidates; 65536 candidates take most of a millisecond.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ._launch import ceil_div, launch

BLOCK_SCORES = 128  # candidates per program when interpolating
BLOCK = 64  # candidates per program when ranking, and per step of comparisons


@triton.jit
def _taps(position, scale, extent):
    """The two neighbours, out of `extent` pixels, of a position, and the weight of the second."""
    source = tl.maximum((position.to(tl.float32) + 0.5) * scale - 0.5, 0.0)
    low = tl.minimum(source.to(tl.int32), extent - 1)
    return low.to(tl.int64), tl.minimum(low + 1, extent - 1).to(tl.int64), source - low.to(tl.float32)


@triton.jit
def _between(left, right, weight):
    return (1.0 - weight) * left + weight * right


@triton.jit
def _order(
    score, candidates, order, K, positions, W, h, w, scale_h, scale_w, s_b, s_h, s_w, c_b, c_k, BLOCK: tl.constexpr
):  # fmt: skip
    """Integers that sort as the candidates' scores do, with ties in candidate order."""
    program = tl.program_id(0)
    blocks = tl.cdiv(K, BLOCK)
    image = (program // blocks).to(tl.int64)
    k = program % blocks * BLOCK + tl.arange(0, BLOCK)
    id = tl.load(candidates + image * c_b + k.to(tl.int64) * c_k, mask=k < K, other=-1)
    inside = (id >= 0) & (id < positions)
    position = tl.where(inside, id, 0).to(tl.int32)
    top, bottom, down = _taps(position // W, scale_h, h)
    left, right, across = _taps(position % W, scale_w, w)
    map = score + image * s_b
    above = _between(
        tl.load(map + top * s_h + left * s_w, mask=inside, other=float("nan")).to(tl.float32),
        tl.load(map + top * s_h + right * s_w, mask=inside, other=float("nan")).to(tl.float32),
        across,
    )
    below = _between(
        tl.load(map + bottom * s_h + left * s_w, mask=inside, other=float("nan")).to(tl.float32),
        tl.load(map + bottom * s_h + right * s_w, mask=inside, other=float("nan")).to(tl.float32),
        across,
    )
    v = _between(above, below, down)
    bits = tl.where(v == 0, 0.0, v).to(tl.int32, bitcast=True)  # -0 equals 0
    # Bit patterns of negative numbers sort in reverse; NaN of either sign sorts above every number.
    place = tl.where(v == v, tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits), 0x7FFFFFFF)
    tl.store(order + image * K + k, (place.to(tl.int64) << 32) + k, mask=k < K)


@triton.jit
def _select(order, candidates, ids, K, patches, first, c_b, c_k, BLOCK: tl.constexpr):
    program = tl.program_id(0)
    blocks = tl.cdiv(K, BLOCK)
    image = (program // blocks).to(tl.int64)
    row = order + image * K
    k = program % blocks * BLOCK + tl.arange(0, BLOCK)
    mine = tl.load(row + k, mask=k < K, other=0)
    smaller = tl.zeros((BLOCK, BLOCK), tl.int32)
    for start in range(0, K, BLOCK):
        j = start + tl.arange(0, BLOCK)
        other = tl.load(row + j, mask=j < K, other=0x7FFFFFFFFFFFFFFF)
        smaller += (other[None, :] < mine[:, None]).to(tl.int32)
    rank = tl.sum(smaller, 1)
    last = K - (patches - first)  # ranks from here on are the highest
    place = tl.where(rank < first, rank, rank - last + first)
    id = tl.load(candidates + image * c_b + k.to(tl.int64) * c_k, mask=k < K, other=0)
    tl.store(ids + image * patches + place, id, mask=(k < K) & ((rank < first) | (rank >= last)))


def forward(score: Tensor, candidates: Tensor, height: int, width: int, num_patches: int, first: int) -> Tensor:
    B, channels, h, w = score.shape
    if channels != 1 or h < 1 or w < 1:
        raise RuntimeError("dag_select: expected score of shape (B, 1, h, w) with h, w >= 1")
    if candidates.dim() != 1 and (candidates.dim() != 2 or candidates.shape[0] != B):
        raise RuntimeError(
            f"dag_select: expected candidates of shape (P,) or (B, P) with B = {B}, got {tuple(candidates.shape)}"
        )
    K = candidates.shape[-1]
    if not 0 <= first <= num_patches <= K:
        raise RuntimeError(
            "dag_select: expected 0 <= first <= num_patches <= number of candidates, got "
            f"{first}, {num_patches} and {K}"
        )
    ids = candidates.new_empty((B, num_patches))
    if ids.numel() == 0:
        return ids
    c_b, c_k = (candidates.stride(0) if candidates.dim() == 2 else 0), candidates.stride(-1)
    order = candidates.new_empty((B, K))
    # Without fused rounding: equal scores stay equal, and the choice is bit for bit that of the CPU.
    launch(
        _order, B * ceil_div(K, BLOCK_SCORES), score, candidates, order, K, height * width, width, h, w,
        h / height, w / width, score.stride(0), *score.stride()[2:], c_b, c_k, BLOCK=BLOCK_SCORES, fp_fusion=False,
    )  # fmt: skip
    launch(
        _select, B * ceil_div(K, BLOCK), order, candidates, ids, K, num_patches, first, c_b, c_k, BLOCK=BLOCK
    )  # fmt: skip
    return ids
