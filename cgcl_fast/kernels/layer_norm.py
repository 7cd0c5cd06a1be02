"""Layer normalisation of channels_last maps over channels and positions, with scale, shift, activation and padding.

Chunks of pixels are measured, for each channel by itself, as those of instance norm (adain.py); a second, small kernel
merges an image's chunks and channels; a third reads the map again and writes the result. The backward pass does the
same with Σg' and Σg'n, where n is the normalised x and g' the gradient before the activation. Sums are merged in a
fixed order.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._launch import ceil_div, launch, power_of_2
from ._layout import is_linear
from ._pad import load_folded
from ._sums import sum_of_products
from .adain import (
    ACTIVATIONS,
    PROGRAMS,
    _activate,
    _before_activation,
    _channels,
    _chunk_moments,
    _gradient_gain,
    _rows,
    _seen,
    _store_result,
    _sum_gradients,
)

LARGEST_CHUNK = 8192  # elements that a program keeps in registers
MERGED = 2048  # partial sums that a program merges at a time
MERGED_CHANNELS = 32


@triton.jit
def _merge_moments(
    means, squares, mean, rstd, eps, values, C, positions, chunks, BLOCK_P: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Mean and 1/σ of an image from those of its chunks and channels (Chan et al. 1979), of `values` values in all."""
    image = tl.program_id(0)
    parts = chunks * C
    mu = tl.zeros((BLOCK,), tl.float32)
    squared = tl.zeros((BLOCK,), tl.float32)
    count = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, parts, BLOCK):
        i = start + tl.arange(0, BLOCK)
        known = i < parts
        at = image.to(tl.int64) * parts + i
        length = tl.where(known, tl.minimum(positions - i // C * BLOCK_P, BLOCK_P), 0).to(tl.float32)
        share = length / tl.maximum(count + length, 1.0)
        apart = tl.load(means + at, mask=known, other=0.0) - mu
        between = tl.where(known & (count > 0), apart * apart * share * count, 0.0)  # a square may be infinite
        squared += tl.load(squares + at, mask=known, other=0.0) + between
        mu += tl.where(known, apart * share, 0.0)
        count += length
    # Their mean as a distance from one of them, which loses no digits where all are far from zero.
    pivot = tl.load(means + image.to(tl.int64) * parts)
    apart = tl.where(count > 0, mu - pivot, 0.0)
    m = sum_of_products(apart, count, 0) / values
    apart = tl.where(count > 0, apart - m, 0.0)
    squared += apart * apart * count
    tl.store(mean + image, pivot + m)
    tl.store(rstd + image, 1.0 / tl.sqrt(tl.sum(squared, 0) / values + eps))


@triton.jit
def _write(
    x, weight, bias, y, mean, rstd, C, H, W, x_b, x_c, x_h, x_w, y_b, y_c, y_h, y_w, written,
    ACTIVATION: tl.constexpr, LINEAR: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
    PAD: tl.constexpr, REPLICATE: tl.constexpr,
):  # fmt: skip
    chunk = tl.program_id(0) % written
    image, channels = _channels(tl.program_id(0) // written, C, BLOCK_C)
    within = channels < C
    q = _rows(chunk * BLOCK_P, BLOCK_P, BLOCK_C)
    mask = within & (q < (H + 2 * PAD) * (W + 2 * PAD))
    v = _seen(x, image, channels, q, mask, H, W, x_b, x_c, x_h, x_w, LINEAR, PAD, REPLICATE, "")
    s = tl.load(weight + channels, mask=within, other=0.0).to(tl.float32)
    t = tl.load(bias + channels, mask=within, other=0.0).to(tl.float32)
    u = _activate((v - tl.load(mean + image)) * tl.load(rstd + image) * s + t, ACTIVATION)
    _store_result(u, y, image, channels, chunk, C, H, W, y_b, y_c, y_h, y_w, LINEAR, BLOCK_C, BLOCK_P, PAD, "")


@triton.jit
def _gradients(
    grad, x, weight, bias, mean, rstd, image, channels, chunk, C, H, W, g_b, g_c, g_h, g_w, x_b, x_c, x_h, x_w,
    ACTIVATION: tl.constexpr, LINEAR: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
    PAD: tl.constexpr, REPLICATE: tl.constexpr,
):  # fmt: skip
    """Normalised x and the gradient before the activation in a chunk, 0 outside the map, the weights, and 1/σ."""
    p = _rows(chunk * BLOCK_P, BLOCK_P, BLOCK_C)
    within = channels < C
    mask = within & (p < H * W)
    g_planes = grad + image.to(tl.int64) * g_b + channels.to(tl.int64) * g_c
    v = _seen(x, image, channels, p, mask, H, W, x_b, x_c, x_h, x_w, LINEAR, 0, REPLICATE, "")
    g = load_folded(g_planes, p, mask, H, W, g_h, g_w, LINEAR, PAD, REPLICATE)
    s = tl.load(weight + channels, mask=within, other=0.0).to(tl.float32)
    t = tl.load(bias + channels, mask=within, other=0.0).to(tl.float32)
    r = tl.load(rstd + image)
    n = tl.where(mask, v - tl.load(mean + image), 0.0) * r
    return n, _before_activation(g, n * s + t, ACTIVATION), s, r


@triton.jit
def _chunk_gradient_sums(
    grad, x, weight, bias, mean, rstd, sums_g, sums_gn, C, H, W, g_b, g_c, g_h, g_w, x_b, x_c, x_h, x_w, chunks,
    ACTIVATION: tl.constexpr, LINEAR: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
    PAD: tl.constexpr, REPLICATE: tl.constexpr,
):  # fmt: skip
    chunk = tl.program_id(0) % chunks
    image, channels = _channels(tl.program_id(0) // chunks, C, BLOCK_C)
    n, g, _, _ = _gradients(
        grad, x, weight, bias, mean, rstd, image, channels, chunk, C, H, W, g_b, g_c, g_h, g_w, x_b, x_c, x_h, x_w,
        ACTIVATION, LINEAR, BLOCK_C, BLOCK_P, PAD, REPLICATE,
    )  # fmt: skip
    _sum_gradients(n, g, sums_g, sums_gn, image, channels, chunk, C, chunks, BLOCK_C)


@triton.jit
def _merge_gradients(
    sums_g, sums_gn, weight, mean_g, mean_gn, dweight, dbias, values, B, C, chunks,
    BLOCK: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """For each image the means of w·g' and w·g'·n, and for each block of channels the gradients of weight and bias."""
    if tl.program_id(0) < B:
        image = tl.program_id(0)
        parts = chunks * C
        first = tl.zeros((BLOCK,), tl.float32)
        second = tl.zeros((BLOCK,), tl.float32)
        for start in range(0, parts, BLOCK):
            i = start + tl.arange(0, BLOCK)
            at = image.to(tl.int64) * parts + i
            s = tl.load(weight + i % C, mask=i < parts, other=0.0).to(tl.float32)
            first += s * tl.load(sums_g + at, mask=i < parts, other=0.0)
            second += s * tl.load(sums_gn + at, mask=i < parts, other=0.0)
        tl.store(mean_g + image, _gradient_gain(tl.sum(first, 0) / values))
        tl.store(mean_gn + image, _gradient_gain(tl.sum(second, 0) / values))
    else:
        channels = (tl.program_id(0) - B) * BLOCK_C + tl.arange(0, BLOCK_C)
        rows = B * chunks
        ROWS: tl.constexpr = BLOCK // BLOCK_C
        to_bias = tl.zeros((ROWS, BLOCK_C), tl.float32)
        to_weight = tl.zeros((ROWS, BLOCK_C), tl.float32)
        for start in range(0, rows, ROWS):
            row = start + tl.arange(0, ROWS)[:, None]
            known = (row < rows) & (channels < C)
            at = row.to(tl.int64) * C + channels
            to_bias += tl.load(sums_g + at, mask=known, other=0.0)
            to_weight += tl.load(sums_gn + at, mask=known, other=0.0)
        tl.store(dbias + channels, tl.sum(to_bias, 0), mask=channels < C)
        tl.store(dweight + channels, tl.sum(to_weight, 0), mask=channels < C)


@triton.jit
def _differentiate(
    grad, x, weight, bias, mean, rstd, mean_g, mean_gn, dx, C, H, W,
    g_b, g_c, g_h, g_w, x_b, x_c, x_h, x_w, d_b, d_c, d_h, d_w, chunks,
    ACTIVATION: tl.constexpr, LINEAR: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
    PAD: tl.constexpr, REPLICATE: tl.constexpr,
):  # fmt: skip
    chunk = tl.program_id(0) % chunks
    image, channels = _channels(tl.program_id(0) // chunks, C, BLOCK_C)
    n, g, s, r = _gradients(
        grad, x, weight, bias, mean, rstd, image, channels, chunk, C, H, W, g_b, g_c, g_h, g_w, x_b, x_c, x_h, x_w,
        ACTIVATION, LINEAR, BLOCK_C, BLOCK_P, PAD, REPLICATE,
    )  # fmt: skip
    d = _gradient_gain(r) * (g * s - tl.load(mean_g + image) - n * tl.load(mean_gn + image))
    _store_result(d, dx, image, channels, chunk, C, H, W, d_b, d_c, d_h, d_w, LINEAR, BLOCK_C, BLOCK_P, 0, "")


class _Plan(NamedTuple):
    """The launch parameters of a pass, which follow from shapes and strides alone.

    Attributes:
        groups: blocks of channels, of all images.
        chunks: of a block of channels: those that are measured, and those of the padded map.
        constants: of the kernels that read the map.
    """

    groups: int
    chunks: tuple[int, int]
    constants: dict[str, Any]


@functools.lru_cache(4096)
def _plan(shape: tuple[int, ...], linear: bool, itemsize: int, pad: int, backward: bool) -> _Plan:
    B, C, H, W = shape
    channels = min(power_of_2(C), 64)
    # A program of the backward pass holds two maps' chunks.
    most = LARGEST_CHUNK // 2 if backward else LARGEST_CHUNK
    size = min(max(power_of_2(B * C * H * W // PROGRAMS), 1024), most)
    positions = min(max(size // channels, 1), power_of_2(H * W))
    warps = min(max(channels * positions // 512, 1), 8)
    constants = {"LINEAR": linear, "BLOCK_C": channels, "BLOCK_P": positions, "num_warps": warps}
    chunks = ceil_div(H * W, positions), ceil_div((H + 2 * pad) * (W + 2 * pad), positions)
    return _Plan(B * ceil_div(C, channels), chunks, constants)


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    activation: str,
    pad: int = 0,
    replicate: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    B, C, H, W = x.shape
    shape = (B, C, H + 2 * pad, W + 2 * pad)
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    mean, rstd = (x.new_empty(B, dtype=torch.float32) for _ in range(2))
    if B == 0:
        return y, mean, rstd
    weight, bias = weight.contiguous(), bias.contiguous()
    plan = _plan(tuple(x.shape), is_linear(x, y), x.element_size(), pad, False)
    chunks, written = plan.chunks
    means, squares = (x.new_empty((B * chunks, C), dtype=torch.float32) for _ in range(2))
    launch(_chunk_moments, plan.groups * chunks, x, means, squares, C, H, W, *x.stride(), chunks, **plan.constants)
    launch(
        _merge_moments, B, means, squares, mean, rstd, eps, float(C * H * W), C, H * W, chunks,
        BLOCK_P=plan.constants["BLOCK_P"], BLOCK=MERGED,
    )  # fmt: skip
    launch(
        _write, plan.groups * written, x, weight, bias, y, mean, rstd, C, H, W, *x.stride(), *y.stride(), written,
        ACTIVATION=ACTIVATIONS[activation], PAD=pad, REPLICATE=replicate, **plan.constants,
    )  # fmt: skip
    return y, mean, rstd


def backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    rstd: Tensor,
    activation: str,
    pad: int = 0,
    replicate: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    B, C, H, W = x.shape
    dx = torch.empty_like(x, memory_format=torch.channels_last)
    dweight, dbias = (x.new_empty(C, dtype=torch.float32) for _ in range(2))
    if B == 0:
        return dx, dweight.zero_(), dbias.zero_()
    weight, bias = weight.contiguous(), bias.contiguous()
    plan = _plan(tuple(x.shape), is_linear(x, grad, dx), x.element_size(), pad, True)
    chunks = plan.chunks[0]
    sums_g, sums_gn = (x.new_empty((B * chunks, C), dtype=torch.float32) for _ in range(2))
    mean_g, mean_gn = torch.empty_like(mean), torch.empty_like(mean)
    constants = {"ACTIVATION": ACTIVATIONS[activation], "PAD": pad, "REPLICATE": replicate, **plan.constants}
    read = grad, x, weight, bias, mean, rstd
    launch(
        _chunk_gradient_sums, plan.groups * chunks, *read, sums_g, sums_gn, C, H, W, *grad.stride(), *x.stride(),
        chunks, **constants,
    )  # fmt: skip
    channels = min(power_of_2(C), MERGED_CHANNELS)
    launch(
        _merge_gradients, B + ceil_div(C, channels), sums_g, sums_gn, weight, mean_g, mean_gn, dweight, dbias,
        float(C * H * W), B, C, chunks, BLOCK=MERGED, BLOCK_C=channels,
    )  # fmt: skip
    launch(
        _differentiate, plan.groups * chunks, *read, mean_g, mean_gn, dx, C, H, W, *grad.stride(), *x.stride(),
        *dx.stride(), chunks, **constants,
    )  # fmt: skip
    return dx, dweight, dbias
