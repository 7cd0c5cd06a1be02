"""How often the discriminator's attention picks a position (EnCo, Algorithm 1 and Fig. 2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cgcl_fast.figures._panels import colour_bar, sheet, show
from cgcl_fast.figures.features import Compared, DoesNotFitError, features
from cgcl_fast.methods import Method
from cgcl_fast.methods.cut import CUT
from cgcl_fast.methods.enco import EnCo

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DRAWS = 300


@dataclass(frozen=True)
class Attention:
    """The discriminator's score of translations, and where patches are drawn because of it.

    Attributes:
        compared: sources, translations and the features of the layers.
        score: D(G(x)), (B, 1, h, w); low means fake.
        frequency: for each layer, the share of draws that include a position, (B, h, w).
    """

    compared: Compared
    score: Tensor
    frequency: list[Tensor]


def selection_frequency(draw: Callable[[], Tensor], size: Sequence[int], draws: int = DRAWS) -> Tensor:
    """The share of ``draws`` in which each position is drawn.

    Args:
        draw: returns ids of flattened positions, (B, P), distinct in each row.
        size: (h, w) of the map.

    Returns:
        (B, h, w), which sums to P in each row.
    """
    height, width = size
    count: Tensor | None = None
    for _ in range(draws):
        ids = draw()
        if count is None:
            count = torch.zeros(len(ids), height * width, dtype=torch.float64)
        count.scatter_add_(1, ids, torch.ones_like(ids, dtype=torch.float64))
    if count is None:
        raise ValueError(f"draws: expected at least 1, got {draws}")
    return (count / draws).unflatten(1, (height, width))


@torch.no_grad()
def attention(method: Method, images: Tensor, draws: int = DRAWS) -> Attention:
    """How often training draws each position of ``images``, by the method's own draw. Uses torch's generator with a
    fixed seed, and restores it.

    Raises:
        DoesNotFitError: the method draws positions independently of the discriminator.
    """
    if not isinstance(method, (CUT, EnCo)) or method.config.sampling != "dag":
        raise DoesNotFitError("sampling by the discriminator's attention")
    compared = features(method, images)
    score = method.D(compared.translation)
    frequency = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for layer in compared.layers:

            def draw(key: Tensor = layer.key) -> Tensor:
                if isinstance(method, EnCo):
                    return method.draw(key, {"score": score})
                return method.nce.sample([key], score)[0]

            frequency.append(selection_frequency(draw, layer.key.shape[2:], draws))
    return Attention(compared, score, frequency)


def attention_figure(found: Attention, *, images: int = 3, title: str = "") -> Figure:
    """One row per image: the translation, D's score and, for each layer, the share of draws that include each
    position."""
    compared = found.compared
    count = min(images, len(compared.source))
    figure, panels = sheet(count, 2 + len(compared.layers), width=1.4, title=title)
    low, high = float(found.score[:count].min()), float(found.score[:count].max())
    greatest = [float(each[:count].max()) for each in found.frequency]
    for image, row in enumerate(panels):
        show(row[0], compared.translation[image], "translation" if image == 0 else "")
        score = found.score[image, 0].numpy()
        drawn = show(row[1], score, "D, low is fake" if image == 0 else "", vmin=low, vmax=high, cmap="coolwarm_r")
        maps = zip(row[2:], compared.layers, found.frequency, greatest, strict=True)
        for axes, layer, frequency, most in maps:
            height, width = frequency.shape[1:]
            name = f"{layer.name}, {width}x{height}\nmean {float(frequency[image].mean()):.1%}\nbrightest {most:.0%}"
            show(axes, frequency[image].numpy(), name if image == 0 else "", vmin=0, vmax=most, cmap="magma")
    colour_bar(figure, drawn, panels[:, 1], "D(G(x))")
    return figure
