"""Built-in data: seeded street scenes, rendered in four domains.

    scene = generate_scene(7)
    day, night = render(scene, "sunny", 256), render(scene, "night", 256)      # uint8 (256,256,3), the same street
    another_night = render(scene, "night", 256, like=generate_scene(8))          # in the look of another scene
    scene_boxes(scene, 256)                                                    # its cars, persons and signs, in pixels

Domains change instances in other ways than the whole: at night windows, shops, lamps and the lights of cars go on
and light what is near them; rain wets the road, which then mirrors the street.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from cgcl_fast.data.streets.drawing import draw
from cgcl_fast.data.streets.looks import DOMAINS, look_of, typical_look
from cgcl_fast.data.streets.raster import Box, Raster, boxes
from cgcl_fast.data.streets.scene import CLASSES, Scene, generate_scene
from cgcl_fast.data.streets.shading import shade

__all__ = ["CLASSES", "DOMAINS", "Box", "Scene", "generate_scene", "render", "scene_boxes"]

MIN_SIZE, MAX_SIZE = 32, 1024


def render(scene: Scene, domain: str, size: int | tuple[int, int] = 256, *, like: Scene | None = None) -> np.ndarray:
    """A scene in a domain: uint8 RGB (height, width, 3).

    The same bits on every machine with one version of Pillow. Versions draw polygons a little differently: between 11.0
    and 13.0 some 0.5 % of the pixels differ, all on edges and by a few levels. The scene itself never differs.

    Args:
        scene: from :func:`generate_scene`.
        domain: one of ``DOMAINS``.
        size: side, or (height, width), of 32 to 1024 pixels.
        like: in the look that this scene, or another one, has in the domain: its hour and colour of light, its haze
            and wetness, as many lit windows and lamps; None: in the domain's typical look.

    Raises:
        ValueError: an unknown domain, or a size out of range.
    """
    look = typical_look(domain) if like is None else look_of(domain, like.seed)
    return shade(_drawn(scene, _checked(size)), look)


def scene_boxes(scene: Scene, size: int | tuple[int, int] = 256) -> list[Box]:
    """The visible cars, persons and signs (``CLASSES``) of a scene, the same in every domain.

    ``size`` is as for :func:`render`. What is mostly hidden or smaller than 1/64 of the image height is left out.

    Raises:
        ValueError: a size out of range.
    """
    return boxes(_drawn(scene, _checked(size)))


@lru_cache(maxsize=4)
def _drawn(scene: Scene, size: tuple[int, int]) -> Raster:
    # A scene is usually asked for in several domains, or with its boxes, in a row.
    return draw(scene, size)


def _checked(size: int | tuple[int, int]) -> tuple[int, int]:
    pair = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    if len(pair) != 2 or not all(isinstance(side, int) and MIN_SIZE <= side <= MAX_SIZE for side in pair):
        raise ValueError(f"size must be {MIN_SIZE} to {MAX_SIZE} pixels, or (height, width) of that, got {size!r}")
    return pair[0], pair[1]
