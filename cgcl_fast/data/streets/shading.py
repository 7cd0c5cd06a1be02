"""How a drawn scene looks in a domain: sunny, night, cloudy or rainy.

Only additions, multiplications, divisions, square roots and Pillow's filters are used: they give the same bits on every
machine, which powers, exponentials and sines do not promise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from cgcl_fast.data.streets.raster import (
    ASPHALT,
    CAR_HALF_WIDTH,
    FRONT,
    HEADLIGHT,
    LAMP,
    LEFT_WALL,
    RETRO,
    RIGHT_WALL,
    SHOP,
    TAILLIGHT,
    WINDOW,
    WINDOW_EARLY,
    Camera,
    Raster,
    car_length,
    draw,
    lamp_head,
)
from cgcl_fast.data.streets.scene import Scene
from cgcl_fast.data.unpaired import item_random

DOMAINS = ("sunny", "night", "cloudy", "rainy")


@dataclass(frozen=True)
class _Look:
    zenith: tuple[int, int, int]
    skyline: tuple[int, int, int]  # the sky at the horizon, which distant things fade into
    ambient: tuple[float, float, float]
    lit: float  # walls that look at the sun, and away from it
    unlit: float
    colour: float  # saturation
    sight: float  # distance at which half of the contrast is left, m
    shadow: float  # how much light a cast shadow takes
    clouds: float  # cover, 0 to 1
    cloud: tuple[int, int, int]
    lights: dict[int, float]
    glow: float


_LOOKS = {
    "sunny": _Look((72, 132, 206), (206, 226, 240), (1.08, 1.04, 0.96), 1.12, 0.70, 1.08, 330.0, 0.46, 0.34,
                   (252, 252, 252), {}, 0.0),
    "cloudy": _Look((150, 160, 170), (206, 210, 212), (0.86, 0.88, 0.90), 0.98, 0.92, 0.74, 190.0, 0.0, 1.0,
                    (204, 208, 212), {SHOP: 0.12}, 0.0),
    "rainy": _Look((92, 102, 114), (158, 166, 172), (0.60, 0.65, 0.71), 0.98, 0.92, 0.64, 85.0, 0.0, 1.0,
                   (120, 128, 138), {WINDOW_EARLY: 0.62, SHOP: 0.55, HEADLIGHT: 1.0, TAILLIGHT: 0.9}, 0.55),
    "night": _Look((8, 11, 30), (46, 42, 66), (0.17, 0.20, 0.33), 1.0, 0.94, 0.82, 260.0, 0.0, 0.22,
                   (34, 36, 58), {WINDOW: 0.92, WINDOW_EARLY: 0.92, SHOP: 0.9, HEADLIGHT: 1.0, TAILLIGHT: 1.0, LAMP: 1.0,
                                  RETRO: 0.16}, 0.8),
}  # fmt: skip


def shade(raster: Raster, domain: str) -> np.ndarray:
    """The image of a drawn scene in a domain: uint8 (H,W,3).

    Raises:
        ValueError: an unknown domain.
    """
    if domain not in _LOOKS:
        raise ValueError(f"domain must be one of {', '.join(DOMAINS)}, got {domain!r}")
    look, scene = _LOOKS[domain], raster.scene
    sky = _sky(scene, raster.size, domain)
    surface, extra = _look_up(raster, look)
    objects, wet = surface[..., 3:] / 255.0, extra[..., 3:]
    light = np.array(look.ambient, dtype=np.float32) + np.zeros((*raster.size, 3), dtype=np.float32)
    ground = np.minimum(wet, 30.0) / 30.0
    light *= 1.0 - ground * _shadows(scene, raster.size, look.shadow)
    light *= 1.0 + (_grain(scene, raster.size) - 128.0) * (0.0008 + 0.0006 * ground)
    if domain == "night":
        light += _lamp_light(scene, raster.size)
    image = surface[..., :3] * light
    if domain == "rainy":
        image *= 1.0 - 0.3 * ground
    image += extra[..., :3] + (1.0 - objects) * sky
    if domain == "rainy":
        image = _reflect(image, raster, look, sky, wet)
    if look.glow:
        image += look.glow * _glow(extra[..., :3])
    if domain == "rainy":
        image = _rain(image, scene)
    return np.clip(image + 0.5, 0.0, 255.0).astype(np.uint8)


def _look_up(raster: Raster, look: _Look) -> tuple[np.ndarray, np.ndarray]:
    """Two float32 (H,W,4) maps: (reflected colour, coverage by anything but sky), (own light and haze, wetness)."""
    scene, materials = raster.scene, raster.materials
    colour = np.array([material.colour for material in materials], dtype=np.float32)
    gray = colour[:, :1] * 0.30 + colour[:, 1:2] * 0.59 + colour[:, 2:] * 0.11
    colour = gray + (colour - gray) * look.colour
    factors = {LEFT_WALL: look.unlit, RIGHT_WALL: look.lit, FRONT: (look.lit + look.unlit) / 2}
    if scene.sun > 0:
        factors[LEFT_WALL], factors[RIGHT_WALL] = factors[RIGHT_WALL], factors[LEFT_WALL]
    colour *= np.array([[factors.get(material.facing, 1.0)] for material in materials], dtype=np.float32)
    depth = np.array([[material.depth] for material in materials], dtype=np.float32) / look.sight
    clear = 1.0 / (1.0 + depth * depth)
    strength = np.array([[look.lights.get(material.light, 0.0)] for material in materials], dtype=np.float32)
    shine = np.array([material.shine for material in materials], dtype=np.float32) * strength
    fog = np.array(look.skyline, dtype=np.float32) * (1.0 - clear)
    objects = np.full((len(materials), 1), 255.0, dtype=np.float32)
    wetness = np.array([[material.surface] for material in materials], dtype=np.float32)
    first = np.concatenate([colour * clear * (1.0 - 0.55 * strength), objects], axis=1)
    second = np.concatenate([shine * (0.4 + 0.6 * clear) + fog, wetness], axis=1)
    first[0] = second[0] = 0.0  # the sky
    return _average(raster, first), _average(raster, second)


def _average(raster: Raster, table: np.ndarray) -> np.ndarray:
    # Four bytes are looked up as one number, and averaged by Pillow as four channels that mean nothing to it.
    packed = np.ascontiguousarray(np.clip(table + 0.5, 0.0, 255.0).astype(np.uint8)).view("<u4").reshape(-1)
    pixels = packed.take(raster.index)
    full = Image.frombuffer(
        "RGBX", (pixels.shape[1], pixels.shape[0]), pixels.astype("<u4", copy=False).tobytes(), "raw", "RGBX", 0, 1
    )
    return np.asarray(full.reduce(raster.factor), dtype=np.float32)


# ---- sky


def _noise(seed: int, name: str, size: tuple[int, int], cells: tuple[int, ...], aspect: int = 1) -> np.ndarray:
    """Smooth noise, mean near 128: random grids of the given numbers of cells, enlarged, averaged by falling weight."""
    total = np.zeros(size, dtype=np.float32)
    weight, weights = 1.0, 0.0
    generator = np.random.RandomState(int(item_random(seed, name).random() * 2**31))
    for count in cells:
        grid = generator.randint(0, 256, (count * aspect + 1, count + 1)).astype(np.uint8)
        layer = Image.fromarray(grid).resize((size[1], size[0]), Image.Resampling.BICUBIC)
        total += weight * np.asarray(layer, dtype=np.float32)
        weights += weight
        weight *= 0.55
    return total / weights


def _sky(scene: Scene, size: tuple[int, int], domain: str) -> np.ndarray:
    look, (height, width) = _LOOKS[domain], size
    horizon = max(1, int(scene.horizon * height + 0.5))
    rows = np.minimum(np.arange(height, dtype=np.float32) / horizon, 1.0)[:, None, None]
    blend = rows * (0.4 + 0.6 * rows)
    sky = np.array(look.zenith, dtype=np.float32) * (1.0 - blend) + np.array(look.skyline, dtype=np.float32) * blend
    sky = np.broadcast_to(sky, (height, width, 3)).copy()
    if domain == "night":
        sky[:horizon] += _stars(scene, horizon, width)
    cover = np.zeros((height, width), dtype=np.float32)
    noise = _noise(scene.seed, "clouds", (horizon, width), (3, 7, 14, 28, 56), aspect=2)
    if domain in ("sunny", "night"):
        cover[:horizon] = np.clip((noise - 146.0 + 40.0 * look.clouds) / 34.0, 0.0, 1.0)
        tone = np.clip((noise - 120.0) / 80.0, 0.0, 1.0)
        bright = np.array(look.cloud, dtype=np.float32) * (0.90 + 0.10 * tone[..., None])
        amount = (cover[:horizon] * (1.0 - 0.7 * rows[:horizon, :, 0]))[..., None]
        sky[:horizon] += (bright - sky[:horizon]) * amount
    else:
        sky[:horizon] *= 1.0 + (noise[..., None] - 128.0) * (0.0042 if domain == "rainy" else 0.0034) * (
            1.0 - 0.8 * rows[:horizon]
        )
    if domain == "sunny":
        _add_disc(sky[:horizon], scene, (60, 52, 30), 0.0, 0.9)
    elif domain == "night":
        _add_disc(sky[:horizon], scene, (44, 44, 52), 0.026, 0.30)
    return np.clip(sky, 0.0, 255.0)


def _add_disc(sky: np.ndarray, scene: Scene, halo: tuple[int, int, int], radius: float, reach: float) -> None:
    """The halo of the sun, which stands outside the picture's middle, or the moon with its halo."""
    horizon, width = sky.shape[:2]
    height = horizon / scene.horizon
    where = item_random(scene.seed, "moon").random
    x = width / 2 + scene.sun * width * (0.12 + 0.25 * where())
    y = horizon * (0.16 + 0.22 * where())
    dx = (np.arange(width, dtype=np.float32) - x)[None, :] / height
    dy = (np.arange(horizon, dtype=np.float32) - y)[:, None] / height
    distance = np.sqrt(dx * dx + dy * dy)  # correctly rounded everywhere, unlike powers
    fall = np.clip(1.0 - distance / reach, 0.0, 1.0)
    sky += (fall * fall)[..., None] * np.array(halo, dtype=np.float32)
    if radius:
        disc = np.clip((radius - distance) * height + 0.5, 0.0, 1.0)[..., None]
        crater = np.clip((np.sqrt((dx - 0.008) ** 2 + (dy + 0.006) ** 2) - 0.004) / 0.006, 0.0, 1.0)[..., None]
        sky += (np.array((238, 236, 220), dtype=np.float32) * (0.88 + 0.12 * crater) - sky) * disc


def _stars(scene: Scene, horizon: int, width: int) -> np.ndarray:
    layer = np.zeros((horizon, width, 1), dtype=np.float32)
    chance = item_random(scene.seed, "stars").random
    # As bright in a small picture, where a star fills a larger part of the sky, as in a large one.
    size = min(1.0, horizon / 110.0)
    for _ in range(90):
        y, x, bright = chance(), chance(), chance()
        layer[int(y * 0.85 * horizon), int(x * width)] += (40.0 + 180.0 * bright * bright) * size
    return layer


# ---- light


def _shadows(scene: Scene, size: tuple[int, int], depth: float) -> np.ndarray:
    """What the sun does not reach, and the dark under cars and feet: float32 (H,W,1), 0 to 1."""
    height, width = size
    factor = 2
    camera = Camera(scene, height * factor, width * factor)
    image = Image.new("L", (width * factor, height * factor), 0)
    canvas = ImageDraw.Draw(image)

    def fall(points: list[tuple[float, float]], tone: float) -> None:
        canvas.polygon([camera.point(x, 0.0, z) for x, z in points], fill=int(255 * tone))

    if depth:
        away = -scene.sun * 0.62  # metres to the side for each metre of height
        wall = scene.half_road + scene.sidewalk
        for building in scene.buildings:
            if building.side == scene.sun and building.far > 1.5:
                reach = min(building.height * 0.62, wall + 0.55 * scene.half_road)
                x = building.side * wall
                far = min(building.far, 200.0)
                steps = [
                    max(building.near, 1.3),
                    *(z for z in (3.0, 6.0, 12.0, 20.0, 30.0, 50.0, 80.0, 120.0) if building.near < z < far),
                    far,
                ]
                fall([(x, z) for z in steps] + [(x - building.side * reach, z) for z in reversed(steps)], depth)
        for tree in scene.trees:
            if tree.z < 60.0 and abs(tree.x) < wall:
                x, r = tree.x + away * tree.height * 0.8, tree.radius * 1.1
                fall(
                    [
                        (tree.x - 0.12, tree.z),
                        (tree.x + 0.12, tree.z),
                        (x + 0.12, tree.z + 0.4),
                        (x - 0.12, tree.z + 0.4),
                    ],
                    depth,
                )
                ring = ((1, 0), (0.7, 0.7), (0, 1), (-0.7, 0.7), (-1, 0), (-0.7, -0.7), (0, -1), (0.7, -0.7))
                fall([(x + r * dx, tree.z + 0.4 + r * 0.9 * dz) for dx, dz in ring], depth)
        for lamp in scene.lamps:
            fall(
                [
                    (lamp.x, lamp.z - 0.06),
                    (lamp.x, lamp.z + 0.06),
                    (lamp.x + away * 6, lamp.z + 0.5),
                    (lamp.x + away * 6, lamp.z + 0.3),
                ],
                depth,
            )
        for sign in scene.signs:
            x = sign.x + away * 2.5
            fall([(sign.x, sign.z - 0.04), (sign.x, sign.z + 0.04), (x, sign.z + 0.3), (x, sign.z + 0.2)], depth)
            fall([(x - 0.3, sign.z), (x + 0.3, sign.z), (x + 0.3, sign.z + 0.5), (x - 0.3, sign.z + 0.5)], depth)
        for person in scene.persons:
            x, z = person.x + away * person.height, person.z
            fall(
                [
                    (person.x - 0.12, z - 0.1),
                    (person.x, z + 0.12),
                    (x, z + 0.5),
                    (x + 0.14, z + 0.3),
                    (x - 0.1, z + 0.1),
                ],
                depth,
            )
        for car in scene.cars:
            x0, x1 = car.x - CAR_HALF_WIDTH, car.x + CAR_HALF_WIDTH
            reach, end = away * 1.35, car.z + car_length(car)
            x0, x1 = min(x0, x0 + reach), max(x1, x1 + reach)
            fall([(x0, car.z + 0.2), (x1, car.z + 0.2), (x1, end), (x0, end)], depth)
    for car in scene.cars:
        x0, x1, end = car.x - CAR_HALF_WIDTH - 0.1, car.x + CAR_HALF_WIDTH + 0.1, car.z + car_length(car)
        fall([(x0, car.z - 0.12), (x1, car.z - 0.12), (x1, end), (x0, end)], 0.62)
    for person in scene.persons:
        x, z = person.x, person.z
        fall([(x - 0.3, z), (x, z - 0.2), (x + 0.3, z), (x, z + 0.2)], 0.4)
    soft = image.filter(ImageFilter.BoxBlur(max(1.0, height / 128))).reduce(factor)
    return np.asarray(soft, dtype=np.float32)[..., None] / 255.0


def _lamp_light(scene: Scene, size: tuple[int, int]) -> np.ndarray:
    """Light of street lamps, of our own headlights and of those of others, on what is there: float32 (H,W,3)."""
    height, width = size
    camera = Camera(scene, height, width)
    image = Image.new("RGB", (width, height), (0, 0, 0))
    canvas = ImageDraw.Draw(image)

    def pool(x: float, z: float, radius: float, colour: tuple[int, int, int]) -> None:
        left, _ = camera.point(x - radius, 0.0, z)
        right, _ = camera.point(x + radius, 0.0, z)
        _, top = camera.point(x, 0.0, z + radius)
        _, bottom = camera.point(x, 0.0, z - radius)
        canvas.ellipse((left, top, right, bottom), fill=colour)

    # Our own beam first, then from far to near; what is lit twice keeps the nearer light.
    beam = [(-1.2, 3.2), (-3.4, 26.0), (3.4, 26.0), (1.2, 3.2)]
    canvas.polygon([camera.point(scene.camera + x, 0.0, z) for x, z in beam], fill=(62, 60, 54))
    canvas.polygon([camera.point(scene.camera + x * 0.6, 0.0, z * 0.8) for x, z in beam], fill=(84, 82, 74))
    for lamp in sorted(scene.lamps, key=lambda lamp: -lamp.z):
        x, y, z = lamp_head(lamp)
        head, foot = camera.point(x, y, z), camera.point(x, 0.0, z)
        spread = 3.2 * camera.scale / z
        canvas.polygon([head, (foot[0] - spread, foot[1]), (foot[0] + spread, foot[1])], fill=(52, 45, 30))
        pool(x, z, 5.6, (74, 62, 42))
        pool(x, z, 3.6, (128, 106, 70))
    for car in scene.cars:
        if car.parked:
            continue
        if car.oncoming:
            pool(car.x, max(3.0, car.z - 3.2), 1.9, (120, 116, 104))
        else:
            pool(car.x, max(2.5, car.z - 0.8), 1.3, (92, 20, 16))
    soft = image.filter(ImageFilter.BoxBlur(height / 26)).filter(ImageFilter.BoxBlur(height / 52))
    return np.asarray(soft, dtype=np.float32) * (1.0 / 128.0)


def _glow(shine: np.ndarray) -> np.ndarray:
    """What bright lights spill around them."""
    bright = np.clip((shine - 96.0) * 1.6, 0.0, 255.0)
    height = shine.shape[0]
    image = Image.fromarray(bright.astype(np.uint8))
    near = image.filter(ImageFilter.BoxBlur(height / 110)).filter(ImageFilter.BoxBlur(height / 110))
    wide = image.filter(ImageFilter.BoxBlur(height / 22)).filter(ImageFilter.BoxBlur(height / 30))
    return np.asarray(near, dtype=np.float32) * 0.5 + np.asarray(wide, dtype=np.float32) * 1.1


def _grain(scene: Scene, size: tuple[int, int]) -> np.ndarray:
    fine = max(8, min(size) // 3)
    return _noise(scene.seed, "grain", size, (fine // 4, fine // 2, fine))[..., None]


# ---- rain


def _reflect(image: np.ndarray, raster: Raster, look: _Look, sky: np.ndarray, wet: np.ndarray) -> np.ndarray:
    """The wet road shows the street upside down, blurred along the vertical, the more the flatter it is looked at."""
    scene, height = raster.scene, raster.size[0]
    mirrored = draw(scene, raster.size, mirrored=True)
    surface, extra = _look_up(mirrored, look)
    horizon = scene.horizon * height
    rows = np.clip((2 * horizon - np.arange(height)).astype(np.int64), 0, height - 1)
    under = sky[rows]
    shown = surface[..., :3] * np.array(look.ambient, dtype=np.float32) + 1.5 * extra[..., :3]
    shown += (1.0 - surface[..., 3:] / 255.0) * under
    smeared = Image.fromarray(np.clip(shown, 0.0, 255.0).astype(np.uint8))
    smeared = smeared.filter(ImageFilter.BoxBlur((height / 256, height / 32)))
    down = np.clip((np.arange(height, dtype=np.float32) - horizon) / (height - horizon), 0.0, 1.0)[:, None, None]
    puddles = np.clip((_noise(scene.seed, "puddles", raster.size, (3, 6, 12), aspect=4) - 118.0) / 26.0, 0.0, 1.0)[
        ..., None
    ]
    share = wet / float(ASPHALT) * (0.26 + 0.34 * (1.0 - down) * (1.0 - down) + 0.34 * puddles)
    return image + (np.asarray(smeared, dtype=np.float32) - image) * np.clip(share, 0.0, 0.85)


def _rain(image: np.ndarray, scene: Scene) -> np.ndarray:
    height, width = image.shape[:2]
    factor = 2
    layer = Image.new("L", (width * factor, height * factor), 0)
    canvas = ImageDraw.Draw(layer)
    chance = item_random(scene.seed, "rain").random
    slant = 0.1 + 0.16 * chance()
    for _ in range(230):
        x, y, near = chance() * 1.2 - 0.1, chance() * 1.1 - 0.1, chance()
        length = (0.025 + 0.05 * near) * height * factor
        x, y = x * width * factor, y * height * factor
        canvas.line(
            (x, y, x - slant * length, y + length),
            fill=int(40 + 60 * near),
            width=max(1, int(height * factor * 0.0022)),
        )
    horizon = scene.horizon * height
    for _ in range(110):  # drops that hit the road
        x, far = chance() * width * factor, chance()
        y = (horizon + (height - horizon) * (0.12 + 0.88 * far)) * factor
        radius = (0.003 + 0.011 * far) * height * factor
        canvas.ellipse((x - radius, y - radius * 0.35, x + radius, y + radius * 0.35), outline=int(30 + 50 * far))
    drops = np.asarray(layer.reduce(factor), dtype=np.float32)[..., None] / 255.0
    return image + (np.array((206, 214, 222), dtype=np.float32) - image) * drops
