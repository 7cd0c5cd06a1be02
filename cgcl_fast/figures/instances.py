"""Instances translated by G_o, the generator of instances (CGL, CGCL)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cgcl_fast.data import UnpairedDataset
from cgcl_fast.figures._panels import grid
from cgcl_fast.figures.features import DoesNotFitError
from cgcl_fast.figures.style_codes import image_and_instance
from cgcl_fast.methods import Method
from cgcl_fast.methods.cgl import CGL

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOOKED_AT = 50
"""Number of images per domain in which to look for instances."""


def find_instances(dataset: UnpairedDataset, count: int = 2) -> tuple[Tensor, list[str]]:
    """The first instances of each domain, (N, C, S, S) in [-1, 1], and each one's domain.

    Raises:
        DoesNotFitError: there are none.
    """
    crops, names = [], []
    for domain in dataset.domains:
        for index in range(min(LOOKED_AT, dataset.count(domain))):
            crop = image_and_instance(dataset, domain, index)[1]
            if crop is not None:
                crops.append(crop)
                names.append(domain)
                if names.count(domain) == count:
                    break
    if not crops:
        raise DoesNotFitError("boxes of instances in its test images")
    return torch.stack(crops), names


@torch.no_grad()
def translate_instances(method: Method, instances: Tensor, style: Tensor | None = None) -> Tensor:
    """Instances in every domain.

    Args:
        instances: (N, C, S, S) in [-1, 1].
        style: (1, style_dim); None: the style of seed 0.

    Returns:
        (N, number of domains, C, S, S).

    Raises:
        DoesNotFitError: the method has no generator of instances.
    """
    if not isinstance(method, CGL):
        raise DoesNotFitError("a generator of instances")
    return torch.stack([method.G_o(instances, domain, style) for domain in range(len(method.domains))], 1)


def instances_figure(
    instances: Tensor, translations: Tensor, domains: Sequence[str], names: Sequence[str] = (), *, title: str = ""
) -> Figure:
    """One row per instance: itself, and its translation to each domain.

    Args:
        translations: from :func:`translate_instances`.
        names: each instance's domain.
    """
    rows = [[instance, *translated] for instance, translated in zip(instances, translations, strict=True)]
    return grid(rows, ["instance", *(f"to {domain}" for domain in domains)], names, title, width=0.9)
