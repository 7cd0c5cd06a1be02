r"""PatchNCE without stored logits, of several layers in one launch.

As in flash attention, a row program owns a block of queries and loops over blocks of keys, with the running maximum m
and sum l of the softmax. Its accumulator, the weighted sum of keys, becomes the query's gradient. A column program owns
a block of keys or of extra negatives and loops over the queries. No two programs add to the same result: no atomics, so
results are reproducible.

The query's gradient is formed in the forward pass, where it takes two matrix products (q·kᵀ and weights·k); in the
backward pass it would need q·kᵀ a second time. The keys' gradient needs the complete sum of each row first, hence two
more products in either pass. So it is left to the backward pass unless requested earlier.

Both passes compute the product of a query and a key in the same order, with the query's block on the left. So both
round alike, and the weights of a row add up to 1 however large its logits are. The maximum m is saved as a product,
before the division by τ; a logit relative to it is (product - m)/τ.

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
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import INTERPRET
from ._launch import ceil_div, launch, power_of_2
from ._sums import sum_of_products

NORM_EPSILON = tl.constexpr(1e-7)
NEVER = tl.constexpr(float("-inf"))  # a product that does not count
LOG2E = tl.constexpr(1.4426950408889634)
AMONG = {"none": 0, "all": 1, "offsets": 2}
LARGEST_BLOCK_C = 256


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
def _products(
    a, a_rows, a_count, b, b_rows, b_count, C, EVEN: tl.constexpr, BLOCK_C: tl.constexpr, PRECISION: tl.constexpr
):
    """a·bᵀ for blocks of rows, BLOCK_C channels at a time."""
    x = tl.zeros((a_rows.shape[0], b_rows.shape[0]), tl.float32)
    for first in range(0, C, BLOCK_C):
        c = first + tl.arange(0, BLOCK_C)
        left = _rows_of(a, a_rows, a_count, c, C, EVEN)
        right = _rows_of(b, b_rows, b_count, c, C, EVEN)
        x = tl.dot(left, tl.trans(right), acc=x, input_precision=PRECISION)
    return x


@triton.jit
def _weighted(p, rows, acc, PRECISION: tl.constexpr):
    """acc + p·rows. Weights p can be below float16's smallest number, so float16 rows are multiplied as tf32."""
    if rows.dtype == tl.float32:
        return tl.dot(p, rows, acc=acc, input_precision=PRECISION)
    elif rows.dtype == tl.float16:
        precision: tl.constexpr = "ieee" if PRECISION == "ieee" else "tf32"
        return tl.dot(p, rows.to(tl.float32), acc=acc, input_precision=precision)
    else:
        return tl.dot(p.to(rows.dtype), rows, acc=acc)


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
    q, query, s, count, others, other_count, C, c, m_i, l_i, acc, exponent,
    SKIP_OWN: tl.constexpr, GRAD: tl.constexpr, HELD: tl.constexpr, EVEN: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add all rows of `others` to the online softmax of queries s and to its accumulator of channels c.

    m_i is the running maximum of the products (ignoring NaN), l_i the running sum of weights p = exp((product -
    m_i)/τ), acc the running sum of p·other; alpha rescales l_i and acc when the maximum grows.
    """
    for first in range(0, other_count, BLOCK_N):
        t = first + tl.arange(0, BLOCK_N)
        if HELD:
            rows = _rows_of(others, t, other_count, c, C, EVEN)
            x = tl.dot(q, tl.trans(rows), input_precision=PRECISION)
        else:
            x = _products(query, s, count, others, t, other_count, C, EVEN, BLOCK_K, PRECISION)
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
            if not HELD:
                rows = _rows_of(others, t, other_count, c, C, EVEN)
            acc = _weighted(p, rows, acc * alpha[:, None], PRECISION)
    return m_i, l_i, acc


@triton.jit
def _rows(
    queries, keys, extras, offsets, norms, loss, denominator, grad,
    ends, counts, channels, extra_counts, offset_counts, row_starts, data_starts, all_rows, scale,
    AMONG_KEYS: tl.constexpr, DECOUPLED: tl.constexpr, WHOLE: tl.constexpr, HELD: tl.constexpr, EVEN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    layer, program = _layer_of(tl.program_id(0), ends)
    count = _pick(counts, layer)
    C = _pick(channels, layer)
    chunks = 1
    if WHOLE and EVEN:
        C = BLOCK_C
    if not WHOLE and grad is not None:
        chunks = tl.cdiv(C, BLOCK_C)
    blocks = tl.cdiv(count, BLOCK_M)
    chunk = program % chunks
    block = program // chunks % blocks
    image = (program // chunks // blocks).to(tl.int64)
    start = image * count * C
    query = _pick(queries, layer) + start
    key = _pick(keys, layer) + start
    s = block * BLOCK_M + tl.arange(0, BLOCK_M)
    c = chunk * BLOCK_C + tl.arange(0, BLOCK_C)
    exponent = scale * LOG2E

    q = _rows_of(query, s, count, c, C, EVEN)
    positive = _row_products(query, s, count, key, s, count, C, EVEN, BLOCK_K)
    m_i = positive
    if DECOUPLED:
        m_i = tl.full((BLOCK_M,), NEVER, tl.float32)
    l_i = tl.zeros((BLOCK_M,), tl.float32)  # of the negatives
    acc = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    GRAD: tl.constexpr = grad is not None
    if AMONG_KEYS == 1:
        m_i, l_i, acc = _attend(
            q, query, s, count, key, count, C, c, m_i, l_i, acc, exponent,
            True, GRAD, HELD, EVEN, BLOCK_N, BLOCK_K, PRECISION,
        )  # fmt: skip
    elif AMONG_KEYS == 2:
        steps = _pick(offsets, layer)
        for i in range(0, _pick(offset_counts, layer)):
            step = tl.load(steps + i)
            valid = (step >= 1) & (step < count)
            t = tl.where(valid & (s < count), ((s + step) % count).to(tl.int32), s)
            if WHOLE:
                rows = _rows_of(key, t, count, c, C, EVEN).to(tl.float32)
                x = sum_of_products(q.to(tl.float32), rows, 1)
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
    if extras is not None:
        m_i, l_i, acc = _attend(
            q, query, s, count, _pick(extras, layer), _pick(extra_counts, layer), C, c, m_i, l_i, acc, exponent,
            False, GRAD, HELD, EVEN, BLOCK_N, BLOCK_K, PRECISION,
        )  # fmt: skip

    # The gradient's weight of the positive is its softmax minus 1, computed here without cancellation.
    if DECOUPLED:
        l_all = l_i
        p_others = tl.full((BLOCK_M,), 1.0, tl.float32)
    else:
        l_all = l_i + _relative(positive, m_i, exponent)
        p_others = l_i / l_all
    inverse_l = 1.0 / l_all
    row_loss = (m_i - positive) * scale + tl.log(l_all)
    contrasted = 1
    if DECOUPLED:  # no negatives, so no loss
        contrasted = 0
        if AMONG_KEYS == 1:
            contrasted += count - 1
        elif AMONG_KEYS == 2:
            contrasted += _pick(offset_counts, layer)
        if extras is not None:
            contrasted += _pick(extra_counts, layer)
        row_loss = tl.where(contrasted > 0, row_loss, 0.0)
        m_i = tl.where(contrasted > 0, m_i, 0.0)
        inverse_l = tl.where(contrasted > 0, inverse_l, 0.0)
    inside = s < count
    row_start = _pick(row_starts, layer)
    r = row_start + image * count + s
    if chunk == 0:
        tl.store(loss + r, row_loss, mask=inside)
        tl.store(denominator + r, m_i, mask=inside)
        tl.store(denominator + all_rows.to(tl.int64) + r, inverse_l, mask=inside)
    if GRAD:
        inverse_l = tl.where(m_i - m_i == 0, inverse_l, float("nan"))  # an infinite product has weight NaN
        own = _rows_of(key, s, count, c, C, EVEN).to(tl.float32)
        g = (acc * inverse_l[:, None] - own * p_others[:, None]) * scale
        if norms is not None and WHOLE:
            norm = tl.load(norms + r, mask=inside, other=1.0)
            g = _through_norm(g, _rows_of(query, s, count, c, C, EVEN).to(tl.float32), norm)
        if DECOUPLED:
            g = tl.where(contrasted > 0, g, 0.0)
        target = grad + _pick(data_starts, layer).to(tl.int64) + start + s.to(tl.int64)[:, None] * C + c[None, :]
        tl.store(target, g, mask=inside[:, None] & (c < C)[None, :])


@triton.jit
def _columns(
    owners, queries, offsets, norms, upstream, denominator, grad,
    ends, owner_counts, counts, channels, offset_counts, row_starts, owner_starts, data_starts, all_rows, scale,
    IS_EXTRA: tl.constexpr, AMONG_KEYS: tl.constexpr, DECOUPLED: tl.constexpr, WHOLE: tl.constexpr,
    HELD: tl.constexpr, EVEN: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    layer, program = _layer_of(tl.program_id(0), ends)
    owner_count = _pick(owner_counts, layer)
    count = _pick(counts, layer)  # queries per image; for extra negatives, of the whole layer
    C = _pick(channels, layer)
    chunks = 1
    if WHOLE and EVEN:
        C = BLOCK_C
    if not WHOLE:
        chunks = tl.cdiv(C, BLOCK_C)
    blocks = tl.cdiv(owner_count, BLOCK_M)
    chunk = program % chunks
    block = program // chunks % blocks
    image = (program // chunks // blocks).to(tl.int64)  # 0 for extra negatives
    owner = _pick(owners, layer) + image * owner_count * C
    query = _pick(queries, layer) + image * count * C
    row_start = _pick(row_starts, layer)
    m_i = denominator + row_start + image * count
    inverse_l = m_i + all_rows.to(tl.int64)
    t = block * BLOCK_M + tl.arange(0, BLOCK_M)
    c = chunk * BLOCK_C + tl.arange(0, BLOCK_C)
    exponent = scale * LOG2E

    k = _rows_of(owner, t, owner_count, c, C, EVEN)
    acc = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    if AMONG_KEYS == 1:
        for first in range(0, count, BLOCK_N):
            s = first + tl.arange(0, BLOCK_N)
            inside = s < count
            if HELD:
                rows = _rows_of(query, s, count, c, C, EVEN)
                x = tl.dot(rows, tl.trans(k), input_precision=PRECISION)
            else:
                x = _products(query, s, count, owner, t, owner_count, C, EVEN, BLOCK_K, PRECISION)
            share = tl.load(inverse_l + s, mask=inside, other=0.0)
            if upstream is not None:
                share *= tl.load(upstream + row_start + image * count + s, mask=inside, other=0.0)
            counted = inside[:, None]
            if not IS_EXTRA:
                counted = counted & (s[:, None] != t[None, :])
            logit = (x - tl.load(m_i + s, mask=inside, other=0.0)[:, None]) * exponent
            p = tl.where(counted, tl.exp2(logit) * share[:, None], 0.0)
            if not HELD:
                rows = _rows_of(query, s, count, c, C, EVEN)
            acc = _weighted(tl.trans(p), rows, acc, PRECISION)
    elif AMONG_KEYS == 2:
        steps = _pick(offsets, layer)
        for i in range(0, _pick(offset_counts, layer)):
            step = tl.load(steps + i)
            valid = (step >= 1) & (step < count)
            s = tl.where(valid & (t < count), ((t - step + count) % count).to(tl.int32), t)
            if WHOLE:
                rows = _rows_of(query, s, count, c, C, EVEN).to(tl.float32)
                x = sum_of_products(k.to(tl.float32), rows, 1)
            else:
                x = _row_products(owner, t, count, query, s, count, C, EVEN, BLOCK_K)
                rows = _rows_of(query, s, count, c, C, EVEN).to(tl.float32)
            inside = t < count
            share = tl.load(inverse_l + s, mask=inside, other=0.0)
            if upstream is not None:
                share *= tl.load(upstream + row_start + image * count + s, mask=inside, other=0.0)
            logit = (x - tl.load(m_i + s, mask=inside, other=0.0)) * exponent
            p = tl.where(valid, tl.exp2(logit) * share, float("nan"))
            acc += p[:, None] * rows
    inside = t < owner_count
    if not IS_EXTRA:
        positive = _row_products(owner, t, count, query, t, count, C, EVEN, BLOCK_K)
        share = tl.load(inverse_l + t, mask=inside, other=0.0)
        p_own = tl.full((BLOCK_M,), -1.0, tl.float32)
        if not DECOUPLED:
            p_own += tl.exp2((positive - tl.load(m_i + t, mask=inside, other=0.0)) * exponent) * share
        if upstream is not None:
            p_own *= tl.load(upstream + row_start + image * count + t, mask=inside, other=0.0)
        acc += p_own[:, None] * _rows_of(query, t, count, c, C, EVEN).to(tl.float32)
    g = acc * scale
    if norms is not None and WHOLE:
        r = _pick(owner_starts, layer) + image * owner_count + t
        norm = tl.load(norms + r, mask=inside, other=1.0)
        g = _through_norm(g, _rows_of(owner, t, owner_count, c, C, EVEN).to(tl.float32), norm)
    if DECOUPLED and not IS_EXTRA:  # no negatives: see _rows
        g = tl.where((tl.load(inverse_l + t, mask=inside, other=0.0) == 0)[:, None], 0.0, g)
    start = _pick(data_starts, layer).to(tl.int64) + image * owner_count * C
    target = grad + start + t.to(tl.int64)[:, None] * C + c[None, :]
    tl.store(target, g, mask=inside[:, None] & (c < C)[None, :])


@triton.jit
def _normalise(
    sources, targets, norms, ends, counts, channels, starts,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Copies of rows divided by their length + 1e-7, and the lengths."""
    entry, block = _layer_of(tl.program_id(0), ends)
    source = _pick(sources, entry)
    target = _pick(targets, entry)
    count = _pick(counts, entry)
    C = _pick(channels, entry)
    r = block * BLOCK_M + tl.arange(0, BLOCK_M)
    norm = tl.sqrt(_row_products(source, r, count, source, r, count, C, False, BLOCK_C))
    tl.store(norms + _pick(starts, entry) + r, norm, mask=r < count)
    for first in range(0, C, BLOCK_C):
        c = first + tl.arange(0, BLOCK_C)
        y = _rows_of(source, r, count, c, C, False).to(tl.float32) / (norm + NORM_EPSILON)[:, None]
        pointers = target + r.to(tl.int64)[:, None] * C + c[None, :]
        tl.store(pointers, y.to(target.dtype.element_ty), mask=(r < count)[:, None] & (c < C)[None, :])


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

    def parts(self, flat: Tensor) -> list[Tensor]:
        """Views of each tensor's part of `flat`."""
        return [
            flat[start : start + rows * channels].view(rows, channels)
            for start, rows, channels in zip(self.data_starts, self.rows, self.channels, strict=True)
        ]


def _blocks_of_rows(matrices: Sequence[_Matrices]) -> tuple[dict[str, Any], list[int], tuple[int, ...]]:
    """Block sizes for kernels over rows, number of programs per matrix, and its cumulative sum."""
    block_c = min(1024, power_of_2(max(16, *(c for m in matrices for c in m.channels))))
    block_m = max(1, 2048 // block_c)
    programs = [ceil_div(rows, block_m) for m in matrices for rows in m.rows]
    return {"BLOCK_M": block_m, "BLOCK_C": block_c}, programs, tuple(accumulate(programs))


def _normalise_all(*matrices: _Matrices) -> None:
    """Replace the data of the matrices by normalised copies, in one launch."""
    everything = [tensor for m in matrices for tensor in m.data]
    first = everything[0]
    flat = torch.empty(sum(m.size for m in matrices), dtype=first.dtype, device=first.device)
    lengths = torch.empty(sum(m.total_rows for m in matrices), dtype=torch.float32, device=first.device)
    copies: list[Tensor] = []
    starts: list[int] = []
    data_start = row_start = 0
    for m in matrices:
        copies += m.parts(flat[data_start : data_start + m.size])
        starts += [row_start + start for start in m.row_starts]
        m.norms = lengths[row_start : row_start + m.total_rows]
        data_start, row_start = data_start + m.size, row_start + m.total_rows
    blocks, programs, ends = _blocks_of_rows(matrices)
    launch(
        _normalise, sum(programs), tuple(everything), tuple(copies), lengths, ends,
        tuple(rows for m in matrices for rows in m.rows), tuple(c for m in matrices for c in m.channels),
        tuple(starts), **blocks,
    )  # fmt: skip
    for m in matrices:
        m.data = tuple(copies[: len(m.data)])
        del copies[: len(m.data)]


def _undo_all(grad: Tensor, matrices: _Matrices) -> None:
    blocks, programs, ends = _blocks_of_rows([matrices])
    launch(
        _undo_normalise, sum(programs), tuple(matrices.parts(grad)), matrices.data, matrices.norms, ends,
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


def _blocks(dtype: torch.dtype, owners: int, channels: Sequence[int]) -> dict[str, Any]:
    """Block sizes and options of the row and column kernels; `owners` counts the owned rows of all layers."""
    block_c = min(power_of_2(max(16, *channels)), LARGEST_BLOCK_C)
    narrow = dtype != torch.float32
    block_k = min(block_c, 64 if narrow else 32)
    # Small blocks until there is one per multiprocessor: CUT's layers have few rows.
    block_m = 16 if owners <= 16 * 264 else 32
    # Products with float16 rows are computed in float32, too.
    block_n = 64 if dtype == torch.bfloat16 or (not narrow and block_c <= 64) else 32
    if INTERPRET:
        block_m, block_n, block_k = 64, 64, block_c  # fewer steps
    fine = torch.backends.cuda.matmul.fp32_precision != "tf32"
    whole = max(channels) <= block_c
    return {
        "WHOLE": whole,
        # Keep a block of owned rows in registers; in float32, which tf32x3 splits in two, only if it has few channels.
        "HELD": whole and (narrow or block_c <= block_k),
        "EVEN": all(c > 0 and c % block_c == 0 for c in channels),
        "BLOCK_M": block_m,
        "BLOCK_N": block_n,
        "BLOCK_C": block_c,
        "BLOCK_K": block_k,
        "PRECISION": "ieee" if INTERPRET else "tf32x3" if fine else "tf32",
        "num_warps": 8 if block_c == LARGEST_BLOCK_C and not narrow else 4,
        "num_stages": 2,
    }


def _row_programs(
    options: dict[str, Any], images: Sequence[int], rows: Sequence[int], channels: Sequence[int], gradient: bool
) -> tuple[int, tuple[int, ...]]:
    """Number of programs per layer, summed, and its cumulative sum."""
    chunked = gradient and not options["WHOLE"]
    programs = [
        b * ceil_div(n, options["BLOCK_M"]) * (ceil_div(c, options["BLOCK_C"]) if chunked else 1)
        for b, n, c in zip(images, rows, channels, strict=True)
    ]
    return sum(programs), tuple(accumulate(programs))


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
        if normalize:
            _normalise_all(self.queries, self.keys, *([] if self.extras is None else [self.extras]))

    def empty(self, *shape: int) -> Tensor:
        return self.queries.data[0].new_empty(shape, dtype=torch.float32)

    def forward(self, query_grad: bool) -> tuple[Tensor, Tensor, Tensor]:
        q, rows = self.queries, self.queries.total_rows
        loss, denominator = self.empty(rows), self.empty(2, rows)
        grad = self.empty(q.size if query_grad else 0)
        options = _blocks(q.data[0].dtype, rows, q.channels)
        programs, ends = _row_programs(options, self.images, self.counts, q.channels, query_grad)
        launch(
            _rows, programs, q.data, self.keys.data, None if self.extras is None else self.extras.data, self.offsets,
            q.norms, loss, denominator, grad if query_grad else None,
            ends, self.counts, q.channels, None if self.extras is None else self.extras.rows, self.offset_counts,
            q.row_starts, q.data_starts, rows, self.scale,
            AMONG_KEYS=self.among, DECOUPLED=self.decoupled, **options,
        )  # fmt: skip
        if query_grad and q.norms is not None and not options["WHOLE"]:
            _undo_all(grad, q)
        return loss, denominator, grad

    def _column_grad(
        self, owners: _Matrices, images: Sequence[int], owner_counts: Sequence[int], counts: Sequence[int],
        is_extra: bool, upstream: Tensor | None, denominator: Tensor,
    ) -> Tensor:  # fmt: skip
        q = self.queries
        grad = self.empty(owners.size)
        options = _blocks(q.data[0].dtype, owners.total_rows, q.channels)
        programs, ends = _row_programs(options, images, owner_counts, q.channels, True)
        gathered = self.among == AMONG["offsets"] and not is_extra
        launch(
            _columns, programs, owners.data, q.data, self.offsets if gathered else None, owners.norms, upstream,
            denominator, grad,
            ends, owner_counts, counts, q.channels, self.offset_counts if gathered else None,
            q.row_starts, owners.row_starts, owners.data_starts, q.total_rows, self.scale,
            IS_EXTRA=is_extra, AMONG_KEYS=AMONG["all"] if is_extra else self.among, DECOUPLED=self.decoupled,
            **options,
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
