r"""PatchNCE without stored logits, of several layers in one launch.

As in flash attention, a row program owns a block of queries and loops over blocks of keys, with the running maximum m
and sum l of the softmax. Its accumulator, the weighted sum of keys, becomes the query's gradient. A column program owns
a block of keys or of extra negatives and loops over the queries. Both multiply owned rows x others, so that the tensor
cores have 64 rows on the left.

The query's gradient is formed in the forward pass, where it takes two matrix products (q·kᵀ and weights·k); in the
backward pass it would need q·kᵀ a second time. The keys' gradient needs the complete sum of each row first, hence two
more products in either pass. So it is left to the backward pass unless requested earlier.

Numbers of float32 are split into bfloat16 parts of 8 bits each. With three parts six products are computed, those that
are not below float32's rounding, which is as exact as float32; where PyTorch may multiply as TF32 two parts and three
products are, still far more exact than TF32, which keeps 11 bits. The parts take 6 or 4 bytes of memory a number.

Where blocks of split rows are fewer than multiprocessors, several programs share the others of each block, and leave
m, l and the accumulator to a kernel that merges them in the order of the shares, so that no two programs add to the
same result: no atomics, and results are reproducible. The accumulators take as much memory as WANTED_PROGRAMS blocks
of owned rows at most, or as the gradient.

Both passes add the products of a query and a key, channels and parts, in the same order. They round alike if tensor
cores round a·b as b·a, and then the weights of a row add up to 1 however large its logits are: tests/ops/
test_numerics.py asserts that. The maximum m is saved as a product, before the division by τ; a logit relative to it is
(product - m)/τ.

NaN and infinite products behave as in torch.logsumexp and its gradient: a NaN makes the row NaN; if the largest product
is infinite so is the logarithm, and the weights of the products that equal it are NaN (inf - inf).

The positive's product is summed over channels in float32, outside the blocks, and enters numerator and denominator as
the same number. So a loss without negatives is exactly zero, whatever the precision of the products. Keys at cyclic
offsets are gathered, one key of each query at a time: if these are few of the P keys, that is less work than a masked
product with all of them.

Every argument of a layer is a tuple with one element per layer; the results of all layers are stored one after the
other in a single tensor each. Rows with more channels than a block are processed in chunks, and each chunk of a
gradient has its own program, which recomputes the products.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import INTERPRET
from ._launch import capability, ceil_div, launch, power_of_2
from ._sums import sum_of_products

NORM_EPSILON = tl.constexpr(1e-7)
NEVER = tl.constexpr(float("-inf"))  # a product that does not count
LOG2E = tl.constexpr(1.4426950408889634)
AMONG = {"none": 0, "all": 1, "offsets": 2}
LARGEST_BLOCK_C = 256
WANTED_PROGRAMS = 132  # of a layer: one per multiprocessor of an H100
FEW_KEYS = 256


@triton.jit
def _pick(values, layer):
    value = values[0]
    for i in tl.static_range(1, len(values)):
        value = tl.where(layer == i, values[i], value)
    return value


@triton.jit
def _layer_of(program, ends):
    """The layer of a program, and the program's number within the layer."""
    layer = 0
    first = 0
    for i in tl.static_range(0, len(ends) - 1):
        layer += tl.where(program >= ends[i], 1, 0)
        first = tl.where(program >= ends[i], ends[i], first)
    return layer, program - first


@triton.jit
def _owned(
    program, count, C, CHUNKED: tl.constexpr, WHOLE: tl.constexpr, EVEN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Which of the rows of images, `count` each, a program owns, and which of their channels if it is CHUNKED.

    Returns the channels of a row, the image, the block of rows, the rows, the chunk of channels and the channels.
    """
    chunks = 1
    if WHOLE and EVEN:
        C = BLOCK_C
    if CHUNKED:
        chunks = tl.cdiv(C, BLOCK_C)
    blocks = tl.cdiv(count, BLOCK_M)
    chunk = program % chunks
    block = program // chunks % blocks
    image = (program // chunks // blocks).to(tl.int64)
    return C, image, block, block * BLOCK_M + tl.arange(0, BLOCK_M), chunk, chunk * BLOCK_C + tl.arange(0, BLOCK_C)


@triton.jit
def _share_of(count, share, shares, BLOCK: tl.constexpr):
    """Bounds of one of `shares` shares of range(count), in whole blocks."""
    length = tl.cdiv(tl.cdiv(count, BLOCK), shares) * BLOCK
    return share * length, tl.minimum((share + 1) * length, count)


@triton.jit
def _rows_of(base, rows, count, c, C, EVEN: tl.constexpr):
    """Channels c of rows of a (count, C) matrix in its dtype, zeros outside. EVEN: all c are below C."""
    pointers = base + rows.to(tl.int64)[:, None] * C + c[None, :]
    inside = (rows < count)[:, None]
    if not EVEN:
        inside = inside & (c < C)[None, :]
    return tl.load(pointers, mask=inside, other=0.0)


@triton.jit
def _row_products(a, a_rows, a_count, b, b_rows, b_count, C, EVEN: tl.constexpr, BLOCK_C: tl.constexpr):
    """Σ_c a_rc·b_rc, row by row, in float32."""
    total = tl.zeros((a_rows.shape[0], BLOCK_C), tl.float32)
    for first in range(0, C, BLOCK_C):
        c = first + tl.arange(0, BLOCK_C)
        x = _rows_of(a, a_rows, a_count, c, C, EVEN).to(tl.float32)
        y = _rows_of(b, b_rows, b_count, c, C, EVEN).to(tl.float32)
        total = tl.fma(x, y, total)
    return tl.sum(total, 1)


@triton.jit
def _split(x, PARTS: tl.constexpr):
    """x ≈ high + middle + low, bfloat16 numbers of 8 bits each: of float32's 24 bits the first 8·PARTS."""
    high = x.to(tl.bfloat16)
    rest = tl.where(tl.abs(high.to(tl.float32)) < float("inf"), x - high.to(tl.float32), 0.0)
    middle = rest.to(tl.bfloat16)
    low = middle
    if PARTS == 3:
        low = (rest - middle.to(tl.float32)).to(tl.bfloat16)
    return high, middle, low


@triton.jit
def _parts_of(base, first, count, c, C, EVEN: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr):
    """The parts of rows first, first + 1, ... of a (count, PARTS, C) matrix. PARTS 1: the rows themselves."""
    i = tl.arange(0, BLOCK)
    pointers = base + tl.cast(first, tl.int64) * (C * PARTS) + (i[:, None] * (C * PARTS) + c[None, :])
    inside = (first + i < count)[:, None]
    if not EVEN:
        inside = inside & (c < C)[None, :]
    high = tl.load(pointers, mask=inside, other=0.0)
    middle, low = high, high
    if PARTS > 1:
        middle = tl.load(pointers + C, mask=inside, other=0.0)
    if PARTS == 3:
        low = tl.load(pointers + 2 * C, mask=inside, other=0.0)
    return high, middle, low


@triton.jit
def _dot(a, b, acc, PRECISION: tl.constexpr):
    if PRECISION == "ieee":  # Triton's interpreter cannot multiply bfloat16 numbers
        return tl.dot(a.to(tl.float32), b.to(tl.float32), acc=acc, input_precision=PRECISION)
    else:
        return tl.dot(a, b, acc=acc)


@triton.jit
def _small_products(a, b, acc, PARTS: tl.constexpr, PRECISION: tl.constexpr, FLIP: tl.constexpr):
    """acc + all products of the parts of a and b but that of the highest, those left out that are below rounding.

    With FLIP in the order in which the products of b and a are added.
    """
    first: tl.constexpr = 0 if FLIP else 1
    if PARTS == 3:
        acc = _dot(a[2 * first], b[2 - 2 * first], acc, PRECISION)
        acc = _dot(a[1], b[1], acc, PRECISION)
        acc = _dot(a[2 - 2 * first], b[2 * first], acc, PRECISION)
    acc = _dot(a[first], b[1 - first], acc, PRECISION)
    return _dot(a[1 - first], b[first], acc, PRECISION)


@triton.jit
def _product(a, b, x, PARTS: tl.constexpr, PRECISION: tl.constexpr, FLIP: tl.constexpr = False):
    """x + a·bᵀ."""
    if FLIP and PRECISION == "ieee":  # Triton's interpreter does not round a·b as b·a
        return tl.trans(_product(b, a, tl.trans(x), PARTS, PRECISION))
    elif PARTS == 1:
        return tl.dot(a[0], tl.trans(b[0]), acc=x, input_precision=PRECISION)
    else:
        columns = (tl.trans(b[0]), tl.trans(b[1]), tl.trans(b[2]))
        small = _small_products(a, columns, x, PARTS, PRECISION, FLIP)
        small = tl.where(tl.abs(small) < float("inf"), small, 0.0)  # inf·0 if a number is infinite
        return _dot(a[0], columns[0], small, PRECISION)


@triton.jit
def _products(
    a, a_first, a_count, b, b_first, b_count, C, EVEN: tl.constexpr,
    BLOCK_A: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr, PARTS: tl.constexpr, PRECISION: tl.constexpr,
    FLIP: tl.constexpr = False,
):  # fmt: skip
    """a·bᵀ for blocks of rows, BLOCK_C channels at a time."""
    x = tl.zeros((BLOCK_A, BLOCK_B), tl.float32)
    for first in range(0, C, BLOCK_C):
        c = first + tl.arange(0, BLOCK_C)
        left = _parts_of(a, a_first, a_count, c, C, EVEN, BLOCK_A, PARTS)
        right = _parts_of(b, b_first, b_count, c, C, EVEN, BLOCK_B, PARTS)
        if PARTS == 1:
            x = _product(left, right, x, PARTS, PRECISION, FLIP)
        else:
            x += _product(left, right, tl.zeros_like(x), PARTS, PRECISION, FLIP)
    return x


@triton.jit
def _weighted(p, rows, acc, PARTS: tl.constexpr, PRECISION: tl.constexpr):
    """acc + p·rows. Weights p can be below float16's smallest number, so float16 rows are multiplied as tf32."""
    if PARTS > 1:
        weights = _split(p, PARTS)
        acc = _small_products(weights, rows, acc, PARTS, PRECISION, False)
        return _dot(weights[0], rows[0], acc, PRECISION)
    elif rows[0].dtype == tl.float16:
        precision: tl.constexpr = "ieee" if PRECISION == "ieee" else "tf32"
        return tl.dot(p, rows[0].to(tl.float32), acc=acc, input_precision=precision)
    else:
        return tl.dot(p.to(rows[0].dtype), rows[0], acc=acc)


@triton.jit
def _relative(x, m_i, exponent):
    """exp((x - m_i)/τ): 1 if both are the same infinity, 0 for x = -inf while there is no maximum yet."""
    top = tl.where(m_i == NEVER, 0.0, m_i)
    return tl.where(x == top, 1.0, tl.exp2((x - top) * exponent))


@triton.jit
def _through_norm(grad, y, norm):
    """From the gradient to y = v/(‖v‖ + 1e-7) to the gradient to v, for complete rows."""
    longer = 1.0 + NORM_EPSILON / norm  # the norm may be infinite
    along = tl.where(norm > 0, sum_of_products(grad, y, 1) * longer, 0.0)
    return (grad - y * along[:, None]) / (norm + NORM_EPSILON)[:, None]


@triton.jit
def _attend(
    query, first_row, count, others, other_count, share, shares, C, c, m_i, l_i, acc, exponent,
    SKIP_OWN: tl.constexpr, GRAD: tl.constexpr, WHOLE: tl.constexpr, EVEN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PARTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add a share of the rows of `others` to the online softmax of a block of queries and to its accumulator.

    m_i is the running maximum of the products (ignoring NaN), l_i the running sum of weights p = exp((product -
    m_i)/τ), acc the running sum of p·other; alpha rescales l_i and acc when the maximum grows.
    """
    s = first_row + tl.arange(0, BLOCK_M)
    if WHOLE:
        q = _parts_of(query, first_row, count, c, C, EVEN, BLOCK_M, PARTS)
    begin, end = _share_of(other_count, share, shares, BLOCK_N)
    for first in range(begin, end, BLOCK_N):
        t = first + tl.arange(0, BLOCK_N)
        if WHOLE:
            rows = _parts_of(others, first, other_count, c, C, EVEN, BLOCK_N, PARTS)
            zero = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
            x = _product(q, rows, zero, PARTS, PRECISION)
        else:
            x = _products(
                query, first_row, count, others, first, other_count, C, EVEN,
                BLOCK_M, BLOCK_N, BLOCK_K, PARTS, PRECISION,
            )  # fmt: skip
        counted = (t < other_count)[None, :]
        if SKIP_OWN:
            counted = counted & (t[None, :] != s[:, None])
        x = tl.where(counted, x, NEVER)
        m_new = tl.maximum(m_i, tl.max(x, 1))
        alpha = _relative(m_i, m_new, exponent)
        p = _relative(x, m_new[:, None], exponent)
        m_i = m_new
        l_i = l_i * alpha + tl.sum(p, 1)
        if GRAD:
            if not WHOLE:
                rows = _parts_of(others, first, other_count, c, C, EVEN, BLOCK_N, PARTS)
            acc = _weighted(p, rows, acc * alpha[:, None], PARTS, PRECISION)
    return m_i, l_i, acc


@triton.jit
def _finish_rows(
    m_i, l_i, acc, query, key, norms, loss, denominator, grad,
    s, count, c, C, chunk, r, start, negatives, all_rows, scale,
    DECOUPLED: tl.constexpr, WHOLE: tl.constexpr, EVEN: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Add the positive to the softmax over the negatives; store the loss and the query's gradient."""
    positive = _row_products(query, s, count, key, s, count, C, EVEN, BLOCK_K)
    # The gradient's weight of the positive is its softmax minus 1, computed here without cancellation.
    if DECOUPLED:
        l_all = l_i
        p_others = tl.full(l_i.shape, 1.0, tl.float32)
    else:
        m_all = tl.maximum(m_i, positive)
        alpha = _relative(m_i, m_all, scale * LOG2E)
        m_i = m_all
        l_i *= alpha
        l_all = l_i + _relative(positive, m_i, scale * LOG2E)
        p_others = l_i / l_all
    inverse_l = 1.0 / l_all
    row_loss = (m_i - positive) * scale + tl.log(l_all)
    if DECOUPLED:  # no negatives, so no loss
        row_loss = tl.where(negatives > 0, row_loss, 0.0)
        m_i = tl.where(negatives > 0, m_i, 0.0)
        inverse_l = tl.where(negatives > 0, inverse_l, 0.0)
    inside = s < count
    if chunk == 0:
        tl.store(loss + r, row_loss, mask=inside)
        tl.store(denominator + r, m_i, mask=inside)
        tl.store(denominator + all_rows.to(tl.int64) + r, inverse_l, mask=inside)
    if grad is not None:
        weight = tl.where(m_i - m_i == 0, inverse_l, float("nan"))  # an infinite product has weight NaN
        if not DECOUPLED:
            weight *= alpha
        own = _rows_of(key, s, count, c, C, EVEN).to(tl.float32)
        g = (acc * weight[:, None] - own * p_others[:, None]) * scale
        if norms is not None and WHOLE:
            norm = tl.load(norms + r, mask=inside, other=1.0)
            g = _through_norm(g, _rows_of(query, s, count, c, C, EVEN).to(tl.float32), norm)
        if DECOUPLED:
            g = tl.where(negatives > 0, g, 0.0)
        target = grad + start + s.to(tl.int64)[:, None] * C + c[None, :]
        tl.store(target, g, mask=inside[:, None] & (c < C)[None, :])


@triton.jit
def _negatives(count, offset_counts, extra_counts, layer, AMONG_KEYS: tl.constexpr):
    """How many negatives each query of a layer has."""
    negatives = 0
    if AMONG_KEYS == 1:
        negatives += count - 1
    elif AMONG_KEYS == 2:
        negatives += _pick(offset_counts, layer)
    if extra_counts is not None:
        negatives += _pick(extra_counts, layer)
    return negatives


@triton.jit
def _rows(
    queries, keys, query_parts, key_parts, extra_parts, offsets, norms, loss, denominator, grad, tops, sums,
    ends, counts, channels, extra_counts, offset_counts, row_starts, data_starts, all_rows, scale,
    shares, record_starts, sum_starts, all_records,
    AMONG_KEYS: tl.constexpr, DECOUPLED: tl.constexpr, WHOLE: tl.constexpr, EVEN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr,
    PARTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    layer, program = _layer_of(tl.program_id(0), ends)
    count = _pick(counts, layer)
    C = _pick(channels, layer)
    share = 0
    share_count = 1
    if tops is not None:
        share_count = _pick(shares, layer)
        share = program % share_count
        program //= share_count
    CHUNKED: tl.constexpr = not WHOLE and grad is not None
    C, image, block, s, chunk, c = _owned(program, count, C, CHUNKED, WHOLE, EVEN, BLOCK_M, BLOCK_C)
    start = image * count * C
    query = _pick(queries, layer) + start
    key = _pick(keys, layer) + start
    exponent = scale * LOG2E

    split_query = _pick(query_parts, layer) + start * PARTS
    m_i = tl.full((BLOCK_M,), NEVER, tl.float32)  # of the negatives
    l_i = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    GRAD: tl.constexpr = grad is not None
    if AMONG_KEYS == 1:
        m_i, l_i, acc = _attend(
            split_query, block * BLOCK_M, count, _pick(key_parts, layer) + start * PARTS, count,
            share, share_count, C, c, m_i, l_i, acc, exponent,
            True, GRAD, WHOLE, EVEN, BLOCK_M, BLOCK_N, BLOCK_K, PARTS, PRECISION,
        )  # fmt: skip
    elif AMONG_KEYS == 2:
        q = _rows_of(query, s, count, c, C, EVEN).to(tl.float32)
        steps = _pick(offsets, layer)
        begin, end = _share_of(_pick(offset_counts, layer), share, share_count, 1)
        for i in range(begin, end):
            step = tl.load(steps + i)
            valid = (step >= 1) & (step < count)
            t = tl.where(valid & (s < count), ((s + step) % count).to(tl.int32), s)
            if WHOLE:
                rows = _rows_of(key, t, count, c, C, EVEN).to(tl.float32)
                x = sum_of_products(q, rows, 1)
            else:
                x = _row_products(query, s, count, key, t, count, C, EVEN, BLOCK_K)
            x = tl.where(valid, x, float("nan"))
            m_new = tl.maximum(m_i, x)
            alpha = _relative(m_i, m_new, exponent)
            p = _relative(x, m_new, exponent)
            m_i = m_new
            l_i = l_i * alpha + p
            if GRAD:
                if not WHOLE:
                    rows = _rows_of(key, t, count, c, C, EVEN).to(tl.float32)
                acc = acc * alpha[:, None] + p[:, None] * rows
    if extra_parts is not None:
        m_i, l_i, acc = _attend(
            split_query, block * BLOCK_M, count, _pick(extra_parts, layer), _pick(extra_counts, layer),
            share, share_count, C, c, m_i, l_i, acc, exponent,
            False, GRAD, WHOLE, EVEN, BLOCK_M, BLOCK_N, BLOCK_K, PARTS, PRECISION,
        )  # fmt: skip

    if tops is None:
        _finish_rows(
            m_i, l_i, acc, query, key, norms, loss, denominator,
            None if grad is None else grad + _pick(data_starts, layer).to(tl.int64), s, count, c, C, chunk,
            _pick(row_starts, layer) + image * count + s, start,
            _negatives(count, offset_counts, extra_counts, layer, AMONG_KEYS), all_rows, scale,
            DECOUPLED, WHOLE, EVEN, BLOCK_K,
        )  # fmt: skip
    else:
        record = (image * count + s) * share_count + share
        inside = s < count
        if chunk == 0:
            top = tops + _pick(record_starts, layer) + record
            tl.store(top, m_i, mask=inside)
            tl.store(top + all_records.to(tl.int64), l_i, mask=inside)
        if GRAD:
            target = sums + _pick(sum_starts, layer).to(tl.int64) + record[:, None] * C + c[None, :]
            tl.store(target, acc, mask=inside[:, None] & (c < C)[None, :])


@triton.jit
def _merge_rows(
    queries, keys, norms, loss, denominator, grad, tops, sums,
    ends, counts, channels, extra_counts, offset_counts, row_starts, data_starts, all_rows, scale,
    shares, record_starts, sum_starts, all_records,
    AMONG_KEYS: tl.constexpr, DECOUPLED: tl.constexpr, WHOLE: tl.constexpr, EVEN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Add up the shares of the negatives, in their order."""
    layer, program = _layer_of(tl.program_id(0), ends)
    count = _pick(counts, layer)
    C = _pick(channels, layer)
    share_count = _pick(shares, layer)
    CHUNKED: tl.constexpr = not WHOLE and grad is not None
    C, image, _, s, chunk, c = _owned(program, count, C, CHUNKED, WHOLE, EVEN, BLOCK_M, BLOCK_C)
    start = image * count * C
    inside = s < count
    exponent = scale * LOG2E
    record = (image * count + s) * share_count
    top = tops + _pick(record_starts, layer) + record
    m_i = tl.full((BLOCK_M,), NEVER, tl.float32)
    l_i = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    for share in range(0, share_count):
        m_i = tl.maximum(m_i, tl.load(top + share, mask=inside, other=0.0))
    for share in tl.range(0, share_count, num_stages=4):
        weight = _relative(tl.load(top + share, mask=inside, other=0.0), m_i, exponent)
        l_i += weight * tl.load(top + all_records.to(tl.int64) + share, mask=inside, other=0.0)
        if grad is not None:
            source = sums + _pick(sum_starts, layer).to(tl.int64) + (record + share)[:, None] * C + c[None, :]
            acc += weight[:, None] * tl.load(source, mask=inside[:, None] & (c < C)[None, :], other=0.0)
    _finish_rows(
        m_i, l_i, acc, _pick(queries, layer) + start, _pick(keys, layer) + start, norms, loss, denominator,
        None if grad is None else grad + _pick(data_starts, layer).to(tl.int64), s, count, c, C, chunk,
        _pick(row_starts, layer) + image * count + s, start,
        _negatives(count, offset_counts, extra_counts, layer, AMONG_KEYS), all_rows, scale,
        DECOUPLED, WHOLE, EVEN, BLOCK_K,
    )  # fmt: skip


@triton.jit
def _finish_columns(
    acc, owner, query, norms, m_i, inverse_l, upstream, grad, t, owner_count, c, C, r, scale,
    IS_EXTRA: tl.constexpr, DECOUPLED: tl.constexpr, WHOLE: tl.constexpr, EVEN: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Add the part of the owners' own queries to the gradient of keys, and store it."""
    inside = t < owner_count
    if not IS_EXTRA:
        positive = _row_products(owner, t, owner_count, query, t, owner_count, C, EVEN, BLOCK_K)
        share = tl.load(inverse_l + t, mask=inside, other=0.0)
        p_own = tl.full(t.shape, -1.0, tl.float32)
        if not DECOUPLED:
            p_own += tl.exp2((positive - tl.load(m_i + t, mask=inside, other=0.0)) * (scale * LOG2E)) * share
        if upstream is not None:
            p_own *= tl.load(upstream + t, mask=inside, other=0.0)
        acc += p_own[:, None] * _rows_of(query, t, owner_count, c, C, EVEN).to(tl.float32)
    g = acc * scale
    if norms is not None and WHOLE:
        norm = tl.load(norms + r, mask=inside, other=1.0)
        g = _through_norm(g, _rows_of(owner, t, owner_count, c, C, EVEN).to(tl.float32), norm)
    if DECOUPLED and not IS_EXTRA:  # no negatives: see _finish_rows
        g = tl.where((tl.load(inverse_l + t, mask=inside, other=0.0) == 0)[:, None], 0.0, g)
    target = grad + t.to(tl.int64)[:, None] * C + c[None, :]
    tl.store(target, g, mask=inside[:, None] & (c < C)[None, :])


@triton.jit
def _columns(
    owners, queries, owner_parts, query_parts, offsets, norms, upstream, denominator, grad, sums,
    ends, owner_counts, counts, channels, offset_counts, row_starts, owner_starts, data_starts, all_rows, scale,
    shares, sum_starts,
    IS_EXTRA: tl.constexpr, AMONG_KEYS: tl.constexpr, DECOUPLED: tl.constexpr, WHOLE: tl.constexpr,
    EVEN: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr, PARTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    layer, program = _layer_of(tl.program_id(0), ends)
    owner_count = _pick(owner_counts, layer)
    count = _pick(counts, layer)  # queries per image; for extra negatives, of the whole layer
    C = _pick(channels, layer)
    share = 0
    share_count = 1
    if sums is not None:
        share_count = _pick(shares, layer)
        share = program % share_count
        program //= share_count
    # The image is 0 for extra negatives.
    C, image, block, t, _, c = _owned(program, owner_count, C, not WHOLE, WHOLE, EVEN, BLOCK_M, BLOCK_C)
    owner = _pick(owners, layer) + image * owner_count * C
    query = _pick(queries, layer) + image * count * C
    row_start = _pick(row_starts, layer)
    m_i = denominator + row_start + image * count
    inverse_l = m_i + all_rows.to(tl.int64)
    exponent = scale * LOG2E

    acc = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    if AMONG_KEYS == 1:
        split_owner = _pick(owner_parts, layer) + image * owner_count * C * PARTS
        split_query = _pick(query_parts, layer) + image * count * C * PARTS
        if WHOLE:
            held = _parts_of(split_owner, block * BLOCK_M, owner_count, c, C, EVEN, BLOCK_M, PARTS)
        begin, end = _share_of(count, share, share_count, BLOCK_N)
        for first in range(begin, end, BLOCK_N):
            s = first + tl.arange(0, BLOCK_N)
            inside = s < count
            if WHOLE:
                rows = _parts_of(split_query, first, count, c, C, EVEN, BLOCK_N, PARTS)
                x = _product(held, rows, tl.zeros((BLOCK_M, BLOCK_N), tl.float32), PARTS, PRECISION, True)
            else:
                x = _products(
                    split_owner, block * BLOCK_M, owner_count, split_query, first, count, C, EVEN,
                    BLOCK_M, BLOCK_N, BLOCK_K, PARTS, PRECISION, True,
                )  # fmt: skip
            factor = tl.load(inverse_l + s, mask=inside, other=0.0)
            if upstream is not None:
                factor *= tl.load(upstream + row_start + image * count + s, mask=inside, other=0.0)
            counted = inside[None, :]
            if not IS_EXTRA:
                counted = counted & (s[None, :] != t[:, None])
            logit = (x - tl.load(m_i + s, mask=inside, other=0.0)[None, :]) * exponent
            p = tl.where(counted, tl.exp2(logit) * factor[None, :], 0.0)
            if not WHOLE:
                rows = _parts_of(split_query, first, count, c, C, EVEN, BLOCK_N, PARTS)
            acc = _weighted(p, rows, acc, PARTS, PRECISION)
    elif AMONG_KEYS == 2:
        k = _rows_of(owner, t, owner_count, c, C, EVEN).to(tl.float32)
        steps = _pick(offsets, layer)
        begin, end = _share_of(_pick(offset_counts, layer), share, share_count, 1)
        for i in range(begin, end):
            step = tl.load(steps + i)
            valid = (step >= 1) & (step < count)
            s = tl.where(valid & (t < count), ((t - step + count) % count).to(tl.int32), t)
            if WHOLE:
                rows = _rows_of(query, s, count, c, C, EVEN).to(tl.float32)
                x = sum_of_products(k, rows, 1)
            else:
                x = _row_products(owner, t, count, query, s, count, C, EVEN, BLOCK_K)
                rows = _rows_of(query, s, count, c, C, EVEN).to(tl.float32)
            inside = t < count
            factor = tl.load(inverse_l + s, mask=inside, other=0.0)
            if upstream is not None:
                factor *= tl.load(upstream + row_start + image * count + s, mask=inside, other=0.0)
            logit = (x - tl.load(m_i + s, mask=inside, other=0.0)) * exponent
            p = tl.where(valid, tl.exp2(logit) * factor, float("nan"))
            acc += p[:, None] * rows
    if sums is None:
        _finish_columns(
            acc, owner, query, norms, m_i, inverse_l,
            None if upstream is None or IS_EXTRA else upstream + row_start + image * count,
            grad + _pick(data_starts, layer).to(tl.int64) + image * owner_count * C,
            t, owner_count, c, C, _pick(owner_starts, layer) + image * owner_count + t, scale,
            IS_EXTRA, DECOUPLED, WHOLE, EVEN, BLOCK_K,
        )  # fmt: skip
    else:
        record = (image * owner_count + t) * share_count + share
        target = sums + _pick(sum_starts, layer).to(tl.int64) + record[:, None] * C + c[None, :]
        tl.store(target, acc, mask=(t < owner_count)[:, None] & (c < C)[None, :])


@triton.jit
def _merge_columns(
    owners, queries, norms, upstream, denominator, grad, sums,
    ends, owner_counts, counts, channels, row_starts, owner_starts, data_starts, all_rows, scale,
    shares, sum_starts,
    IS_EXTRA: tl.constexpr, DECOUPLED: tl.constexpr, WHOLE: tl.constexpr, EVEN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Add up the shares of the queries, in their order."""
    layer, program = _layer_of(tl.program_id(0), ends)
    owner_count = _pick(owner_counts, layer)
    count = _pick(counts, layer)
    C = _pick(channels, layer)
    share_count = _pick(shares, layer)
    C, image, _, t, _, c = _owned(program, owner_count, C, not WHOLE, WHOLE, EVEN, BLOCK_M, BLOCK_C)
    acc = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    record = (image * owner_count + t) * share_count
    for share in tl.range(0, share_count, num_stages=4):
        source = sums + _pick(sum_starts, layer).to(tl.int64) + (record + share)[:, None] * C + c[None, :]
        acc += tl.load(source, mask=(t < owner_count)[:, None] & (c < C)[None, :], other=0.0)
    row = _pick(row_starts, layer) + image * count
    _finish_columns(
        acc, _pick(owners, layer) + image * owner_count * C, _pick(queries, layer) + image * count * C, norms,
        denominator + row, denominator + all_rows.to(tl.int64) + row,
        None if upstream is None or IS_EXTRA else upstream + row,
        grad + _pick(data_starts, layer).to(tl.int64) + image * owner_count * C,
        t, owner_count, c, C, _pick(owner_starts, layer) + image * owner_count + t, scale,
        IS_EXTRA, DECOUPLED, WHOLE, EVEN, BLOCK_K,
    )  # fmt: skip


@triton.jit
def _prepare(
    sources, targets, parts, norms, ends, counts, channels, starts,
    PARTS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """With `norms`: copies of rows divided by their length + 1e-7, and the lengths. With `parts`: the rows split."""
    entry, block = _layer_of(tl.program_id(0), ends)
    source = _pick(sources, entry)
    count = _pick(counts, entry)
    C = _pick(channels, entry)
    r = block * BLOCK_M + tl.arange(0, BLOCK_M)
    if norms is not None:
        norm = tl.sqrt(_row_products(source, r, count, source, r, count, C, False, BLOCK_C))
        tl.store(norms + _pick(starts, entry) + r, norm, mask=r < count)
    for first in range(0, C, BLOCK_C):
        c = first + tl.arange(0, BLOCK_C)
        y = _rows_of(source, r, count, c, C, False).to(tl.float32)
        mask = (r < count)[:, None] & (c < C)[None, :]
        if norms is not None:
            y /= (norm + NORM_EPSILON)[:, None]
            target = _pick(targets, entry)
            tl.store(target + r.to(tl.int64)[:, None] * C + c[None, :], y.to(target.dtype.element_ty), mask=mask)
        if parts is not None:
            high, middle, low = _split(y, PARTS)
            pointers = _pick(parts, entry) + r.to(tl.int64)[:, None] * (C * PARTS) + c[None, :]
            tl.store(pointers, high, mask=mask)
            tl.store(pointers + C, middle, mask=mask)
            if PARTS == 3:
                tl.store(pointers + 2 * C, low, mask=mask)


@triton.jit
def _undo_normalise(
    grads, normalised, norms, ends, counts, channels, starts,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """In place: from the gradient to v/(‖v‖ + 1e-7) to that to v, for rows with more channels than a block."""
    entry, block = _layer_of(tl.program_id(0), ends)
    grad = _pick(grads, entry)
    y = _pick(normalised, entry)
    count = _pick(counts, entry)
    C = _pick(channels, entry)
    r = block * BLOCK_M + tl.arange(0, BLOCK_M)
    norm = tl.load(norms + _pick(starts, entry) + r, mask=r < count, other=1.0)
    along = _row_products(grad, r, count, y, r, count, C, False, BLOCK_C)
    along = tl.where(norm > 0, along * (1.0 + NORM_EPSILON / norm), 0.0)
    for first in range(0, C, BLOCK_C):
        c = first + tl.arange(0, BLOCK_C)
        g = _rows_of(grad, r, count, c, C, False) - _rows_of(y, r, count, c, C, False).to(tl.float32) * along[:, None]
        pointers = grad + r.to(tl.int64)[:, None] * C + c[None, :]
        tl.store(pointers, g / (norm + NORM_EPSILON)[:, None], mask=(r < count)[:, None] & (c < C)[None, :])


@triton.jit
def _scale_rows(
    source, factors, target, ends, counts, channels, row_starts, data_starts,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Multiply each row by its factor."""
    layer, block = _layer_of(tl.program_id(0), ends)
    count = _pick(counts, layer)
    C = _pick(channels, layer)
    start = _pick(data_starts, layer).to(tl.int64)
    r = block * BLOCK_M + tl.arange(0, BLOCK_M)
    factor = tl.load(factors + _pick(row_starts, layer) + r, mask=r < count, other=0.0)
    for first in range(0, C, BLOCK_C):
        c = first + tl.arange(0, BLOCK_C)
        x = _rows_of(source + start, r, count, c, C, False)
        pointers = target + start + r.to(tl.int64)[:, None] * C + c[None, :]
        tl.store(pointers, x * factor[:, None], mask=(r < count)[:, None] & (c < C)[None, :])


def _starts(sizes: Sequence[int]) -> tuple[int, ...]:
    return (0, *accumulate(sizes))[: len(sizes)]


class _Matrices:
    """Rows of several (..., rows, channels) tensors, contiguous, normalised if requested."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.data = tuple(tensor.contiguous() for tensor in tensors)
        self.channels = tuple(tensor.shape[-1] for tensor in tensors)
        self.rows = tuple(tensor.shape[:-1].numel() for tensor in tensors)
        self.row_starts = _starts(self.rows)
        self.data_starts = _starts([tensor.numel() for tensor in tensors])
        self.total_rows = sum(self.rows)
        self.size = sum(tensor.numel() for tensor in tensors)
        self.norms: Tensor | None = None
        self.parts = self.data  # what is multiplied: the rows, or the bfloat16 numbers that add up to them

    def views(self, flat: Tensor, parts: int = 1) -> list[Tensor]:
        """Views of each tensor's share of `flat`."""
        return [
            flat[parts * start : parts * (start + rows * channels)].view(rows, parts * channels)
            for start, rows, channels in zip(self.data_starts, self.rows, self.channels, strict=True)
        ]


def _blocks_of_rows(matrices: Sequence[_Matrices]) -> tuple[dict[str, Any], list[int], tuple[int, ...]]:
    """Block sizes for kernels over rows, number of programs per matrix, and its cumulative sum."""
    block_c = min(1024, power_of_2(max(16, *(c for m in matrices for c in m.channels))))
    block_m = max(1, 2048 // block_c)
    programs = [ceil_div(rows, block_m) for m in matrices for rows in m.rows]
    return {"BLOCK_M": block_m, "BLOCK_C": block_c}, programs, tuple(accumulate(programs))


def _prepare_all(matrices: Sequence[_Matrices], normalize: bool, parts: int) -> None:
    """Replace the data of the matrices by normalised copies, and split it into parts, in one launch."""
    everything = [tensor for m in matrices for tensor in m.data]
    first, size = everything[0], sum(m.size for m in matrices)
    flat = torch.empty(size if normalize else 0, dtype=first.dtype, device=first.device)
    lengths = torch.empty(sum(m.total_rows for m in matrices), dtype=torch.float32, device=first.device)
    flat_parts = torch.empty(size * parts if parts > 1 else 0, dtype=torch.bfloat16, device=first.device)
    starts: list[int] = []
    data_start = row_start = 0
    for m in matrices:
        share = slice(data_start, data_start + m.size)
        starts += [row_start + start for start in m.row_starts]
        if normalize:
            m.data = m.parts = tuple(m.views(flat[share]))
            m.norms = lengths[row_start : row_start + m.total_rows]
        if parts > 1:
            m.parts = tuple(m.views(flat_parts[parts * share.start : parts * share.stop], parts))
        data_start, row_start = data_start + m.size, row_start + m.total_rows
    blocks, programs, ends = _blocks_of_rows(matrices)
    launch(
        _prepare, sum(programs), tuple(everything),
        tuple(tensor for m in matrices for tensor in m.data) if normalize else None,
        tuple(tensor for m in matrices for tensor in m.parts) if parts > 1 else None,
        lengths if normalize else None, ends,
        tuple(rows for m in matrices for rows in m.rows), tuple(c for m in matrices for c in m.channels),
        tuple(starts), PARTS=parts, **blocks,
    )  # fmt: skip


def _undo_all(grad: Tensor, matrices: _Matrices) -> None:
    blocks, programs, ends = _blocks_of_rows([matrices])
    launch(
        _undo_normalise, sum(programs), tuple(matrices.views(grad)), matrices.data, matrices.norms, ends,
        matrices.rows, matrices.channels, matrices.row_starts, **blocks,
    )  # fmt: skip


def _scale_all(source: Tensor, factors: Tensor, matrices: _Matrices) -> Tensor:
    target = torch.empty_like(source)
    blocks, programs, ends = _blocks_of_rows([matrices])
    launch(
        _scale_rows, sum(programs), source, factors, target, ends, matrices.rows, matrices.channels,
        matrices.row_starts, matrices.data_starts, **blocks,
    )  # fmt: skip
    return target


class _Tile(NamedTuple):
    """Block sizes of a kernel: BLOCK_M owned rows beside BLOCK_N others, and how it is compiled."""

    m: int
    n: int
    num_warps: int
    num_stages: int


def _tile(dtype: torch.dtype, parts: int, owners: int, block_c: int, few: bool, hopper: bool) -> _Tile:
    """Block sizes of the row and column kernels, the fastest that were measured on an H100.

    Args:
        owners: the owned rows of all layers.
        few: see `_are_few`.
        hopper: whether blocks of 64 rows are multiplied straight from shared memory.
    """
    if INTERPRET:
        return _Tile(64, 64, 4, 2)  # fewer steps
    if parts > 1:
        if not hopper:
            return _Tile(16, 32, 8, 2)
        return _Tile(16, 64, 4, 2) if few else _Tile(64, 64 if parts == 2 else 32, 4, 2)
    if dtype == torch.bfloat16 and hopper and owners > 16 * WANTED_PROGRAMS:
        return _Tile(32, 64, 4, 3)
    # Small blocks until there are two per multiprocessor: CUT's layers have few rows.
    m = 16 if owners <= 2 * 16 * WANTED_PROGRAMS else 32
    # Products with float16 rows are computed in float32, too.
    n = 64 if dtype == torch.bfloat16 else 32
    return _Tile(m, n, 8 if block_c == LARGEST_BLOCK_C and dtype == torch.float32 else 4, 2)


def _parts(dtype: torch.dtype) -> int:
    """How many bfloat16 numbers stand for a number: three are as exact as float32, two more exact than TF32."""
    if dtype != torch.float32:
        return 1
    return 2 if torch.backends.cuda.matmul.fp32_precision == "tf32" else 3


def _are_few(parts: int, owners: int, others: Sequence[int]) -> bool:
    """Whether small blocks of owned rows fill the GPU at once and end so soon that merging shares would take longer."""
    return parts == 2 and owners <= 16 * WANTED_PROGRAMS and max(others) <= FEW_KEYS


def _share_count(blocks: int, others: int) -> int:
    """How many programs share the blocks of others of each of a layer's blocks of owned rows."""
    return max(1, min(others, WANTED_PROGRAMS // max(blocks, 1)))


def _blocks(
    dtype: torch.dtype, parts: int, owners: int, channels: Sequence[int], few: bool, hopper: bool
) -> dict[str, Any]:
    """Options of the row and column kernels; for the arguments see `_tile`."""
    block_c = min(power_of_2(max(16, *channels)), LARGEST_BLOCK_C)
    tile = _tile(dtype, parts, owners, block_c, few, hopper)
    return {
        "WHOLE": max(channels) <= block_c,
        "EVEN": all(c > 0 and c % block_c == 0 for c in channels),
        "BLOCK_M": tile.m,
        "BLOCK_N": tile.n,
        "BLOCK_C": block_c,
        "BLOCK_K": block_c if INTERPRET else min(block_c, 64),
        "PARTS": parts,
        "PRECISION": "ieee" if INTERPRET else "tf32",  # of float16's products in float32
        "num_warps": tile.num_warps,
        "num_stages": tile.num_stages,
    }


def _row_programs(
    options: dict[str, Any], images: Sequence[int], rows: Sequence[int], channels: Sequence[int], gradient: bool,
    shares: Sequence[int] | None = None,
) -> tuple[int, tuple[int, ...]]:  # fmt: skip
    """Number of programs per layer, summed, and its cumulative sum."""
    chunked = gradient and not options["WHOLE"]
    programs = [
        b * ceil_div(n, options["BLOCK_M"]) * (ceil_div(c, options["BLOCK_C"]) if chunked else 1) * share
        for b, n, c, share in zip(images, rows, channels, shares or (1,) * len(images), strict=True)
    ]
    return sum(programs), tuple(accumulate(programs))


class _Shares:
    """How many programs share the others of each block of owned rows, and where they leave their sums."""

    def __init__(
        self, options: dict[str, Any], images: Sequence[int], owners: Sequence[int], others: Sequence[int],
        channels: Sequence[int],
    ) -> None:  # fmt: skip
        self.counts = tuple(
            _share_count(b * ceil_div(n, options["BLOCK_M"]), ceil_div(m, options["BLOCK_N"]))
            for b, n, m in zip(images, owners, others, strict=True)
        )
        records = [b * n * share for b, n, share in zip(images, owners, self.counts, strict=True)]
        sizes = [record * c for record, c in zip(records, channels, strict=True)]
        self.record_starts, self.records = _starts(records), sum(records)
        self.sum_starts, self.size = _starts(sizes), sum(sizes)


def _merging(options: dict[str, Any]) -> dict[str, Any]:
    """Options of the kernel that adds up the shares."""
    kept = {name: options[name] for name in ("WHOLE", "EVEN", "BLOCK_C", "BLOCK_K")}
    return kept | {"BLOCK_M": options["BLOCK_M"] if INTERPRET else max(1, 2048 // options["BLOCK_C"])}


class _Problem:
    """The layers of a call."""

    def __init__(
        self,
        queries: Sequence[Tensor],
        keys: Sequence[Tensor],
        extras: Sequence[Tensor],
        offsets: Sequence[Tensor],
        temperature: float,
        negatives: str,
        decoupled: bool,
        normalize: bool,
    ) -> None:
        self.images = tuple(q.shape[0] for q in queries)
        self.counts = tuple(q.shape[1] for q in queries)
        self.queries, self.keys = _Matrices(queries), _Matrices(keys)
        self.extras = _Matrices(extras) if extras else None
        self.offsets = tuple(o.contiguous() for o in offsets) if offsets else None
        self.offset_counts = tuple(o.shape[0] for o in offsets) if offsets else None
        self.among = AMONG["offsets" if offsets else negatives]
        self.decoupled, self.scale = decoupled, 1.0 / temperature
        extra_rows = (0,) * len(queries) if self.extras is None else self.extras.rows
        among_keys = self.among == AMONG["all"]
        self.others = [max(n * among_keys, m) for n, m in zip(self.counts, extra_rows, strict=True)]
        # Only blocks of rows are split and shared; gathered rows are multiplied one by one.
        self.parts = _parts(queries[0].dtype) if among_keys or self.extras is not None else 1
        self.few = _are_few(self.parts, self.queries.total_rows, self.others)
        # In both passes or in neither: they then round the positives' products alike.
        self.shared = self.parts > 1 and not self.few
        if normalize or self.parts > 1:
            matrices = [self.queries, self.keys, *([] if self.extras is None else [self.extras])]
            _prepare_all(matrices, normalize, self.parts)

    def empty(self, *shape: int) -> Tensor:
        return self.queries.data[0].new_empty(shape, dtype=torch.float32)

    def _options(self, owners: int) -> dict[str, Any]:
        q = self.queries.data[0]
        # Gathered rows need registers, which large blocks leave none of.
        hopper = self.offsets is None and capability(q.device) >= 90
        return _blocks(q.dtype, self.parts, owners, self.queries.channels, self.few, hopper)

    def forward(self, query_grad: bool) -> tuple[Tensor, Tensor, Tensor]:
        q, rows = self.queries, self.queries.total_rows
        loss, denominator = self.empty(rows), self.empty(2, rows)
        grad = self.empty(q.size if query_grad else 0)
        options = self._options(rows)
        extra_rows = None if self.extras is None else self.extras.rows
        shares = _Shares(options, self.images, self.counts, self.others, q.channels) if self.shared else None
        programs, ends = _row_programs(
            options, self.images, self.counts, q.channels, query_grad, shares.counts if shares else None
        )
        tops = None if shares is None else self.empty(2, shares.records)
        sums = None if shares is None or not query_grad else self.empty(shares.size)
        results = (loss, denominator, grad if query_grad else None, tops, sums)
        numbers = (
            self.counts, q.channels, extra_rows, self.offset_counts, q.row_starts, q.data_starts, rows, self.scale,
            *((None,) * 4 if shares is None else (
                shares.counts, shares.record_starts, shares.sum_starts, shares.records)),
        )  # fmt: skip
        kind: dict[str, Any] = {"AMONG_KEYS": self.among, "DECOUPLED": self.decoupled}
        launch(
            _rows, programs, q.data, self.keys.data, q.parts, self.keys.parts,
            None if self.extras is None else self.extras.parts, self.offsets, q.norms, *results, ends, *numbers,
            **kind, **options,
        )  # fmt: skip
        if shares is not None:
            options = _merging(options)
            programs, ends = _row_programs(options, self.images, self.counts, q.channels, query_grad)
            launch(_merge_rows, programs, q.data, self.keys.data, q.norms, *results, ends, *numbers, **kind, **options)
        if query_grad and q.norms is not None and not options["WHOLE"]:
            _undo_all(grad, q)
        return loss, denominator, grad

    def _column_grad(
        self, owners: _Matrices, images: Sequence[int], owner_counts: Sequence[int], counts: Sequence[int],
        is_extra: bool, upstream: Tensor | None, denominator: Tensor,
    ) -> Tensor:  # fmt: skip
        q = self.queries
        grad = self.empty(owners.size)
        options = self._options(owners.total_rows)
        gathered = self.among == AMONG["offsets"] and not is_extra
        shares = _Shares(options, images, owner_counts, counts, q.channels) if self.shared else None
        programs, ends = _row_programs(
            options, images, owner_counts, q.channels, True, shares.counts if shares else None
        )
        sums = None if shares is None else self.empty(shares.size)
        results = owners.norms, upstream, denominator, grad, sums
        starts = q.row_starts, owners.row_starts, owners.data_starts, q.total_rows, self.scale
        shared = (None, None) if shares is None else (shares.counts, shares.sum_starts)
        kind: dict[str, Any] = {"IS_EXTRA": is_extra, "DECOUPLED": self.decoupled}
        launch(
            _columns, programs, owners.data, q.data, owners.parts, q.parts, self.offsets if gathered else None,
            *results, ends, owner_counts, counts, q.channels, self.offset_counts if gathered else None,
            *starts, *shared, AMONG_KEYS=AMONG["all"] if is_extra else self.among, **kind, **options,
        )  # fmt: skip
        if shares is not None:
            options = _merging(options)
            programs, ends = _row_programs(options, images, owner_counts, q.channels, True)
            launch(
                _merge_columns, programs, owners.data, q.data, *results,
                ends, owner_counts, counts, q.channels, *starts, *shared, **kind, **options,
            )  # fmt: skip
        if owners.norms is not None and not options["WHOLE"]:
            _undo_all(grad, owners)
        return grad

    def key_grad(self, upstream: Tensor | None, denominator: Tensor) -> Tensor:
        """The gradient of Σ upstream·loss to the keys, or of Σ loss if upstream is None."""
        return self._column_grad(self.keys, self.images, self.counts, self.counts, False, upstream, denominator)

    def extra_grad(self, upstream: Tensor, denominator: Tensor) -> Tensor:
        assert self.extras is not None
        one = (1,) * len(self.counts)
        return self._column_grad(self.extras, one, self.extras.rows, self.queries.rows, True, upstream, denominator)


def forward_layers(
    queries: Sequence[Tensor],
    keys: Sequence[Tensor],
    extras: Sequence[Tensor],
    offsets: Sequence[Tensor],
    temperature: float,
    negatives: str,
    decoupled: bool,
    normalize: bool,
    query_grad: bool,
    key_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    problem = _Problem(queries, keys, extras, offsets, temperature, negatives, decoupled, normalize)
    loss, denominator, unit_grad = problem.forward(query_grad)
    return loss, denominator, unit_grad, problem.key_grad(None, denominator) if key_grad else problem.empty(0)


def backward_layers(
    grad: Tensor,
    queries: Sequence[Tensor],
    keys: Sequence[Tensor],
    extras: Sequence[Tensor],
    offsets: Sequence[Tensor],
    denominator: Tensor,
    unit_grad: Tensor,
    unit_key_grad: Tensor,
    temperature: float,
    negatives: str,
    decoupled: bool,
    normalize: bool,
    need_query: bool,
    need_key: bool,
    need_extra: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    upstream = grad.to(torch.float32).contiguous()
    denominator = denominator.contiguous()
    nothing = denominator.new_empty(0)
    dquery = dkey = dextra = nothing
    if need_query:
        dquery = _scale_all(unit_grad.contiguous(), upstream, _Matrices(queries))
    if need_key and unit_key_grad.numel() > 0:
        # The forward pass formed the gradient of Σloss. It was only asked to where all losses of a layer have the same
        # upstream gradient.
        layers = _Matrices(keys)
        first = [
            upstream[start : start + 1] for start, rows in zip(layers.row_starts, layers.rows, strict=True) if rows
        ]
        sizes = [rows * c for rows, c in zip(layers.rows, layers.channels, strict=True) if rows]
        parts = zip(unit_key_grad.contiguous().split(sizes), first, strict=True)
        dkey = torch.cat([part * factor for part, factor in parts])
        need_key = False
    if need_key or need_extra:
        problem = _Problem(queries, keys, extras, offsets, temperature, negatives, decoupled, normalize)
        if need_key:
            dkey = problem.key_grad(upstream, denominator)
        if need_extra:
            dextra = problem.extra_grad(upstream, denominator)
    return dquery, dkey, dextra


def forward(
    query: Tensor,
    key: Tensor,
    extra: Tensor | None,
    offsets: Tensor | None,
    temperature: float,
    negatives: str,
    decoupled: bool,
    normalize: bool,
    query_grad: bool,
    key_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    B, P, C = query.shape
    loss, denominator, unit_grad, unit_key_grad = forward_layers(
        [query], [key], [] if extra is None else [extra], [] if offsets is None else [offsets],
        temperature, negatives, decoupled, normalize, query_grad, key_grad,
    )  # fmt: skip
    grads = unit_grad.view(B if query_grad else 0, P, C), unit_key_grad.view(B if key_grad else 0, P, C)
    return loss.view(B, P), denominator.view(2, B, P), *grads


def backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    extra: Tensor | None,
    offsets: Tensor | None,
    denominator: Tensor,
    unit_grad: Tensor,
    unit_key_grad: Tensor,
    temperature: float,
    negatives: str,
    decoupled: bool,
    normalize: bool,
    need_query: bool,
    need_key: bool,
    need_extra: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    B, P, C = query.shape
    dquery, dkey, dextra = backward_layers(
        grad.reshape(-1), [query], [key], [] if extra is None else [extra], [] if offsets is None else [offsets],
        denominator.reshape(2, -1), unit_grad.reshape(-1), unit_key_grad.reshape(-1),
        temperature, negatives, decoupled, normalize, need_query, need_key, need_extra,
    )  # fmt: skip
    M = extra.shape[0] if extra is not None and need_extra else 0
    return dquery.view(B if need_query else 0, P, C), dkey.view(B if need_key else 0, P, C), dextra.view(M, C)
