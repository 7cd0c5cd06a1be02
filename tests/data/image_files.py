"""Image files of every kind for the tests to read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def noise(shape: tuple[int, ...], type: str, low: float, high: float, seed: int = 0) -> np.ndarray:
    """Numbers from ``low`` to ``high``, both of which are in it."""
    drawn = np.random.default_rng(seed).uniform(low, high, shape)
    drawn.flat[0], drawn.flat[-1] = low, high
    return (drawn if type.startswith("float") else np.rint(drawn)).astype(type)


def write(path: Path, numbers: np.ndarray, **tiff: object) -> Path:
    """Numbers (H,W) or (H,W,C), by another program than the one that is tested: Pillow, NumPy, or else tifffile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, numbers)
    elif path.suffix in (".tif", ".tiff") and (tiff or numbers.ndim == 3 or numbers.dtype.name == "int16"):
        import tifffile

        tifffile.imwrite(path, numbers, **{"photometric": "minisblack", **tiff})
    else:
        Image.fromarray(numbers).save(path)
    return path
