"""The sky: blue with clouds, overcast, or with stars and a moon."""

from __future__ import annotations

import numpy as np

from cgcl_fast.data.random import item_random
from cgcl_fast.data.streets.looks import Look, Shade
from cgcl_fast.data.streets.noise import smooth_noise
from cgcl_fast.data.streets.scene import Scene


def sky_image(scene: Scene, size: tuple[int, int], look: Look) -> np.ndarray:
    """float32 (H,W,3), 0 to 255: the sky down to the horizon, and its colour there below."""
    height, width = size
    horizon = max(1, int(scene.horizon * height + 0.5))
    down = (np.arange(horizon, dtype=np.float32) / horizon)[:, None, None]
    blend = down * (0.4 + 0.6 * down)
    haze = np.array(look.haze, dtype=np.float32)
    above = np.array(look.zenith, dtype=np.float32) * (1.0 - blend) + haze * blend
    above = np.repeat(above, width, axis=1)
    if any(look.halo):
        _add_halo(above, scene, look.halo, 0.9)
    if look.moon is not None:
        above += _stars(scene, horizon, width)
        _add_moon(above, scene, look.moon)
    noise = smooth_noise(scene.seed, "clouds", (horizon, width), (3, 7, 14, 28, 56), aspect=2)[..., None]
    if look.overcast:
        above *= 1.0 + (noise - 128.0) * look.overcast * (1.0 - 0.8 * down)
    else:
        cover = np.clip((noise - 134.0) / 34.0, 0.0, 1.0) * (1.0 - 0.7 * down) * look.cover
        bright = np.array(look.cloud, dtype=np.float32) * (0.90 + 0.10 * np.clip((noise - 120.0) / 80.0, 0.0, 1.0))
        above += (bright - above) * cover
    sky = np.empty((height, width, 3), dtype=np.float32)
    sky[:horizon] = above
    sky[horizon:] = haze
    return np.clip(sky, 0.0, 255.0, out=sky)


def _distances(above: np.ndarray, scene: Scene, x: float, y: float) -> tuple[np.ndarray, np.ndarray]:
    """Offsets of each pixel from a point, in parts of the image height."""
    horizon, width = above.shape[:2]
    height = horizon / scene.horizon
    dx = (np.arange(width, dtype=np.float32) - np.float32(x)) / np.float32(height)
    dy = (np.arange(horizon, dtype=np.float32) - np.float32(y)) / np.float32(height)
    return dx[None, :], dy[:, None]


def _add_halo(above: np.ndarray, scene: Scene, colour: Shade, reach: float) -> None:
    """Light around the sun, which itself stands out of sight to one side."""
    horizon, width = above.shape[:2]
    dx, dy = _distances(above, scene, width / 2 + scene.sun * width * 0.45, horizon * 0.2)
    fall = np.clip(1.0 - np.sqrt(dx * dx + dy * dy) / reach, 0.0, 1.0)
    above += (fall * fall)[..., None] * np.array(colour, dtype=np.float32)


def _add_moon(above: np.ndarray, scene: Scene, bright: float) -> None:
    """The moon in the gap over the road, with its halo."""
    horizon, width = above.shape[:2]
    height = horizon / scene.horizon
    chance = item_random(scene.seed, "moon").random
    x = width / 2 + scene.centre * height + (chance() - 0.5) * 0.24 * height
    dx, dy = _distances(above, scene, x, horizon * (0.14 + 0.26 * chance()))
    distance = np.sqrt(dx * dx + dy * dy)
    fall = np.clip(1.0 - distance / 0.3, 0.0, 1.0)
    above += (fall * fall)[..., None] * np.array((46, 46, 54), dtype=np.float32) * bright
    radius = max(0.024, 1.2 / height)
    disc = np.clip((radius - distance) * height + 0.5, 0.0, 1.0)[..., None] * bright
    sea = np.clip((np.sqrt((dx - 0.007) ** 2 + (dy + 0.005) ** 2) - 0.004) / 0.006, 0.0, 1.0)[..., None]
    above += (np.array((240, 238, 222), dtype=np.float32) * (0.88 + 0.12 * sea) - above) * disc


def _stars(scene: Scene, horizon: int, width: int) -> np.ndarray:
    layer = np.zeros((horizon, width, 1), dtype=np.float32)
    chance = item_random(scene.seed, "stars").random
    # In a small picture a star fills a larger part of the sky: it must be as much dimmer.
    dim = min(1.0, horizon / 110.0)
    for _ in range(110):
        y, x, bright = chance(), chance(), chance()
        layer[int(y * 0.85 * horizon), int(x * width)] += (60.0 + 190.0 * bright * bright) * dim
    return layer
