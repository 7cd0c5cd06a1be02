"""Where the discriminator looks to recognise the domain of an image (CGCL, Fig. 12)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgcl_fast._extras import require
from cgcl_fast.figures._panels import colour_bar, name_row, sheet, show
from cgcl_fast.figures.features import DoesNotFitError
from cgcl_fast.methods import Method
from cgcl_fast.methods.cgl import CGL
from cgcl_fast.networks import DomainDiscriminator

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEAST_MAP = 8
"""Minimum side of the displayed map in positions, if a layer has that many."""


@dataclass(frozen=True)
class Explanation:
    """Grad-CAM of each class.

    Attributes:
        images: (B, C, H, W) in [-1, 1].
        probabilities: of the domains, (B, K).
        maps: evidence for each domain, at least 0, (B, K, h, w).
        domains: their names.
    """

    images: Tensor
    probabilities: Tensor
    maps: Tensor
    domains: tuple[str, ...]


class _Classifier(nn.Module):
    """Only D_cls."""

    def __init__(self, discriminator: DomainDiscriminator) -> None:
        super().__init__()
        self.discriminator = discriminator

    def forward(self, images: Tensor) -> Tensor:
        return self.discriminator(images)[1]


def layer_of(discriminator: DomainDiscriminator, images: Tensor) -> int:
    """The last convolution whose map has at least ``LEAST_MAP`` positions per side: the very last one has only 4x4 for
    images of the papers' size, too few to see much."""
    side = min(images.shape[2:])
    chosen = 0
    for number in range(len(discriminator.convs)):
        side //= 2
        if side >= LEAST_MAP:
            chosen = number
    return chosen


def grad_cam(method: Method, images: Tensor, layer: int | None = None) -> Explanation:
    """Grad-CAM (Selvaraju et al. 2017) of the images' domain classifier, by captum.

    Args:
        images: (B, C, H, W) in [-1, 1].
        layer: number of a convolution of D; see :func:`layer_of`.

    Raises:
        DoesNotFitError: the method has no classifier of domains.
        MissingExtraError: captum is not installed.
    """
    if not isinstance(method, CGL):
        raise DoesNotFitError("a domain classifier")
    kind = require("captum.attr", "figures").LayerGradCam
    classifier = _Classifier(method.D_g)
    layer = layer_of(method.D_g, images) if layer is None else layer
    explain = kind(classifier, method.D_g.convs[layer])
    with torch.enable_grad():
        x = images.detach().clone().requires_grad_()
        maps = [
            explain.attribute(x, target=domain, relu_attributions=True).detach()
            for domain in range(len(method.domains))
        ]
    with torch.no_grad():
        probabilities = classifier(images).softmax(1)
    return Explanation(images, probabilities, torch.cat(maps, 1), method.domains)


def grad_cam_figure(found: Explanation, names: tuple[str, ...] = (), *, title: str = "") -> Figure:
    """One row per image: the image, then the evidence for each domain drawn over it in grey, with its probability. The
    maps of a row share one scale, up to the row's maximum.

    Args:
        names: of the rows, such as each image's domain.
    """
    figure, panels = sheet(len(found.images), 1 + len(found.domains), width=1.4, title=title)
    size = found.images.shape[2:]
    for number, row in enumerate(panels):
        show(row[0], found.images[number], "image" if number == 0 else "")
        greatest = found.maps[number].max().clamp_min(1e-12)
        maps = F.interpolate(found.maps[number : number + 1] / greatest, size, mode="bilinear", align_corners=False)[0]
        grey = found.images[number].mean(0).cpu().numpy()
        for k, axes in enumerate(row[1:]):
            share = f"{found.probabilities[number, k]:.0%}"
            show(axes, grey, f"for {found.domains[k]}\n{share}" if number == 0 else share, cmap="gray", vmin=-1, vmax=1)
            drawn = axes.imshow(maps[k].numpy(), cmap="inferno", alpha=0.6, vmin=0, vmax=1, interpolation="bilinear")
        if names:
            name_row(row[0], names[number])
    colour_bar(figure, drawn, panels[:, -1], "Grad-CAM, of the row's greatest")
    return figure
