"""Smooth random textures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from cgcl_fast.data.random import item_random


def smooth_noise(
    seed: int, name: str, size: tuple[int, int], cells: Sequence[int], *, aspect: int = 1, fall: float = 0.55
) -> np.ndarray:
    """float32 (H,W) with mean near 128: random grids of ``cells`` columns, enlarged and averaged.

    ``aspect``: rows for each column; more make the texture lie flat. ``fall``: weight of each grid relative to the one
    before. The sequences of NumPy's RandomState never change.
    """
    generator = np.random.RandomState(int(item_random(seed, name).random() * 2**31))
    total = np.zeros(size, dtype=np.float32)
    weight, weights = 1.0, 0.0
    for count in cells:
        grid = generator.randint(0, 256, (count * aspect + 1, count + 1)).astype(np.uint8)
        layer = Image.fromarray(grid).resize((size[1], size[0]), Image.Resampling.BICUBIC)
        total += weight * np.asarray(layer, dtype=np.float32)
        weights += weight
        weight *= fall
    return total / weights
