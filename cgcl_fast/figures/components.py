"""The principal components of features as colours (CUT, Fig. 7; EnCo, Fig. 6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cgcl_fast._extras import require
from cgcl_fast.figures._panels import name_row, sheet, show
from cgcl_fast.figures.features import Compared, Layer

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def principal_components(layer: Layer, image: int = 0, components: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """The features of an image and of its translation along the directions in which both together vary most.

    Args:
        layer: features of any width.
        image: which of the batch.
        components: how many; fewer if there are fewer channels.

    Returns:
        Components of the translation and of the source, float (h, w, components).

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    decomposition = require("sklearn.decomposition", "figures")
    maps = (layer.query[image], layer.key[image])
    rows = torch.cat([_rows(each) for each in maps]).double().numpy()
    count = min(components, *rows.shape)
    projected = decomposition.PCA(count, svd_solver="full").fit_transform(rows)
    height, width = maps[0].shape[1:]
    query, key = projected.reshape(2, height, width, count)
    return query, key


def _rows(features: Tensor) -> Tensor:
    """(C, h, w) to (h·w, C)."""
    return features.detach().flatten(1).T


def as_colours(maps: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Components (h, w, n) of several maps as colours (h, w, 3) in [0, 1], on a common scale from the 1st to the 99th
    percentile of each component. Missing components are ½."""
    values = np.concatenate([each.reshape(-1, each.shape[2]) for each in maps])
    low, high = np.percentile(values, (1, 99), axis=0)
    scale = np.where(high > low, high - low, 1)
    coloured = []
    for each in maps:
        colours = np.full((*each.shape[:2], 3), 0.5)
        colours[..., : each.shape[2]] = np.clip((each - low) / scale, 0, 1)
        coloured.append(colours)
    return coloured


def components_figure(compared: Compared, *, images: int = 2, title: str = "") -> Figure:
    """Two rows per image, source and translation: the picture, then the first three components of each layer as red,
    green and blue."""
    count = min(images, len(compared.source))
    figure, panels = sheet(2 * count, 1 + len(compared.layers), width=1.3, title=title)
    for image in range(count):
        rows = panels[2 * image : 2 * image + 2]
        for axes, picture, name in zip(
            rows[:, 0], (compared.source, compared.translation), ("source", "translation"), strict=True
        ):
            show(axes, picture[image])
            name_row(axes, name)
        for column, layer in enumerate(compared.layers, 1):
            query, key = as_colours(principal_components(layer, image))
            height, width = key.shape[:2]
            show(rows[0, column], key, "" if image else f"{layer.name}\n{width}x{height}")
            show(rows[1, column], query)
    return figure
