r"""Instance normalisation with scale, shift, activation, residual and padding.

A plane that fits in one program's registers is read once and written once. Larger planes, and channels_last maps, whose
planes interleave, are split into chunks that fit: a first kernel computes mean and sum of squared deviations of each
chunk (never Σx² - (Σx)²/n), a second merges those of a plane and writes the result. The backward pass does the same
with Σg' and Σg'n, where n is the normalised x and g' the gradient before the activation.

A small map takes those two launches: the second finds it in the cache. A larger one would come from memory twice, so
it takes one launch, whose programs number themselves as they start and take turns in that order: they measure a group
of planes, and write it a few groups later, while it is in the cache. The last program to finish measuring a group
merges its chunks; programs that write it wait for that. Measuring and merging never wait, and who writes waits only for
programs with earlier turns, which run or have ended, so waiting ends however many programs run at a time. Atomics only
count programs, and sums are merged in a fixed order, so results are reproducible.

With PAD, kernels that write loop over positions of the padded map and read x at the source position, which is in a
cache by then; kernels that read a gradient sum over all padded copies of a position.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._launch import ceil_div, launch, power_of_2
from ._layout import is_channels_last, is_linear, kernel_format
from ._map import offsets
from ._pad import load_folded, shown
from ._sums import sum_of_products

ACTIVATIONS = {"none": 0, "relu": 1, "leaky_relu": 2}
LARGEST_PLANE = 16384  # the largest plane in elements that one program keeps in registers
LARGEST_PLANE_BACKWARD = 8192
LARGEST_PADDED_BACKWARD = 4096  # the same for the backward pass with padding; beyond it, registers spill
STEP = 2048  # positions of a padded plane that a program writes per step
PROGRAMS = 512  # programs of a small map in chunks, at least: a few on each multiprocessor
IN_CACHE = 24 << 20  # bytes that a second launch finds in the cache
LAG = 12 << 20  # bytes between measuring and writing, which the cache keeps
MERGED = 8  # partial sums that a thread merges at a time


@triton.jit
def _activate(u, ACTIVATION: tl.constexpr):
    if ACTIVATION == 1:
        u = tl.maximum(u, 0.0, propagate_nan=tl.PropagateNan.ALL)
    elif ACTIVATION == 2:
        u = tl.where(u < 0, 0.2 * u, u)
    return u


@triton.jit
def _before_activation(g, u, ACTIVATION: tl.constexpr):
    """Backward of the activation: from the gradient g of its result to that of its input u. NaN as in PyTorch."""
    if ACTIVATION == 1:
        g = tl.where(u <= 0, 0.0, g)
    elif ACTIVATION == 2:
        g = tl.where(u > 0, g, 0.2 * g)
    return g


@triton.jit
def _gradient_gain(gain):
    """The factor of a gradient to x. If it is infinite, every gradient becomes NaN (its mean term is inf - inf)."""
    return gain - gain + gain


@triton.jit
def _parameter(pointer, planes, mask, default: tl.constexpr):
    """Scale or shift of each plane as float32, `default` if there is none."""
    if pointer is None:
        return default
    else:
        return tl.load(pointer + planes, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _residual_offsets(p, q, W, r_h, r_w, LINEAR: tl.constexpr, PAD: tl.constexpr, RESIDUAL_PAD: tl.constexpr):
    """Where the residual of positions q of the result is. It has a margin of its own, or is padded like p."""
    if RESIDUAL_PAD > 0:
        return offsets(q, W + 2 * PAD, r_h, r_w, LINEAR)
    else:
        return offsets(p, W, r_h, r_w, LINEAR)


@triton.jit
def _channels(block, C, BLOCK_C: tl.constexpr):
    """Image and channels of a block: (BLOCK_C,) of them, or a scalar for one."""
    blocks = tl.cdiv(C, BLOCK_C)
    if BLOCK_C == 1:
        return block // C, block % C
    else:
        return block // blocks, (block % blocks) * BLOCK_C + tl.arange(0, BLOCK_C)


@triton.jit
def _rows(first, BLOCK: tl.constexpr, BLOCK_C: tl.constexpr):
    """`BLOCK` numbers from `first` on, along the first axis of a tile (BLOCK, BLOCK_C), or (BLOCK,) if BLOCK_C is 1.

    What there is per channel then broadcasts with tiles, and sums over axis 0 are per channel.
    """
    if BLOCK_C == 1:
        return first + tl.arange(0, BLOCK)
    else:
        return first + tl.arange(0, BLOCK)[:, None]


@triton.jit
def _parts(image, channels, k, C, chunks, BLOCK_C: tl.constexpr):
    """Where chunks k of planes have their sums: a plane's chunks, or a chunk's channels, follow each other."""
    if BLOCK_C == 1:
        return (image * C + channels).to(tl.int64) * chunks + k
    else:
        return (image.to(tl.int64) * chunks + k) * C + channels


@triton.jit
def _measure(
    x, means, squares, image, channels, chunk, C, H, W, x_b, x_c, x_h, x_w, chunks,
    LINEAR: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Mean and sum of squared deviations of a chunk. The chunk stays in registers, so that it is read once."""
    p = _rows(chunk * BLOCK_P, BLOCK_P, BLOCK_C)
    within = channels < C
    mask = within & (p < H * W)
    rows = x + image.to(tl.int64) * x_b + channels.to(tl.int64) * x_c
    v = tl.load(rows + offsets(p, W, x_h, x_w, LINEAR), mask=mask, other=0.0).to(tl.float32)
    mu = tl.sum(v, 0) / tl.minimum(H * W - chunk * BLOCK_P, BLOCK_P)
    centred = tl.where(mask, v - mu, 0.0)
    at = _parts(image, channels, chunk, C, chunks, BLOCK_C)
    tl.store(means + at, mu, mask=within)
    tl.store(squares + at, sum_of_products(centred, centred, 0), mask=within)


@triton.jit
def _merged_moments(
    means, squares, image, channels, eps, C, positions, chunks,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_CHUNKS: tl.constexpr,
):  # fmt: skip
    """Mean and 1/σ of planes from those of their chunks (Chan et al. 1979), always in the same order."""
    within = channels < C
    k = _rows(0, BLOCK_CHUNKS, BLOCK_C)
    known = within & (k < chunks)
    at = _parts(image, channels, k, C, chunks, BLOCK_C)
    mu_parts = tl.load(means + at, mask=known, other=0.0)
    squared = tl.load(squares + at, mask=known, other=0.0)
    lengths = tl.maximum(tl.minimum(positions - k * BLOCK_P, BLOCK_P), 0).to(tl.float32) + tl.zeros_like(mu_parts)
    count = lengths
    for start in range(BLOCK_CHUNKS, chunks, BLOCK_CHUNKS):
        k = _rows(start, BLOCK_CHUNKS, BLOCK_C)
        known = within & (k < chunks)
        at = _parts(image, channels, k, C, chunks, BLOCK_C)
        apart = tl.load(means + at, mask=known, other=0.0) - mu_parts
        lengths = tl.where(known, tl.minimum(positions - k * BLOCK_P, BLOCK_P).to(tl.float32), 0.0)
        share = lengths / (count + lengths)
        squared += tl.load(squares + at, mask=known, other=0.0) + apart * apart * share * count
        mu_parts += apart * share
        count += lengths
    mu = sum_of_products(mu_parts, count, 0) / positions
    apart = tl.where(count > 0, mu_parts - mu, 0.0)
    squared += apart * apart * count
    return mu, 1.0 / tl.sqrt(tl.sum(squared, 0) / positions + eps)


@triton.jit
def _seen(
    map, image, channels, q, mask, H, W, b, c, h, w, LINEAR: tl.constexpr, PAD: tl.constexpr,
    REPLICATE: tl.constexpr, EVICT: tl.constexpr,
):  # fmt: skip
    """What positions q of the padded map show of a map, in float32; zeros if there is no map."""
    if map is None:
        return tl.zeros(mask.shape, tl.float32)
    else:
        plane = map + image.to(tl.int64) * b + channels.to(tl.int64) * c
        at = offsets(shown(q, H, W, PAD, REPLICATE), W, h, w, LINEAR)
        return tl.load(plane + at, mask=mask, other=0.0, eviction_policy=EVICT).to(tl.float32)


@triton.jit
def _inputs(
    x, scale, shift, residual, image, channels, chunk, C, H, W, x_b, x_c, x_h, x_w, r_b, r_c, r_h, r_w,
    LINEAR: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, PAD: tl.constexpr, REPLICATE: tl.constexpr,
    RESIDUAL_PAD: tl.constexpr, EVICT: tl.constexpr,
):  # fmt: skip
    """What a chunk of the padded result is made of but for the moments: x, the residual, scale and shift."""
    q = _rows(chunk * BLOCK_P, BLOCK_P, BLOCK_C)
    within = channels < C
    mask = within & (q < (H + 2 * PAD) * (W + 2 * PAD))
    v = _seen(x, image, channels, q, mask, H, W, x_b, x_c, x_h, x_w, LINEAR, PAD, REPLICATE, EVICT)
    added = _seen(
        residual, image, channels, q, mask, H + 2 * RESIDUAL_PAD, W + 2 * RESIDUAL_PAD, r_b, r_c, r_h, r_w, LINEAR,
        PAD - RESIDUAL_PAD, REPLICATE, "",
    )  # fmt: skip
    planes = image * C + channels
    return v, added, _parameter(scale, planes, within, 1.0), _parameter(shift, planes, within, 0.0)


@triton.jit
def _store_result(
    u, y, image, channels, chunk, C, H, W, y_b, y_c, y_h, y_w, LINEAR: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, PAD: tl.constexpr, EVICT: tl.constexpr,
):  # fmt: skip
    q = _rows(chunk * BLOCK_P, BLOCK_P, BLOCK_C)
    target = y + image.to(tl.int64) * y_b + channels.to(tl.int64) * y_c + offsets(q, W + 2 * PAD, y_h, y_w, LINEAR)
    inside = (channels < C) & (q < (H + 2 * PAD) * (W + 2 * PAD))
    tl.store(target, u.to(y.dtype.element_ty), mask=inside, eviction_policy=EVICT)


@triton.jit
def _gradients(
    grad, x, scale, shift, mean, rstd, image, channels, chunk, C, H, W,
    g_b, g_c, g_h, g_w, x_b, x_c, x_h, x_w, ACTIVATION: tl.constexpr, LINEAR: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, PAD: tl.constexpr, REPLICATE: tl.constexpr, EVICT: tl.constexpr,
):  # fmt: skip
    """Normalised x and the gradient before the activation in a chunk, 0 outside the map, and the factor scale/σ."""
    p = _rows(chunk * BLOCK_P, BLOCK_P, BLOCK_C)
    within = channels < C
    mask = within & (p < H * W)
    g_planes = grad + image.to(tl.int64) * g_b + channels.to(tl.int64) * g_c
    v = _seen(x, image, channels, p, mask, H, W, x_b, x_c, x_h, x_w, LINEAR, 0, REPLICATE, EVICT)
    g = load_folded(g_planes, p, mask, H, W, g_h, g_w, LINEAR, PAD, REPLICATE)
    planes = image * C + channels
    r = tl.load(rstd + planes, mask=within, other=0.0)
    s = _parameter(scale, planes, within, 1.0)
    n = tl.where(mask, v - tl.load(mean + planes, mask=within, other=0.0), 0.0) * r
    g = _before_activation(g, n * s + _parameter(shift, planes, within, 0.0), ACTIVATION)
    return n, g, r * s


@triton.jit
def _sum_gradients(
    n, g, sums_g, sums_gn, image, channels, chunk, C, chunks, BLOCK_C: tl.constexpr
):  # fmt: skip
    at = _parts(image, channels, chunk, C, chunks, BLOCK_C)
    tl.store(sums_g + at, tl.sum(g, 0), mask=channels < C)
    tl.store(sums_gn + at, sum_of_products(g, n, 0), mask=channels < C)


@triton.jit
def _merged_sums(
    sums_g, sums_gn, image, channels, C, chunks, BLOCK_C: tl.constexpr, BLOCK_CHUNKS: tl.constexpr,
):  # fmt: skip
    """Σg and Σg·n of planes from those of their chunks, always in the same order."""
    k = _rows(0, BLOCK_CHUNKS, BLOCK_C)
    at = _parts(image, channels, k, C, chunks, BLOCK_C)
    known = (channels < C) & (k < chunks)
    sum_g = tl.load(sums_g + at, mask=known, other=0.0)
    sum_gn = tl.load(sums_gn + at, mask=known, other=0.0)
    for start in range(BLOCK_CHUNKS, chunks, BLOCK_CHUNKS):
        k = _rows(start, BLOCK_CHUNKS, BLOCK_C)
        at = _parts(image, channels, k, C, chunks, BLOCK_C)
        known = (channels < C) & (k < chunks)
        sum_g += tl.load(sums_g + at, mask=known, other=0.0)
        sum_gn += tl.load(sums_gn + at, mask=known, other=0.0)
    return tl.sum(sum_g, 0), tl.sum(sum_gn, 0)


@triton.jit
def _turn(counters, chunks, written, groups, lag):
    """What a program does, in the order in which programs start: (whether it measures, which group, which chunk).

    Round i measures the chunks of group i of planes and writes those of group i - lag, where these are groups. A
    program waits only for ones with earlier turns, which run or have ended, so that waiting always ends.
    """
    turn = tl.atomic_add(counters, 1, sem="relaxed")
    i, place = turn // (chunks + written), turn % (chunks + written)
    measures = place < chunks
    return measures, tl.where(measures, i, i - lag), tl.where(measures, place, place - chunks)


@triton.jit
def _is_last(arrived, chunks):
    """Whether all other programs that measure a group have stored their results, which are now visible here."""
    tl.debug_barrier()  # of the threads of this program, whose stores are then released
    return tl.atomic_add(arrived, 1, sem="acq_rel") == chunks - 1


@triton.jit
def _publish(arrived):
    tl.debug_barrier()
    tl.atomic_add(arrived, 1, sem="release")


@triton.jit
def _await(arrived, chunks):
    while tl.atomic_add(arrived, 0, sem="acquire") <= chunks:
        pass


@triton.jit
def _plane_forward(
    x, scale, shift, residual, y, mean, rstd, eps, C, H, W,
    x_b, x_c, x_h, x_w, r_b, r_c, r_h, r_w, y_b, y_c, y_h, y_w,
    ACTIVATION: tl.constexpr, LINEAR: tl.constexpr, BLOCK: tl.constexpr, PAD: tl.constexpr, REPLICATE: tl.constexpr,
    RESIDUAL_PAD: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    plane = tl.program_id(0)
    image, channel = (plane // C).to(tl.int64), (plane % C).to(tl.int64)
    p = tl.arange(0, BLOCK)
    positions = H * W
    inside = p < positions
    v = tl.load(x + image * x_b + channel * x_c + offsets(p, W, x_h, x_w, LINEAR), mask=inside, other=0.0).to(
        tl.float32
    )
    mu = tl.sum(v, 0) / positions
    centred = tl.where(inside, v - mu, 0.0)
    r = 1.0 / tl.sqrt(tl.sum(centred * centred, 0) / positions + eps)
    tl.store(mean + plane, mu)
    tl.store(rstd + plane, r)
    if PAD == 0:
        u = centred * r
        if scale is not None:
            u *= tl.load(scale + plane).to(tl.float32)
        if shift is not None:
            u += tl.load(shift + plane).to(tl.float32)
        u = _activate(u, ACTIVATION)
        if residual is not None:
            base = residual + image * r_b + channel * r_c
            u += tl.load(base + offsets(p, W, r_h, r_w, LINEAR), mask=inside, other=0.0).to(tl.float32)
        target = y + image * y_b + channel * y_c + offsets(p, W, y_h, y_w, LINEAR)
        tl.store(target, u.to(y.dtype.element_ty), mask=inside)
    else:
        all_positions = (H + 2 * PAD) * (W + 2 * PAD)
        for step in range(0, all_positions, STEP):
            q = step + tl.arange(0, STEP)
            mask = q < all_positions
            at = shown(q, H, W, PAD, REPLICATE)
            seen = tl.load(x + image * x_b + channel * x_c + offsets(at, W, x_h, x_w, LINEAR), mask=mask, other=0.0)
            n = (seen.to(tl.float32) - mu) * r
            if scale is not None:
                n *= tl.load(scale + plane).to(tl.float32)
            if shift is not None:
                n += tl.load(shift + plane).to(tl.float32)
            n = _activate(n, ACTIVATION)
            if residual is not None:
                base = residual + image * r_b + channel * r_c
                added = base + _residual_offsets(at, q, W, r_h, r_w, LINEAR, PAD, RESIDUAL_PAD)
                n += tl.load(added, mask=mask, other=0.0).to(tl.float32)
            tl.store(y + image * y_b + channel * y_c + q * y_w, n.to(y.dtype.element_ty), mask=mask)


@triton.jit
def _chunk_moments(
    x, means, squares, C, H, W, x_b, x_c, x_h, x_w, chunks,
    LINEAR: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    chunk = tl.program_id(0) % chunks
    image, channels = _channels(tl.program_id(0) // chunks, C, BLOCK_C)
    _measure(x, means, squares, image, channels, chunk, C, H, W, x_b, x_c, x_h, x_w, chunks, LINEAR, BLOCK_C, BLOCK_P)


@triton.jit
def _chunk_forward(
    x, scale, shift, residual, y, means, squares, mean, rstd, eps, C, H, W,
    x_b, x_c, x_h, x_w, r_b, r_c, r_h, r_w, y_b, y_c, y_h, y_w, chunks, written,
    ACTIVATION: tl.constexpr, LINEAR: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
    BLOCK_CHUNKS: tl.constexpr, PAD: tl.constexpr, REPLICATE: tl.constexpr, RESIDUAL_PAD: tl.constexpr,
):  # fmt: skip
    chunk = tl.program_id(0) % written
    image, channels = _channels(tl.program_id(0) // written, C, BLOCK_C)
    # All loads come first, so that they wait for memory together.
    v, added, s, t = _inputs(
        x, scale, shift, residual, image, channels, chunk, C, H, W, x_b, x_c, x_h, x_w, r_b, r_c, r_h, r_w,
        LINEAR, BLOCK_C, BLOCK_P, PAD, REPLICATE, RESIDUAL_PAD, "",
    )  # fmt: skip
    mu, r = _merged_moments(means, squares, image, channels, eps, C, H * W, chunks, BLOCK_C, BLOCK_P, BLOCK_CHUNKS)
    if chunk == 0:
        tl.store(mean + image * C + channels, mu, mask=channels < C)
        tl.store(rstd + image * C + channels, r, mask=channels < C)
    u = _activate((v - mu) * r * s + t, ACTIVATION) + added
    _store_result(
        u, y, image, channels, chunk, C, H, W, y_b, y_c, y_h, y_w, LINEAR, BLOCK_C, BLOCK_P, PAD, ""
    )  # fmt: skip


@triton.jit
def _stream_forward(
    x, scale, shift, residual, y, means, squares, mean, rstd, counters, eps, C, H, W,
    x_b, x_c, x_h, x_w, r_b, r_c, r_h, r_w, y_b, y_c, y_h, y_w, chunks, written, groups, lag,
    ACTIVATION: tl.constexpr, LINEAR: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
    BLOCK_CHUNKS: tl.constexpr, PAD: tl.constexpr, REPLICATE: tl.constexpr, RESIDUAL_PAD: tl.constexpr,
):  # fmt: skip
    """`_chunk_moments` and `_chunk_forward` in one launch, the second `lag` groups of planes behind the first."""
    measures, group, chunk = _turn(counters, chunks, written, groups, lag)
    arrived = counters + 1 + group
    image, channels = _channels(group, C, BLOCK_C)
    within = channels < C
    planes = image * C + channels
    if measures:
        if group < groups:
            _measure(
                x, means, squares, image, channels, chunk, C, H, W, x_b, x_c, x_h, x_w, chunks, LINEAR, BLOCK_C,
                BLOCK_P,
            )  # fmt: skip
            if _is_last(arrived, chunks):
                mu, r = _merged_moments(
                    means, squares, image, channels, eps, C, H * W, chunks, BLOCK_C, BLOCK_P, BLOCK_CHUNKS
                )
                tl.store(mean + planes, mu, mask=within)
                tl.store(rstd + planes, r, mask=within)
                _publish(arrived)
    elif group >= 0:
        v, added, s, t = _inputs(
            x, scale, shift, residual, image, channels, chunk, C, H, W, x_b, x_c, x_h, x_w, r_b, r_c, r_h, r_w,
            LINEAR, BLOCK_C, BLOCK_P, PAD, REPLICATE, RESIDUAL_PAD, "evict_first",
        )  # fmt: skip
        _await(arrived, chunks)
        mu = tl.load(mean + planes, mask=within, other=0.0)
        r = tl.load(rstd + planes, mask=within, other=0.0)
        u = _activate((v - mu) * r * s + t, ACTIVATION) + added
        _store_result(
            u, y, image, channels, chunk, C, H, W, y_b, y_c, y_h, y_w, LINEAR, BLOCK_C, BLOCK_P, PAD, "evict_first"
        )  # fmt: skip


@triton.jit
def _plane_backward(
    grad, x, scale, shift, mean, rstd, dx, dscale, dshift, C, H, W,
    g_b, g_c, g_h, g_w, x_b, x_c, x_h, x_w, d_b, d_c, d_h, d_w,
    ACTIVATION: tl.constexpr, LINEAR: tl.constexpr, BLOCK: tl.constexpr, PAD: tl.constexpr, REPLICATE: tl.constexpr,
):  # fmt: skip
    plane = tl.program_id(0)
    image, channel = (plane // C).to(tl.int64), (plane % C).to(tl.int64)
    p = tl.arange(0, BLOCK)
    positions = H * W
    inside = p < positions
    v = tl.load(x + image * x_b + channel * x_c + offsets(p, W, x_h, x_w, LINEAR), mask=inside, other=0.0).to(
        tl.float32
    )
    g = load_folded(grad + image * g_b + channel * g_c, p, inside, H, W, g_h, g_w, LINEAR, PAD, REPLICATE)
    r = tl.load(rstd + plane)
    n = tl.where(inside, v - tl.load(mean + plane), 0.0) * r
    s = 1.0
    if scale is not None:
        s = tl.load(scale + plane).to(tl.float32)
    u = n * s
    if shift is not None:
        u += tl.load(shift + plane).to(tl.float32)
    g = _before_activation(g, u, ACTIVATION)
    sum_g = tl.sum(g, 0)
    sum_gn = tl.sum(g * n, 0)
    if dscale is not None:
        tl.store(dscale + plane, sum_gn)
        tl.store(dshift + plane, sum_g)
    d = _gradient_gain(s * r) * (g - sum_g / positions - n * (sum_gn / positions))
    target = dx + image * d_b + channel * d_c + offsets(p, W, d_h, d_w, LINEAR)
    tl.store(target, d.to(dx.dtype.element_ty), mask=inside)


@triton.jit
def _chunk_gradient_sums(
    grad, x, scale, shift, mean, rstd, sums_g, sums_gn, C, H, W,
    g_b, g_c, g_h, g_w, x_b, x_c, x_h, x_w, chunks,
    ACTIVATION: tl.constexpr, LINEAR: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
    PAD: tl.constexpr, REPLICATE: tl.constexpr,
):  # fmt: skip
    chunk = tl.program_id(0) % chunks
    image, channels = _channels(tl.program_id(0) // chunks, C, BLOCK_C)
    n, g, _ = _gradients(
        grad, x, scale, shift, mean, rstd, image, channels, chunk, C, H, W, g_b, g_c, g_h, g_w, x_b, x_c, x_h, x_w,
        ACTIVATION, LINEAR, BLOCK_C, BLOCK_P, PAD, REPLICATE, "",
    )  # fmt: skip
    _sum_gradients(n, g, sums_g, sums_gn, image, channels, chunk, C, chunks, BLOCK_C)


@triton.jit
def _chunk_backward(
    grad, x, scale, shift, mean, rstd, sums_g, sums_gn, dx, dscale, dshift, C, H, W,
    g_b, g_c, g_h, g_w, x_b, x_c, x_h, x_w, d_b, d_c, d_h, d_w, chunks,
    ACTIVATION: tl.constexpr, LINEAR: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
    BLOCK_CHUNKS: tl.constexpr, PAD: tl.constexpr, REPLICATE: tl.constexpr,
):  # fmt: skip
    chunk = tl.program_id(0) % chunks
    image, channels = _channels(tl.program_id(0) // chunks, C, BLOCK_C)
    n, g, gain = _gradients(
        grad, x, scale, shift, mean, rstd, image, channels, chunk, C, H, W, g_b, g_c, g_h, g_w, x_b, x_c, x_h, x_w,
        ACTIVATION, LINEAR, BLOCK_C, BLOCK_P, PAD, REPLICATE, "",
    )  # fmt: skip
    sum_g, sum_gn = _merged_sums(sums_g, sums_gn, image, channels, C, chunks, BLOCK_C, BLOCK_CHUNKS)
    if dscale is not None:  # noqa: SIM102  known at compile time, unlike the chunk
        if chunk == 0:
            tl.store(dscale + image * C + channels, sum_gn, mask=channels < C)
            tl.store(dshift + image * C + channels, sum_g, mask=channels < C)
    d = _gradient_gain(gain) * (g - sum_g / (H * W) - n * (sum_gn / (H * W)))
    _store_result(
        d, dx, image, channels, chunk, C, H, W, d_b, d_c, d_h, d_w, LINEAR, BLOCK_C, BLOCK_P, 0, ""
    )  # fmt: skip


@triton.jit
def _stream_backward(
    grad, x, scale, shift, mean, rstd, sums_g, sums_gn, dx, dscale, dshift, counters, C, H, W,
    g_b, g_c, g_h, g_w, x_b, x_c, x_h, x_w, d_b, d_c, d_h, d_w, chunks, groups, lag,
    ACTIVATION: tl.constexpr, LINEAR: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
    BLOCK_CHUNKS: tl.constexpr, PAD: tl.constexpr, REPLICATE: tl.constexpr,
):  # fmt: skip
    """`_chunk_gradient_sums` and `_chunk_backward` in one launch, as `_stream_forward`.

    dscale and dshift are where the merged sums are left, so they must be there even if nobody asked for them.
    """
    measures, group, chunk = _turn(counters, chunks, chunks, groups, lag)
    arrived = counters + 1 + group
    image, channels = _channels(group, C, BLOCK_C)
    within = channels < C
    planes = image * C + channels
    if measures:
        if group < groups:
            n, g, _ = _gradients(
                grad, x, scale, shift, mean, rstd, image, channels, chunk, C, H, W, g_b, g_c, g_h, g_w,
                x_b, x_c, x_h, x_w, ACTIVATION, LINEAR, BLOCK_C, BLOCK_P, PAD, REPLICATE, "",
            )  # fmt: skip
            _sum_gradients(n, g, sums_g, sums_gn, image, channels, chunk, C, chunks, BLOCK_C)
            if _is_last(arrived, chunks):
                sum_g, sum_gn = _merged_sums(sums_g, sums_gn, image, channels, C, chunks, BLOCK_C, BLOCK_CHUNKS)
                tl.store(dscale + planes, sum_gn, mask=within)
                tl.store(dshift + planes, sum_g, mask=within)
                _publish(arrived)
    elif group >= 0:
        n, g, gain = _gradients(
            grad, x, scale, shift, mean, rstd, image, channels, chunk, C, H, W, g_b, g_c, g_h, g_w,
            x_b, x_c, x_h, x_w, ACTIVATION, LINEAR, BLOCK_C, BLOCK_P, PAD, REPLICATE, "evict_first",
        )  # fmt: skip
        _await(arrived, chunks)
        sum_gn = tl.load(dscale + planes, mask=within, other=0.0)
        sum_g = tl.load(dshift + planes, mask=within, other=0.0)
        d = _gradient_gain(gain) * (g - sum_g / (H * W) - n * (sum_gn / (H * W)))
        _store_result(
            d, dx, image, channels, chunk, C, H, W, d_b, d_c, d_h, d_w, LINEAR, BLOCK_C, BLOCK_P, 0, "evict_first"
        )  # fmt: skip


class Blocks(NamedTuple):
    """How planes are split into chunks.

    Attributes:
        channels, positions: a chunk's, powers of 2. What a program has of it stays in registers.
        warps: of a program.
        lag: with one launch, by how many groups of planes (`channels` of an image) writing follows measuring;
            0: with two launches.
    """

    channels: int
    positions: int
    warps: int
    lag: int


def blocks_of(shape: tuple[int, ...], channels_last: bool, itemsize: int, maps: int) -> Blocks:
    """The blocks for a pass that reads `maps` maps of this shape: 1 forward, 2 backward."""
    B, C, H, W = shape
    elements = B * C * H * W
    streams = maps * itemsize * elements > IN_CACHE
    if streams:
        # Of channels_last maps, fewer and larger chunks, as one program merges those of a group: 32 channels fill at
        # least two sectors of 32 bytes, and are few enough for the cache to keep groups of large planes.
        channels, most = (32, 8192) if channels_last else (1, 4096)
    else:
        # Every program that writes merges all chunks, so few channels. One that reads two maps has less room for each.
        channels, most = 16 if channels_last else 1, 8192 if maps == 1 else 8192 // itemsize
    channels = min(power_of_2(C), channels)
    size = min(max(power_of_2(elements // PROGRAMS), 2048), most)
    positions = min(max(size // channels, 1), power_of_2(H * W))
    warps = min(max(channels * positions // 512, 1), 8)
    group = maps * itemsize * channels * H * W
    # To the nearest group: where groups are large, one more hides how long merging takes.
    lag = max(1, (LAG + group // 2) // group) if streams else 0
    return Blocks(channels, positions, warps, lag)


def _warps(block: int) -> int:
    return 1 if block <= 256 else 4 if block <= 2048 else 8 if block <= 8192 else 16


class _Plan(NamedTuple):
    """The launch parameters of a pass, which follow from shapes and strides alone.

    Attributes:
        shape, strides: of the result.
        programs: of each launch; () if there is nothing to do.
        sizes: kernel arguments.
        chunks: their number in a group of planes that is measured, and in one that is written; () if planes are
            not split.
        groups: number of groups of planes, and the lag with which they are written; () with two launches.
        first, last: constants of the first of two launches, and of the second or only one.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    programs: tuple[int, ...]
    sizes: tuple[int, ...]
    chunks: tuple[int, ...]
    groups: tuple[int, ...]
    first: dict[str, Any]
    last: dict[str, Any]


@functools.lru_cache(4096)
def _plan(
    shape: tuple[int, ...],
    x: tuple[int, ...],
    other: tuple[int, ...],
    itemsize: int,
    activation: str,
    pad: int,
    replicate: bool,
    residual_pad: int,
    backward: bool,
) -> _Plan:
    """The plan for a map of a given shape, strides and size of an element, and the strides of the other map read: the
    residual, which has a margin of `residual_pad`, or the gradient of the padded map."""
    B, C, H, W = shape
    like = torch.empty_strided(shape, x, device="meta")
    padded = (B, C, H + 2 * pad, W + 2 * pad)
    result = torch.empty(shape if backward else padded, device="meta", memory_format=kernel_format(like))
    second = torch.empty_strided(padded if backward or residual_pad else shape, other, device="meta")
    act, linear = ACTIVATIONS[activation], is_linear(like, result, second)
    made = tuple(result.shape), result.stride()
    if like.numel() == 0:
        return _Plan(*made, (), (), (), (), {}, {})
    largest = LARGEST_PLANE if not backward else LARGEST_PLANE_BACKWARD if pad == 0 else LARGEST_PADDED_BACKWARD
    padding = {"PAD": pad, "REPLICATE": replicate}
    positions = H * W
    if positions <= largest and not is_channels_last(like):
        block = power_of_2(positions)
        warps = _warps(block) if not backward else 2 * _warps(block) if block > 256 else 1
        last: dict[str, Any] = {"ACTIVATION": act, "LINEAR": linear, "BLOCK": block, **padding}
        if not backward:
            last |= {"RESIDUAL_PAD": residual_pad, "STEP": min(block, STEP)}
        return _Plan(*made, (B * C,), (C, H, W), (), (), {}, {**last, "num_warps": warps})
    blocks = blocks_of(shape, is_channels_last(like), itemsize, 2 if backward else 1)
    chunks = ceil_div(positions, blocks.positions)
    written = ceil_div(result.shape[2] * result.shape[3], blocks.positions)
    groups = B * ceil_div(C, blocks.channels)
    first: dict[str, Any] = {"LINEAR": linear, "BLOCK_C": blocks.channels, "BLOCK_P": blocks.positions}
    first["num_warps"] = blocks.warps
    merged = min(power_of_2(chunks), max(MERGED * 32 * blocks.warps // blocks.channels, 1))
    last = {**first, "ACTIVATION": act, "BLOCK_CHUNKS": merged, **padding}
    if backward:
        first |= {"ACTIVATION": act, **padding}
    else:
        last["RESIDUAL_PAD"] = residual_pad
    if blocks.lag == 0:
        return _Plan(*made, (groups * chunks, groups * written), (C, H, W), (chunks, written), (), first, last)
    turns = (groups + blocks.lag) * (chunks + written)
    return _Plan(*made, (turns,), (C, H, W), (chunks, written), (groups, blocks.lag), first, last)


def forward(
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    eps: float,
    activation: str,
    residual: Tensor | None,
    pad: int = 0,
    replicate: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    shape, strides = x.shape, x.stride()
    others = strides if residual is None else residual.stride()
    residual_pad = 0 if residual is None or residual.shape == shape else pad
    plan = _plan(shape, strides, others, x.element_size(), activation, pad, replicate, residual_pad, False)
    scale = None if scale is None else scale.contiguous()
    shift = None if shift is None else shift.contiguous()
    y = torch.empty_strided(plan.shape, plan.strides, dtype=x.dtype, device=x.device)
    mean = x.new_empty(shape[:2], dtype=torch.float32)
    rstd = torch.empty_like(mean)
    if not plan.programs:
        return y, mean, rstd
    if not plan.chunks:
        launch(
            _plane_forward, plan.programs[0], x, scale, shift, residual, y, mean, rstd, eps, *plan.sizes,
            *strides, *others, *plan.strides, **plan.last,
        )  # fmt: skip
        return y, mean, rstd
    means, squares = (x.new_empty((shape[0] * shape[1], plan.chunks[0]), dtype=torch.float32) for _ in range(2))
    if plan.groups:
        counters = x.new_zeros(1 + plan.groups[0], dtype=torch.int32)
        launch(
            _stream_forward, plan.programs[0], x, scale, shift, residual, y, means, squares, mean, rstd, counters, eps,
            *plan.sizes, *strides, *others, *plan.strides, *plan.chunks, *plan.groups, **plan.last,
        )  # fmt: skip
        return y, mean, rstd
    launch(_chunk_moments, plan.programs[0], x, means, squares, *plan.sizes, *strides, plan.chunks[0], **plan.first)
    launch(
        _chunk_forward, plan.programs[1], x, scale, shift, residual, y, means, squares, mean, rstd, eps, *plan.sizes,
        *strides, *others, *plan.strides, *plan.chunks, **plan.last,
    )  # fmt: skip
    return y, mean, rstd


def backward(
    grad: Tensor,
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    activation: str,
    pad: int = 0,
    replicate: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    shape, strides, upstream = x.shape, x.stride(), grad.stride()
    plan = _plan(shape, strides, upstream, x.element_size(), activation, pad, replicate, 0, True)
    affine = scale is not None or shift is not None
    scale = None if scale is None else scale.contiguous()
    shift = None if shift is None else shift.contiguous()
    dx = torch.empty_strided(shape, plan.strides, dtype=x.dtype, device=x.device)
    dscale, dshift = (x.new_empty((shape[0] if affine else 0, shape[1]), dtype=torch.float32) for _ in range(2))
    if not plan.programs:
        return dx, dscale.zero_(), dshift.zero_()
    parameters = (dscale, dshift) if affine else (None, None)
    if not plan.chunks:
        launch(
            _plane_backward, plan.programs[0], grad, x, scale, shift, mean, rstd, dx, *parameters, *plan.sizes,
            *upstream, *strides, *plan.strides, **plan.last,
        )  # fmt: skip
        return dx, dscale, dshift
    chunks = plan.chunks[0]
    sums_g, sums_gn = (x.new_empty((shape[0] * shape[1], chunks), dtype=torch.float32) for _ in range(2))
    if plan.groups:
        merged = parameters if affine else (torch.empty_like(mean), torch.empty_like(mean))
        counters = x.new_zeros(1 + plan.groups[0], dtype=torch.int32)
        launch(
            _stream_backward, plan.programs[0], grad, x, scale, shift, mean, rstd, sums_g, sums_gn, dx, *merged,
            counters, *plan.sizes, *upstream, *strides, *plan.strides, chunks, *plan.groups, **plan.last,
        )  # fmt: skip
        return dx, dscale, dshift
    launch(
        _chunk_gradient_sums, plan.programs[0], grad, x, scale, shift, mean, rstd, sums_g, sums_gn, *plan.sizes,
        *upstream, *strides, chunks, **plan.first,
    )  # fmt: skip
    launch(
        _chunk_backward, plan.programs[1], grad, x, scale, shift, mean, rstd, sums_g, sums_gn, dx, *parameters,
        *plan.sizes, *upstream, *strides, *plan.strides, chunks, **plan.last,
    )  # fmt: skip
    return dx, dscale, dshift
