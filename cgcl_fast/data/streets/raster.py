"""A map of material numbers to draw a scene in, and the boxes of what was drawn.

Drawing numbers instead of colours lets one drawing serve every domain: what a material looks like by day or by night is
a table, looked up for the whole map at once. The map is supersampled, and averaged after the look-up.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from cgcl_fast.data.streets.scene import Colour, Scene

FOCAL = 0.95  # of the image height
EYE = 2.0  # height of the camera, m
NEAR = 1.3  # nothing is drawn closer than this, m
FAR = 420.0

# What a surface does in the wet; shadows and pools of light fall on all but objects.
OBJECT, GROUND, PAVING, ASPHALT = 0, 30, 110, 255
# Which way a surface looks, for the sun.
ROUND, LEFT_WALL, RIGHT_WALL, FRONT = 0, 1, 2, 3
# What makes it shine.
# A look lights all of a kind or none: early ones in more looks than late ones.
DARK, WINDOW_EARLY, WINDOW, WINDOW_LATE, SHOP, HEADLIGHT, TAILLIGHT, LAMP_EARLY, LAMP, RETRO = LIGHTS = range(10)

# Columns of the table of materials.
COLOUR, DEPTH, SURFACE, FACING, LIGHT, SHINE, INSTANCE = slice(0, 3), 3, 4, 5, 6, slice(7, 10), 10
_COLUMNS = 11


class Box(NamedTuple):
    """An instance: its class and its box in pixels, x to the right, y down, the second corner outside."""

    name: str
    x0: float
    y0: float
    x1: float
    y1: float


@dataclass
class Raster:
    """A drawn scene.

    Attributes:
        index: int32 (height·factor, width·factor), a material each; 0 is the sky.
        materials: float32 (N, 11): colour, distance, surface, facing, light, colour of the light, instance.
        instances: (class, all of its extent in pixels of the map) of instance 1, 2, ...
    """

    scene: Scene
    size: tuple[int, int]
    factor: int
    index: np.ndarray
    materials: np.ndarray
    instances: list[tuple[str, tuple[float, float, float, float]]]


class Camera:
    """Projection of a scene to pixels."""

    def __init__(self, scene: Scene, height: float, width: float, *, mirrored: bool = False) -> None:
        self.scene = scene
        self.scale = FOCAL * height
        self.cx = width / 2 + scene.centre * height
        self.cy = scene.horizon * height
        self.up = -1.0 if mirrored else 1.0  # -1: what a mirror in the road's place would show

    def point(self, x: float, y: float, z: float) -> tuple[float, float]:
        """Pixel (x, y) of a point."""
        z = max(z, NEAR)
        scale = self.scale / z
        shifted = x - self.scene.camera + self.scene.curve * z * z
        return self.cx + scale * shifted, self.cy + scale * (EYE - self.up * y)


class Pen:
    """Draws materials in perspective. What is drawn later covers what was drawn before."""

    def __init__(self, scene: Scene, size: tuple[int, int], *, mirrored: bool = False) -> None:
        self.scene = scene
        self.size = size
        # Pixels drawn along each side of one pixel of the result.
        self.factor = 4 if min(size) <= 96 else 3 if min(size) <= 320 else 2
        self.height, self.width = size[0] * self.factor, size[1] * self.factor
        self._camera = Camera(scene, self.height, self.width, mirrored=mirrored)
        self.point = self._camera.point
        self._image = Image.new("I", (self.width, self.height), 0)
        self._canvas = ImageDraw.Draw(self._image)
        self._numbers: dict[tuple[float, ...], int] = {}
        # Numbers, not objects: a thousand little objects a picture keep Python's garbage collector busy.
        self._materials = array("f", [0.0] * _COLUMNS)
        self._instances: list[tuple[str, tuple[float, float, float, float]]] = []
        self._instance = 0

    def raster(self) -> Raster:
        """What has been drawn."""
        index = np.asarray(self._image, dtype=np.int32)
        materials = np.array(self._materials, dtype=np.float32).reshape(-1, _COLUMNS)
        return Raster(self.scene, self.size, self.factor, index, materials, self._instances)

    def metre(self, z: float) -> float:
        """Pixels of the map that a metre takes at distance ``z``."""
        return self._camera.scale / max(z, NEAR)

    def ink(
        self,
        colour: Colour,
        depth: float,
        *,
        surface: int = OBJECT,
        facing: int = ROUND,
        light: int = DARK,
        shine: Colour = (0, 0, 0),
    ) -> int:
        """The number of a material: its colour by daylight, distance, and what it does in the dark and in the wet."""
        key = (*colour, depth, surface, facing, light, *shine, self._instance)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._materials) // _COLUMNS
            self._materials.extend(key)
        return number

    def polygon(self, points: Sequence[tuple[float, float, float]], ink: int) -> None:
        """A polygon through points (x, y, z)."""
        self._fill([value for point in points for value in self.point(*point)], ink)

    def shape(self, x: float, y: float, z: float, corners: Sequence[tuple[float, float]], ink: int) -> None:
        """An upright polygon that faces the camera, its corners relative to (x, y)."""
        self.polygon([(x + dx, y + dy, z) for dx, dy in corners], ink)

    def panel(self, x0: float, y0: float, x1: float, y1: float, z: float, ink: int) -> None:
        """An upright rectangle that faces the camera."""
        left, low = self.point(x0, y0, z)
        scale = self.metre(z)
        right, high = left + scale * (x1 - x0), low - scale * (y1 - y0) * self._camera.up
        self._fill([left, low, left, high, right, high, right, low], ink)

    def flank(self, x: float, y0: float, y1: float, z0: float, z1: float, ink: int) -> None:
        """An upright rectangle along the road."""
        (near, low), (far, far_low) = self.point(x, y0, z0), self.point(x, y0, z1)
        tall = (y1 - y0) * self._camera.up
        high, far_high = low - self.metre(z0) * tall, far_low - self.metre(z1) * tall
        self._fill([near, low, near, high, far, far_high, far, far_low], ink)

    def level(self, x0: float, x1: float, y: float, z0: float, z1: float, ink: int) -> None:
        """A level rectangle."""
        self.polygon([(x0, y, z0), (x1, y, z0), (x1, y, z1), (x0, y, z1)], ink)

    def disc(self, x: float, y: float, z: float, radius: float, ink: int, *, squash: float = 1.0) -> None:
        """An upright disc that faces the camera, ``squash`` times as high as wide."""
        cx, cy = self.point(x, y, z)
        rx = radius * self.metre(z)
        ry = rx * squash
        self._canvas.ellipse((cx - rx, cy - ry, cx + rx, cy + ry), fill=ink)
        if self._instance:
            self._cover([cx - rx, cx + rx], [cy - ry, cy + ry])

    def _fill(self, corners: list[float], ink: int) -> None:
        self._canvas.polygon(corners, fill=ink)
        if self._instance:
            self._cover(corners[::2], corners[1::2])

    def below_horizon(self, ink: int) -> None:
        """Everything below the horizon."""
        self._canvas.rectangle((0, self.point(0.0, 0.0, FAR)[1], self.width, self.height), fill=ink)

    def begin(self, name: str) -> None:
        """What is drawn from here to :meth:`end` is one instance of class ``name``."""
        self._instances.append((name, (1e9, 1e9, -1e9, -1e9)))
        self._instance = len(self._instances)

    def end(self) -> None:
        """The instance is complete."""
        self._instance = 0

    def _cover(self, xs: Sequence[float], ys: Sequence[float]) -> None:
        name, (x0, y0, x1, y1) = self._instances[self._instance - 1]
        self._instances[self._instance - 1] = (name, (min(x0, *xs), min(y0, *ys), max(x1, *xs), max(y1, *ys)))


def tint(colour: Colour, factor: float) -> Colour:
    """A colour made darker or lighter."""
    red, green, blue = (min(255, int(value * factor + 0.5)) for value in colour)
    return red, green, blue


def boxes(raster: Raster) -> list[Box]:
    """The instances that can be seen, with the box of what is visible of each, from far to near.

    Left out: what is smaller than 1/64 of the image height or 2 pixels, and what is mostly hidden.
    """
    height, width = raster.size
    factor = raster.factor
    owner = raster.materials[:, INSTANCE].astype(np.int32)
    least = max(2.0, height / 64)
    visible = []
    for number, (name, (x0, y0, x1, y1)) in enumerate(raster.instances, start=1):
        left, top = max(0, int(x0) - 1), max(0, int(y0) - 1)
        right, bottom = min(width * factor, int(x1) + 2), min(height * factor, int(y1) + 2)
        if right <= left or bottom <= top:
            continue
        mask = owner[raster.index[top:bottom, left:right]] == number
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            continue
        edges = (left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1)
        box = Box(name, *(float(edge) / factor for edge in edges))
        seen = (box.x1 - box.x0) * (box.y1 - box.y0) * factor**2
        whole = max(1.0, (x1 - x0) * (y1 - y0))
        if min(box.x1 - box.x0, box.y1 - box.y0) >= least and seen >= 0.4 * whole and mask.mean() >= 0.2:
            visible.append(box)
    return visible
