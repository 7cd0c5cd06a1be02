"""Feature maps (B, C, H, W) of any strides, as kernels address them."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def offsets(p, W, stride_h, stride_w, LINEAR: tl.constexpr):
    """Offsets of flattened positions p in a plane. LINEAR: rows follow each other, so that no division is needed."""
    if LINEAR:
        return p * stride_w
    else:
        return p // W * stride_h + p % W * stride_w
