"""Light and its absence: cast shadows, lamps and headlights at night, and the glow around bright things."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from cgcl_fast.data.streets.looks import Light, Look
from cgcl_fast.data.streets.raster import EYE, LAMP, LAMP_EARLY, Camera
from cgcl_fast.data.streets.roadside import lamp_head
from cgcl_fast.data.streets.scene import CAR_HALF_WIDTH, Lamp, Scene, car_length

_AWAY = 0.62  # metres that a shadow reaches to the side for each metre of height
_SHADOW_STEPS = (3.0, 6.0, 12.0, 20.0, 30.0, 50.0, 80.0, 120.0)
_RING = ((1.0, 0.0), (0.7, 0.7), (0.0, 1.0), (-0.7, 0.7), (-1.0, 0.0), (-0.7, -0.7), (0.0, -1.0), (0.7, -0.7))

Point = tuple[float, float]  # on the ground: X and Z

# Colours of light on the street.
_LAMP: Light = (1.06, 0.86, 0.54)
_HEADLIGHT: Light = (0.98, 0.94, 0.82)
_TAILLIGHT: Light = (1.0, 0.12, 0.08)


def shadows(scene: Scene, size: tuple[int, int], depth: float) -> np.ndarray:
    """How much of the light does not reach the ground: float32 (H,W,1) from 0 to 1.

    ``depth`` is what a shadow cast by the sun takes; under cars and feet it is dark by any light.
    """
    height, width = size
    image = Image.new("L", (width * 2, height * 2), 0)
    canvas, camera = ImageDraw.Draw(image), Camera(scene, height * 2, width * 2)

    def fall(points: list[Point], tone: float) -> None:
        canvas.polygon([camera.point(x, 0.0, z) for x, z in points], fill=int(255 * tone))

    if depth:
        for outline in _cast(scene):
            fall(outline, depth)
    for car in scene.cars:
        half, end = CAR_HALF_WIDTH + 0.1, car.z + car_length(car)
        fall(
            [(car.x - half, car.z - 0.12), (car.x + half, car.z - 0.12), (car.x + half, end), (car.x - half, end)], 0.62
        )
    for person in scene.persons:
        x, z = person.x, person.z
        fall([(x - 0.3, z), (x, z - 0.2), (x + 0.3, z), (x, z + 0.2)], 0.4)
    soft = image.filter(ImageFilter.BoxBlur(max(1.0, height / 128))).reduce(2)
    return np.asarray(soft, dtype=np.float32)[..., None] * (1.0 / 255.0)


def _cast(scene: Scene) -> list[list[Point]]:
    """Outlines of the shadows that the sun casts on the ground."""
    away, wall = -scene.sun * _AWAY, scene.half_road + scene.sidewalk
    shadows: list[list[Point]] = []
    for building in scene.buildings:
        if building.side == scene.sun and building.far > 1.5:
            x, far = building.side * wall, min(building.far, 200.0)
            reach = min(building.height * _AWAY, wall + 0.55 * scene.half_road)
            steps = [max(building.near, 1.3), *(z for z in _SHADOW_STEPS if building.near < z < far), far]
            shadows.append([(x, z) for z in steps] + [(x - building.side * reach, z) for z in reversed(steps)])
    for tree in scene.trees:
        if tree.z < 60.0 and abs(tree.x) < wall:
            x, radius = tree.x + away * tree.height * 0.8, tree.radius * 1.1
            shadows.append(_line(tree.x, tree.z, x, tree.z + 0.4, 0.12))
            shadows.append([(x + radius * dx, tree.z + 0.4 + radius * 0.9 * dz) for dx, dz in _RING])
    for lamp in scene.lamps:
        shadows.append(_line(lamp.x, lamp.z, lamp.x + away * 6.0, lamp.z + 0.4, 0.06))
    for sign in scene.signs:
        x, z = sign.x + away * 2.5, sign.z + 0.25
        shadows.append(_line(sign.x, sign.z, x, z, 0.05))
        shadows.append([(x + 0.32 * dx, z + 0.32 * dz) for dx, dz in _RING])
    for person in scene.persons:
        x, z = person.x + away * person.height, person.z
        shadows.append(
            [(person.x - 0.12, z - 0.1), (person.x, z + 0.12), (x, z + 0.5), (x + 0.14, z + 0.3), (x - 0.1, z + 0.1)]
        )
    for car in scene.cars:
        x0, x1, end = car.x - CAR_HALF_WIDTH, car.x + CAR_HALF_WIDTH, car.z + car_length(car)
        x0, x1 = min(x0, x0 + away * 1.35), max(x1, x1 + away * 1.35)
        shadows.append([(x0, car.z + 0.2), (x1, car.z + 0.2), (x1, end), (x0, end)])
    return shadows


def _line(x0: float, z0: float, x1: float, z1: float, half: float) -> list[Point]:
    return [(x0, z0 - half), (x0, z0 + half), (x1, z1 + half), (x1, z1 - half)]


def night_light(scene: Scene, size: tuple[int, int], ground: np.ndarray, look: Look, lamplight: Light) -> np.ndarray:
    """The light of street lamps and headlights, in parts of daylight: float32 (H,W,3).

    ``lamplight`` is the colour of the street lamps'. ``ground`` (H,W,1) tells how much of a pixel is ground, where the
    light is computed in metres; on what stands upright it is painted.
    """
    floor = _ground_light(scene, size, look, lamplight)
    return floor * ground + _upright_light(scene, size, look, lamplight) * (1.0 - ground)


def _lamps(scene: Scene, look: Look) -> list[Lamp]:
    """Those that are lit."""
    lit = [bool(look.lights.get(kind)) for kind in (LAMP_EARLY, LAMP)]
    return [lamp for number, lamp in enumerate(scene.lamps) if lit[number % 2]]


def _ground_light(scene: Scene, size: tuple[int, int], look: Look, lamplight: Light) -> np.ndarray:
    height, width = size
    step = 2 if min(size) >= 128 else 1  # light on the ground is smooth
    rows, columns = -(-height // step), -(-width // step)
    camera = Camera(scene, height / step, width / step)
    top = min(rows - 1, int(camera.cy) + 1)
    below = np.maximum(np.arange(top, rows, dtype=np.float32) + 0.5 - camera.cy, 0.25)[:, None]
    z = np.float32(camera.scale * EYE) / below
    across = (np.arange(columns, dtype=np.float32) + 0.5 - np.float32(camera.cx))[None, :]
    x = across * (z / np.float32(camera.scale)) + np.float32(scene.camera) - np.float32(scene.curve) * z * z

    warm = np.zeros((rows - top, columns), dtype=np.float32)
    for lamp in _lamps(scene, look):
        if lamp.z < 70.0:
            head, _, lamp_z = lamp_head(lamp)
            warm += _pool(x - head, z - lamp_z, 3.4, 3.4)
    # Our own beam: wider with distance, from just before the bonnet until it is lost.
    spread = 1.1 + 0.11 * z
    inside = (x - scene.camera) / spread
    inside = inside * inside
    white = 0.62 / (1.0 + inside * inside) * np.clip((z - 2.4) / 3.0, 0.0, 1.0) / (1.0 + (z / 17.0) * (z / 17.0))
    red = np.zeros_like(warm)
    for car in scene.cars:
        if car.parked or car.z > 60.0:
            continue
        if car.oncoming:
            white = white + 0.8 * _pool(x - car.x, z - (car.z - 2.0), 1.25, 2.6)
        else:
            red += 0.55 * _pool(x - car.x, z - (car.z - 0.5), 1.1, 1.3)
    colours = zip(_times(_LAMP, lamplight), _HEADLIGHT, _TAILLIGHT, strict=True)
    lower = np.stack([warm * a + white * b + red * c for a, b, c in colours], axis=-1)
    if step > 1:
        layer = Image.fromarray(np.clip(lower * 100.0 + 0.5, 0.0, 255.0).astype(np.uint8))
        enlarged = layer.resize((columns * step, (rows - top) * step), Image.Resampling.BILINEAR)
        lower = np.asarray(enlarged, dtype=np.float32)[: height - top * step, :width] * 0.01
    light = np.zeros((height, width, 3), dtype=np.float32)
    light[top * step :] = lower[: height - top * step]
    return light


def _times(colour: Light, light: Light) -> Light:
    return colour[0] * light[0], colour[1] * light[1], colour[2] * light[2]


def _shade(colour: Light) -> tuple[int, int, int]:
    red, green, blue = (min(255, int(value + 0.5)) for value in colour)
    return red, green, blue


def _pool(dx: np.ndarray, dz: np.ndarray, radius_x: float, radius_z: float) -> np.ndarray:
    """Light on the ground that falls off from a point: 1 there, a quarter at the radius."""
    dx, dz = dx * np.float32(1.0 / radius_x), dz * np.float32(1.0 / radius_z)
    fall = 1.0 / (1.0 + dx * dx + dz * dz)
    return fall * fall


def _upright_light(scene: Scene, size: tuple[int, int], look: Look, lamplight: Light) -> np.ndarray:
    height, width = size
    image = Image.new("RGB", (width, height), (0, 0, 0))
    canvas, camera = ImageDraw.Draw(image), Camera(scene, height, width)
    for lamp in sorted(_lamps(scene, look), key=lambda lamp: -lamp.z):
        x, y, z = lamp_head(lamp)
        head, foot = camera.point(x, y, z), camera.point(x, 0.0, z)
        for spread, warm in ((6.0, (40.0, 33.0, 21.0)), (3.0, (66.0, 55.0, 36.0))):
            colour = _shade(_times(warm, lamplight))
            reach = spread * camera.scale / z
            canvas.polygon([head, (foot[0] - reach, foot[1]), (foot[0] + reach, foot[1])], fill=colour)
    # What stands in our own beam.
    beam = [camera.point(scene.camera + side * 3.6, y, 24.0) for side, y in ((-1, 0.0), (-1, 1.3), (1, 1.3), (1, 0.0))]
    canvas.polygon(beam, fill=(84, 82, 72))
    soft = image.filter(ImageFilter.BoxBlur(height / 26)).filter(ImageFilter.BoxBlur(height / 52))
    return np.asarray(soft, dtype=np.float32) * (1.0 / 128.0)


def glow(shine: np.ndarray) -> np.ndarray:
    """What bright lights spill around them: float32 (H,W,3)."""
    height = shine.shape[0]
    image = Image.fromarray(np.clip((shine - 96.0) * 1.6, 0.0, 255.0).astype(np.uint8))
    near = image.filter(ImageFilter.BoxBlur(height / 110)).filter(ImageFilter.BoxBlur(height / 110))
    wide = image.filter(ImageFilter.BoxBlur(height / 22)).filter(ImageFilter.BoxBlur(height / 30))
    return np.asarray(near, dtype=np.float32) * 0.5 + np.asarray(wide, dtype=np.float32) * 1.1
