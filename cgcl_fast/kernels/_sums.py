"""Sums of products that are bit for bit equal in every participating lane.

In a reduction lanes exchange their values and each adds the other's to its own. If the compiler fuses a product with
that addition, the product is rounded in the other lane but not in this one. Both lanes then get different last bits,
and which of the two a shared result receives is undefined. So each product is rounded first, by a fused addition of
zero.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def sum_of_products(x, y, axis: tl.constexpr):
    """Σ x·y over an axis of blocks of one shape, in float32."""
    return tl.sum(tl.fma(x, y, tl.zeros_like(x)), axis)
