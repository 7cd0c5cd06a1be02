"""Line charts as SVG: small, without scripts, legible in print and in dark mode."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

Points = Sequence[tuple[float, float]]
"""(step, value) pairs in ascending order of step."""

MOST_POINTS = 300
WIDTH, HEIGHT = 320, 150  # of the drawing, which scales to the available space
LEFT, RIGHT, TOP, BOTTOM = 50, 8, 8, 22


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        name: its name in the legend.
        points: those that are not finite are gaps.
        kind: "main"; "beside" for a line that the main one is compared with; "other" for a second one.
    """

    name: str
    points: Points
    kind: str = "main"


def thinned(points: Points, most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """At most ``most`` points: means of neighbours, at the last step of each group. The first and last point stay.

    A group with a value that is not finite is not finite, so that a diverged loss remains visible.
    """
    if len(points) <= most:
        return list(points)
    inner, groups = points[1:-1], most - 2
    means = []
    for group in range(groups):
        part = inner[group * len(inner) // groups : (group + 1) * len(inner) // groups]
        means.append((part[-1][0], sum(value for _, value in part) / len(part)))
    return [points[0], *means, points[-1]]


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """About ``about`` round numbers from ``low`` to ``high``: multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / about
    if not rough > 0 or not math.isfinite(rough):
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * times for times in (1, 2, 5, 10) if power * times >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def labels(values: Sequence[float]) -> list[str]:
    """Labels of ticks, with as many digits as distinguish them."""
    largest = max(map(abs, values))
    if largest and (largest < 1e-3 or largest >= 1e6):
        return [f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e") for value in values]
    step = values[1] - values[0] if len(values) > 1 else 0.0
    return [f"{value:,.{max(0, -math.floor(math.log10(step) + 1e-9))}f}" if step else number(value) for value in values]


def number(value: float) -> str:
    """A number in few characters: 0.0123, 12.3, 12,345, 1.2e-07."""
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    if value == int(value) and size < 1e6:
        return f"{int(value):,}"
    if size and (size < 1e-4 or size >= 1e6):
        return f"{value:.1e}"
    return f"{value:,.{max(0, min(6, 2 - math.floor(math.log10(size))))}f}"


def chart(title: str, lines: Sequence[Line]) -> Markup:
    """One drawing of all lines. Lines without a finite point are left out; "" if none is left."""
    drawn = [(line, thinned(line.points)) for line in lines]
    finite = [point for _, points in drawn for point in points if math.isfinite(point[1])]
    if not finite:
        return Markup("")
    first, last = min(x for x, _ in finite), max(x for x, _ in finite)
    low, high = min(y for _, y in finite), max(y for _, y in finite)
    room = (high - low) * 0.05
    heights = ticks(low, high) if room else [low]
    low, high = low - (room or 1.0), high + (room or 1.0)

    def across(x: float) -> float:
        share = (x - first) / (last - first) if last > first else 0.5
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def down(y: float) -> float:
        return TOP + (high - y) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for value, label in zip(heights, labels(heights), strict=True):
        y = down(value)
        parts.append(f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 5}" y="{y + 3.5:.1f}" text-anchor="end">{label}</text>')
    steps = [first] if last == first else [x for x in ticks(first, last, 3) if x == int(x)]
    for x in steps:
        at = min(max(across(x), LEFT + 4), WIDTH - RIGHT - 4)
        parts.append(f'<text class="tick" x="{at:.1f}" y="{HEIGHT - 6}" text-anchor="middle">{number(x)}</text>')
    for line, points in drawn:
        for run in _unbroken(points):
            if len(run) == 1:
                x, y = run[0]
                parts.append(f'<circle class="{line.kind}" cx="{across(x):.1f}" cy="{down(y):.1f}" r="2.5"/>')
            else:
                way = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in run)
                parts.append(f'<polyline class="{line.kind}" points="{way}"/>')
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'  # noqa: UP032  Markup escapes
    ).format(WIDTH, HEIGHT, described(title, lines), Markup("".join(parts)))  # noqa: S704  numbers alone


def described(title: str, lines: Sequence[Line]) -> str:
    """The content of a chart in words, for screen readers."""
    said = []
    for line in lines:
        points = [point for point in line.points if math.isfinite(point[1])]
        if points:
            (start, begin), (stop, end) = points[0], points[-1]
            said.append(
                f"{line.name} {number(end)} at step {number(stop)}"
                if start == stop
                else f"{line.name} from {number(begin)} at step {number(start)} to {number(end)} at step {number(stop)}"
            )
    return f"{title}: {'; '.join(said)}"


def _unbroken(points: Points) -> list[list[tuple[float, float]]]:
    runs: list[list[tuple[float, float]]] = [[]]
    for point in points:
        if math.isfinite(point[1]):
            runs[-1].append(point)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]
