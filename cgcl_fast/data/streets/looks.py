"""What an image of a domain looks like as a whole: sky, light, sight, and which lights are on.

Each domain has a typical look, and from seeds as many others as one wants: another hour, other air, other lights.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from cgcl_fast.data.random import item_random
from cgcl_fast.data.streets.raster import (
    HEADLIGHT,
    LAMP,
    LAMP_EARLY,
    RETRO,
    SHOP,
    TAILLIGHT,
    WINDOW,
    WINDOW_EARLY,
    WINDOW_LATE,
)

DOMAINS = ("sunny", "night", "cloudy", "rainy")

Light = tuple[float, float, float]  # in parts of white light
Shade = tuple[float, float, float]  # of an image, 0 to 255


@dataclass(frozen=True)
class Look:
    zenith: Shade
    haze: Shade  # the sky at the horizon, which distant things fade into
    ambient: Light
    lit: float  # walls that look at the sun
    unlit: float  # walls that look away from it
    saturation: float
    sight: float  # distance at which half of the contrast is left, m
    shadow: float = 0.0  # how much light a cast shadow takes
    halo: Shade = (0, 0, 0)  # around the sun, which stands out of sight
    moon: float | None = None  # its brightness, among stars; None: no stars either
    cloud: Shade = (255, 255, 255)
    cover: float = 1.0  # how much clouds cover of what is behind them
    overcast: float = 0.0  # contrast of a sky that is all cloud; 0: clouds stand apart
    lights: dict[int, float] = field(default_factory=dict)
    lamplight: Light | None = None  # of street lamps, where they and headlights are on; (1, 1, 1) is warm white
    glow: float = 0.0
    damp: float = 0.0  # how much light wet ground takes
    mirror: float = 0.0  # how well it mirrors; 1: a puddle in the rain
    rain: float = 0.0  # how much of it falls


LOOKS = {
    "sunny": Look(
        zenith=(72, 132, 206), haze=(206, 226, 240), ambient=(1.08, 1.04, 0.96), lit=1.12, unlit=0.70, saturation=1.08,
        sight=330.0, shadow=0.46, halo=(64, 54, 30), cloud=(252, 252, 252),
    ),
    "night": Look(
        zenith=(8, 11, 30), haze=(50, 44, 68), ambient=(0.17, 0.20, 0.33), lit=1.0, unlit=0.94, saturation=0.82,
        sight=260.0, moon=1.0, cloud=(36, 38, 60), cover=0.7, lamplight=(1.0, 1.0, 1.0), glow=0.75,
        lights={WINDOW: 0.92, WINDOW_EARLY: 0.92, SHOP: 0.86, HEADLIGHT: 1.0, TAILLIGHT: 1.0, LAMP_EARLY: 1.0,
                LAMP: 1.0, RETRO: 0.16},
    ),
    "cloudy": Look(
        zenith=(150, 160, 170), haze=(206, 210, 212), ambient=(0.86, 0.88, 0.90), lit=0.98, unlit=0.92, saturation=0.74,
        sight=190.0, overcast=0.0034, lights={SHOP: 0.12},
    ),
    "rainy": Look(
        zenith=(92, 102, 114), haze=(158, 166, 172), ambient=(0.60, 0.65, 0.71), lit=0.98, unlit=0.92, saturation=0.64,
        sight=85.0, overcast=0.0042, glow=0.5, damp=0.3, mirror=1.0, rain=1.0,
        lights={WINDOW_EARLY: 0.62, SHOP: 0.55, HEADLIGHT: 1.0, TAILLIGHT: 0.9},
    ),
}  # fmt: skip
"""The typical look of each domain."""


def look_of(domain: str, seed: int) -> Look:
    """The look that a seed has in a domain: another hour, colour of light, haze, wetness, and other lights.

    Raises:
        ValueError: an unknown domain.
    """
    typical = typical_look(domain)
    chance = item_random(seed, "look", domain).random
    vary = {"sunny": _sunny, "night": _night, "cloudy": _cloudy, "rainy": _rainy}[domain]
    # Drawn all at once, so that a look that needs one number more leaves the others as they are.
    return vary(typical, *(chance() for _ in range(4)))


def typical_look(domain: str) -> Look:
    """The typical look of a domain.

    Raises:
        ValueError: an unknown domain.
    """
    if domain not in LOOKS:
        raise ValueError(f"domain must be one of {', '.join(DOMAINS)}, got {domain!r}")
    return LOOKS[domain]


def _sunny(look: Look, hour: float, haze: float, clouds: float, _: float) -> Look:
    """From a cool morning to the evening, which is warmer, darker and of longer light; in clear air or in haze."""
    air = _mix((176, 220, 255), (255, 186, 112), hour)
    return replace(
        look,
        zenith=_mix(_mix((30, 112, 232), (122, 92, 140), hour), air, 0.5 * haze),
        haze=air,
        ambient=_mix((1.06, 1.16, 1.28), (1.04, 0.66, 0.36), hour),
        lit=1.06 + 0.16 * hour,
        unlit=0.80 - 0.26 * hour,
        saturation=1.12 - 0.34 * haze,
        sight=400.0 - 330.0 * haze,
        shadow=0.54 - 0.26 * haze,
        halo=_mix((50, 46, 34), (120, 70, 10), hour),
        cloud=_mix((255, 255, 255), (255, 196, 152), hour),
        cover=clouds,
    )


def _night(look: Look, hour: float, town: float, moon: float, lamps: float) -> Look:
    """From dusk to the small hours, when few windows and every second lamp are lit; by the moon, or in the town's own
    light on low clouds; lamps from sodium to white."""
    yellow, white = (1.16, 0.70, 0.28), (0.80, 1.04, 1.60)
    return replace(
        look,
        zenith=_mix(_mix((34, 38, 104), (4, 6, 16), hour), (92, 56, 34), 0.8 * town),
        haze=_mix(_mix((96, 90, 150), (24, 26, 48), hour), (150, 98, 60), 0.8 * town),
        ambient=_mix(_mix((0.30, 0.36, 0.68), (0.09, 0.12, 0.24), hour), (0.38, 0.25, 0.15), 0.75 * town),
        sight=320.0 - 200.0 * town,
        moon=moon * (1.0 - 0.8 * town),
        cloud=_mix((36, 38, 60), (112, 74, 50), town),
        cover=0.3 + 0.7 * town,
        lamplight=_mix(yellow, white, lamps),
        lights={
            **look.lights,
            WINDOW_LATE: max(0.0, 0.92 - 2.2 * hour),
            WINDOW: min(0.92, max(0.0, 2.0 - 2.2 * hour)),
            SHOP: 0.86 if hour < 0.6 else 0.2,
            LAMP: 1.0 if hour < 0.75 else 0.0,
        },
    )


def _cloudy(look: Look, dark: float, warm: float, fog: float, wet: float) -> Look:
    """From a white sky to a dark one, bluish or yellowish, in clear air or in fog; the ground dry or damp."""
    tone = _mix((0.90, 0.99, 1.12), (1.10, 1.00, 0.84), warm)
    fallen = _mix((206, 206, 206), (188, 188, 188), dark)
    return replace(
        look,
        zenith=_times(tone, 196.0 - 92.0 * dark + 30.0 * fog),
        haze=_times(tone, fallen[0] + 24.0 * fog),
        ambient=_times(tone, 1.02 - 0.42 * dark),
        saturation=0.90 - 0.34 * fog,
        sight=300.0 - 262.0 * fog,
        overcast=0.0020 + 0.0030 * dark * (1.0 - fog),
        lights={SHOP: 0.5 * dark, WINDOW_EARLY: max(0.0, 1.6 * dark - 0.9)},
        damp=0.3 * wet,
    )


def _rainy(look: Look, dark: float, cold: float, heavy: float, wet: float) -> Look:
    """From a drizzle by day to a heavy rain at dusk, when windows and cars light the wet road."""
    tone = _mix((1.10, 1.00, 0.84), (0.86, 1.00, 1.16), cold)
    return replace(
        look,
        zenith=_times(tone, 134.0 - 74.0 * dark),
        haze=_times(tone, 196.0 - 96.0 * dark),
        ambient=_times(tone, 0.82 - 0.44 * dark),
        sight=130.0 - 90.0 * heavy,
        lights={
            WINDOW_LATE: max(0.0, 1.6 * dark - 0.8),
            WINDOW: max(0.0, 1.4 * dark - 0.4),
            WINDOW_EARLY: 0.3 + 0.6 * dark,
            SHOP: 0.3 + 0.5 * dark,
            HEADLIGHT: 1.0,
            TAILLIGHT: 0.9,
        },
        damp=0.16 + 0.24 * wet,
        mirror=0.5 + 0.9 * wet,
        rain=0.4 + 1.2 * heavy,
    )


def _mix(
    first: tuple[float, float, float], second: tuple[float, float, float], share: float
) -> tuple[float, float, float]:
    """Three numbers between two triples."""
    (a, b, c), (d, e, f) = first, second
    return a + (d - a) * share, b + (e - b) * share, c + (f - c) * share


def _times(tone: Light, value: float) -> tuple[float, float, float]:
    return tone[0] * value, tone[1] * value, tone[2] * value
