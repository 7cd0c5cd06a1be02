"""Rain: what is wet mirrors the street, and drops fall."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from cgcl_fast.data.random import item_random
from cgcl_fast.data.streets.noise import smooth_noise
from cgcl_fast.data.streets.raster import ASPHALT
from cgcl_fast.data.streets.scene import Scene


def wet_share(scene: Scene, size: tuple[int, int], wet: np.ndarray, mirror: float) -> np.ndarray:
    """How much of a pixel is reflection: float32 (H,W,1); more in puddles, and where the ground is looked at flatly."""
    height = size[0]
    horizon = np.float32(scene.horizon * height)
    down = np.clip((np.arange(height, dtype=np.float32) - horizon) / (height - horizon), 0.0, 1.0)[:, None, None]
    noise = smooth_noise(scene.seed, "puddles", size, (3, 6, 12), aspect=4)[..., None]
    puddles = np.clip((noise - 116.0) / 36.0, 0.0, 1.0)
    share = mirror * wet * (1.0 / ASPHALT) * (0.26 + 0.34 * (1.0 - down) * (1.0 - down) + 0.34 * puddles)
    return np.clip(share, 0.0, 0.85)


def wet_smear(reflection: np.ndarray) -> np.ndarray:
    """A reflection drawn out along the vertical, as on rough asphalt: float32 (H,W,3)."""
    height = reflection.shape[0]
    image = Image.fromarray(np.clip(reflection, 0.0, 255.0).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.BoxBlur((height / 256, height / 32))), dtype=np.float32)


def falling_rain(image: np.ndarray, scene: Scene, much: float) -> np.ndarray:
    """The image (H,W,3) seen through rain; ``much`` of it, 1 for a usual one."""
    height, width = image.shape[:2]
    factor = 2
    layer = Image.new("L", (width * factor, height * factor), 0)
    canvas = ImageDraw.Draw(layer)
    chance = item_random(scene.seed, "rain").random
    slant, thickness = 0.1 + 0.16 * chance(), height * factor * 0.0022
    thick, faint = max(1, int(thickness)), min(1.0, thickness)  # a line thinner than a pixel is a fainter one
    for _ in range(int(230 * much)):
        x, y, near = (chance() * 1.2 - 0.1) * width * factor, (chance() * 1.1 - 0.1) * height * factor, chance()
        length = (0.025 + 0.05 * near) * height * factor
        canvas.line((x, y, x - slant * length, y + length), fill=int(faint * (40 + 60 * near)), width=thick)
    horizon = scene.horizon * height
    for _ in range(int(110 * much)):  # drops that hit the ground
        x, far = chance() * width * factor, chance()
        y = (horizon + (height - horizon) * (0.12 + 0.88 * far)) * factor
        radius = (0.003 + 0.011 * far) * height * factor
        canvas.ellipse(
            (x - radius, y - radius * 0.35, x + radius, y + radius * 0.35), outline=int(faint * (30 + 50 * far))
        )
    drops = np.asarray(layer.reduce(factor), dtype=np.float32)[..., None] * (1.0 / 255.0)
    return image + (np.array((206, 214, 222), dtype=np.float32) - image) * drops
