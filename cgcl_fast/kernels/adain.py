r"""Instance normalisation with scale, shift, activation, residual and padding.

A plane that fits in one program's registers is read once and written once. Larger planes, and channels_last maps, whose
planes interleave, are split into chunks: a first kernel computes mean and sum of squared deviations of each chunk
(never Σx² - (Σx)²/n), a second merges those of a plane and writes the result. The backward pass does the same with Σg'
and Σg'n, where n is the normalised x and g' the gradient before the activation. No atomics, so results are
reproducible.

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
CHUNK = 4096  # elements of a chunk of larger planes, at least


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
        return tl.full(planes.shape, default, tl.float32)
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
def _tile(program, C, positions, chunks, chunk_length, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr):
    """Image, channels (BLOCK_C,), first position and end of a program's chunk."""
    chunk = program % chunks
    block = program // chunks
    blocks = tl.cdiv(C, BLOCK_C)
    channels = (block % blocks) * BLOCK_C + tl.arange(0, BLOCK_C)
    first = chunk * chunk_length
    return block // blocks, channels, chunk, first, tl.minimum(first + chunk_length, positions)


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
    x, means, squares, C, H, W, x_b, x_c, x_h, x_w, chunks, chunk_length,
    LINEAR: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    image, channels, chunk, first, end = _tile(tl.program_id(0), C, H * W, chunks, chunk_length, BLOCK_C, BLOCK_P)
    rows = x + image.to(tl.int64) * x_b + channels.to(tl.int64)[:, None] * x_c
    within = channels < C
    total = tl.zeros((BLOCK_C, BLOCK_P), tl.float32)
    for start in range(first, end, BLOCK_P):
        p = start + tl.arange(0, BLOCK_P)
        mask = within[:, None] & (p < end)[None, :]
        total += tl.load(rows + offsets(p, W, x_h, x_w, LINEAR)[None, :], mask=mask, other=0.0).to(tl.float32)
    mu = tl.sum(total, 1) / tl.maximum(end - first, 1)
    total = tl.zeros((BLOCK_C, BLOCK_P), tl.float32)
    for start in range(first, end, BLOCK_P):
        p = start + tl.arange(0, BLOCK_P)
        mask = within[:, None] & (p < end)[None, :]
        v = tl.load(rows + offsets(p, W, x_h, x_w, LINEAR)[None, :], mask=mask, other=0.0).to(tl.float32)
        centred = tl.where(mask, v - mu[:, None], 0.0)
        total += centred * centred
    planes = image * C + channels
    tl.store(means + planes.to(tl.int64) * chunks + chunk, mu, mask=within)
    tl.store(squares + planes.to(tl.int64) * chunks + chunk, tl.sum(total, 1), mask=within)


@triton.jit
def _chunk_forward(
    x, scale, shift, residual, y, means, squares, mean, rstd, eps, C, H, W,
    x_b, x_c, x_h, x_w, r_b, r_c, r_h, r_w, y_b, y_c, y_h, y_w, chunks, chunk_length,
    ACTIVATION: tl.constexpr, LINEAR: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
    BLOCK_CHUNKS: tl.constexpr, PAD: tl.constexpr, REPLICATE: tl.constexpr, RESIDUAL_PAD: tl.constexpr,
):  # fmt: skip
    positions = H * W
    image, channels, chunk, first, end = _tile(tl.program_id(0), C, positions, chunks, chunk_length, BLOCK_C, BLOCK_P)
    if PAD > 0:  # the same number of chunks, over positions of the padded map
        all_positions = (H + 2 * PAD) * (W + 2 * PAD)
        length = tl.cdiv(tl.cdiv(all_positions, chunks), BLOCK_P) * BLOCK_P
        first = chunk * length
        end = tl.minimum(first + length, all_positions)
    within = channels < C
    planes = image * C + channels
    # Merge mean and variance of the chunks of a plane (Chan et al. 1979).
    k = tl.arange(0, BLOCK_CHUNKS)
    lengths = tl.maximum(tl.minimum(positions - k * chunk_length, chunk_length), 0).to(tl.float32)
    parts = planes.to(tl.int64)[:, None] * chunks + k[None, :]
    known = within[:, None] & (k < chunks)[None, :]
    mu_parts = tl.load(means + parts, mask=known, other=0.0)
    mu = sum_of_products(mu_parts, tl.broadcast_to(lengths[None, :], mu_parts.shape), 1) / positions
    apart = tl.where(known, mu_parts - mu[:, None], 0.0)
    squared = tl.load(squares + parts, mask=known, other=0.0) + apart * apart * lengths[None, :]
    r = 1.0 / tl.sqrt(tl.sum(squared, 1) / positions + eps)
    if chunk == 0:
        tl.store(mean + planes, mu, mask=within)
        tl.store(rstd + planes, r, mask=within)
    s = _parameter(scale, planes, within, 1.0)
    t = _parameter(shift, planes, within, 0.0)
    rows = x + image.to(tl.int64) * x_b + channels.to(tl.int64)[:, None] * x_c
    targets = y + image.to(tl.int64) * y_b + channels.to(tl.int64)[:, None] * y_c
    for start in range(first, end, BLOCK_P):
        q = start + tl.arange(0, BLOCK_P)
        mask = within[:, None] & (q < end)[None, :]
        p = shown(q, H, W, PAD, REPLICATE)
        v = tl.load(rows + offsets(p, W, x_h, x_w, LINEAR)[None, :], mask=mask, other=0.0).to(tl.float32)
        u = _activate((v - mu[:, None]) * r[:, None] * s[:, None] + t[:, None], ACTIVATION)
        if residual is not None:
            base = residual + image.to(tl.int64) * r_b + channels.to(tl.int64)[:, None] * r_c
            added = base + _residual_offsets(p, q, W, r_h, r_w, LINEAR, PAD, RESIDUAL_PAD)[None, :]
            u += tl.load(added, mask=mask, other=0.0).to(tl.float32)
        to = targets + offsets(q, W + 2 * PAD, y_h, y_w, LINEAR)[None, :]
        tl.store(to, u.to(y.dtype.element_ty), mask=mask)


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
    g_b, g_c, g_h, g_w, x_b, x_c, x_h, x_w, chunks, chunk_length,
    ACTIVATION: tl.constexpr, LINEAR: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
    PAD: tl.constexpr, REPLICATE: tl.constexpr,
):  # fmt: skip
    image, channels, chunk, first, end = _tile(tl.program_id(0), C, H * W, chunks, chunk_length, BLOCK_C, BLOCK_P)
    within = channels < C
    planes = image * C + channels
    mu = tl.load(mean + planes, mask=within, other=0.0)
    r = tl.load(rstd + planes, mask=within, other=0.0)
    s = _parameter(scale, planes, within, 1.0)
    t = _parameter(shift, planes, within, 0.0)
    x_rows = x + image.to(tl.int64) * x_b + channels.to(tl.int64)[:, None] * x_c
    g_rows = grad + image.to(tl.int64) * g_b + channels.to(tl.int64)[:, None] * g_c
    sum_g = tl.zeros((BLOCK_C, BLOCK_P), tl.float32)
    sum_gn = tl.zeros((BLOCK_C, BLOCK_P), tl.float32)
    for start in range(first, end, BLOCK_P):
        p = start + tl.arange(0, BLOCK_P)
        mask = within[:, None] & (p < end)[None, :]
        v = tl.load(x_rows + offsets(p, W, x_h, x_w, LINEAR)[None, :], mask=mask, other=0.0).to(tl.float32)
        g = load_folded(g_rows, p[None, :], mask, H, W, g_h, g_w, LINEAR, PAD, REPLICATE)
        n = (v - mu[:, None]) * r[:, None]
        g = _before_activation(g, n * s[:, None] + t[:, None], ACTIVATION)
        sum_g += g
        sum_gn += tl.where(mask, g * n, 0.0)
    tl.store(sums_g + planes.to(tl.int64) * chunks + chunk, tl.sum(sum_g, 1), mask=within)
    tl.store(sums_gn + planes.to(tl.int64) * chunks + chunk, tl.sum(sum_gn, 1), mask=within)


@triton.jit
def _chunk_backward(
    grad, x, scale, shift, mean, rstd, sums_g, sums_gn, dx, dscale, dshift, C, H, W,
    g_b, g_c, g_h, g_w, x_b, x_c, x_h, x_w, d_b, d_c, d_h, d_w, chunks, chunk_length,
    ACTIVATION: tl.constexpr, LINEAR: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
    BLOCK_CHUNKS: tl.constexpr, PAD: tl.constexpr, REPLICATE: tl.constexpr,
):  # fmt: skip
    positions = H * W
    image, channels, chunk, first, end = _tile(tl.program_id(0), C, positions, chunks, chunk_length, BLOCK_C, BLOCK_P)
    within = channels < C
    planes = image * C + channels
    k = tl.arange(0, BLOCK_CHUNKS)
    parts = planes.to(tl.int64)[:, None] * chunks + k[None, :]
    known = within[:, None] & (k < chunks)[None, :]
    sum_g = tl.sum(tl.load(sums_g + parts, mask=known, other=0.0), 1)
    sum_gn = tl.sum(tl.load(sums_gn + parts, mask=known, other=0.0), 1)
    if dscale is not None:  # noqa: SIM102  known at compile time, unlike the chunk
        if chunk == 0:
            tl.store(dscale + planes, sum_gn, mask=within)
            tl.store(dshift + planes, sum_g, mask=within)
    mu = tl.load(mean + planes, mask=within, other=0.0)
    r = tl.load(rstd + planes, mask=within, other=0.0)
    s = _parameter(scale, planes, within, 1.0)
    t = _parameter(shift, planes, within, 0.0)
    x_rows = x + image.to(tl.int64) * x_b + channels.to(tl.int64)[:, None] * x_c
    g_rows = grad + image.to(tl.int64) * g_b + channels.to(tl.int64)[:, None] * g_c
    d_rows = dx + image.to(tl.int64) * d_b + channels.to(tl.int64)[:, None] * d_c
    for start in range(first, end, BLOCK_P):
        p = start + tl.arange(0, BLOCK_P)
        mask = within[:, None] & (p < end)[None, :]
        v = tl.load(x_rows + offsets(p, W, x_h, x_w, LINEAR)[None, :], mask=mask, other=0.0).to(tl.float32)
        g = load_folded(g_rows, p[None, :], mask, H, W, g_h, g_w, LINEAR, PAD, REPLICATE)
        n = (v - mu[:, None]) * r[:, None]
        g = _before_activation(g, n * s[:, None] + t[:, None], ACTIVATION)
        d = _gradient_gain(s * r)[:, None] * (g - (sum_g / positions)[:, None] - n * (sum_gn / positions)[:, None])
        tl.store(d_rows + offsets(p, W, d_h, d_w, LINEAR)[None, :], d.to(dx.dtype.element_ty), mask=mask)


def chunked(x: Tensor) -> tuple[int, int, int, int, int]:
    """(programs, chunks per plane, positions per chunk, BLOCK_C, BLOCK_P) for a map in chunks."""
    B, C, H, W = x.shape
    if is_channels_last(x):  # a warp reads contiguous channels
        block_c = min(power_of_2(C), 32)
        block_p, most_chunks = 1024 // block_c, 4096 // block_c
        length = 2 * block_p
    else:
        block_c, block_p, length, most_chunks = 1, 1024, CHUNK, 1024
    length = max(length, ceil_div(ceil_div(H * W, most_chunks), block_p) * block_p)
    chunks = ceil_div(H * W, length)
    return B * ceil_div(C, block_c) * chunks, chunks, length, block_c, block_p


def _warps(block: int) -> int:
    return 1 if block <= 256 else 4 if block <= 2048 else 8 if block <= 8192 else 16


class _Plan(NamedTuple):
    """The launch parameters of a pass, which follow from shapes and strides alone.

    Attributes:
        shape, strides: of the result.
        programs: number of programs per launch; 0 if there is nothing to do.
        sizes, chunks: kernel arguments; chunks is empty if planes are not split.
        first, last: constants of the first of two launches, and of the second or only one.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    programs: int
    sizes: tuple[int, ...]
    chunks: tuple[int, ...]
    first: dict[str, Any]
    last: dict[str, Any]


@functools.lru_cache(4096)
def _plan(
    shape: tuple[int, ...],
    x: tuple[int, ...],
    other: tuple[int, ...],
    activation: str,
    pad: int,
    replicate: bool,
    residual_pad: int,
    backward: bool,
) -> _Plan:
    """The plan for a map of a given shape and strides, and the strides of the other map read: the residual, which has a
    margin of `residual_pad`, or the gradient of the padded map."""
    B, C, H, W = shape
    like = torch.empty_strided(shape, x, device="meta")
    padded = (B, C, H + 2 * pad, W + 2 * pad)
    result = torch.empty(shape if backward else padded, device="meta", memory_format=kernel_format(like))
    second = torch.empty_strided(padded if backward or residual_pad else shape, other, device="meta")
    act, linear = ACTIVATIONS[activation], is_linear(like, result, second)
    made = tuple(result.shape), result.stride()
    if like.numel() == 0:
        return _Plan(*made, 0, (), (), {}, {})
    largest = LARGEST_PLANE if not backward else LARGEST_PLANE_BACKWARD if pad == 0 else LARGEST_PADDED_BACKWARD
    padding = {"PAD": pad, "REPLICATE": replicate}
    positions = H * W
    if positions <= largest and not is_channels_last(like):
        block = power_of_2(positions)
        warps = _warps(block) if not backward else 2 * _warps(block) if block > 256 else 1
        last = {"ACTIVATION": act, "LINEAR": linear, "BLOCK": block, **padding}
        if not backward:
            last |= {"RESIDUAL_PAD": residual_pad, "STEP": min(block, STEP)}
        return _Plan(*made, B * C, (C, H, W), (), {}, {**last, "num_warps": warps})
    programs, chunks, length, block_c, block_p = chunked(like)
    first = {"LINEAR": linear, "BLOCK_C": block_c, "BLOCK_P": block_p}
    last = {**first, "ACTIVATION": act, "BLOCK_CHUNKS": power_of_2(chunks), **padding}
    if backward:
        first |= {"ACTIVATION": act, **padding}
    else:
        last["RESIDUAL_PAD"] = residual_pad
    return _Plan(*made, programs, (C, H, W), (chunks, length), first, last)


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
    plan = _plan(shape, strides, others, activation, pad, replicate, residual_pad, False)
    scale = None if scale is None else scale.contiguous()
    shift = None if shift is None else shift.contiguous()
    y = torch.empty_strided(plan.shape, plan.strides, dtype=x.dtype, device=x.device)
    mean = x.new_empty(shape[:2], dtype=torch.float32)
    rstd = torch.empty_like(mean)
    if plan.programs == 0:
        return y, mean, rstd
    if not plan.chunks:
        launch(
            _plane_forward, plan.programs, x, scale, shift, residual, y, mean, rstd, eps, *plan.sizes,
            *strides, *others, *plan.strides, **plan.last,
        )  # fmt: skip
        return y, mean, rstd
    means, squares = (x.new_empty((shape[0] * shape[1], plan.chunks[0]), dtype=torch.float32) for _ in range(2))
    launch(_chunk_moments, plan.programs, x, means, squares, *plan.sizes, *strides, *plan.chunks, **plan.first)
    launch(
        _chunk_forward, plan.programs, x, scale, shift, residual, y, means, squares, mean, rstd, eps, *plan.sizes,
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
    plan = _plan(shape, strides, upstream, activation, pad, replicate, 0, True)
    affine = scale is not None or shift is not None
    scale = None if scale is None else scale.contiguous()
    shift = None if shift is None else shift.contiguous()
    dx = torch.empty_strided(shape, plan.strides, dtype=x.dtype, device=x.device)
    dscale = x.new_empty((shape[0] if affine else 0, shape[1]), dtype=torch.float32)
    dshift = torch.empty_like(dscale)
    if plan.programs == 0:
        return dx, dscale.zero_(), dshift.zero_()
    parameters = (dscale, dshift) if affine else (None, None)
    if not plan.chunks:
        launch(
            _plane_backward, plan.programs, grad, x, scale, shift, mean, rstd, dx, *parameters, *plan.sizes,
            *upstream, *strides, *plan.strides, **plan.last,
        )  # fmt: skip
        return dx, dscale, dshift
    sums_g, sums_gn = (x.new_empty((shape[0] * shape[1], plan.chunks[0]), dtype=torch.float32) for _ in range(2))
    launch(
        _chunk_gradient_sums, plan.programs, grad, x, scale, shift, mean, rstd, sums_g, sums_gn, *plan.sizes,
        *upstream, *strides, *plan.chunks, **plan.first,
    )  # fmt: skip
    launch(
        _chunk_backward, plan.programs, grad, x, scale, shift, mean, rstd, sums_g, sums_gn, dx, *parameters,
        *plan.sizes, *upstream, *strides, *plan.strides, *plan.chunks, **plan.last,
    )  # fmt: skip
    return dx, dscale, dshift
