"""Losses and metrics of one or more runs over the steps."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cgcl_fast._files import check_regular
from cgcl_fast.figures._panels import COLOURS, SMALL, plain, sheet
from cgcl_fast.metrics import DISTANCES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMOOTHED_FROM = 40
"""Loss curves with more points than this are drawn as a moving average."""

NOT_LOSSES = ("lr/", "images_per_second", "memory_mb", "epoch", "step")

BESIDE = {"before": ("untouched", "--"), "colour_transfer": ("colour transfer", ":")}
"""References in the same panel as a metric of translations."""


@dataclass(frozen=True)
class Curve:
    """A number per step.

    Attributes:
        steps, values: (N,), float64.
    """

    steps: np.ndarray
    values: np.ndarray


def read_curves(path: Path) -> dict[str, Curve]:
    """The curves in a run's ``log.jsonl`` or ``metrics.jsonl``. Truncated lines and values that are not numbers are
    left out; if a step has several lines, the last one counts.

    Raises:
        OSError: it cannot be read.
    """
    check_regular(path)
    points: dict[str, dict[float, float]] = {}
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                entry = json.loads(line)
                step = float(entry["step"])
            except (ValueError, KeyError, TypeError):
                continue
            for name, value in entry.items():
                if name != "step" and isinstance(value, (int, float)) and not isinstance(value, bool):
                    points.setdefault(name, {})[step] = float(value)
    return {
        name: Curve(np.array(sorted(values)), np.array([values[step] for step in sorted(values)]))
        for name, values in points.items()
    }


def smoothed(values: np.ndarray, window: int) -> np.ndarray:
    """Moving average over up to ``window`` preceding values, ignoring those that are not finite."""
    finite = np.isfinite(values)
    sums = np.concatenate([[0], np.cumsum(np.where(finite, values, 0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    first = np.maximum(0, np.arange(1, len(values) + 1) - window)
    last = np.arange(1, len(values) + 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (sums[last] - sums[first]) / (counts[last] - counts[first])


def losses_figure(runs: Mapping[str, Mapping[str, Curve]], *, title: str = "") -> Figure | None:
    """One panel per loss, one line per run; with many points, a moving average over pale points.

    Args:
        runs: for each run's name, the result of :func:`read_curves` for its ``log.jsonl``.

    Returns:
        None if there are no losses.
    """
    names = [name for name in _names(runs.values()) if not name.startswith(NOT_LOSSES)]
    if not names:
        return None
    figure, panels = _panels(len(names), title)
    for name, axes in zip(names, panels.flat, strict=False):
        for number, curves in enumerate(runs.values()):
            if name not in curves:
                continue
            curve, colour = curves[name], COLOURS[number % len(COLOURS)]
            if len(curve.steps) >= SMOOTHED_FROM:
                axes.plot(curve.steps, curve.values, color=colour, alpha=0.25, linewidth=0.6)
                axes.plot(curve.steps, smoothed(curve.values, len(curve.steps) // 20), color=colour, linewidth=1.2)
            else:
                axes.plot(curve.steps, curve.values, color=colour, linewidth=1.2)
        axes.set_title(name, fontsize=SMALL, pad=3)
    _legend(figure, {name: (COLOURS[n % len(COLOURS)], "-") for n, name in enumerate(runs)})
    return figure


def metrics_figure(runs: Mapping[str, Mapping[str, Curve]], *, title: str = "") -> Figure | None:
    """One panel per metric, one line per run; for distances to the truth also those of the untouched source and of the
    colour transfer. Metrics of single domains are left out, and those that are constant, which do not depend on the
    networks.

    Args:
        runs: for each run's name, the result of :func:`read_curves` for its ``metrics.jsonl``.

    Returns:
        None if there are no metrics.
    """
    names = [
        name
        for name in _names(runs.values())
        if name.count("/") < 2
        and name.rpartition("/")[2] not in BESIDE
        and not all(_is_constant(curves[name]) for curves in runs.values() if name in curves)
    ]
    if not names:
        return None
    figure, panels = _panels(len(names), title)
    beside: dict[str, tuple[str, str]] = {}
    for name, axes in zip(names, panels.flat, strict=False):
        family = name.removesuffix("/after")
        for number, curves in enumerate(runs.values()):
            if name in curves:
                curve, colour = curves[name], COLOURS[number % len(COLOURS)]
                axes.plot(curve.steps, curve.values, ".-", markersize=3, color=colour, linewidth=1.2)
        for end, (label, line) in BESIDE.items():
            of_run = next((curves[f"{family}/{end}"] for curves in runs.values() if f"{family}/{end}" in curves), None)
            if of_run is not None:
                axes.axhline(of_run.values[-1], color="#777777", linestyle=line, linewidth=1)
                beside[label] = ("#777777", line)
        axes.set_title(_title(family), fontsize=SMALL, pad=3)
    _legend(figure, {**{name: (COLOURS[n % len(COLOURS)], "-") for n, name in enumerate(runs)}, **beside})
    return figure


def _is_constant(curve: Curve) -> bool:
    return len(curve.values) > 1 and bool((curve.values == curve.values[0]).all())


def _title(family: str) -> str:
    if family not in DISTANCES:
        return family
    distance = DISTANCES[family]
    return f"{distance.title} ({'higher' if distance.higher_is_better else 'lower'} is closer)"


def _names(curves: Iterable[Mapping[str, Curve]]) -> list[str]:
    """The names in all curves with something to draw, in order of appearance."""
    return list(dict.fromkeys(name for each in curves for name in each if np.isfinite(each[name].values).any()))


def _panels(count: int, title: str) -> tuple[Figure, np.ndarray]:
    columns = min(4, count)
    figure, panels = sheet(math.ceil(count / columns), columns, width=2.2, height=1.5, title=title)
    for number, axes in enumerate(panels.flat):
        plain(axes)
        axes.locator_params(nbins=4)
        if number >= count:
            axes.set_axis_off()
        elif number + columns >= count:
            axes.set_xlabel("step", fontsize=SMALL)
    return figure, panels


def _legend(figure: Figure, lines: Mapping[str, tuple[str, str]]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=colour, ls=style) for colour, style in lines.values()]  # type: ignore[arg-type]
    figure.legend(handles, list(lines), loc="outside lower center", ncols=5, frameon=False, fontsize=SMALL)
