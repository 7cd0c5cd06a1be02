"""Where things are in the image: a scene drawn as a map of material numbers, and the boxes of its instances.

Drawing numbers instead of colours lets one drawing serve every domain: what a material looks like by day or by night is
a table, looked up for the whole map at once. The map is supersampled, and averaged after the look-up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from cgcl_fast.data.streets.scene import Building, Car, Colour, Lamp, Person, Scene, Sign, Tree
from cgcl_fast.data.unpaired import item_random

FOCAL = 0.95  # of the image height
EYE = 2.0  # height of the camera, m
NEAR = 1.3  # nothing is drawn closer than this, m
FAR = 420.0

# What a surface does in the wet, and whether shadows and pools of light fall on it.
OBJECT, GROUND, PAVING, ASPHALT = 0, 30, 110, 255
# Which way it looks, for the sun.
ROUND, LEFT_WALL, RIGHT_WALL, FRONT = 0, 1, 2, 3
# When it shines.
DARK, WINDOW, WINDOW_EARLY, SHOP, HEADLIGHT, TAILLIGHT, LAMP, RETRO = range(8)


class Box(NamedTuple):
    """An instance: its class and its box in pixels, x to the right, y down, the second corner outside."""

    name: str
    x0: float
    y0: float
    x1: float
    y1: float


class Material(NamedTuple):
    colour: Colour
    depth: float
    surface: int = OBJECT
    facing: int = ROUND
    light: int = DARK
    shine: Colour = (255, 255, 255)
    instance: int = 0


@dataclass
class Raster:
    """A drawn scene.

    Attributes:
        materials: material 0 is the sky.
        index: int32 (height·factor, width·factor), a material each.
        instances: (class, all of its extent in pixels of the map) of instance 1, 2, ...
    """

    scene: Scene
    size: tuple[int, int]
    factor: int
    index: np.ndarray
    materials: list[Material]
    instances: list[tuple[str, tuple[float, float, float, float]]] = field(default_factory=list)


class Camera:
    """Projection of a scene to pixels."""

    def __init__(self, scene: Scene, height: float, width: float, *, mirrored: bool = False) -> None:
        self.scene = scene
        self.scale = FOCAL * height
        self.cx = width / 2 + scene.centre * height
        self.cy = scene.horizon * height
        self.up = -1.0 if mirrored else 1.0  # -1: what a mirror in the road's place would show

    def point(self, x: float, y: float, z: float) -> tuple[float, float]:
        z = max(z, NEAR)
        scale = self.scale / z
        return (
            self.cx + scale * (x - self.scene.camera + self.scene.curve * z * z),
            self.cy + scale * (EYE - self.up * y),
        )


def supersampling(size: tuple[int, int]) -> int:
    """Pixels drawn along each side of one pixel of the result."""
    return 4 if min(size) <= 96 else 3 if min(size) <= 320 else 2


def draw(scene: Scene, size: tuple[int, int], *, mirrored: bool = False) -> Raster:
    """Draw a scene at (height, width); ``mirrored``: upside down as the wet road reflects it, without the ground."""
    pen = _Pen(scene, size, mirrored)
    if not mirrored:
        _draw_ground(pen)
    _draw_skyline(pen)
    wall = scene.half_road + scene.sidewalk
    behind: list[Building | Tree] = [*scene.buildings, *(tree for tree in scene.trees if abs(tree.x) > wall)]
    for thing in sorted(behind, key=lambda t: t.near if isinstance(t, Building) else t.z, reverse=True):
        if isinstance(thing, Building):
            _draw_building(pen, thing)
        else:
            _draw_tree(pen, thing)
    street: list[tuple[float, Callable[[], None]]] = []
    street += [(car.z, partial(_draw_car, pen, car)) for car in scene.cars]
    street += [(person.z, partial(_draw_person, pen, person)) for person in scene.persons]
    street += [(sign.z, partial(_draw_sign, pen, sign)) for sign in scene.signs]
    street += [(tree.z, partial(_draw_tree, pen, tree)) for tree in scene.trees if abs(tree.x) <= wall]
    street += [(lamp.z, partial(_draw_lamp, pen, lamp)) for lamp in scene.lamps]
    for _, draw_it in sorted(street, key=lambda pair: pair[0], reverse=True):
        draw_it()
    return pen.raster()


def boxes(raster: Raster) -> list[Box]:
    """The instances that can be seen, with the box of what is visible of each, from far to near.

    Left out: what is smaller than 1/64 of the image height or 2 pixels, and what is mostly hidden.
    """
    height, width = raster.size
    factor = raster.factor
    owner = np.array([material.instance for material in raster.materials], dtype=np.uint8)[raster.index]
    least = max(2.0, height / 64)
    found = []
    for number, (name, (x0, y0, x1, y1)) in enumerate(raster.instances, start=1):
        left, top = max(0, int(x0) - 1), max(0, int(y0) - 1)
        right, bottom = min(width * factor, int(x1) + 2), min(height * factor, int(y1) + 2)
        if right <= left or bottom <= top:
            continue
        mask = owner[top:bottom, left:right] == number
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            continue
        box = Box(
            name,
            float(left + columns[0]) / factor,
            float(top + rows[0]) / factor,
            float(left + columns[-1] + 1) / factor,
            float(top + rows[-1] + 1) / factor,
        )
        seen = (box.x1 - box.x0) * (box.y1 - box.y0) * factor**2
        whole = max(1.0, (x1 - x0) * (y1 - y0))
        if min(box.x1 - box.x0, box.y1 - box.y0) >= least and seen >= 0.4 * whole and mask.mean() >= 0.2:
            found.append(box)
    return found


class _Pen:
    def __init__(self, scene: Scene, size: tuple[int, int], mirrored: bool) -> None:
        self.scene = scene
        self.size = size
        self.factor = supersampling(size)
        self.height, self.width = size[0] * self.factor, size[1] * self.factor
        self.camera = Camera(scene, self.height, self.width, mirrored=mirrored)
        self.point = self.camera.point
        self.image = Image.new("I", (self.width, self.height), 0)
        self.canvas = ImageDraw.Draw(self.image)
        self.materials = [Material((0, 0, 0), FAR)]
        self.numbers: dict[Material, int] = {}
        self.instances: list[tuple[str, tuple[float, float, float, float]]] = []
        self.instance = 0

    def raster(self) -> Raster:
        index = np.asarray(self.image, dtype=np.int32)
        return Raster(self.scene, self.size, self.factor, index, self.materials, self.instances)

    def metre(self, z: float) -> float:
        """Pixels of the map that a metre takes at distance ``z``."""
        return self.camera.scale / max(z, NEAR)

    def ink(
        self,
        colour: Colour,
        depth: float,
        surface: int = OBJECT,
        facing: int = ROUND,
        light: int = DARK,
        shine: Colour = (255, 255, 255),
    ) -> int:
        material = Material(colour, depth, surface, facing, light, shine, self.instance)
        number = self.numbers.get(material)
        if number is None:
            number = self.numbers[material] = len(self.materials)
            self.materials.append(material)
        return number

    def polygon(self, points: Sequence[tuple[float, float, float]], ink: int) -> None:
        flat = [self.point(*point) for point in points]
        self.canvas.polygon(flat, fill=ink)
        if self.instance:
            self._cover(flat)

    def disc(self, x: float, y: float, z: float, radius: float, ink: int, *, squash: float = 1.0) -> None:
        """An upright disc that faces the camera."""
        cx, cy = self.point(x, y, z)
        rx = radius * self.metre(z)
        ry = rx * squash
        self.canvas.ellipse((cx - rx, cy - ry, cx + rx, cy + ry), fill=ink)
        if self.instance:
            self._cover([(cx - rx, cy - ry), (cx + rx, cy + ry)])

    def begin(self, name: str) -> None:
        """What is drawn from here to ``end`` is one instance."""
        self.instances.append((name, (1e9, 1e9, -1e9, -1e9)))
        self.instance = len(self.instances)

    def end(self) -> None:
        self.instance = 0

    def _cover(self, points: Sequence[tuple[float, float]]) -> None:
        name, (x0, y0, x1, y1) = self.instances[self.instance - 1]
        xs, ys = [x for x, _ in points], [y for _, y in points]
        self.instances[self.instance - 1] = (name, (min(x0, *xs), min(y0, *ys), max(x1, *xs), max(y1, *ys)))


def tint(colour: Colour, factor: float) -> Colour:
    """A colour made darker or lighter."""
    red, green, blue = (min(255, int(value * factor + 0.5)) for value in colour)
    return red, green, blue


# ---- ground

_STEPS = (NEAR, 1.8, 2.5, 3.5, 5.0, 7.0, 10.0, 14.0, 19.0, 26.0, 36.0, 50.0, 70.0, 100.0, 150.0, 230.0, FAR)


def _strip(pen: _Pen, left: float, right: float, ink: int, near: float = NEAR, far: float = FAR) -> None:
    """A band of the ground along the road, in pieces so that it follows the curve."""
    steps = [near, *(z for z in _STEPS if near < z < far), far]
    points = [(left, 0.0, z) for z in steps] + [(right, 0.0, z) for z in reversed(steps)]
    pen.polygon(points, ink)


def _draw_ground(pen: _Pen) -> None:
    scene = pen.scene
    road, wall = scene.half_road, scene.half_road + scene.sidewalk
    _, horizon = pen.point(0.0, 0.0, FAR)
    pen.canvas.rectangle((0, horizon, pen.width, pen.height), fill=pen.ink(scene.green, 40.0, GROUND))
    tone = scene.asphalt
    paving: Colour = (tone + 72, tone + 66, tone + 58)
    for side in (-1, 1):
        _strip(pen, side * road, side * wall, pen.ink(paving, 14.0, PAVING))
        joint = pen.ink(tint(paving, 0.88), 14.0, PAVING)
        z = 2.0
        while z < 36.0:
            _strip(pen, side * road, side * wall, joint, z, z + 0.05 + z * 0.003)
            z += 1.5
        _strip(
            pen, side * (road + 0.5 * scene.sidewalk), side * (road + 0.5 * scene.sidewalk + 0.06), joint, NEAR, 36.0
        )
        _strip(
            pen, side * (road - 0.04), side * (road + 0.26), pen.ink((tone + 98, tone + 95, tone + 90), 14.0, PAVING)
        )
        _strip(
            pen, side * (road - 0.12), side * (road - 0.02), pen.ink((tone - 26, tone - 26, tone - 24), 14.0, PAVING)
        )
    _strip(pen, -road, road, pen.ink((tone, tone, tone + 4), 14.0, ASPHALT))
    chance = item_random(scene.seed, "patches").random
    for _ in range(6):  # repairs and manholes
        x, z = (chance() * 2 - 1) * (road - 1.2), 3.0 + 24.0 * chance()
        shade = tone - 10 + int(18 * chance())
        ink = pen.ink((shade, shade, shade + 3), 14.0, ASPHALT)
        _strip(pen, x, x + 0.5 + 0.8 * chance(), ink, z, z + 0.6 + 3.0 * chance())
    _draw_markings(pen)


def _draw_markings(pen: _Pen) -> None:
    scene = pen.scene
    road = scene.half_road
    white = pen.ink((226, 226, 220), 14.0, ASPHALT)
    yellow = pen.ink((226, 184, 72), 14.0, ASPHALT)
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
        _strip(pen, -road + 0.5, road - 0.5, pen.ink((scene.asphalt,) * 3, 14.0, ASPHALT), near - 1.9, far + 0.3)
        x = -road + 0.6
        while x < road - 0.9:
            _strip(pen, x, x + 0.5, white, near, far)
            x += 1.0
        _strip(pen, 0.15, road - 0.5, white, near - 1.6, near - 1.25)


# ---- buildings


def _draw_skyline(pen: _Pen) -> None:
    for number, (x, width, height, tone) in enumerate(pen.scene.skyline):
        z = 260.0 + 5.0 * (len(pen.scene.skyline) - number)
        # The road bends out of sight; the town at its end does not bend with it.
        x -= pen.scene.curve * z * z * 0.6
        ink = pen.ink((118 + tone, 122 + tone, 132 + tone), z, facing=FRONT)
        pen.polygon([(x, 0, z), (x, height, z), (x + width, height, z), (x + width, 0, z)], ink)
        lit = item_random(pen.scene.seed, "skyline", number).random
        glow = pen.ink((118 + tone, 122 + tone, 132 + tone), z, FRONT, light=WINDOW, shine=(255, 206, 130))
        for floor in range(2, int(height / 3.5)):
            for column in range(int(width / 4)):
                if lit() < 0.3:
                    left, low = x + 1.0 + column * 4.0, floor * 3.5
                    pen.polygon(
                        [(left, low, z), (left, low + 1.8, z), (left + 1.8, low + 1.8, z), (left + 1.8, low, z)], glow
                    )


_WARM: tuple[Colour, ...] = ((255, 204, 122), (255, 224, 160), (250, 186, 104), (226, 226, 220))


def _draw_building(pen: _Pen, building: Building) -> None:
    scene = pen.scene
    x = building.side * (scene.half_road + scene.sidewalk)
    near, far, height = max(building.near, NEAR), building.far, building.height
    if far <= NEAR + 0.3:
        return
    depth = max(near, 3.0)
    facing = LEFT_WALL if building.side < 0 else RIGHT_WALL

    def wall(z0: float, z1: float, y0: float, y1: float, ink: int) -> None:
        z0, z1 = max(z0, near), min(z1, far)
        if z0 < z1:
            pen.polygon([(x, y0, z0), (x, y1, z0), (x, y1, z1), (x, y0, z1)], ink)

    front = pen.ink(tint(building.facade, 0.9), depth, facing=FRONT)
    if building.near > NEAR:
        outer = x + building.side * 16.0
        pen.polygon([(x, 0, near), (x, height, near), (outer, height, near), (outer, 0, near)], front)
        _draw_front_windows(pen, building, x, depth)
    body = pen.ink(building.facade, depth, facing=facing)
    wall(near, far, 0.0, height, body)
    trim = pen.ink(building.trim, depth, facing=facing)
    shadow = pen.ink(tint(building.facade, 0.72), depth, facing=facing)
    if building.top == "gable":
        middle = (building.near + far) / 2
        if building.near > NEAR:
            pen.polygon([(x, height, near), (x, height + 3.0, middle), (x, height, far)], body)
            ridge = [
                (x, height, near),
                (x, height + 3.0, middle),
                (x, height + 3.4, middle),
                (x, height + 0.3, near - 0.2),
            ]
            pen.polygon(ridge, pen.ink((112, 70, 60), depth, facing=facing))
            ridge = [(x, height, far), (x, height + 3.0, middle), (x, height + 3.4, middle), (x, height + 0.3, far)]
            pen.polygon(ridge, pen.ink((98, 62, 54), depth, facing=facing))
    elif building.top == "cornice":
        wall(near, far, height - 0.5, height + 0.15, trim)
        wall(near, far, height - 0.75, height - 0.5, shadow)
    else:
        wall(near, far, height - 0.3, height, shadow)
    _draw_ground_floor(pen, building, wall, depth, facing)
    _draw_windows(pen, building, wall, depth, facing)


_Wall = Callable[[float, float, float, float, int], None]


def _draw_ground_floor(pen: _Pen, building: Building, wall: _Wall, depth: float, facing: int) -> None:
    z0, z1 = building.near, building.far
    if building.shop is None:
        plinth = pen.ink(tint(building.facade, 0.7), depth, facing=facing)
        wall(z0, z1, 0.0, 0.8, plinth)
        door = z0 + 0.35 * (z1 - z0)
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
    wall(z0 + 0.2, z1 - 0.2, 2.85, 3.5, pen.ink(building.shop, depth, facing=facing, light=RETRO))


def _window_grid(building: Building, length: float) -> tuple[list[float], list[float]]:
    """Where windows begin along a wall of the building, and their sills."""
    width, tall = building.window
    columns = max(1, int((length - 0.8) / building.bay))
    margin = (length - columns * building.bay + building.bay - width) / 2
    floors = int((building.height - 4.0) / 3.1)
    return [margin + column * building.bay for column in range(columns)], [4.1 + floor * 3.1 for floor in range(floors)]


def _draw_windows(pen: _Pen, building: Building, wall: _Wall, depth: float, facing: int) -> None:
    width, tall = building.window
    starts, sills = _window_grid(building, building.far - building.near)
    if building.shop is None:
        sills = [1.1, *sills]
    chance = item_random(building.lights, "windows").random
    trim = pen.ink(building.trim, depth, facing=facing)
    shutter = pen.ink(tint(building.trim, 0.55), depth, facing=facing)
    door = building.near + 0.35 * (building.far - building.near)
    tones: tuple[Colour, ...] = ((92, 112, 132), (74, 92, 110), (112, 132, 148))
    for sill in sills:
        for start in starts:
            draws = chance(), chance(), chance()
            z = building.near + start
            if z + width < NEAR or (sill < 2.0 and door - 0.4 < z + width and z < door + 1.6):
                continue
            pixels = pen.metre(z + width)
            if pixels * width * 0.2 < 0.7 and pixels * tall < 1.2:
                continue
            lit = draws[0] < 0.46
            light = DARK if not lit else WINDOW_EARLY if draws[0] < 0.16 else WINDOW
            glass = pen.ink(tones[int(draws[1] * 3)], depth, facing=facing, light=light, shine=_WARM[int(draws[2] * 4)])
            if pixels > 5.0:
                wall(z - 0.12, z + width + 0.12, sill - 0.18, sill + tall + 0.1, trim)
            if building.shutters and pixels > 5.0:
                wall(z - 0.6, z - 0.12, sill - 0.05, sill + tall, shutter)
                wall(z + width + 0.12, z + width + 0.6, sill - 0.05, sill + tall, shutter)
            wall(z, z + width, sill, sill + tall, glass)
            if pixels > 16.0:
                dim = (214, 160, 92) if lit else (60, 76, 92)
                pane = pen.ink(tint(tones[int(draws[1] * 3)], 0.82), depth, facing=facing, light=light, shine=dim)
                wall(z, z + width, sill, sill + tall * 0.45, pane)
                wall(z + width * 0.5 - 0.04, z + width * 0.5 + 0.04, sill, sill + tall, trim)


def _draw_front_windows(pen: _Pen, building: Building, x: float, depth: float) -> None:
    """Windows of the side that looks at the camera, seen over lower neighbours and across gaps."""
    width, tall = building.window
    z = building.near
    pixels = pen.metre(z)
    if pixels * width < 1.5:
        return
    chance = item_random(building.lights, "front").random
    starts, sills = _window_grid(building, 16.0)
    for sill in sills:
        for start in starts[1::2]:
            lit = chance() < 0.4
            light = WINDOW if lit else DARK
            glass = pen.ink((84, 100, 116), depth, facing=FRONT, light=light, shine=_WARM[int(chance() * 4)])
            left, right = x + building.side * start, x + building.side * (start + width)
            pen.polygon([(left, sill, z), (left, sill + tall, z), (right, sill + tall, z), (right, sill, z)], glass)


# ---- on and by the road


def _draw_tree(pen: _Pen, tree: Tree) -> None:
    crown = tree.height - tree.radius * 0.9
    bark = pen.ink((92, 74, 58), tree.z)
    half = 0.06 + tree.height * 0.015
    pen.polygon(
        [(tree.x - half * 1.4, 0, tree.z), (tree.x - half, crown, tree.z), (tree.x + half, crown, tree.z),
         (tree.x + half * 1.4, 0, tree.z)],
        bark,
    )  # fmt: skip
    tones = {
        0: pen.ink(tree.leaf, tree.z),
        1: pen.ink(tint(tree.leaf, 1.22), tree.z),
        -1: pen.ink(tint(tree.leaf, 0.74), tree.z),
    }
    up = pen.scene.sun * 0.1
    for x, y, radius, tone in tree.blobs:
        shift = up if tone == 1 else 0.0
        pen.disc(
            tree.x + (x + shift) * tree.radius, crown + y * tree.radius * 0.9, tree.z, radius * tree.radius, tones[tone]
        )


def _draw_lamp(pen: _Pen, lamp: Lamp) -> None:
    steel = pen.ink((74, 78, 82), lamp.z)
    x, z = lamp.x, lamp.z
    inward = -1.0 if x > 0 else 1.0
    pen.polygon([(x - 0.09, 0, z), (x - 0.05, 6.0, z), (x + 0.05, 6.0, z), (x + 0.09, 0, z)], steel)
    pen.polygon([(x, 5.92, z), (x, 6.06, z), (x + inward * 1.3, 6.26, z), (x + inward * 1.3, 6.14, z)], steel)
    pen.polygon(
        [
            (x + inward * 0.9, 6.14, z),
            (x + inward * 0.9, 6.34, z),
            (x + inward * 1.7, 6.34, z),
            (x + inward * 1.7, 6.14, z),
        ],
        steel,
    )
    bulb = pen.ink((226, 222, 206), z, light=LAMP, shine=(255, 226, 164))
    pen.polygon(
        [
            (x + inward * 0.95, 6.0, z),
            (x + inward * 0.95, 6.17, z),
            (x + inward * 1.65, 6.17, z),
            (x + inward * 1.65, 6.0, z),
        ],
        bulb,
    )


def lamp_head(lamp: Lamp) -> tuple[float, float, float]:
    """Where a street lamp shines from."""
    return lamp.x + (-1.3 if lamp.x > 0 else 1.3), 6.1, lamp.z


def _draw_person(pen: _Pen, person: Person) -> None:
    pen.begin("person")
    x, z, tall = person.x, person.z, person.height
    unit = tall / 1.75
    step = 0.2 * person.stride * unit
    trousers, coat = pen.ink(person.trousers, z), pen.ink(person.coat, z)
    dark, skin = pen.ink(tint(person.coat, 0.78), z), pen.ink(person.skin, z)
    shoes, hair = pen.ink((42, 38, 38), z), pen.ink(person.hair, z)

    def limb(x0: float, y0: float, x1: float, y1: float, width: float, ink: int) -> None:
        half = width * unit / 2
        pen.polygon(
            [(x + x0 - half, y0 * unit, z), (x + x0 + half, y0 * unit, z), (x + x1 + half * 0.8, y1 * unit, z),
             (x + x1 - half * 0.8, y1 * unit, z)],
            ink,
        )  # fmt: skip

    for foot in (-1, 1):
        limb(foot * 0.08 * unit, 0.9, foot * (0.07 * unit + step), 0.06, 0.19, trousers)
        pen.disc(x + foot * (0.07 * unit + step), 0.05 * unit, z, 0.09 * unit, shoes, squash=0.6)
    for arm in (-1, 1):
        limb(arm * 0.21 * unit, 1.4, arm * 0.25 * unit - arm * step * 0.6, 0.84, 0.13, dark)
        pen.disc(x + arm * 0.25 * unit - arm * step * 0.6, 0.8 * unit, z, 0.055 * unit, skin)
    pen.polygon(
        [(x + dx * unit, y * unit, z) for dx, y in
         ((-0.2, 0.82), (-0.17, 1.15), (-0.23, 1.4), (-0.13, 1.5), (0.13, 1.5), (0.23, 1.4), (0.17, 1.15), (0.2, 0.8))],
        coat,
    )  # fmt: skip
    pen.disc(x, 1.62 * unit, z, 0.125 * unit, hair, squash=1.12)
    if person.facing:
        pen.disc(x, 1.59 * unit, z, 0.105 * unit, skin, squash=1.12)
    pen.end()


_DIGITS = {"3": "111001111001111", "5": "111100111001111", "0": "111101101101111", "7": "111001010010010"}


def _draw_sign(pen: _Pen, sign: Sign) -> None:
    x, z, y = sign.x, sign.z, 2.55
    pen.begin("sign")

    def colour(red: int, green: int, blue: int) -> int:
        return pen.ink((red, green, blue), z, light=RETRO, shine=(red, green, blue))

    def shape(corners: Sequence[tuple[float, float]], ink: int) -> None:
        pen.polygon([(x + dx, y + dy, z) for dx, dy in corners], ink)

    def bar(x0: float, y0: float, x1: float, y1: float, ink: int) -> None:
        shape([(x0, y0), (x0, y1), (x1, y1), (x1, y0)], ink)

    red, white, blue, black = colour(196, 30, 36), colour(240, 240, 236), colour(30, 84, 166), colour(34, 34, 36)
    post = Material((132, 136, 140), z)
    pen.instance, owner = 0, pen.instance
    pen.polygon([(x - 0.04, 0, z), (x - 0.04, y, z), (x + 0.04, y, z), (x + 0.04, 0, z)], pen.ink(post.colour, z))
    pen.instance = owner
    if sign.kind == "stop":
        for radius, ink in ((0.46, white), (0.42, red)):
            k = radius * 0.414
            corners = (
                (-k, radius),
                (k, radius),
                (radius, k),
                (radius, -k),
                (k, -radius),
                (-k, -radius),
                (-radius, -k),
                (-radius, k),
            )
            shape(corners, ink)
        for number in range(4):
            bar(-0.3 + number * 0.16, -0.1, -0.19 + number * 0.16, 0.1, white)
    elif sign.kind in ("yield", "warning"):
        flip = -1.0 if sign.kind == "yield" else 1.0
        for radius, ink in ((0.5, red), (0.3, white)):
            shape(
                ((-radius * 0.95, -radius * 0.55 * flip), (radius * 0.95, -radius * 0.55 * flip), (0.0, radius * flip)),
                ink,
            )
        if sign.kind == "warning":
            bar(-0.03, -0.02, 0.03, 0.17, black)
            bar(-0.03, -0.11, 0.03, -0.05, black)
    elif sign.kind == "speed":
        pen.disc(x, y, z, 0.44, red)
        pen.disc(x, y, z, 0.34, white)
        for place, digit in enumerate((("3", "5", "7")[int(item_random(pen.scene.seed, "speed").random() * 3)], "0")):
            for cell, on in enumerate(_DIGITS[digit]):
                if on == "1":
                    left, top = -0.22 + place * 0.24 + (cell % 3) * 0.066, 0.18 - (cell // 3) * 0.072
                    bar(left, top - 0.075, left + 0.07, top, black)
    elif sign.kind == "no_entry":
        pen.disc(x, y, z, 0.44, white)
        pen.disc(x, y, z, 0.41, red)
        bar(-0.28, -0.07, 0.28, 0.07, white)
    elif sign.kind == "direction":
        pen.disc(x, y, z, 0.44, white)
        pen.disc(x, y, z, 0.41, blue)
        bar(-0.05, -0.28, 0.05, 0.1, white)
        shape(((-0.19, 0.06), (0.19, 0.06), (0.0, 0.29)), white)
    else:
        bar(-0.42, -0.42, 0.42, 0.42, white)
        bar(-0.39, -0.39, 0.39, 0.39, blue)
        shape(((-0.32, -0.28), (0.32, -0.28), (0.0, 0.32)), white)
        pen.disc(x, y + 0.08, z, 0.05, black)
        bar(-0.03, -0.2, 0.03, 0.04, black)
    pen.end()


# Profile of each kind of car: height of the bonnet line and roof, length, and where the cabin begins and ends (seen
# from the end that is closer to the camera when the rear is closer), as parts of the length.
_BODIES = {
    "saloon": (0.88, 1.42, 4.5, 0.14, 0.20, 0.56, 0.70),
    "hatchback": (0.9, 1.5, 4.0, 0.02, 0.10, 0.56, 0.72),
    "van": (1.05, 2.15, 4.9, 0.0, 0.01, 0.80, 0.92),
}
CAR_HALF_WIDTH = 0.9


def car_length(car: Car) -> float:
    """Length of a car in metres."""
    return _BODIES[car.kind][2]


def _draw_car(pen: _Pen, car: Car) -> None:
    belt, roof, length, rear_low, rear_high, front_high, front_low = _BODIES[car.kind]
    z, half = car.z, CAR_HALF_WIDTH
    if car.oncoming:  # the same profile from the other end
        rear_low, rear_high, front_high, front_low = 1 - front_low, 1 - front_high, 1 - rear_high, 1 - rear_low
    paint, x = car.paint, car.x
    # The side that the camera sees: where it stands, less how far the road has bent away.
    side = 1.0 if x + pen.scene.curve * z * z < pen.scene.camera else -1.0
    flank = x + side * half
    inner = half * 0.80  # the cabin narrows towards the roof
    pen.begin("car")
    facing = LEFT_WALL if side > 0 else RIGHT_WALL
    body, shade = pen.ink(paint, z, facing=FRONT), pen.ink(tint(paint, 0.86), z, facing=facing)
    light_top, under = pen.ink(tint(paint, 1.18), z), pen.ink((30, 30, 32), z)
    glass = pen.ink((58, 72, 86), z, facing=FRONT)
    side_glass = pen.ink((50, 62, 74), z, facing=facing)
    tyre, hub = pen.ink((32, 32, 34), z), pen.ink((150, 152, 156), z)

    def at(fraction: float) -> float:
        return z + fraction * length

    # Underbody, flank, bonnet and cabin side.
    pen.polygon([(flank, 0.2, z), (flank, 0.4, z), (flank, 0.4, at(1)), (flank, 0.2, at(1))], under)
    pen.polygon(
        [(flank, 0.3, z), (flank, belt - 0.06, z), (flank, belt, at(0.1)), (flank, belt, at(0.9)),
         (flank, belt - 0.06, at(1)), (flank, 0.3, at(1))],
        shade,
    )  # fmt: skip
    pen.polygon([(x - half, belt, z), (x + half, belt, z), (x + half, belt, at(1)), (x - half, belt, at(1))], light_top)
    top = x + side * inner
    pen.polygon(
        [
            (flank, belt, at(rear_low)),
            (top, roof, at(rear_high)),
            (top, roof, at(front_high)),
            (flank, belt, at(front_low)),
        ],
        shade,
    )
    pillar = 0.03

    def cabin(fraction: float, part: float) -> tuple[float, float, float]:
        """A point of the cabin's side: ``part`` of the way from belt to roof."""
        low = rear_low + (front_low - rear_low) * fraction
        high = rear_high + (front_high - rear_high) * fraction
        return flank + (top - flank) * part, belt + (roof - belt) * part, at(low + (high - low) * part)

    if car.kind != "van" or car.oncoming:
        spans = ((pillar + 0.05, 0.48), (0.53, 0.95 - pillar)) if car.kind != "van" else ((pillar, 0.22),)
    else:
        spans = ((0.78, 0.97),)
    for start, end in spans:
        pen.polygon([cabin(start, 0.12), cabin(start, 0.86), cabin(end, 0.86), cabin(end, 0.12)], side_glass)
    for fraction in (0.19, 0.81):
        _draw_wheel(pen, flank, at(fraction), tyre, hub)
    # Roof, then the end that faces the camera: windscreen or rear window, body, lights.
    pen.polygon(
        [
            (x - inner, roof, at(rear_high)),
            (x + inner, roof, at(rear_high)),
            (x + inner, roof, at(front_high)),
            (x - inner, roof, at(front_high)),
        ],
        light_top,
    )
    low, high = at(rear_low), at(rear_high)
    pen.polygon([(x - half, belt, low), (x - inner, roof, high), (x + inner, roof, high), (x + half, belt, low)], body)

    def screen(across: float, part: float) -> tuple[float, float, float]:
        return x + across * (half + (inner - half) * part), belt + (roof - belt) * part, low + (high - low) * part

    lowest = 0.1 if car.kind != "van" or car.oncoming else 0.5
    pen.polygon([screen(-0.9, lowest), screen(-0.86, 0.88), screen(0.86, 0.88), screen(0.9, lowest)], glass)
    for wheel in (-1, 1):
        pen.polygon(
            [
                (x + wheel * 0.85, 0, z),
                (x + wheel * 0.85, 0.4, z),
                (x + wheel * 0.62, 0.4, z),
                (x + wheel * 0.62, 0, z),
            ],
            tyre,
        )
    pen.polygon(
        [(x - half * 0.96, 0.2, z), (x - half * 0.96, 0.45, z), (x + half * 0.96, 0.45, z), (x + half * 0.96, 0.2, z)],
        under,
    )
    pen.polygon(
        [(x + dx * half, y, z) for dx, y in
         ((-1.0, 0.34), (-1.0, belt - 0.12), (-0.95, belt), (0.95, belt), (1.0, belt - 0.12), (1.0, 0.34))],
        body,
    )  # fmt: skip
    _draw_car_lights(pen, car, belt)
    pen.end()


def _draw_wheel(pen: _Pen, x: float, z: float, tyre: int, hub: int) -> None:
    # A circle in the plane of the flank; its corners are written out so that no sine of some machine comes in.
    circle = ((1.0, 0.0), (0.866, 0.5), (0.5, 0.866), (0.0, 1.0), (-0.5, 0.866), (-0.866, 0.5),
              (-1.0, 0.0), (-0.866, -0.5), (-0.5, -0.866), (0.0, -1.0), (0.5, -0.866), (0.866, -0.5))  # fmt: skip
    for radius, ink in ((0.34, tyre), (0.19, hub)):
        pen.polygon([(x, 0.33 + radius * dy, z + radius * dz) for dz, dy in circle], ink)


def _draw_car_lights(pen: _Pen, car: Car, belt: float) -> None:
    x, z = car.x, car.z - 0.01
    grey = pen.ink((196, 196, 190), z)
    pen.polygon([(x - 0.26, 0.48, z), (x - 0.26, 0.6, z), (x + 0.26, 0.6, z), (x + 0.26, 0.48, z)], grey)
    high, low = belt - 0.12, belt - 0.34
    if car.oncoming:
        grille = pen.ink((40, 42, 46), z)
        pen.polygon(
            [
                (x - 0.45, low - 0.02, z),
                (x - 0.45, high - 0.06, z),
                (x + 0.45, high - 0.06, z),
                (x + 0.45, low - 0.02, z),
            ],
            grille,
        )
        ink = pen.ink((226, 230, 232), z, light=DARK if car.parked else HEADLIGHT, shine=(255, 246, 222))
    else:
        ink = pen.ink((168, 34, 34), z, light=DARK if car.parked else TAILLIGHT, shine=(255, 46, 34))
    for side in (-1, 1):
        near, far = x + side * 0.52, x + side * 0.84
        pen.polygon([(near, low, z), (near, high, z), (far, high, z), (far, low, z)], ink)
