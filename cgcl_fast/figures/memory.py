"""Which items of MGUIT's memory the contents of images address (MGUIT, Fig. 9)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cgcl_fast.figures._panels import SMALL, plain, sheet
from cgcl_fast.figures.embedding import tsne
from cgcl_fast.figures.features import DoesNotFitError
from cgcl_fast.methods import Method
from cgcl_fast.methods.base import pad_to_multiple
from cgcl_fast.methods.mguit import MGUIT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKERS = ("o", "^")
"""Markers of the first and the second domain."""


@dataclass(frozen=True)
class Assignments:
    """Contents of pixels, and the items they address.

    Attributes:
        contents: at unit length, (N, C).
        item: for each the item with the nearest key, (N,).
        domain: 0 or 1, (N,).
        item_class: name of each item's class.
        domains: their names.
    """

    contents: Tensor
    item: Tensor
    domain: Tensor
    item_class: tuple[str, ...]
    domains: tuple[str, ...]

    def share(self) -> Tensor:
        """The share of pixels that address each item, float64 (number of items,)."""
        return torch.bincount(self.item, minlength=len(self.item_class)).double() / len(self.item)


@torch.no_grad()
def memory_assignments(method: Method, images: list[Tensor], pixels: int = 600, seed: int = 0) -> Assignments:
    """The items that pixels address at test time, when each may read all items.

    Args:
        images: of each domain, (B, C, H, W) in [-1, 1].
        pixels: how many per domain, drawn at random.
        seed: of the draw.

    Raises:
        DoesNotFitError: the method has no memory.
    """
    if not isinstance(method, MGUIT):
        raise DoesNotFitError("a memory")
    memory = method.G.memory
    draw = torch.Generator().manual_seed(seed)
    keys = F.normalize(memory.keys, dim=1)
    contents, domains = [], []
    for domain, batch in enumerate(images):
        content = method.G.encode([pad_to_multiple(batch)], [domain])
        rows = F.normalize(content, dim=1).permute(0, 2, 3, 1).flatten(0, 2)
        contents.append(rows[torch.randperm(len(rows), generator=draw)[:pixels]])
        domains.append(torch.full((len(contents[-1]),), domain))
    addressing = torch.cat(contents)
    names = (*map(str, method.config.classes), "background")
    item_class = tuple(names[k] for k in memory.item_class.tolist())
    return Assignments(addressing, (addressing @ keys.T).argmax(1), torch.cat(domains), item_class, method.domains)


def memory_figure(found: Assignments, *, seed: int = 0, title: str = "") -> Figure:
    """Pixels in the plane, coloured by item and marked by domain, and how many address each item."""
    points = tsne(found.contents.numpy(), seed=seed)
    figure, panels = sheet(1, 2, width=3.6, title=title)
    scatter, bars = panels[0]
    colours = _colours(len(found.item_class))
    item, domain = found.item.numpy(), found.domain.numpy()
    for number, name in enumerate(found.domains):
        chosen = domain == number
        scatter.scatter(
            *np.ascontiguousarray(points[chosen].T),
            s=8,
            marker=MARKERS[number],
            c=[colours[k] for k in item[chosen]],
            linewidths=0,
            alpha=0.8,
        )
        scatter.scatter([], [], s=14, marker=MARKERS[number], color="black", label=name)
    scatter.set(xticks=[], yticks=[])
    scatter.spines[:].set_color("#bbbbbb")
    scatter.set_title("content of pixels", fontsize=SMALL + 1)
    scatter.legend(frameon=False, fontsize=SMALL, loc="best", title="domain", title_fontsize=SMALL)
    places = np.arange(len(found.item_class))
    bars.barh(places, found.share().numpy(), color=colours)
    bars.set_yticks(places, [f"{name} {n}" for n, name in enumerate(found.item_class)])
    bars.invert_yaxis()
    bars.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    plain(bars)
    bars.set_title("share of the pixels that address an item", fontsize=SMALL + 1)
    return figure


def _colours(count: int) -> list[tuple[float, ...]]:
    """``count`` colours that are as different as possible."""
    from matplotlib import colormaps

    if count <= 20:
        return [colormaps["tab20"](n) for n in range(count)]
    return [colormaps["hsv"](n / count) for n in range(count)]
