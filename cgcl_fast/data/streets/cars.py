"""Draws cars, from behind or from the front."""

from __future__ import annotations

from typing import NamedTuple

from cgcl_fast.data.streets.raster import DARK, FRONT, HEADLIGHT, LEFT_WALL, RIGHT_WALL, TAILLIGHT, Pen, tint
from cgcl_fast.data.streets.scene import CAR_HALF_WIDTH, Car, car_length


class _Body(NamedTuple):
    """Heights in metres, and where along the length the cabin begins and ends, at the belt and at the roof."""

    belt: float
    roof: float
    low: float
    high: float
    far_high: float
    far_low: float

    def reversed(self) -> _Body:
        return _Body(self.belt, self.roof, 1 - self.far_low, 1 - self.far_high, 1 - self.high, 1 - self.low)


_BODIES = {  # from behind
    "saloon": _Body(0.88, 1.42, 0.14, 0.20, 0.56, 0.70),
    "hatchback": _Body(0.90, 1.50, 0.02, 0.10, 0.56, 0.72),
    "van": _Body(1.05, 2.15, 0.00, 0.01, 0.80, 0.92),
}
# Corners of a wheel, written out so that no machine's sine comes in.
_CIRCLE = ((1.0, 0.0), (0.866, 0.5), (0.5, 0.866), (0.0, 1.0), (-0.5, 0.866), (-0.866, 0.5),
           (-1.0, 0.0), (-0.866, -0.5), (-0.5, -0.866), (0.0, -1.0), (0.5, -0.866), (0.866, -0.5))  # fmt: skip


def draw_car(pen: Pen, car: Car) -> None:
    """A car: the flank that is seen, the roof, and the end that faces the camera."""
    pen.begin("car")
    body = _BODIES[car.kind].reversed() if car.oncoming else _BODIES[car.kind]
    # The flank on the camera's side, as the road bends.
    side = 1.0 if car.x + pen.scene.curve * car.z * car.z < pen.scene.camera else -1.0
    _draw_flank(pen, car, body, side)
    _draw_end(pen, car, body)
    pen.end()


def _draw_flank(pen: Pen, car: Car, body: _Body, side: float) -> None:
    z, length, (belt, roof, *_) = car.z, car_length(car), body
    facing = LEFT_WALL if side > 0 else RIGHT_WALL
    x, top = car.x + side * CAR_HALF_WIDTH, car.x + side * CAR_HALF_WIDTH * 0.8  # the cabin narrows towards the roof
    paint, under = pen.ink(tint(car.paint, 0.86), z, facing=facing), pen.ink((30, 30, 32), z)
    glass = pen.ink((50, 62, 74), z, facing=facing)

    def point(y: float, along: float) -> tuple[float, float, float]:
        return x, y, z + along * length

    def cabin(along: float, up: float) -> tuple[float, float, float]:
        """A point of the cabin's side: ``along`` from its near to its far end, ``up`` from the belt to the roof."""
        low = body.low + (body.far_low - body.low) * along
        high = body.high + (body.far_high - body.high) * along
        return x + (top - x) * up, belt + (roof - belt) * up, z + (low + (high - low) * up) * length

    pen.flank(x, 0.2, 0.4, z, z + length, under)
    outline = ((0.3, 0.0), (belt - 0.06, 0.0), (belt, 0.1), (belt, 0.9), (belt - 0.06, 1.0), (0.3, 1.0))
    pen.polygon([point(y, along) for y, along in outline], paint)
    pen.level(car.x - CAR_HALF_WIDTH, car.x + CAR_HALF_WIDTH, belt, z, z + length, pen.ink(tint(car.paint, 1.18), z))
    pen.polygon([cabin(0.0, 0.0), cabin(0.0, 1.0), cabin(1.0, 1.0), cabin(1.0, 0.0)], paint)
    if car.kind == "van":
        windows = [(0.03, 0.22)] if car.oncoming else [(0.78, 0.97)]
    else:
        windows = [(0.08, 0.48), (0.53, 0.92)]
    for start, end in windows:
        pen.polygon([cabin(start, 0.12), cabin(start, 0.86), cabin(end, 0.86), cabin(end, 0.12)], glass)
    tyre, hub = pen.ink((32, 32, 34), z), pen.ink((150, 152, 156), z)
    for along in (0.19, 0.81):
        for radius, ink in ((0.34, tyre), (0.19, hub)):
            pen.polygon([(x, 0.33 + radius * dy, z + along * length + radius * dz) for dz, dy in _CIRCLE], ink)


def _draw_end(pen: Pen, car: Car, body: _Body) -> None:
    x, z, length, half, (belt, roof, *_) = car.x, car.z, car_length(car), CAR_HALF_WIDTH, body
    inner = half * 0.8
    low, high = z + body.low * length, z + body.high * length
    paint, under = pen.ink(car.paint, z, facing=FRONT), pen.ink((30, 30, 32), z)

    def screen(across: float, up: float) -> tuple[float, float, float]:
        """A point of the windscreen or rear window."""
        return x + across * (half + (inner - half) * up), belt + (roof - belt) * up, low + (high - low) * up

    pen.level(x - inner, x + inner, roof, high, z + body.far_high * length, pen.ink(tint(car.paint, 1.18), z))
    pen.polygon([screen(-1.0, 0.0), screen(-1.0, 1.0), screen(1.0, 1.0), screen(1.0, 0.0)], paint)
    sill = 0.5 if car.kind == "van" and not car.oncoming else 0.1
    glass = pen.ink((58, 72, 86), z, facing=FRONT)
    pen.polygon([screen(-0.9, sill), screen(-0.86, 0.88), screen(0.86, 0.88), screen(0.9, sill)], glass)
    for side in (-1.0, 1.0):
        pen.panel(x + side * 0.62, 0.0, x + side * 0.85, 0.4, z, pen.ink((32, 32, 34), z))
    pen.panel(x - half * 0.96, 0.2, x + half * 0.96, 0.45, z, under)
    shell = ((-1.0, 0.34), (-1.0, belt - 0.12), (-0.95, belt), (0.95, belt), (1.0, belt - 0.12), (1.0, 0.34))
    pen.shape(x, 0.0, z, [(dx * half, y) for dx, y in shell], paint)
    pen.panel(x - half, 0.34, x + half, 0.42, z, pen.ink(tint(car.paint, 0.7), z, facing=FRONT))
    pen.panel(x - 0.26, 0.48, x + 0.26, 0.6, z, pen.ink((196, 196, 190), z))
    top, bottom = belt - 0.12, belt - 0.34
    if car.oncoming:
        pen.panel(x - 0.45, bottom - 0.02, x + 0.45, top - 0.06, z, pen.ink((40, 42, 46), z))
        lights = pen.ink((226, 230, 232), z, light=DARK if car.parked else HEADLIGHT, shine=(255, 246, 222))
    else:
        lights = pen.ink((168, 34, 34), z, light=DARK if car.parked else TAILLIGHT, shine=(255, 46, 34))
    for side in (-1.0, 1.0):
        pen.panel(x + side * 0.52, bottom, x + side * 0.84, top, z, lights)
