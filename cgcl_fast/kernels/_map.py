"""Feature maps (B, C, H, W) of any strides, as kernels address them."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def offsets(p, W, stride_h, stride_w, LINEAR: tl.constexpr):
    """Offsets of flattened positions p within a plane. LINEAR: rows follow each other, which spares the divisions."""
    if LINEAR:
        return p * stride_w
    else:
        return p // W * stride_h + p % W * stride_w
