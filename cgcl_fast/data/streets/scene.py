"""What is in a street scene: a seeded generator of roads, buildings, cars, persons, signs, trees and lamps.

A scene says where things are, in metres, and of which colour; how it looks in a domain is up to ``shading.py``.
X points right from the middle of the road, Y up, Z forward from the camera.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from cgcl_fast.data.random import item_random

T = TypeVar("T")
Colour = tuple[int, int, int]

CLASSES = ("car", "person", "sign")
SIGN_KINDS = ("stop", "yield", "speed", "no_entry", "direction", "crossing", "warning")

_FACADES: tuple[Colour, ...] = (
    (176, 92, 74), (201, 151, 96), (224, 203, 166), (158, 166, 172), (126, 142, 160), (152, 164, 134),
    (205, 128, 100), (188, 172, 160), (140, 112, 98), (214, 182, 130), (110, 118, 130), (196, 190, 184),
)  # fmt: skip
_TRIMS: tuple[Colour, ...] = ((236, 230, 218), (214, 208, 198), (96, 88, 84), (246, 244, 240))
_SHOPS: tuple[Colour, ...] = ((150, 46, 46), (40, 84, 120), (38, 98, 74), (196, 140, 40), (92, 60, 110), (60, 64, 70))
_PAINTS: tuple[Colour, ...] = (
    (186, 40, 38), (36, 72, 140), (232, 232, 230), (40, 42, 46), (148, 154, 160), (222, 176, 46),
    (44, 104, 82), (120, 32, 46), (84, 132, 176), (196, 108, 52),
)  # fmt: skip
_CLOTHES: tuple[Colour, ...] = (
    (178, 52, 54), (48, 78, 132), (60, 62, 68), (214, 172, 62), (70, 122, 92), (208, 206, 200),
    (136, 72, 124), (222, 122, 62), (96, 150, 180), (112, 84, 62),
)  # fmt: skip
_SKINS: tuple[Colour, ...] = ((236, 196, 166), (208, 158, 122), (150, 104, 76), (104, 70, 52))
_HAIRS: tuple[Colour, ...] = ((44, 34, 30), (92, 62, 40), (186, 150, 90), (120, 116, 112))
_LEAVES: tuple[Colour, ...] = ((74, 122, 56), (94, 140, 62), (58, 106, 62), (122, 146, 64), (176, 128, 52))


@dataclass(frozen=True)
class Building:
    side: int  # -1 left of the road, 1 right
    near: float  # Z of the end closer to the camera
    far: float
    height: float
    facade: Colour
    trim: Colour
    bay: float  # distance of windows along the street
    window: tuple[float, float]  # width, height
    top: str  # "cornice" | "gable" | "flat"
    shop: Colour | None
    shutters: bool
    lights: int  # seed of which windows are lit
    covered: float  # up to this height its neighbour hides the side that faces the camera


@dataclass(frozen=True)
class Car:
    x: float
    z: float  # of the end closer to the camera
    oncoming: bool  # seen from the front
    parked: bool
    paint: Colour
    kind: str  # "saloon" | "hatchback" | "van"


CAR_HALF_WIDTH = 0.9
_CAR_LENGTHS = {"saloon": 4.5, "hatchback": 4.0, "van": 4.9}


def car_length(car: Car) -> float:
    """Length of a car in metres."""
    return _CAR_LENGTHS[car.kind]


@dataclass(frozen=True)
class Person:
    x: float
    z: float
    height: float
    coat: Colour
    trousers: Colour
    skin: Colour
    hair: Colour
    stride: float  # how far the feet are apart, -1 to 1
    facing: bool  # towards the camera


@dataclass(frozen=True)
class Sign:
    x: float
    z: float
    kind: str  # one of SIGN_KINDS


@dataclass(frozen=True)
class Tree:
    x: float
    z: float
    height: float
    radius: float
    leaf: Colour
    blobs: tuple[tuple[float, float, float, int], ...]  # x, y, radius, tone, relative to the crown


@dataclass(frozen=True)
class Lamp:
    x: float
    z: float


@dataclass(frozen=True)
class Scene:
    """A street seen from a car. Everything follows from ``seed``; see :func:`generate_scene`."""

    seed: int
    horizon: float  # from the top, as a part of the image height
    centre: float  # of the vanishing point, from the middle of the image, as a part of the height
    camera: float  # X of the camera
    curve: float  # the road's X at distance Z is curve·Z²
    half_road: float
    sidewalk: float
    double_line: bool
    crossing: float | None  # Z of a zebra crossing
    asphalt: int
    sun: int  # -1: light from the left, 1: from the right
    green: Colour
    buildings: tuple[Building, ...]
    skyline: tuple[tuple[float, float, float, int], ...]  # X, width, height, tone
    cars: tuple[Car, ...]
    persons: tuple[Person, ...]
    signs: tuple[Sign, ...]
    trees: tuple[Tree, ...]
    lamps: tuple[Lamp, ...]


class _Dice:
    """Draws that are the same in every Python version: built on ``random()`` alone."""

    def __init__(self, seed: int) -> None:
        self._random = item_random(seed, "street").random

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self._random()

    def chance(self, probability: float) -> bool:
        return self._random() < probability

    def integer(self, low: int, high: int) -> int:
        """From ``low`` to ``high``, both included."""
        return low + int(self._random() * (high - low + 1))

    def pick(self, choices: Sequence[T]) -> T:
        return choices[int(self._random() * len(choices))]

    def shade(self, colour: Colour, spread: int) -> Colour:
        shift = self.integer(-spread, spread)
        red, green, blue = (min(250, max(8, value + shift + self.integer(-4, 4))) for value in colour)
        return red, green, blue


def generate_scene(seed: int) -> Scene:
    """The scene of a seed: the same on every machine.

    Raises:
        TypeError: the seed is not an integer.
    """
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise TypeError(f"seed must be an int, got {type(seed).__name__}")
    dice = _Dice(seed)
    lanes = dice.pick((2, 2, 2, 4))
    half_road = 1.8 * lanes + dice.between(0.0, 0.5) + (0.8 if lanes == 2 else 0.0)
    sidewalk = dice.between(2.4, 4.0)
    wall = half_road + sidewalk
    crossing = dice.between(9.0, 17.0) if dice.chance(0.45) else None
    lamps = _lamps(dice, half_road)
    return Scene(
        seed=seed,
        horizon=dice.between(0.42, 0.5),
        centre=dice.between(-0.12, 0.12),
        camera=dice.between(0.2, 0.5) * half_road,
        curve=dice.between(-0.0011, 0.0011),
        half_road=half_road,
        sidewalk=sidewalk,
        double_line=dice.chance(0.3),
        crossing=crossing,
        asphalt=dice.integer(84, 108),
        sun=dice.pick((-1, 1)),
        green=dice.shade((112, 132, 78), 10),
        buildings=_buildings(dice, -1) + _buildings(dice, 1),
        skyline=tuple(
            (dice.between(-170.0, 170.0), dice.between(10.0, 26.0), dice.between(14.0, 60.0), dice.integer(0, 40))
            for _ in range(26)
        ),
        cars=_cars(dice, half_road, lanes, crossing),
        persons=_persons(dice, half_road, sidewalk, crossing),
        signs=_signs(dice, half_road, crossing, lamps),
        trees=_trees(dice, half_road, wall, lamps),
        lamps=lamps,
    )


def _buildings(dice: _Dice, side: int) -> tuple[Building, ...]:
    buildings: list[Building] = []
    z = dice.between(-6.0, 1.0)
    tall = dice.chance(0.25)
    while z < 190.0:
        length = dice.between(8.0, 19.0)
        if dice.chance(0.12) and z > 6.0:  # a gap with grass, where trees show
            z += length * 0.8
            continue
        floors = dice.integer(4, 9) if tall and dice.chance(0.6) else dice.integer(2, 5)
        buildings.append(
            Building(
                side=side,
                near=z,
                far=z + length,
                height=4.0 + 3.1 * floors + dice.between(0.0, 0.8),
                facade=dice.shade(dice.pick(_FACADES), 12),
                trim=dice.pick(_TRIMS),
                bay=dice.between(2.1, 3.4),
                window=(dice.between(0.9, 1.5), dice.between(1.4, 1.9)),
                top=dice.pick(("cornice", "cornice", "gable", "flat"))
                if floors < 6
                else dice.pick(("cornice", "flat")),
                shop=dice.pick(_SHOPS) if dice.chance(0.55) else None,
                shutters=dice.chance(0.25),
                lights=dice.integer(0, 2**30),
                covered=buildings[-1].height if buildings and buildings[-1].far == z else 0.0,
            )
        )
        z += length + (dice.between(0.8, 3.0) if dice.chance(0.2) else 0.0)
    return tuple(buildings)


def _lamps(dice: _Dice, half_road: float) -> tuple[Lamp, ...]:
    spacing, z = dice.between(16.0, 24.0), dice.between(7.0, 15.0)
    lamps = []
    side = dice.pick((-1, 1))
    while z < 110.0:
        lamps.append(Lamp(side * (half_road + 0.55), z))
        side, z = -side, z + spacing * 0.5
    return tuple(lamps)


def _cars(dice: _Dice, half_road: float, lanes: int, crossing: float | None) -> tuple[Car, ...]:
    cars = []
    kinds = ("saloon", "hatchback", "hatchback", "saloon", "van")
    lane = half_road * 2.0 / lanes
    for number in range(lanes):
        x = -half_road + lane * (number + 0.5)
        oncoming = x < 0
        z = dice.between(7.0, 20.0) if oncoming else dice.between(7.5, 22.0)
        for _ in range(dice.integer(1, 3)):
            if crossing is None or not crossing - 5.5 < z < crossing + 4.5:
                cars.append(
                    Car(
                        x + dice.between(-0.2, 0.2),
                        z,
                        oncoming,
                        False,
                        dice.shade(dice.pick(_PAINTS), 8),
                        dice.pick(kinds),
                    )
                )
            z += dice.between(10.0, 34.0)
    if lanes == 2:  # the kerbs are free for parking
        for side in (-1, 1):
            if not dice.chance(0.6):
                continue
            z = dice.between(6.0, 24.0)
            for _ in range(dice.integer(1, 5)):
                clear = crossing is None or not crossing - 7.0 < z < crossing + 6.0
                if clear and dice.chance(0.8):
                    paint = dice.shade(dice.pick(_PAINTS), 8)
                    cars.append(Car(side * (half_road - 0.75), z, side < 0, True, paint, dice.pick(kinds)))
                z += dice.between(5.4, 8.0)
    return _apart(cars)


def _apart(cars: Sequence[Car]) -> tuple[Car, ...]:
    """Leave out cars that would stand in another one."""
    kept: list[Car] = []
    for car in cars:
        if all(abs(car.x - other.x) > 1.9 or abs(car.z - other.z) > 5.6 for other in kept):
            kept.append(car)
    return tuple(kept)


def _persons(dice: _Dice, half_road: float, sidewalk: float, crossing: float | None) -> tuple[Person, ...]:
    places = []
    for _ in range(dice.integer(3, 8)):
        side = dice.pick((-1, 1))
        places.append((side * (half_road + dice.between(0.9, sidewalk - 0.4)), dice.between(5.0, 32.0)))
    if crossing is not None:
        places += [
            (dice.between(-half_road, half_road), crossing + dice.between(0.5, 2.6)) for _ in range(dice.integer(1, 3))
        ]
    return tuple(
        Person(
            x=x,
            z=z,
            height=dice.between(1.58, 1.86) if dice.chance(0.88) else dice.between(1.1, 1.35),
            coat=dice.shade(dice.pick(_CLOTHES), 8),
            trousers=dice.shade(dice.pick(((52, 58, 78), (62, 60, 58), (86, 78, 66), (44, 48, 56))), 8),
            skin=dice.pick(_SKINS),
            hair=dice.pick(_HAIRS),
            stride=dice.between(-1.0, 1.0),
            facing=dice.chance(0.5),
        )
        for x, z in places
    )


def _signs(dice: _Dice, half_road: float, crossing: float | None, lamps: Sequence[Lamp]) -> tuple[Sign, ...]:
    signs = []
    for _ in range(dice.integer(1, 4)):
        side, z = dice.pick((1, 1, -1)), dice.between(6.5, 34.0)
        signs.append(Sign(side * (half_road + dice.between(0.35, 0.6)), z, dice.pick(SIGN_KINDS)))
    if crossing is not None:
        signs.append(Sign(half_road + 0.45, crossing - 0.6, "crossing"))
    kept: list[Sign] = []
    for sign in signs:
        others = [(other.x, other.z) for other in kept] + [(lamp.x, lamp.z) for lamp in lamps]
        if all(x * sign.x < 0 or abs(z - sign.z) > 2.5 for x, z in others):
            kept.append(sign)
    return tuple(kept)


def _trees(dice: _Dice, half_road: float, wall: float, lamps: Sequence[Lamp]) -> tuple[Tree, ...]:
    trees = []
    leaf = dice.pick(_LEAVES)
    for side in (-1, 1):
        if not dice.chance(0.55):
            continue
        z, spacing = dice.between(8.0, 18.0), dice.between(8.0, 14.0)
        while z < 90.0:
            x = side * (half_road + 0.9)
            if dice.chance(0.75) and all(lamp.x * side < 0 or abs(lamp.z - z) > 2.0 for lamp in lamps):
                trees.append(_tree(dice, x, z, leaf, (4.6, 6.4), (1.3, 1.9)))
            z += spacing
    for side in (-1, 1):  # behind the sidewalk, seen in the gaps
        for _ in range(7):
            x = side * (wall + dice.between(2.5, 8.0))
            trees.append(_tree(dice, x, dice.between(8.0, 120.0), dice.pick(_LEAVES), (5.0, 9.0), (1.8, 3.0)))
    return tuple(trees)


def _tree(
    dice: _Dice, x: float, z: float, leaf: Colour, heights: tuple[float, float], radii: tuple[float, float]
) -> Tree:
    blobs = [(dice.between(-0.62, 0.62), dice.between(-0.6, 0.55), dice.between(0.34, 0.54), 0) for _ in range(9)]
    blobs += [(dice.between(-0.75, 0.75), dice.between(-0.75, 0.2), dice.between(0.10, 0.22), -1) for _ in range(8)]
    blobs += [(dice.between(-0.6, 0.6), dice.between(-0.2, 0.8), dice.between(0.12, 0.28), 1) for _ in range(12)]
    return Tree(x, z, dice.between(*heights), dice.between(*radii), dice.shade(leaf, 14), tuple(blobs))
