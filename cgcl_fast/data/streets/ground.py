"""Draws the road, its markings and the sidewalks."""

from __future__ import annotations

from cgcl_fast.data.random import item_random
from cgcl_fast.data.streets.raster import ASPHALT, FAR, GROUND, NEAR, PAVING, Pen, tint
from cgcl_fast.data.streets.scene import Colour

_STEPS = (NEAR, 1.8, 2.5, 3.5, 5.0, 7.0, 10.0, 14.0, 19.0, 26.0, 36.0, 50.0, 70.0, 100.0, 150.0, 230.0, FAR)
_HAZE = 14.0  # the ground is far away only where it is a few pixels high


def draw_ground(pen: Pen) -> None:
    """Everything that lies flat."""
    scene = pen.scene
    road, wall, tone = scene.half_road, scene.half_road + scene.sidewalk, scene.asphalt
    paving: Colour = (tone + 72, tone + 66, tone + 58)
    slab = pen.ink(paving, _HAZE, surface=PAVING)
    joint = pen.ink(tint(paving, 0.88), _HAZE, surface=PAVING)
    kerb = pen.ink((tone + 98, tone + 95, tone + 90), _HAZE, surface=PAVING)
    gutter = pen.ink((tone - 26, tone - 26, tone - 24), _HAZE, surface=PAVING)
    pen.below_horizon(pen.ink(scene.green, 40.0, surface=GROUND))
    for side in (-1, 1):
        middle = side * (road + 0.5 * scene.sidewalk)
        _strip(pen, side * road, side * wall, slab)
        z = 2.0
        while z < 36.0:
            _strip(pen, side * road, side * wall, joint, z, z + 0.05 + z * 0.003)
            z += 1.5
        _strip(pen, middle, middle + side * 0.06, joint, NEAR, 36.0)
        _strip(pen, side * (road - 0.04), side * (road + 0.26), kerb)
        _strip(pen, side * (road - 0.12), side * (road - 0.02), gutter)
    _strip(pen, -road, road, pen.ink((tone, tone, tone + 4), _HAZE, surface=ASPHALT))
    chance = item_random(scene.seed, "patches").random
    for _ in range(6):  # repairs and manholes
        x, z = (chance() * 2 - 1) * (road - 1.2), 3.0 + 24.0 * chance()
        shade = tone - 10 + int(18 * chance())
        ink = pen.ink((shade, shade, shade + 3), _HAZE, surface=ASPHALT)
        _strip(pen, x, x + 0.5 + 0.8 * chance(), ink, z, z + 0.6 + 3.0 * chance())
    _draw_markings(pen)


def _draw_markings(pen: Pen) -> None:
    scene = pen.scene
    road = scene.half_road
    white = pen.ink((226, 226, 220), _HAZE, surface=ASPHALT)
    yellow = pen.ink((226, 184, 72), _HAZE, surface=ASPHALT)
    for side in (-1, 1):
        _strip(pen, side * (road - 0.42), side * (road - 0.30), white, NEAR, 160.0)
    if scene.double_line:
        _strip(pen, -0.2, -0.08, yellow, NEAR, 200.0)
        _strip(pen, 0.08, 0.2, yellow, NEAR, 200.0)
    dashes = [] if scene.double_line else [0.0]
    if road > 6.0:
        dashes += [-road / 2, road / 2]
    z = NEAR + item_random(scene.seed, "dashes").random() * 4.0
    while z < 130.0:
        for x in dashes:
            _strip(pen, x - 0.08, x + 0.08, white, z, z + 3.0)
        z += 7.0
    if scene.crossing is not None:
        near, far = scene.crossing, scene.crossing + 3.0
        clear = pen.ink((scene.asphalt, scene.asphalt, scene.asphalt + 4), _HAZE, surface=ASPHALT)
        _strip(pen, -road + 0.5, road - 0.5, clear, near - 1.9, far + 0.3)
        x = -road + 0.6
        while x < road - 0.9:
            _strip(pen, x, x + 0.5, white, near, far)
            x += 1.0
        _strip(pen, 0.15, road - 0.5, white, near - 1.6, near - 1.25)


def _strip(pen: Pen, left: float, right: float, ink: int, near: float = NEAR, far: float = FAR) -> None:
    """A band of the ground along the road, in pieces so that it follows the curve."""
    steps = [near, *(z for z in _STEPS if near < z < far), far]
    pen.polygon([(left, 0.0, z) for z in steps] + [(right, 0.0, z) for z in reversed(steps)], ink)
