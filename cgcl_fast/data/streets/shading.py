"""A drawn scene as it looks in a domain, or in one of the looks that a domain has.

Only additions, multiplications, divisions, square roots and Pillow's filters are used: they give the same bits on every
processor, which powers, exponentials and sines do not promise.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from cgcl_fast.data.streets.drawing import draw
from cgcl_fast.data.streets.lights import glow, night_light, shadows
from cgcl_fast.data.streets.looks import Look
from cgcl_fast.data.streets.noise import smooth_noise
from cgcl_fast.data.streets.rain import falling_rain, wet_share, wet_smear
from cgcl_fast.data.streets.raster import (
    COLOUR,
    DEPTH,
    FACING,
    FRONT,
    GROUND,
    LEFT_WALL,
    LIGHT,
    LIGHTS,
    RIGHT_WALL,
    SHINE,
    SURFACE,
    Raster,
)
from cgcl_fast.data.streets.sky import sky_image


def shade(raster: Raster, look: Look) -> np.ndarray:
    """The image of a drawn scene in a look: uint8 (H,W,3)."""
    scene, size = raster.scene, raster.size
    sky = sky_image(scene, size, look)
    colour, objects, shine, wet = _look_up(raster, look)
    ground = np.minimum(wet, GROUND) * (1.0 / GROUND)
    light = (1.0 - ground * shadows(scene, size, look.shadow)) * (1.0 + _grain(raster) * (1.0 + ground))
    if look.damp:
        light *= 1.0 - look.damp * ground  # wet asphalt is dark
    image = colour * np.array(look.ambient, dtype=np.float32)
    if look.lamplight is not None:
        image += colour * night_light(scene, size, ground, look, look.lamplight)
    image *= light
    image += shine
    image += (1.0 - objects) * sky
    if look.mirror:
        share = wet_share(scene, size, wet, look.mirror)
        image += share * (_reflection(raster, look, sky) - image)
    if look.glow:
        image += look.glow * glow(shine)
    if look.rain:
        image = falling_rain(image, scene, look.rain)
    image += 0.5
    return np.clip(image, 0.0, 255.0, out=image).astype(np.uint8)


def _reflection(raster: Raster, look: Look, sky: np.ndarray) -> np.ndarray:
    """What the wet ground mirrors: the scene drawn upside down."""
    scene, height = raster.scene, raster.size[0]
    colour, objects, shine, _ = _look_up(draw(scene, raster.size, mirrored=True), look)
    rows = np.clip(int(2 * scene.horizon * height) - np.arange(height), 0, height - 1)
    shown = colour * np.array(look.ambient, dtype=np.float32) + 1.5 * shine + (1.0 - objects) * sky[rows]
    return wet_smear(shown)


def _look_up(raster: Raster, look: Look) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The maps of a drawing, float32: reflected colour (H,W,3), what is not sky (H,W,1) from 0 to 1, own light and haze
    (H,W,3), wetness (H,W,1)."""
    materials = raster.materials
    facing, kind = materials[:, FACING], materials[:, LIGHT]
    factors = np.ones(4, dtype=np.float32)
    factors[FRONT] = (look.lit + look.unlit) / 2
    factors[[LEFT_WALL, RIGHT_WALL]] = (look.unlit, look.lit) if raster.scene.sun < 0 else (look.lit, look.unlit)
    strengths = np.zeros(len(LIGHTS), dtype=np.float32)
    for number, strength in look.lights.items():
        strengths[number] = strength
    on = strengths[kind.astype(np.int64)][:, None]
    colour = materials[:, COLOUR]
    gray = colour[:, :1] * 0.30 + colour[:, 1:2] * 0.59 + colour[:, 2:] * 0.11
    colour = (gray + (colour - gray) * look.saturation) * factors[facing.astype(np.int64)][:, None]
    depth = materials[:, DEPTH, None] / look.sight
    clear = 1.0 / (1.0 + depth * depth)
    haze = np.array(look.haze, dtype=np.float32) * (1.0 - clear)

    first = np.full((len(materials), 4), 255.0, dtype=np.float32)
    first[:, :3] = colour * clear * (1.0 - 0.55 * on)
    second = np.empty((len(materials), 4), dtype=np.float32)
    second[:, :3] = materials[:, SHINE] * on * (0.4 + 0.6 * clear) + haze
    second[:, 3] = materials[:, SURFACE]
    first[0] = second[0] = 0.0  # the sky
    reflected, own = _average(raster, first), _average(raster, second)
    return reflected[..., :3], reflected[..., 3:] * (1.0 / 255.0), own[..., :3], own[..., 3:]


def _average(raster: Raster, table: np.ndarray) -> np.ndarray:
    # Four bytes are looked up as one number, and averaged by Pillow as four channels that mean nothing to it.
    packed = np.clip(table + 0.5, 0.0, 255.0).astype(np.uint8).view(np.uint32).reshape(-1)
    pixels = packed.take(raster.index)
    size = (pixels.shape[1], pixels.shape[0])
    full = Image.frombuffer("RGBX", size, pixels, "raw", "RGBX", 0, 1)
    return np.asarray(full.reduce(raster.factor), dtype=np.float32)


def _grain(raster: Raster) -> np.ndarray:
    """Texture of all surfaces, around 0: float32 (H,W,1)."""
    cells = max(16, min(raster.size) // 2)
    noise = smooth_noise(raster.scene.seed, "grain", raster.size, (cells, cells // 2, cells // 4), fall=0.7)
    return (noise[..., None] - 128.0) * 0.0006
