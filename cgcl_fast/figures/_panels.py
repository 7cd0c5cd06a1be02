"""Helpers of all figures: sheets of panels, pictures in them, labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from cgcl_fast._extras import require
from cgcl_fast.data.values import as_shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#d62728", "#1f77b4", "#2ca02c", "#ff7f0e", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf")
"""Colours of points, domains and runs, in this order."""

SMALL = 7  # font size of labels beside and above panels


def sheet(rows: int, columns: int, width: float = 1.5, height: float | None = None, title: str = "") -> tuple[Any, Any]:
    """A figure with an array (rows, columns) of axes, each ``width`` inches wide.

    It is not a pyplot figure; pyplot would keep a reference to it.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    kind = require("matplotlib.figure", "figures").Figure
    figure: Figure = kind(
        figsize=(columns * width + 0.6, rows * (height or width) + (0.6 if title else 0.4)), layout="constrained"
    )
    if title:
        figure.suptitle(title, fontsize=SMALL + 2)
    return figure, figure.subplots(rows, columns, squeeze=False)


def picture_of(image: Tensor) -> np.ndarray:
    """(C, H, W) in [-1, 1] as an image (H, W, 3) in [0, 1]."""
    shown = as_shown(image.detach().float().cpu()[None])[0]
    return ((shown.clamp(-1, 1) + 1) / 2).permute(1, 2, 0).numpy()


def show(axes: Axes, image: Tensor | np.ndarray, title: str = "", **options: Any) -> Any:
    """Draw a picture, or a map (h, w) of numbers with ``cmap`` etc., in a panel without ticks."""
    shown = picture_of(image) if isinstance(image, Tensor) and image.dim() == 3 else np.asarray(image)
    drawn = axes.imshow(shown, interpolation="nearest", aspect="equal", **options)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=SMALL, pad=2)
    return drawn


def grid(
    rows: Sequence[Sequence[Tensor | np.ndarray | None]],
    columns: Sequence[str],
    names: Sequence[str] = (),
    title: str = "",
    width: float = 1.1,
) -> Figure:
    """Draw pictures in rows, with column names above the first row and row names on the left; None leaves a panel
    empty."""
    heights = [each.shape[-2] / each.shape[-1] for row in rows for each in row if isinstance(each, Tensor)]
    figure, panels = sheet(len(rows), len(columns), width, width * max(heights or [1.0]), title)
    for number, (row, axes_of_row) in enumerate(zip(rows, panels, strict=True)):
        for image, axes, name in zip(row, axes_of_row, columns, strict=True):
            if image is None:
                axes.set_axis_off()
            else:
                show(axes, image, name if number == 0 else "")
        if names:
            name_row(axes_of_row[0], names[number])
    return figure


def name_row(axes: Axes, name: str) -> None:
    """Write a row's name beside its first panel."""
    axes.set_ylabel(name, fontsize=SMALL)


def colour_bar(figure: Figure, drawn: Any, panels: Any, label: str) -> None:
    """Add the colour scale of the maps in ``panels``."""
    bar = figure.colorbar(drawn, ax=panels, shrink=0.8, aspect=30, pad=0.01)
    bar.set_label(label, fontsize=SMALL)
    bar.ax.tick_params(labelsize=SMALL - 1)


def plain(axes: Axes) -> None:
    """Style of a diagram with as few lines as possible."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=SMALL - 1)
