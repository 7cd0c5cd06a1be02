"""What a method is to the engine: networks, the phases of a step, and how to translate an image."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgcl_fast.data.needs import Crops as Crops
from cgcl_fast.data.needs import DataNeeds as DataNeeds

Batch = dict[str, Any]
Shared = dict[str, Any]


@dataclass(frozen=True)
class OptimizerSpec:
    """Adam.

    Args:
        lr: learning rate.
        betas: β₁ and β₂.
        lrs: learning rates of single networks of the phase, by name, where they differ from ``lr``.
        weight_decay: times a weight, added to its gradient.
        clip: greatest norms of the gradients of single networks of the phase, by name; a longer gradient is shortened.
    """

    lr: float
    betas: tuple[float, float]
    lrs: Mapping[str, float] = field(default_factory=dict)
    weight_decay: float = 0.0
    clip: Mapping[str, float] = field(default_factory=dict)

    def lr_of(self, network: str) -> float:
        """The learning rate of the network of this name."""
        return self.lrs.get(network, self.lr)


@dataclass(frozen=True)
class Phase:
    """One update within a step.

    Args:
        name: "discriminator", "generator", ...
        networks: names of the method's attributes whose parameters this phase trains.
        loss: (batch, shared) -> scalars. The entry "loss" is what is differentiated, the others are detached, for the
            log. ``batch`` has tensors only; ``shared`` is a fresh dict in each step that begins with the step's choices
            (:meth:`Method.choose`), for what later phases reuse.
        optimizer: how to update.
        frozen: names of the attributes whose parameters take no gradient in this phase.
        keeps: names of what the phase puts into ``shared``, detached, for ``after``, or for later phases that could not
            compute it anew since the weights are others then. A step of several parts (``--accumulate``) runs each
            phase on all parts before the next one, and has of the parts in the meantime nothing but this: all else is
            computed anew by the later phase, or memory would grow with the number of parts.
        after: called once after the update, without gradients, with the batches of all parts of the step, and a dict
            for each with what is kept of its ``shared``.
    """

    name: str
    networks: tuple[str, ...]
    loss: Callable[[Batch, Shared], dict[str, Tensor]]
    optimizer: OptimizerSpec
    frozen: tuple[str, ...] = ()
    keeps: tuple[str, ...] = ()
    after: Callable[[Sequence[Batch], Sequence[Shared]], None] | None = None


class Method(nn.Module):
    """Base of all methods. The constructor takes the config, builds all networks and initialises them.

    Attributes:
        generator_name: the network that translates, A to B.
        backward_name: the one that translates B to A, if there is one.
        named_domains: whether a translation names the domain it goes to, so that A and B have no order.
        published: names of the networks in the files of the published code, ``latest_net_NAME.pth``; empty where it has
            no such networks.
    """

    Config: ClassVar[type]
    domains: tuple[str, ...] = ("A", "B")
    generator_name: ClassVar[str] = "G"
    backward_name: ClassVar[str | None] = None
    named_domains: ClassVar[bool] = False
    published: ClassVar[Mapping[str, str]] = {}

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    @classmethod
    def needs(cls, config: Any) -> DataNeeds:
        """What the method with this config asks of its data."""
        return DataNeeds()

    def schedule(self, steps: int) -> Callable[[int], float] | None:
        """Factor of the learning rates at each step of a training of ``steps``; None: the config's ``epochs`` at the
        full rate, then ``decay_epochs`` of linear decay to zero, or as else its ``lr_policy`` says."""
        return None

    def weights_taken(self) -> None:
        """Called when networks have been given weights of another training, for what begins as a copy of them."""

    def phases(self) -> list[Phase]:
        """The phases of a step, in order."""
        raise TypeError(f"{type(self).__name__} does not define phases()")

    def choose(self, progress: float) -> Shared:
        """All that a step decides on the host, drawn before it; its ``shared`` begins with this.

        Within a step nothing is decided by the value of a tensor or by a number that the host draws. So the engine can
        record a step as a CUDA graph, one for each combination of these choices, and replay it: they must be few.

        Args:
            progress: the fraction of the training that is done, from 0 to 1.

        Returns:
            Names and hashable values, in a new dict.
        """
        return {}

    def begin(self, batches: Sequence[Batch], shared: Sequence[Shared]) -> None:
        """What a part of a step must know of the others, such as how many images of all parts count in a mean: called
        once at the beginning of a step, with the batch and the ``shared`` of each part, into which it goes."""

    def prepare(self, batch: Batch) -> Batch:
        """A batch as the loader gives it, on the host, with what the phases need of it as tensors; all else (paths,
        boxes) does not reach them."""
        return batch

    @torch.no_grad()
    def translate(self, image: Tensor) -> Tensor:
        """Translate images of any size.

        Args:
            image: (B, C, H, W), values in [-1, 1].

        Returns:
            The translations, of the same height and width.
        """
        generator = getattr(self, self.generator_name)
        return translate_any_size(generator, image, getattr(generator, "multiple", 4))

    def samples(self, batch: Batch) -> dict[str, Tensor]:
        """Pictures for the sample grid: name -> (B, C, H, W) in [-1, 1], a column each.

        Where the truth is known it is the column "truth" of "translated", or "NAME truth" of the column NAME.
        """
        pictures = {"source": batch["A"], "translated": self.translate(batch["A"])}
        if "truth" in batch:
            pictures["truth"] = batch["truth"]
        return pictures


def check_networks(kind: type[Method], config: Any) -> None:
    """Whether there can be such networks here, without the memory for them.

    Raises:
        ValueError: an option does not fit the others, or they need more memory than this machine has.
    """
    with torch.device("meta"):
        method = kind(config)
    # Weights in float32, and of those that learn the gradient and Adam's two averages.
    needed = sum(p.numel() * (16 if p.requires_grad else 4) for p in (*method.parameters(), *method.buffers()))
    if not hasattr(os, "sysconf"):  # not a POSIX system: nothing tells
        return
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise ValueError(
            f"networks of this size take {needed / 2**30:.1f} GiB to train, and this machine has {there / 2**30:.1f}: "
            "choose fewer or narrower layers"
        )


def channels_of(config: Any) -> tuple[int, int]:
    """Channels of the images of the first domain and of the others, with a method's config."""
    first = getattr(config, "input_nc", 3)
    return first, getattr(config, "output_nc", first)


def check_image(item: Mapping[str, Any], config: Any) -> None:
    """Whether the networks take such images (or crops) as a step gets: "A" and "B", or whatever the domains of the item
    are called, (..., C, H, W).

    Raises:
        ValueError: they have other numbers of channels, or too few pixels.
    """
    for name, expected, domain in zip(("input_nc", "output_nc"), channels_of(config), "AB", strict=True):
        if domain in item and item[domain].shape[-3] != expected:
            raise ValueError(f"{name}: images are read with {item[domain].shape[-3]} channels, got {expected}")
    height, width = item["A"].shape[-2:]
    least = config.least_size()
    if min(height, width) < least:
        raise ValueError(
            f"size: networks with these options need images of at least {least}x{least} pixels, got {width}x{height}"
        )


def widths_of(network: Any, **layers: Sequence[int]) -> tuple[int, ...]:
    """``network.layer_channels`` of the option ``layers``, whose name stands in the error where there is no such layer:
    ``widths_of(self.G, nce_layers=config.nce_layers)``."""
    ((name, numbers),) = layers.items()
    try:
        return network.layer_channels(numbers)
    except ValueError as error:
        raise ValueError(f"{name}: {str(error).removeprefix('feature_layers: ')}") from error


def translate_any_size(
    generator: Callable[[Tensor], Tensor], image: Tensor, multiple: int = 4, least: int = 8
) -> Tensor:
    """Run a generator on images whose sides need not be what it takes: pad by reflection, crop back.

    Args:
        generator: maps (B, C, h, w) to (B, C', h, w) where h and w are multiples of ``multiple``.
        image: (B, C, H, W), values in [-1, 1].
        multiple: what the sides are rounded up to.
        least: the least side that the generator takes.

    Returns:
        (B, C', H, W).
    """
    height, width = image.shape[-2:]
    return generator(pad_to_multiple(image, multiple, least))[..., :height, :width]


def pad_to_multiple(image: Tensor, multiple: int = 4, least: int = 8) -> Tensor:
    """(B, C, H, W) padded at the bottom and on the right, by reflection, to sides that are multiples of ``multiple``
    and not less than ``least``."""
    height, width = image.shape[-2:]
    bottom, right = (max(least, -(-side // multiple) * multiple) - side for side in (height, width))
    if bottom or right:
        reflects = bottom < height and right < width  # not where an image is smaller than what it lacks
        image = F.pad(image, (0, right, 0, bottom), mode="reflect" if reflects else "replicate")
    return image
