"""Draws the houses along the street and the town behind it."""

from __future__ import annotations

from collections.abc import Callable

from cgcl_fast.data.random import item_random
from cgcl_fast.data.streets.raster import (
    DARK,
    FRONT,
    LEFT_WALL,
    NEAR,
    RETRO,
    RIGHT_WALL,
    SHOP,
    WINDOW,
    WINDOW_EARLY,
    WINDOW_LATE,
    Pen,
    tint,
)
from cgcl_fast.data.streets.scene import Building, Colour

_WARM: tuple[Colour, ...] = ((255, 204, 122), (255, 224, 160), (250, 186, 104), (226, 226, 220))
_GLASS: tuple[Colour, ...] = ((92, 112, 132), (74, 92, 110), (112, 132, 148))
_FLOOR = 3.1
_FIRST_SILL = 4.1
_FRONT_WIDTH = 16.0

# wall(z0, z1, y0, y1, ink): a rectangle of the wall along the street.
_Wall = Callable[[float, float, float, float, int], None]


def draw_skyline(pen: Pen) -> None:
    """The town at the end of the road."""
    scene = pen.scene
    for number, (x, width, height, tone) in enumerate(scene.skyline):
        z = 260.0 + 5.0 * (len(scene.skyline) - number)
        # The road bends out of sight; the town at its end does not bend with it.
        x -= scene.curve * z * z * 0.6
        colour: Colour = (118 + tone, 122 + tone, 132 + tone)
        pen.panel(x, 0.0, x + width, height, z, pen.ink(colour, z, facing=FRONT))
        chance = item_random(scene.seed, "skyline", number).random
        glow = pen.ink(colour, z, facing=FRONT, light=WINDOW, shine=(255, 206, 130))
        for floor in range(2, int(height / 3.5)):
            for column in range(int(width / 4)):
                if chance() < 0.3:
                    left, low = x + 1.0 + column * 4.0, floor * 3.5
                    pen.panel(left, low, left + 1.8, low + 1.8, z, glow)


def draw_building(pen: Pen, building: Building) -> None:
    """The wall along the street, and the side that faces the camera, seen across gaps and over lower houses."""
    x = building.side * (pen.scene.half_road + pen.scene.sidewalk)
    near, far, height = max(building.near, NEAR), building.far, building.height
    if far <= NEAR + 0.3:
        return
    depth = max(near, 3.0)
    facing = LEFT_WALL if building.side < 0 else RIGHT_WALL

    def wall(z0: float, z1: float, y0: float, y1: float, ink: int) -> None:
        z0, z1 = max(z0, near), min(z1, far)
        if z0 < z1:
            pen.flank(x, y0, y1, z0, z1, ink)

    if building.near > NEAR:
        _draw_front(pen, building, x, depth)
    body = pen.ink(building.facade, depth, facing=facing)
    trim = pen.ink(building.trim, depth, facing=facing)
    shadow = pen.ink(tint(building.facade, 0.72), depth, facing=facing)
    wall(near, far, 0.0, height, body)
    if building.top == "gable" and building.near > NEAR:
        peak = (x, height + 3.0, (near + far) / 2)
        pen.polygon([(x, height, near), peak, (x, height, far)], body)
        for corner, colour in (((x, height, near), (112, 70, 60)), ((x, height, far), (98, 62, 54))):
            above = [(x, point[1] + 0.4, point[2]) for point in (peak, corner)]
            pen.polygon([corner, peak, *above], pen.ink(colour, depth, facing=facing))
    elif building.top == "cornice":
        wall(near, far, height - 0.5, height + 0.15, trim)
        wall(near, far, height - 0.75, height - 0.5, shadow)
    else:
        wall(near, far, height - 0.3, height, shadow)
    _draw_ground_floor(pen, building, wall, depth, facing)
    _draw_windows(pen, building, wall, depth, facing)


def _draw_ground_floor(pen: Pen, building: Building, wall: _Wall, depth: float, facing: int) -> None:
    z0, z1 = building.near, building.far
    if building.shop is None:
        door = _door(building)
        wall(z0, z1, 0.0, 0.8, pen.ink(tint(building.facade, 0.7), depth, facing=facing))
        wall(door - 0.2, door + 1.4, 0.0, 2.6, pen.ink(building.trim, depth, facing=facing))
        wall(door, door + 1.2, 0.0, 2.4, pen.ink((86, 62, 48), depth, facing=facing))
        return
    frame = pen.ink(tint(building.shop, 0.6), depth, facing=facing)
    glass = pen.ink((88, 104, 116), depth, facing=facing, light=SHOP, shine=(255, 216, 150))
    goods = pen.ink((120, 98, 84), depth, facing=facing, light=SHOP, shine=(190, 130, 80))
    wall(z0 + 0.3, z1 - 0.3, 0.0, 3.0, frame)
    pane = z0 + 0.6
    while pane + 1.0 < z1 - 0.3:
        end = min(pane + 2.6, z1 - 0.5)
        wall(pane, end, 0.5, 2.75, glass)
        wall(pane + 0.3, end - 0.3, 0.5, 1.2, goods)
        pane += 2.9
    awning = pen.ink(building.shop, depth, facing=facing, light=RETRO, shine=building.shop)
    wall(z0 + 0.2, z1 - 0.2, 2.85, 3.5, awning)


def _door(building: Building) -> float:
    return building.near + 0.35 * (building.far - building.near)


def _window_grid(building: Building, length: float) -> tuple[list[float], list[float]]:
    """Where windows begin along a wall of the building, and their sills."""
    columns = max(1, int((length - 0.8) / building.bay))
    margin = (length - columns * building.bay + building.bay - building.window[0]) / 2
    floors = int((building.height - 4.0) / _FLOOR)
    return [margin + i * building.bay for i in range(columns)], [_FIRST_SILL + i * _FLOOR for i in range(floors)]


def _draw_windows(pen: Pen, building: Building, wall: _Wall, depth: float, facing: int) -> None:
    width, tall = building.window
    starts, sills = _window_grid(building, building.far - building.near)
    if building.shop is None:
        sills = [1.1, *sills]
    chance = item_random(building.lights, "windows").random
    trim = pen.ink(building.trim, depth, facing=facing)
    shutter = pen.ink(tint(building.trim, 0.55), depth, facing=facing)
    door = _door(building)
    for sill in sills:
        for start in starts:
            draws = chance(), chance(), chance()  # drawn for every window, so that the size of the image changes none
            z = building.near + start
            if z + width < NEAR or (sill < 2.0 and door - 0.4 < z + width and z < door + 1.6):
                continue
            pixels = pen.metre(z + width)
            if pixels * width * 0.2 < 0.7 and pixels * tall < 1.2:
                continue
            light = _light(draws[0], early=0.16, usual=0.46, late=0.80)
            tone, shine = _GLASS[int(draws[1] * 3)], _WARM[int(draws[2] * 4)]
            if pixels > 5.0:
                wall(z - 0.12, z + width + 0.12, sill - 0.18, sill + tall + 0.1, trim)
            if building.shutters and pixels > 5.0:
                wall(z - 0.6, z - 0.12, sill - 0.05, sill + tall, shutter)
                wall(z + width + 0.12, z + width + 0.6, sill - 0.05, sill + tall, shutter)
            wall(z, z + width, sill, sill + tall, pen.ink(tone, depth, facing=facing, light=light, shine=shine))
            if pixels > 16.0:
                lower = pen.ink(tint(tone, 0.82), depth, facing=facing, light=light, shine=tint(shine, 0.8))
                wall(z, z + width, sill, sill + tall * 0.45, lower)
                wall(z + width * 0.5 - 0.04, z + width * 0.5 + 0.04, sill, sill + tall, trim)


def _light(draw: float, *, early: float, usual: float, late: float) -> int:
    """When a window is lit, of which the numbers say how many are, by ``draw`` from 0 to 1."""
    return WINDOW_EARLY if draw < early else WINDOW if draw < usual else WINDOW_LATE if draw < late else DARK


def _draw_front(pen: Pen, building: Building, x: float, depth: float) -> None:
    """The side that faces the camera."""
    width, tall = building.window
    z, side = building.near, building.side

    def panel(start: float, end: float, y0: float, y1: float, ink: int) -> None:
        pen.panel(x + side * start, y0, x + side * end, y1, z, ink)

    facade = tint(building.facade, 0.9)
    panel(0.0, _FRONT_WIDTH, 0.0, building.height, pen.ink(facade, depth, facing=FRONT))
    panel(0.0, _FRONT_WIDTH, 0.0, 0.8, pen.ink(tint(facade, 0.72), depth, facing=FRONT))
    panel(0.0, _FRONT_WIDTH, building.height - 0.4, building.height, pen.ink(tint(facade, 0.8), depth, facing=FRONT))
    if pen.metre(z) * width < 1.5:
        return
    chance = item_random(building.lights, "front").random
    trim = pen.ink(building.trim, depth, facing=FRONT)
    sill = _FIRST_SILL
    while sill + tall + 0.6 < building.height:
        start = 1.1
        while start + width < _FRONT_WIDTH:
            draw, tone, shine = chance(), _GLASS[int(chance() * 3)], _WARM[int(chance() * 4)]
            if sill + tall >= building.covered:
                light = _light(draw, early=0.0, usual=0.34, late=0.64)
                glass = pen.ink(tone, depth, facing=FRONT, light=light, shine=shine)
                panel(start - 0.12, start + width + 0.12, sill - 0.16, sill + tall + 0.1, trim)
                panel(start, start + width, sill, sill + tall, glass)
            start += building.bay * 1.35
        sill += _FLOOR
