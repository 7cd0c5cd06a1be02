"""Draws what stands by the road: persons, traffic signs, trees and street lamps."""

from __future__ import annotations

from collections.abc import Sequence

from cgcl_fast.data.random import item_random
from cgcl_fast.data.streets.raster import LAMP, LAMP_EARLY, RETRO, Pen, tint
from cgcl_fast.data.streets.scene import Lamp, Person, Sign, Tree


def draw_tree(pen: Pen, tree: Tree) -> None:
    """A trunk and a crown of leaves in three tones, the light ones on the side of the sun."""
    crown, half, z = tree.height - tree.radius * 0.9, 0.06 + tree.height * 0.015, tree.z
    trunk = ((-half * 1.4, 0.0), (-half, crown), (half, crown), (half * 1.4, 0.0))
    pen.shape(tree.x, 0.0, z, trunk, pen.ink((92, 74, 58), z))
    tones = {tone: pen.ink(tint(tree.leaf, 1.0 + 0.15 * tone), z) for tone in (-1, 0, 1)}
    for x, y, radius, tone in tree.blobs:
        shift = pen.scene.sun * 0.1 * tone
        place = tree.x + (x + shift) * tree.radius
        pen.disc(place, crown + y * tree.radius * 0.9, z, radius * tree.radius, tones[tone])


def lamp_head(lamp: Lamp) -> tuple[float, float, float]:
    """Where a street lamp shines from."""
    return lamp.x + (-1.3 if lamp.x > 0 else 1.3), 6.1, lamp.z


def draw_lamp(pen: Pen, lamp: Lamp, *, early: bool) -> None:
    """A post with an arm over the road; ``early``: one of those that are lit where not all are."""
    steel, (x, z) = pen.ink((74, 78, 82), lamp.z), (lamp.x, lamp.z)
    head, _, _ = lamp_head(lamp)
    pen.shape(x, 0.0, z, ((-0.09, 0.0), (-0.05, 6.0), (0.05, 6.0), (0.09, 0.0)), steel)
    pen.polygon([(x, 5.92, z), (x, 6.06, z), (head, 6.26, z), (head, 6.14, z)], steel)
    pen.panel(head - 0.4, 6.14, head + 0.4, 6.34, z, steel)
    light = LAMP_EARLY if early else LAMP
    pen.panel(head - 0.35, 6.0, head + 0.35, 6.17, z, pen.ink((226, 222, 206), z, light=light, shine=(255, 226, 164)))


def draw_person(pen: Pen, person: Person) -> None:
    """A walking person, seen from the front or from behind."""
    pen.begin("person")
    x, z, unit = person.x, person.z, person.height / 1.75
    step = 0.2 * person.stride
    coat, sleeve = pen.ink(person.coat, z), pen.ink(tint(person.coat, 0.78), z)
    trousers, skin = pen.ink(person.trousers, z), pen.ink(person.skin, z)
    shoes, hair = pen.ink((42, 38, 38), z), pen.ink(person.hair, z)

    def limb(x0: float, y0: float, x1: float, y1: float, width: float, ink: int) -> None:
        half = width / 2
        outline = ((x0 - half, y0), (x0 + half, y0), (x1 + half * 0.8, y1), (x1 - half * 0.8, y1))
        pen.shape(x, 0.0, z, [(dx * unit, dy * unit) for dx, dy in outline], ink)

    def disc(dx: float, dy: float, radius: float, ink: int, squash: float) -> None:
        pen.disc(x + dx * unit, dy * unit, z, radius * unit, ink, squash=squash)

    for side in (-1, 1):
        foot = side * (0.07 + step)
        limb(side * 0.08, 0.9, foot, 0.06, 0.19, trousers)
        disc(foot, 0.05, 0.09, shoes, 0.6)
    for side in (-1, 1):
        hand = side * (0.25 - step * 0.6)
        limb(side * 0.21, 1.4, hand, 0.84, 0.13, sleeve)
        disc(hand, 0.8, 0.055, skin, 1.0)
    right = ((0.13, 1.5), (0.23, 1.4), (0.17, 1.15), (0.2, 0.82))
    outline = [*((-dx, dy) for dx, dy in reversed(right)), *right]
    pen.shape(x, 0.0, z, [(dx * unit, dy * unit) for dx, dy in outline], coat)
    disc(0.0, 1.62, 0.125, hair, 1.12)
    if person.facing:
        disc(0.0, 1.59, 0.105, skin, 1.12)
    pen.end()


# Rows of three cells each, from the top.
_DIGITS = {"0": "111101101101111", "3": "111001111001111", "5": "111100111001111", "7": "111001010010010"}
_OCTAGON = (
    (-0.414, 1.0),
    (0.414, 1.0),
    (1.0, 0.414),
    (1.0, -0.414),
    (0.414, -1.0),
    (-0.414, -1.0),
    (-1.0, -0.414),
    (-1.0, 0.414),
)


def draw_sign(pen: Pen, sign: Sign) -> None:
    """A traffic sign. Its post is no part of the instance, as in annotated data sets."""
    x, y, z = sign.x, 2.55, sign.z
    pen.panel(x - 0.04, 0.0, x + 0.04, y, z, pen.ink((132, 136, 140), z))
    pen.begin("sign")

    def colour(red: int, green: int, blue: int) -> int:
        return pen.ink((red, green, blue), z, light=RETRO, shine=(red, green, blue))

    red, white, blue, black = colour(196, 30, 36), colour(240, 240, 236), colour(30, 84, 166), colour(34, 34, 36)

    def shape(corners: Sequence[tuple[float, float]], ink: int, scale: float = 1.0) -> None:
        pen.shape(x, y, z, [(dx * scale, dy * scale) for dx, dy in corners], ink)

    def bar(x0: float, y0: float, x1: float, y1: float, ink: int) -> None:
        pen.panel(x + x0, y + y0, x + x1, y + y1, z, ink)

    if sign.kind == "stop":
        shape(_OCTAGON, white, 0.46)
        shape(_OCTAGON, red, 0.42)
        for number in range(4):
            bar(-0.3 + number * 0.16, -0.1, -0.19 + number * 0.16, 0.1, white)
    elif sign.kind in ("yield", "warning"):
        up = -1.0 if sign.kind == "yield" else 1.0
        triangle = ((-0.95, -0.55 * up), (0.95, -0.55 * up), (0.0, up))
        shape(triangle, red, 0.5)
        shape(triangle, white, 0.3)
        if sign.kind == "warning":
            bar(-0.03, -0.02, 0.03, 0.17, black)
            bar(-0.03, -0.11, 0.03, -0.05, black)
    elif sign.kind == "speed":
        pen.disc(x, y, z, 0.44, red)
        pen.disc(x, y, z, 0.34, white)
        tens = "357"[int(item_random(pen.scene.seed, "speed").random() * 3)]
        for place, digit in enumerate((tens, "0")):
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
    else:  # crossing
        bar(-0.42, -0.42, 0.42, 0.42, white)
        bar(-0.39, -0.39, 0.39, 0.39, blue)
        shape(((-0.32, -0.28), (0.32, -0.28), (0.0, 0.32)), white)
        pen.disc(x, y + 0.08, z, 0.05, black)
        bar(-0.03, -0.2, 0.03, 0.04, black)
    pen.end()
