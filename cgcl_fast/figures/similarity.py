"""Which positions of the source PatchNCE finds similar to a position of the translation (CUT, Fig. 7)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cgcl_fast.figures._panels import COLOURS, colour_bar, name_row, sheet, show
from cgcl_fast.figures.features import Compared, Layer

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS = ((0.3, 0.35), (0.6, 0.7))
"""Queries, as fractions of width and height."""


def position_of(point: tuple[float, float], size: Sequence[int]) -> tuple[int, int]:
    """Row and column in a map (H, W) of a point (x, y) in [0, 1]."""
    height, width = size
    return min(int(point[1] * height), height - 1), min(int(point[0] * width), width - 1)


def similarity_map(layer: Layer, point: tuple[float, float], temperature: float) -> Tensor:
    """exp(v·v⁻/τ), with v the translation's feature at a point and v⁻ the source's at every position (CUT, Sec. 4.2).

    Args:
        layer: projected features at unit length.
        point: x and y, fractions of width and height.
        temperature: τ.

    Returns:
        (B, h, w), float64.
    """
    row, column = position_of(point, layer.query.shape[2:])
    query = layer.query[:, :, row, column].double()
    return (torch.einsum("bc,bchw->bhw", query, layer.key.double()) / temperature).exp()


def similarity_figure(
    compared: Compared, points: Sequence[tuple[float, float]] = POINTS, *, image: int = 0, title: str = ""
) -> Figure:
    """One row per point: the translation with the query, the source with the same position, and each layer's map,
    scaled by its maximum.

    Args:
        compared: from :func:`cgcl_fast.figures.projected_features`.
        points: queries, see :func:`similarity_map`.
        image: which of the batch.
    """
    temperature = compared.temperature or 0.07
    figure, panels = sheet(len(points), 2 + len(compared.layers), title=title)
    for number, (point, row) in enumerate(zip(points, panels, strict=True)):
        first = number == 0
        for axes, picture, name in zip(
            row, (compared.translation, compared.source), ("translation, query", "source"), strict=False
        ):
            show(axes, picture[image], name if first else "")
            _mark(axes, point, picture.shape[2:], number)
        for axes, layer in zip(row[2:], compared.layers, strict=True):
            cosines = similarity_map(layer, point, temperature)[image]
            height, width = cosines.shape
            size = f"{layer.name}\n{width}x{height}"
            drawn = show(axes, (cosines / cosines.max()).numpy(), size if first else "", vmin=0, vmax=1, cmap="viridis")
            _mark(axes, point, cosines.shape, number)
        name_row(row[0], f"query {number + 1}")
    colour_bar(figure, drawn, panels[:, -1], f"exp(v·v⁻/τ), τ = {temperature:g}, of its greatest")
    return figure


def _mark(axes: Axes, point: tuple[float, float], size: Sequence[int], number: int) -> None:
    row, column = position_of(point, size)
    colour = COLOURS[number % len(COLOURS)]
    axes.plot(column, row, "o", markersize=6, markerfacecolor=colour, markeredgecolor="white", markeredgewidth=1)
