"""The style codes of images and instances, embedded in the plane (CGL, Fig. 8; CGCL, Fig. 11)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cgcl_fast.data import UnpairedDataset, to_tensor
from cgcl_fast.data.classes import ClassTable
from cgcl_fast.data.unpaired import cut_object
from cgcl_fast.figures._panels import COLOURS, SMALL, sheet
from cgcl_fast.figures.embedding import tsne
from cgcl_fast.figures.features import DoesNotFitError
from cgcl_fast.methods import Method
from cgcl_fast.methods.cgl import CGL

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class StyleCodes:
    """Style codes of images and of instances.

    Attributes:
        codes: (N, style_dim).
        domain: each one's index in ``domains``, (N,).
        instance: whether it is an instance's, bool (N,).
        domains: their names.
    """

    codes: Tensor
    domain: Tensor
    instance: Tensor
    domains: tuple[str, ...]


@torch.no_grad()
def style_codes(method: Method, dataset: UnpairedDataset, count: int = 100) -> StyleCodes:
    """The codes of the first ``count`` images of each domain by the style encoder of images and, of one instance in
    each that has one, by the style encoder of instances. The papers use 100 (CGL) and 500 (CGCL).

    Raises:
        DoesNotFitError: the method has no style codes.
    """
    if not isinstance(method, CGL):
        raise DoesNotFitError("style codes")
    codes, labels, instances = [], [], []
    for domain, name in enumerate(dataset.domains):
        for index in range(min(count, dataset.count(name))):
            image, crop = image_and_instance(dataset, name, index)
            for shown, generator, instance in ((image, method.G_g, False), (crop, method.G_o, True)):
                if shown is not None:
                    codes.append(generator.style_of(shown[None], domain)[0])
                    labels.append(domain)
                    instances.append(instance)
    return StyleCodes(torch.stack(codes), torch.tensor(labels), torch.tensor(instances), tuple(dataset.domains))


def image_and_instance(dataset: UnpairedDataset, domain: str, index: int) -> tuple[Tensor, Tensor | None]:
    """An image as a network input, (C, H, W), and its first instance that is large enough, (C, S, S)."""
    picture, needs = dataset.picture(domain, index), dataset.needs
    boxes = picture.boxes
    if needs.classes is not None:
        table = ClassTable(needs.classes)
        boxes = boxes[[number for number, label in enumerate(picture.labels) if table.find(label) is not None]]
    crop = None
    if needs.object_size is not None:
        crop = cut_object(picture.image, boxes, needs.object_size, 0.0, least=needs.min_object)
    return dataset.preprocess.apply(picture.image, boxes).image, None if crop is None else to_tensor(crop)


def style_codes_figure(found: StyleCodes, *, seed: int = 0, title: str = "") -> Figure:
    """Images as crosses and instances as dots, coloured by domain."""
    points = tsne(found.codes.numpy(), seed=seed)
    figure, panels = sheet(1, 1, width=5.4, height=4.2, title=title)
    axes = panels[0, 0]
    domain, instance = found.domain.numpy(), found.instance.numpy()
    for number, name in enumerate(found.domains):
        for of_instances, marker, what in ((False, "x", "images"), (True, "o", "instances")):
            chosen = points[(domain == number) & (instance == of_instances)]
            if len(chosen):
                axes.scatter(
                    *np.ascontiguousarray(chosen.T),
                    s=18 if marker == "x" else 12,
                    marker=marker,
                    color=COLOURS[number % len(COLOURS)],
                    linewidths=0.9 if marker == "x" else 0,
                    alpha=0.8,
                    label=f"{name}, {what}",
                )
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color("#bbbbbb")
    figure.legend(loc="outside right upper", frameon=False, fontsize=SMALL)
    return figure
