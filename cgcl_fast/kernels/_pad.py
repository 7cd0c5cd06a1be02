"""Maps with a margin of PAD positions around them, as kernels write them and read their gradients.

Positions p of the map itself are h·W + w, those of the padded one are numbered the same way over its own sides.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ._map import offsets


@triton.jit
def _shown(t, n, REPLICATE: tl.constexpr):
    """The position of a side of length n that position t, from -PAD on, of the padded side shows."""
    if REPLICATE:
        return tl.minimum(tl.maximum(t, 0), n - 1)
    else:
        t = tl.where(t < 0, -t, t)
        return tl.where(t < n, t, 2 * (n - 1) - t)


@triton.jit
def shown(q, H, W, PAD: tl.constexpr, REPLICATE: tl.constexpr):
    """The positions of a map that positions q of the padded one show."""
    if PAD == 0:
        return q
    else:
        h = _shown(q // (W + 2 * PAD) - PAD, H, REPLICATE)
        w = _shown(q % (W + 2 * PAD) - PAD, W, REPLICATE)
        return h * W + w


@triton.jit
def _image(k, p, n, PAD: tl.constexpr, REPLICATE: tl.constexpr):
    """One of the positions of a padded side, from 0 on, that may show positions p of one of length n; whether it does.

    k counts them: 3 by reflection, the first of which are the positions themselves, and 2 PAD + 1 by replication.
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
    """What comes to positions p of a map before padding, in float32: the sum over all that shows them.

    Args:
        grad: pointers to planes of the gradient of the padded map.
        p, mask: positions and where they are wanted, of shapes that go together with that of `grad`.
    """
    if PAD == 0:
        return tl.load(grad + offsets(p, W, g_h, g_w, LINEAR), mask=mask, other=0.0).to(tl.float32)
    else:
        h, w = p // W, p % W
        IMAGES: tl.constexpr = 2 * PAD + 1 if REPLICATE else 3
        total = tl.zeros(mask.shape, tl.float32)
        if IMAGES == 3:
            for i in tl.static_range(9):
                total += _load_image(grad, i, h, w, mask, H, W, g_h, g_w, IMAGES, PAD, REPLICATE)
        else:
            for i in range(IMAGES * IMAGES):
                total += _load_image(grad, i, h, w, mask, H, W, g_h, g_w, IMAGES, PAD, REPLICATE)
        return total


@triton.jit
def _load_image(
    grad, i, h, w, mask, H, W, g_h, g_w, IMAGES: tl.constexpr, PAD: tl.constexpr, REPLICATE: tl.constexpr,
):  # fmt: skip
    row, in_row = _image(i // IMAGES, h, H, PAD, REPLICATE)
    column, in_column = _image(i % IMAGES, w, W, PAD, REPLICATE)
    return tl.load(grad + row * g_h + column * g_w, mask=mask & in_row & in_column, other=0.0).to(tl.float32)
