"""What each domain looks like as a whole: sky, light, sight, and which lights are on."""

from __future__ import annotations

from dataclasses import dataclass, field

from cgcl_fast.data.streets.raster import HEADLIGHT, LAMP, RETRO, SHOP, TAILLIGHT, WINDOW, WINDOW_EARLY

DOMAINS = ("sunny", "night", "cloudy", "rainy")


@dataclass(frozen=True)
class Look:
    zenith: tuple[int, int, int]
    haze: tuple[int, int, int]  # the sky at the horizon, which distant things fade into
    ambient: tuple[float, float, float]
    lit: float  # walls that look at the sun
    unlit: float  # walls that look away from it
    saturation: float
    sight: float  # distance at which half of the contrast is left, m
    shadow: float = 0.0  # how much light a cast shadow takes
    cloud: tuple[int, int, int] = (255, 255, 255)
    overcast: bool = False
    lights: dict[int, float] = field(default_factory=dict)
    glow: float = 0.0


LOOKS = {
    "sunny": Look(
        zenith=(72, 132, 206), haze=(206, 226, 240), ambient=(1.08, 1.04, 0.96), lit=1.12, unlit=0.70, saturation=1.08,
        sight=330.0, shadow=0.46, cloud=(252, 252, 252),
    ),
    "night": Look(
        zenith=(8, 11, 30), haze=(50, 44, 68), ambient=(0.17, 0.20, 0.33), lit=1.0, unlit=0.94, saturation=0.82,
        sight=260.0, cloud=(36, 38, 60), glow=0.75,
        lights={WINDOW: 0.92, WINDOW_EARLY: 0.92, SHOP: 0.86, HEADLIGHT: 1.0, TAILLIGHT: 1.0, LAMP: 1.0, RETRO: 0.16},
    ),
    "cloudy": Look(
        zenith=(150, 160, 170), haze=(206, 210, 212), ambient=(0.86, 0.88, 0.90), lit=0.98, unlit=0.92, saturation=0.74,
        sight=190.0, overcast=True, lights={SHOP: 0.12},
    ),
    "rainy": Look(
        zenith=(92, 102, 114), haze=(158, 166, 172), ambient=(0.60, 0.65, 0.71), lit=0.98, unlit=0.92, saturation=0.64,
        sight=85.0, overcast=True, glow=0.5,
        lights={WINDOW_EARLY: 0.62, SHOP: 0.55, HEADLIGHT: 1.0, TAILLIGHT: 0.9},
    ),
}  # fmt: skip
