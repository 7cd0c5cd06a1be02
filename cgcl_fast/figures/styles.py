"""Translations in several styles, and along a line between two styles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cgcl_fast.figures._panels import grid
from cgcl_fast.methods.base import translate_any_size
from cgcl_fast.networks import StyledGenerator

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@torch.no_grad()
def in_styles(generator: StyledGenerator, images: Tensor, domain: int, styles: Tensor) -> Tensor:
    """Translations of each image in each style.

    Args:
        images: (B, C, H, W) in [-1, 1].
        domain: index of the target domain.
        styles: (K, ...), as from ``generator.random_style(K)``.

    Returns:
        (B, K, C, H, W).
    """

    def translate(style: Tensor) -> Tensor:
        return translate_any_size(lambda x: generator(x, domain, style[None]), images)

    return torch.stack([translate(style) for style in styles], 1)


def between(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """``steps`` equally spaced styles on the line from one style to another, both included: (steps, ...).

    Raises:
        ValueError: fewer than two steps, or styles of different shapes.
    """
    if steps < 2:
        raise ValueError(f"steps: expected at least 2, got {steps}")
    if start.shape != end.shape:
        raise ValueError(f"end: expected the shape of start, {tuple(start.shape)}, got {tuple(end.shape)}")
    return torch.stack([start.lerp(end, n / (steps - 1)) for n in range(steps)])


def styles_figure(images: Tensor, translations: Tensor, names: Sequence[str] = (), *, title: str = "") -> Figure:
    """One row per image: the source, and its translation in each style.

    Args:
        translations: (B, K, C, H, W) from :func:`in_styles`.
        names: of the styles.
    """
    names = names or [f"style {n}" for n in range(translations.shape[1])]
    rows = [[image, *of_image] for image, of_image in zip(images, translations, strict=True)]
    return grid(rows, ["source", *names], title=title)
