"""What every unpaired data set has in common: how an item is drawn, and the fixed batch for sample grids."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch.utils.data import Dataset

from cgcl_fast.data.transforms import Preprocess


class ItemKey(NamedTuple):
    """What a sampler asks a data set for. The epoch is part of it, so that workers need not be told of a new epoch."""

    epoch: int
    number: int


def item_random(seed: int, *where: int | str) -> random.Random:
    """A source of random numbers that is a pure function of its arguments, the same on every machine.

    ``random.Random.random`` seeded with a string is guaranteed to give the same sequence in every Python version; other
    methods of it are not, so draw integers as ``int(r.random() * n)``.
    """
    return random.Random(":".join(str(part) for part in (seed, *where)))


class UnpairedDataset(Dataset, ABC):
    """Images of two or more domains that do not correspond: item ``index`` has image ``index`` of the first domain and
    a random image of each other one.

    ``dataset[index]`` or ``dataset[epoch, index]`` is a dict with, for each domain, ``domain`` (float32 (3,H,W) in
    [-1,1]) and ``domain + "_paths"`` (a string). It is a pure function of (seed, epoch, index).

    Attributes:
        domains: the names, which are the keys of an item.
        full_view_epoch: from this epoch on (None: never) ``resize_and_crop`` resizes to ``size`` at once and no longer
            crops; published CUT does so in the epochs of learning-rate decay. Set it before the loader starts.
    """

    full_view_epoch: int | None = None

    def __init__(self, domains: Sequence[str], preprocess: Preprocess, seed: int) -> None:
        self.domains = tuple(domains)
        self.preprocess = preprocess
        self.seed = seed

    @abstractmethod
    def count(self, domain: str) -> int:
        """Number of images of a domain."""

    @abstractmethod
    def image(self, domain: str, index: int) -> tuple[Image.Image, str]:
        """(RGB image, its path or name). Counts from 0."""

    @abstractmethod
    def sample_batch(self, count: int = 4) -> dict[str, Any]:
        """The same ``count`` (or as many as there are) test images each time, as a batch for sample grids.

        Like a batch of the loader; with ``"truth"``, (B,3,H,W), if it is known what the first domain's images look like
        in the second domain.
        """

    def __len__(self) -> int:
        return max(self.count(domain) for domain in self.domains)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, index = (0, key) if isinstance(key, int) else key
        if not 0 <= index < len(self):
            raise IndexError(f"index must be from 0 to {len(self) - 1}, got {index}")
        rng = item_random(self.seed, epoch, index)
        full_view = self.full_view_epoch is not None and epoch >= self.full_view_epoch
        load_size = self.preprocess.size if full_view else None
        item: dict[str, Any] = {}
        for position, domain in enumerate(self.domains):
            images = self.count(domain)
            chosen = index % images if position == 0 else int(rng.random() * images)
            image, name = self.image(domain, chosen)
            item[domain] = self.preprocess(image, rng, load_size=load_size)
            item[f"{domain}_paths"] = name
        return item


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Items to a batch: images stacked to (B,3,H,W), paths listed.

    Raises:
        ValueError: the images of a domain differ in size.
    """
    batch: dict[str, Any] = {}
    for name, first in items[0].items():
        values = [item[name] for item in items]
        if not isinstance(first, torch.Tensor):
            batch[name] = values
            continue
        other = next((value for value in values if value.shape != first.shape), None)
        if other is not None:
            raise ValueError(
                f"images of one batch must have one size, got {_extent(first)} and {_extent(other)} in domain {name}: "
                "use batch_size 1, or preprocess resize_and_crop or crop"
            )
        batch[name] = torch.stack(values)
    return batch


def _extent(image: torch.Tensor) -> str:
    return f"{image.shape[-1]}x{image.shape[-2]}"
