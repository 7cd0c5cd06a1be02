"""The base of all unpaired data sets: drawing an item, its boxes, and batches."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from cgcl_fast.data.classes import ClassTable
from cgcl_fast.data.decoding import Pixels, size_of, to_tensor
from cgcl_fast.data.formats import DataError
from cgcl_fast.data.needs import NOTHING_MORE, DataNeeds
from cgcl_fast.data.random import item_random
from cgcl_fast.data.transforms import Preprocess
from cgcl_fast.data.values import Values

_LISTED = ("_boxes", "_classes")  # keys with these endings differ in length from item to item


class ItemKey(NamedTuple):
    """The key that a sampler passes to a data set. It includes the epoch, so workers need not be told of a new one."""

    epoch: int
    number: int


class FullViewKey(ItemKey):
    """A key for images that are resized without a random crop. It also unpacks as (epoch, number)."""

    __slots__ = ()


class Picture(NamedTuple):
    """An image with the boxes of its objects.

    Attributes:
        image: a PIL image of mode RGB or L, or float32 (C,H,W) in [-1,1].
        name: its path, or another name.
        boxes: float32 (N,4), corners x0 y0 x1 y1 in pixels of ``image``.
        labels: names of the classes of the boxes.
    """

    image: Pixels
    name: str
    boxes: Tensor = torch.zeros(0, 4)
    labels: tuple[str, ...] = ()


class UnpairedDataset(Dataset, ABC):
    """Images of two or more domains that do not correspond: item ``index`` has image ``index`` of the first domain and
    a random image of each other one.

    ``dataset[index]``, ``dataset[epoch, index]`` or ``dataset[FullViewKey(epoch, index)]`` is a dict. It is a pure
    function of the seed and the key:

    ====================  ==============================================================================
    DOMAIN                image, float32 (C,H,W) in [-1,1]
    DOMAIN_paths          its path
    DOMAIN_boxes          with ``classes``: float32 (N,4), x0 y0 x1 y1 in pixels of the image
    DOMAIN_classes        with ``classes``: int64 (N,), indices into ``classes``
    DOMAIN_object         with ``object_size`` S: float32 (C,S,S), one object of the image, zeros if it has none
    DOMAIN_has_object     with ``object_size``: bool ()
    ====================  ==============================================================================

    With ``random_pairs`` the keys are A and B whatever the names of the domains: each item draws two different domains
    and a random image of each; A_domain and B_domain (int64 ()) are their indices in ``domains``.

    The object is drawn among the boxes with sides of at least ``min_object`` pixels, anywhere in the image. It is cut
    out before the image is resized and cropped, so it keeps its detail, and is flipped with the image.

    Args:
        domains: names of the domains.
        preprocess: how an image is resized, cropped and flipped.
        seed: seed of everything random.
        needs: what the method needs. Boxes of classes that are not needed are dropped, and each such class is logged
            once. ``crops`` apply to :class:`SingleImageDataset` only.

    Attributes:
        domains: the names, which are the keys of an item (not with ``random_pairs``).
        values: type and range of the numbers in the images of each domain, if they come from files.
        needs: what the method needs.

    Raises:
        ValueError: an argument out of range, domains that are not different, or fewer than two for pairs.
    """

    values: Mapping[str, Values] = {}

    def __init__(
        self,
        domains: Sequence[str],
        preprocess: Preprocess,
        seed: int,
        needs: DataNeeds = NOTHING_MORE,
    ) -> None:
        for name, value in (("object_size", needs.object_size), ("min_object", needs.min_object)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if needs.random_pairs and (len(domains) < 2 or len(set(domains)) < len(domains)):
            raise ValueError(f"random_pairs needs two or more different domains, got {', '.join(domains) or 'none'}")
        self.domains = tuple(domains)
        self.preprocess = preprocess
        self.seed = seed
        self.needs = needs
        self._table = None if needs.classes is None else ClassTable(needs.classes)

    @abstractmethod
    def count(self, domain: str) -> int:
        """Number of images of a domain."""

    @abstractmethod
    def picture(self, domain: str, index: int) -> Picture:
        """Image ``index`` (from 0) of a domain, with its boxes if classes or objects are needed."""

    @abstractmethod
    def sample_batch(self, count: int = 4) -> dict[str, Any]:
        """A batch of ``count`` test images (or as many as there are) for sample grids, the same at each call.

        It is like a batch of the loader, with "truth" (B,3,H,W), the first domain's images in the second domain, if
        that is known.

        With ``random_pairs``, row r of "A" is a test image of domain r mod the number of domains ("A_domain",
        "A_paths"); "reference_NAME" (B,3,H,W) are other images, of domain NAME; "truth_NAME" (B,3,H,W), if known, are
        the rows of "A" in domain NAME (a row of that domain unchanged).
        """

    def summary(self) -> list[str]:
        """A line per domain: where its images are, how many, and how many have boxes. Empty for rendered images."""
        return []

    def style_batch(self, scenes: int, references: int) -> dict[str, Any] | None:
        """Test scenes, and the truth of each in the look of each test reference, the same at each call; None if that is
        not known.

        Args:
            scenes: number S of scenes, at most.
            references: number R of references per domain, at most.

        Returns:
            "A" (S,3,H,W): row s is a scene of domain s modulo the number of domains, which is "A_domain" (S,), int64.
            "reference_NAME" (R,3,H,W): images of domain NAME, each with another look, of scenes that are none of A.
            "truth_NAME" (S,R,3,H,W): scene s in domain NAME in the look of reference r. Values in [-1, 1].
        """
        return None

    def check_sizes(self, least: int, batch_size: int = 1) -> int:
        """Check, without decoding, that every image has sides of at least ``least`` pixels as the networks get it, and
        that images that keep their own sizes can form batches of ``batch_size``.

        Returns:
            Number of different image sizes.

        Raises:
            DataError: one line that names images that are too small, or differ in size.
        """
        return 1

    @property
    def wants_boxes(self) -> bool:
        """Whether the boxes are used at all."""
        return self._table is not None or self.needs.object_size is not None

    def __len__(self) -> int:
        return max(self.count(domain) for domain in self.domains)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, index = (0, key) if isinstance(key, int) else key
        if not 0 <= index < len(self):
            raise IndexError(f"index must be from 0 to {len(self) - 1}, got {index}")
        rng = item_random(self.seed, epoch, index)
        load_size = self.preprocess.size if isinstance(key, FullViewKey) else None
        item: dict[str, Any] = {}
        if self.needs.random_pairs:
            count = len(self.domains)
            first = int(rng.random() * count)
            second = (first + 1 + int(rng.random() * (count - 1))) % count
            for name, which in (("A", first), ("B", second)):
                domain = self.domains[which]
                picture = self.picture(domain, int(rng.random() * self.count(domain)))
                item[f"{name}_domain"] = torch.tensor(which)
                self._add(item, name, picture, self.preprocess, rng, load_size, (epoch, index))
            return item
        for position, domain in enumerate(self.domains):
            images = self.count(domain)
            chosen = index % images if position == 0 else int(rng.random() * images)
            self._add(item, domain, self.picture(domain, chosen), self.preprocess, rng, load_size, (epoch, index))
        return item

    def _add(
        self,
        item: dict[str, Any],
        name: str,
        picture: Picture,
        preprocess: Preprocess,
        rng: random.Random | None,
        load_size: int | None,
        where: tuple[int | str, ...],
    ) -> None:
        """Add a picture, and what the method needs of its boxes, to an item."""
        boxes, indices = picture.boxes, torch.zeros(len(picture.labels), dtype=torch.int64)
        if self._table is not None:
            found = [self._table.find(label) for label in picture.labels]
            boxes = boxes[[number for number, index in enumerate(found) if index is not None]]
            indices = torch.tensor([index for index in found if index is not None], dtype=torch.int64)
        done = preprocess.apply(picture.image, boxes, rng, load_size=load_size)
        item[name] = done.image
        item[f"{name}_paths"] = picture.name
        if self._table is not None:
            item[f"{name}_boxes"] = done.boxes
            item[f"{name}_classes"] = indices[done.kept]
        if self.needs.object_size is not None:
            # Drawn apart from the rest: images are the same with objects and without.
            chance = item_random(self.seed, *where, "object", name).random()
            crop = cut_object(picture.image, boxes, self.needs.object_size, chance, least=self.needs.min_object)
            if crop is not None and done.flipped:
                crop = F.horizontal_flip(crop)
            shape = (len(done.image), self.needs.object_size, self.needs.object_size)
            item[f"{name}_object"] = torch.zeros(shape) if crop is None else to_tensor(crop)
            item[f"{name}_has_object"] = torch.tensor(crop is not None)


def cut_object(image: Pixels, boxes: Tensor, size: int, chance: float, *, least: int = 16) -> Pixels | None:
    """One of the objects of an image, resized to ``size`` x ``size``; None if no box is large enough.

    Args:
        image: see ``Pixels``.
        boxes: float (N,4), corners x0 y0 x1 y1 in pixels. What is outside the image does not count.
        size: side of the result.
        chance: which one, from 0 to (below) 1.
        least: smallest side of a box that is large enough.
    """
    width, height = size_of(image)
    inside = boxes.to(torch.float64)
    inside = torch.cat((inside[:, 0::2].clamp(0, width), inside[:, 1::2].clamp(0, height)), dim=1)  # x0 x1 y0 y1
    large = (inside[:, 1::2] - inside[:, 0::2] >= least).all(dim=1).nonzero().flatten().tolist()
    if not large:
        return None
    left, right, top, bottom = (round(side) for side in inside[large[int(chance * len(large))]].tolist())
    crop = F.crop(image, top, left, bottom - top, right - left)
    return F.resize(crop, [size, size], interpolation=InterpolationMode.BICUBIC, antialias=True)


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Combine items to a batch: images stacked to (B,C,H,W), single numbers to (B,); paths, boxes and classes as lists.

    Items that are minibatches, with images (b,C,H,W), are concatenated.

    Raises:
        DataError: the images of a domain differ in size.
    """
    batch: dict[str, Any] = {}
    for name, first in items[0].items():
        values = [item[name] for item in items]
        if not isinstance(first, torch.Tensor) or name.endswith(_LISTED):
            batch[name] = values
            continue
        other = next((value for value in values if value.shape != first.shape), None)
        if other is not None:
            raise DataError(
                f"images of one batch must have one size, got {_extent(first)} and {_extent(other)} in domain {name}: "
                "use batch_size 1, or a preprocess mode that crops"
            )
        parts = values if first.dim() == 4 else [value[None] for value in values]
        batch[name] = parts[0] if len(parts) == 1 else torch.cat(parts)  # the copy costs as much as a crop
    return batch


def _extent(image: torch.Tensor) -> str:
    return f"{image.shape[-1]}x{image.shape[-2]}"
