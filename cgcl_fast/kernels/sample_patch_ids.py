"""Distinct random positions of a map; the same keys give the same positions as on the CPU.

If there are at least twice as many positions as requested ids, the ids are the first distinct draws of a stream. A draw
is skipped if it equals an earlier one: each program compares some draws with all earlier ones, which it recomputes
instead of reading them. The first kernel examines as many draws as suffice except once in a billion calls; the second
one, which compacts the new ids, continues the stream if they did not suffice. With fewer positions, all of them are
ranked by their draws, by counting the smaller ones.

Both take O(P²) integer comparisons, spread over the GPU: no sort, no atomics, no table of all positions, no waiting.
For the hundreds of ids in the papers, a sort of P elements would take more launches than this takes microseconds; 4096
of 4096 are 17 million comparisons, 65536 of 65536 take most of a millisecond.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl
from torch import Tensor

from ._launch import ceil_div, launch, power_of_2

BLOCK = 64  # draws per program, and per step of comparisons


@triton.jit
def _draws(key, t):
    """Draws t of a key, 63 random bits each: splitmix64's finaliser on the (t + 1)-th step from the key."""
    z = key.to(tl.uint64) + (t + 1).to(tl.uint64) * 0x9E3779B97F4A7C15
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    return ((z ^ (z >> 31)) & 0x7FFFFFFFFFFFFFFF).to(tl.int64)


@triton.jit
def _remainder(draw, positions, reciprocal):
    """draw % positions for a draw below 2⁶³. A GPU has no division of 64 bits; its remainder takes a hundred
    instructions, this one multiplication by ⌊(2⁶⁴ - 1)/positions⌋, whose quotient is at most one too small."""
    u, n = draw.to(tl.uint64), positions.to(tl.uint64)
    rest = u - tl.umulhi(u, reciprocal) * n
    return tl.where(rest >= n, rest - n, rest).to(tl.int64)


@triton.jit
def _stream(key, t, draws, positions, reciprocal):
    """Position t of a key's stream. The stream ends in 0, 1, 2, ..., so that it always holds enough distinct ones."""
    return tl.where(t < draws, _remainder(_draws(key, t), positions, reciprocal), (t - draws).to(tl.int64))


@triton.jit
def _new(key, start, draws, positions, BLOCK: tl.constexpr):
    """Places (BLOCK,) of the stream from `start` on, their positions, and whether each position is new."""
    positions = tl.full((), positions, tl.int64)
    reciprocal = tl.full((), 0xFFFFFFFFFFFFFFFF, tl.uint64) // positions.to(tl.uint64)
    t = start + tl.arange(0, BLOCK)
    mine = _stream(key, t, draws, positions, reciprocal)
    again = tl.zeros((BLOCK, BLOCK), tl.int32)
    for first in range(0, start + BLOCK, BLOCK):
        earlier = first + tl.arange(0, BLOCK)
        same = _stream(key, earlier, draws, positions, reciprocal)[None, :] == mine[:, None]
        again |= (same & (earlier[None, :] < t[:, None])).to(tl.int32)
    return t, mine, tl.max(again, 1) == 0


@triton.jit
def _mark(keys, stream, k_b, positions, draws, length, BLOCK: tl.constexpr):
    """The first `length` positions of each row's stream, -1 for repeated ones."""
    program = tl.program_id(0)
    blocks = tl.cdiv(length, BLOCK)
    row = (program // blocks).to(tl.int64)
    t, mine, new = _new(tl.load(keys + row * k_b), program % blocks * BLOCK, draws, positions, BLOCK)
    tl.store(stream + row * length + t, tl.where(new, mine, -1), mask=t < length)


@triton.jit
def _compact(
    keys, stream, ids, k_b, positions, patches, draws, length, BLOCK_T: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """The first `patches` new positions of each row."""
    row = tl.program_id(0).to(tl.int64)
    count = 0
    for start in range(0, length, BLOCK_T):
        t = start + tl.arange(0, BLOCK_T)
        mine = tl.load(stream + row * length + t, mask=t < length, other=-1)
        new = (mine >= 0).to(tl.int32)
        place = count + tl.cumsum(new, 0) - new
        tl.store(ids + row * patches + place, mine, mask=(mine >= 0) & (place < patches))
        count += tl.sum(new, 0)
    start = length
    while count < patches:
        _, mine, is_new = _new(tl.load(keys + row * k_b), start, draws, positions, BLOCK)
        new = is_new.to(tl.int32)
        place = count + tl.cumsum(new, 0) - new
        tl.store(ids + row * patches + place, mine, mask=is_new & (place < patches))
        count += tl.sum(new, 0)
        start += BLOCK


@triton.jit
def _rank(keys, ids, k_b, positions, patches, BLOCK: tl.constexpr):
    """The first `patches` of all positions, in the order of their draws."""
    program = tl.program_id(0)
    blocks = tl.cdiv(positions, BLOCK)
    row = (program // blocks).to(tl.int64)
    key = tl.load(keys + row * k_b)
    i = program % blocks * BLOCK + tl.arange(0, BLOCK)
    mine = _draws(key, i)
    smaller = tl.zeros((BLOCK, BLOCK), tl.int32)
    for first in range(0, positions, BLOCK):
        j = first + tl.arange(0, BLOCK)
        other = _draws(key, j)
        before = (other[None, :] < mine[:, None]) | ((other[None, :] == mine[:, None]) & (j[None, :] < i[:, None]))
        smaller += (before & (j < positions)[None, :]).to(tl.int32)
    rank = tl.sum(smaller, 1)
    tl.store(ids + row * patches + rank, i.to(tl.int64), mask=(i < positions) & (rank < patches))


def _enough(positions: int, patches: int) -> int:
    """How many draws hold `patches` distinct ones except once in 1e9 calls: mean plus six standard deviations."""
    share = patches / positions
    mean = -positions * math.log1p(-share)
    variance = positions * (share / (1 - share) + math.log1p(-share))
    return math.ceil(mean + 6 * math.sqrt(max(variance, 0.0))) + 16


def forward(keys: Tensor, num_positions: int, num_patches: int) -> Tensor:
    if keys.dim() > 1 or keys.is_floating_point():
        raise RuntimeError("sample_patch_ids: expected keys int64 of shape () or (B,)")
    if not 0 <= num_patches <= num_positions:
        raise RuntimeError(
            f"sample_patch_ids: expected 0 <= num_patches <= num_positions, got {num_patches} and {num_positions}"
        )
    ids = keys.new_empty((*keys.shape, num_patches))
    if ids.numel() == 0:
        return ids
    rows, k_b = keys.numel(), keys.stride(0) if keys.dim() else 0
    if num_positions < 2 * num_patches:
        launch(_rank, rows * ceil_div(num_positions, BLOCK), keys, ids, k_b, num_positions, num_patches, BLOCK=BLOCK)
        return ids
    draws = 4 * num_patches + 128
    length = min(_enough(num_positions, num_patches), draws)
    stream = keys.new_empty((rows, length))
    launch(
        _mark, rows * ceil_div(length, BLOCK), keys, stream, k_b, num_positions, draws, length, BLOCK=BLOCK
    )  # fmt: skip
    launch(
        _compact, rows, keys, stream, ids, k_b, num_positions, num_patches, draws, length,
        BLOCK_T=min(power_of_2(length), 2048), BLOCK=BLOCK,
    )  # fmt: skip
    return ids
