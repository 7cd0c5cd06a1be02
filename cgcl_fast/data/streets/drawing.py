"""Draws a whole scene: the ground first, then everything else from far to near."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from cgcl_fast.data.streets.buildings import draw_building, draw_skyline
from cgcl_fast.data.streets.cars import draw_car
from cgcl_fast.data.streets.ground import draw_ground
from cgcl_fast.data.streets.raster import Pen, Raster
from cgcl_fast.data.streets.roadside import draw_lamp, draw_person, draw_sign, draw_tree
from cgcl_fast.data.streets.scene import Scene


def draw(scene: Scene, size: tuple[int, int], *, mirrored: bool = False) -> Raster:
    """Draw a scene at (height, width); ``mirrored``: upside down as the wet road reflects it, without the ground."""
    pen = Pen(scene, size, mirrored=mirrored)
    if not mirrored:
        draw_ground(pen)
    draw_skyline(pen)
    wall = scene.half_road + scene.sidewalk
    # Nothing behind the walls can cover anything in the street between them.
    behind: list[tuple[float, Callable[[], None]]] = []
    behind += [(building.near, partial(draw_building, pen, building)) for building in scene.buildings]
    behind += [(tree.z, partial(draw_tree, pen, tree)) for tree in scene.trees if abs(tree.x) > wall]
    street: list[tuple[float, Callable[[], None]]] = []
    street += [(car.z, partial(draw_car, pen, car)) for car in scene.cars]
    street += [(person.z, partial(draw_person, pen, person)) for person in scene.persons]
    street += [(sign.z, partial(draw_sign, pen, sign)) for sign in scene.signs]
    street += [(tree.z, partial(draw_tree, pen, tree)) for tree in scene.trees if abs(tree.x) <= wall]
    street += [
        (lamp.z, partial(draw_lamp, pen, lamp, early=number % 2 == 0)) for number, lamp in enumerate(scene.lamps)
    ]
    for things in (behind, street):
        for _, draw_it in sorted(things, key=lambda pair: pair[0], reverse=True):
            draw_it()
    return pen.raster()
