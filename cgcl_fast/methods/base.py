"""The interface between a method and the engine: networks, the phases of a step, and translation."""

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
        weight_decay: L2 penalty: this times the weight is added to its gradient.
        clip: maximum gradient norms of single networks of the phase, by name; larger gradients are scaled down.
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
        loss: (batch, shared) -> scalars. The entry "loss" is differentiated; the others are detached, for the log.
            ``batch`` has tensors only. ``shared`` is a new dict in each step, which starts with the step's choices
            (:meth:`Method.choose`) and passes results on to later phases.
        optimizer: how to update.
        frozen: names of the attributes whose parameters take no gradient in this phase.
        keeps: names of entries of ``shared`` to keep, detached, for ``after``, or for later phases that could not
            recompute them because the weights have changed by then. A step of several parts (``--accumulate``) runs
            each phase on all parts before the next phase. In between, only these entries of each part are kept; later
            phases recompute the rest, or memory would grow with the number of parts.
        after: called once after the update, without gradients, with the batches of all parts of the step and a dict
            for each part with the kept entries of its ``shared``.
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
        generator_name: the network that translates A to B.
        backward_name: the network that translates B to A, if there is one.
        named_domains: whether translations are to a domain by name, so that A and B have no order.
        published: names of the networks in the published code's files, ``latest_net_NAME.pth``; empty if it has no such
            networks.
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
        """What the method, with this config, needs of its data."""
        return DataNeeds()

    def schedule(self, steps: int) -> Callable[[int], float] | None:
        """The factor of the learning rates at each step of a training of ``steps``. None: the config's ``epochs`` at
        the full rate, then ``decay_epochs`` of linear decay to zero, or what its ``lr_policy`` says."""
        return None

    def weights_taken(self) -> None:
        """Called after networks were initialised with weights of another training, to update what starts as a copy."""

    def phases(self) -> list[Phase]:
        """The phases of a step, in order."""
        raise TypeError(f"{type(self).__name__} does not define phases()")

    def choose(self, progress: float) -> Shared:
        """Everything that a step decides on the host, drawn before the step. The step's ``shared`` starts with it.

        Within a step no decision depends on a tensor's value or on host random numbers. So the engine can record a
        step as a CUDA graph, one per combination of these choices, and replay it. There must be few combinations.

        Args:
            progress: the fraction of the training that is done, from 0 to 1.

        Returns:
            Names and hashable values, in a new dict.
        """
        return {}

    def begin(self, batches: Sequence[Batch], shared: Sequence[Shared]) -> None:
        """Compute what a part of a step must know about the others, such as how many images a mean is over. Called
        once at the beginning of a step, with the batch and ``shared`` of each part, and stores its results there."""

    def prepare(self, batch: Batch) -> Batch:
        """The batch as the phases need it: converts whatever they use to tensors. Called on the host with the loader's
        batch. Entries that are not tensors (paths, boxes) do not reach the phases."""
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
        """Pictures for the sample grid: name -> (B, C, H, W) in [-1, 1], one column each.

        If the truth is known, it is the column "truth" for "translated", or "NAME truth" for the column NAME.
        """
        pictures = {"source": batch["A"], "translated": self.translate(batch["A"])}
        if "truth" in batch:
            pictures["truth"] = batch["truth"]
        return pictures


def check_networks(kind: type[Method], config: Any) -> None:
    """Check that the networks of this config can be built here, without allocating them.

    Raises:
        ValueError: options do not fit together, or the networks need more memory than this machine has.
    """
    with torch.device("meta"):
        method = kind(config)
    # float32 weights and, for trained ones, the gradient and Adam's two averages.
    needed = sum(p.numel() * (16 if p.requires_grad else 4) for p in (*method.parameters(), *method.buffers()))
    if not hasattr(os, "sysconf"):  # not a POSIX system: the memory is unknown
        return
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise ValueError(
            f"networks of this size take {needed / 2**30:.1f} GiB to train, and this machine has {there / 2**30:.1f}: "
            "choose fewer or narrower layers"
        )


def channels_of(config: Any) -> tuple[int, int]:
    """The channels of the first domain's images and of the others', for a method's config."""
    first = getattr(config, "input_nc", 3)
    return first, getattr(config, "output_nc", first)


def check_image(item: Mapping[str, Any], config: Any) -> None:
    """Check that the networks accept the images (or crops) of an item: "A" and "B", or the item's domains by name,
    (..., C, H, W).

    Raises:
        ValueError: the number of channels is wrong, or there are too few pixels.
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
    """``network.layer_channels`` of an option's layers, named in the error if there is no such layer:
    ``widths_of(self.G, nce_layers=config.nce_layers)``."""
    ((name, numbers),) = layers.items()
    try:
        return network.layer_channels(numbers)
    except ValueError as error:
        raise ValueError(f"{name}: {str(error).removeprefix('feature_layers: ')}") from error


def translate_any_size(
    generator: Callable[[Tensor], Tensor], image: Tensor, multiple: int = 4, least: int = 8
) -> Tensor:
    """Run a generator on images of any size: pad by reflection, then crop back.

    Args:
        generator: maps (B, C, h, w) to (B, C', h, w), for h and w that are multiples of ``multiple``.
        image: (B, C, H, W), values in [-1, 1].
        multiple: sides are padded to a multiple of this.
        least: the smallest side that the generator accepts.

    Returns:
        (B, C', H, W).
    """
    height, width = image.shape[-2:]
    return generator(pad_to_multiple(image, multiple, least))[..., :height, :width]


def pad_to_multiple(image: Tensor, multiple: int = 4, least: int = 8) -> Tensor:
    """(B, C, H, W) padded at the bottom and on the right, by reflection, to sides that are multiples of ``multiple``
    and at least ``least``."""
    height, width = image.shape[-2:]
    bottom, right = (max(least, -(-side // multiple) * multiple) - side for side in (height, width))
    if bottom or right:
        reflects = bottom < height and right < width  # reflection needs an image larger than the padding
        image = F.pad(image, (0, right, 0, bottom), mode="reflect" if reflects else "replicate")
    return image
