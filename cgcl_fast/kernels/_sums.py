"""Sums of products that are the same bits in every lane that takes part.

Lanes exchange what they have and add it to their own. A product that is fused with that sum is rounded in the other
lane and not in this one, so the two come to different last bits, and of what they write to one place either may stay.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def sum_of_products(x, y, axis: tl.constexpr):
    """Σ x·y over an axis of blocks of one shape, in float32."""
    return tl.sum(tl.fma(x, y, tl.zeros_like(x)), axis)
