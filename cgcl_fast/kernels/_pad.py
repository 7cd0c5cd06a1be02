"""Padded maps: which source position a padded one copies, and the gradient back to the unpadded map.

A position of the map is p = h·W + w. Positions of the padded map are numbered the same way over its larger sides.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ._map import offsets


@triton.jit
def _shown(t, n, REPLICATE: tl.constexpr):
    """The source position, on a side of length n, of padded position t, which counts from -PAD."""
    if REPLICATE:
        return tl.minimum(tl.maximum(t, 0), n - 1)
    else:
        t = tl.where(t < 0, -t, t)
        return tl.where(t < n, t, 2 * (n - 1) - t)


@triton.jit
def shown(q, H, W, PAD: tl.constexpr, REPLICATE: tl.constexpr):
    """Source positions, in the map, of positions q of the padded map."""
    if PAD == 0:
        return q
    else:
        h = _shown(q // (W + 2 * PAD) - PAD, H, REPLICATE)
        w = _shown(q % (W + 2 * PAD) - PAD, W, REPLICATE)
        return h * W + w


@triton.jit
def _image(k, p, n, PAD: tl.constexpr, REPLICATE: tl.constexpr):
    """The k-th candidate for a padded position that copies positions p of a side of length n, and whether it does.

    There are 3 candidates under reflection, first p itself, and 2 PAD + 1 under replication. Padded positions count
    from 0.
    """
    if REPLICATE:
        apart = k - PAD
        t = p + apart
        does = (apart == 0) | ((apart < 0) & (p == 0)) | ((apart > 0) & (p == n - 1))
    else:
        t = tl.where(k == 0, p, tl.where(k == 1, -p, 2 * (n - 1) - p))
        does = (k == 0) | ((k == 1) & (p >= 1) & (p <= PAD)) | ((k == 2) & (p <= n - 2) & (p >= n - 1 - PAD))
    return t + PAD, does


@triton.jit
def load_folded(
    grad, p, mask, H, W, g_h, g_w, LINEAR: tl.constexpr, PAD: tl.constexpr, REPLICATE: tl.constexpr,
):  # fmt: skip
    """The gradient at positions p of the unpadded map, in float32: a sum over the padded positions that copy each.

    Args:
        grad: pointers to planes of the padded map's gradient.
        p, mask: positions and which of them to load; their shapes broadcast with that of `grad`.
    """
    if PAD == 0:
        return tl.load(grad + offsets(p, W, g_h, g_w, LINEAR), mask=mask, other=0.0).to(tl.float32)
    else:
        h, w = p // W, p % W
        IMAGES: tl.constexpr = 2 * PAD + 1 if REPLICATE else 3
        if REPLICATE:
            total = tl.zeros(mask.shape, tl.float32)
            for i in range(IMAGES * IMAGES):
                total += _load_image(grad, i, h, w, mask, H, W, g_h, g_w, IMAGES, PAD, REPLICATE)
        else:
            total = tl.load(grad + (h + PAD) * g_h + (w + PAD) * g_w, mask=mask, other=0.0).to(tl.float32)
            if (H > 2 * PAD + 1) & (W > 2 * PAD + 1):  # no position is near two ends of a side
                row, in_row = _mirrored(h, H, PAD)
                column, in_column = _mirrored(w, W, PAD)
                right = mask & in_column
                total += tl.load(grad + (h + PAD) * g_h + column * g_w, mask=right, other=0.0).to(tl.float32)
                total += tl.load(grad + row * g_h + (w + PAD) * g_w, mask=mask & in_row, other=0.0).to(tl.float32)
                total += tl.load(grad + row * g_h + column * g_w, mask=right & in_row, other=0.0).to(tl.float32)
            else:
                for i in range(1, 9):
                    total += _load_image(grad, i, h, w, mask, H, W, g_h, g_w, IMAGES, PAD, REPLICATE)
        return total


@triton.jit
def _mirrored(p, n, PAD: tl.constexpr):
    """The padded position that mirrors positions p of a side longer than 2 PAD + 1, and whether there is one."""
    low, high = (p >= 1) & (p <= PAD), (p <= n - 2) & (p >= n - 1 - PAD)
    return tl.where(low, -p, 2 * (n - 1) - p) + PAD, low | high


@triton.jit
def _load_image(
    grad, i, h, w, mask, H, W, g_h, g_w, IMAGES: tl.constexpr, PAD: tl.constexpr, REPLICATE: tl.constexpr,
):  # fmt: skip
    row, in_row = _image(i // IMAGES, h, H, PAD, REPLICATE)
    column, in_column = _image(i % IMAGES, w, W, PAD, REPLICATE)
    return tl.load(grad + row * g_h + column * g_w, mask=mask & in_row & in_column, other=0.0).to(tl.float32)
