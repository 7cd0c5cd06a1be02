"""One image of each domain, as minibatches of crops (CUT, Sec. 4.3 and Appendix B: SinCUT)."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from cgcl_fast.data.images import UnreadableImageError, _content, printable, read_image, to_tensor
from cgcl_fast.data.layouts import Place, find_places, in_direction
from cgcl_fast.data.needs import Crops
from cgcl_fast.data.random import item_random
from cgcl_fast.data.streets import MAX_SIZE, MIN_SIZE, render
from cgcl_fast.data.streets.dataset import StreetsDataset
from cgcl_fast.data.transforms import Preprocess, _offset
from cgcl_fast.data.unpaired import Picture, UnpairedDataset, collate

logger = logging.getLogger(__name__)

CROPS_PER_EPOCH = 100_000
SAMPLE_WIDTH = 512


class SingleImageDataset(UnpairedDataset):
    """Minibatches of crops of one image of each domain.

    ``dataset[index]`` or ``dataset[epoch, index]`` is a whole minibatch: for each domain float32 (count,3,size,size) in
    [-1,1], and ``domain + "_paths"``. For each domain the image is scaled at random, once for the minibatch or for each
    crop (``per_crop``), to a width between ``least_width`` and ``most_width``, its shape kept or not (``independent``),
    and the crops are cut from it and flipped. A picture too small for a crop is enlarged. An epoch has 100,000 crops.

    Args:
        pictures: image and name of each domain.
        crops: see :class:`Crops`.
        seed: seed of everything random.
        flip: flip half of the crops horizontally.
        truth: what the first domain's image looks like in the second one, if that is known.

    Raises:
        ValueError: a number of ``crops`` is out of range.
    """

    def __init__(
        self,
        pictures: Mapping[str, Picture],
        crops: Crops,
        *,
        seed: int = 0,
        flip: bool = True,
        truth: Image.Image | None = None,
    ) -> None:
        for name in ("count", "size"):
            if getattr(crops, name) < 1:
                raise ValueError(f"{name} of crops must be at least 1, got {getattr(crops, name)}")
        widths = [width for width in (crops.least_width, crops.most_width) if width is not None]
        if widths != sorted(widths) or (widths and widths[0] < crops.size):
            raise ValueError(
                "widths of crops must be at least their size and the least not above the most, got size "
                f"{crops.size}, least_width {crops.least_width}, most_width {crops.most_width}"
            )
        super().__init__(tuple(pictures), Preprocess("none", train=False, multiple=1), seed)
        self.crops = crops
        self.flip = flip
        self.truth = truth
        self.names = {domain: picture.name for domain, picture in pictures.items()}
        # Scaled down once to the greatest width asked for: reading a photograph's every pixel in each step would cost
        # more than the crops.
        self.images = {
            domain: _at_most(picture.image, crops.most_width or picture.image.width)
            for domain, picture in pictures.items()
        }

    def summary(self) -> list[str]:
        return [f"{printable(domain)}: {printable(name)}" for domain, name in self.names.items()]

    def count(self, domain: str) -> int:
        return 1

    def picture(self, domain: str, index: int) -> Picture:
        return Picture(self.images[domain], self.names[domain])

    def __len__(self) -> int:
        return max(1, CROPS_PER_EPOCH // self.crops.count)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, index = (0, key) if isinstance(key, int) else key
        if not 0 <= index < len(self):
            raise IndexError(f"index must be from 0 to {len(self) - 1}, got {index}")
        rng = item_random(self.seed, epoch, index)
        item: dict[str, Any] = {}
        for domain in self.domains:
            item[domain] = self._minibatch(self.images[domain], rng)
            item[f"{domain}_paths"] = self.names[domain]
        return item

    def _minibatch(self, image: Image.Image, rng: random.Random) -> torch.Tensor:
        crops, size = self.crops, self.crops.size
        places = _cells if crops.grid else _anywhere
        cut = []
        if crops.per_crop:
            for _ in range(crops.count):
                height, width = self._zoom(image, rng)
                ((top, left),) = places(1, size, height, width, rng)
                cut.append(to_tensor(_window(image, height, width, top, left, size)))
        else:
            height, width = self._zoom(image, rng)
            pixels = to_tensor(_resize(image, height, width))
            for top, left in places(crops.count, size, height, width, rng):
                cut.append(pixels[:, top : top + size, left : left + size])
        return torch.stack([crop.flip(2) if self.flip and rng.random() < 0.5 else crop for crop in cut])

    def _zoom(self, image: Image.Image, rng: random.Random) -> tuple[int, int]:
        """Height and width of a zoomed image, neither less than a crop's."""
        crops = self.crops
        most = crops.most_width or max(image.width, crops.least_width or 0)
        least = crops.least_width or most / 3
        across = _between(least, most, rng)
        down = _between(least, most, rng) if crops.independent else across
        return max(crops.size, round(image.height * down / image.width)), max(crops.size, round(across))

    def sample_batch(self, count: int = 4) -> dict[str, Any]:
        """The images themselves, whole, up to 512 pixels wide, and the truth if it is known.

        ``count`` has no use: there is one image of each domain, and it is what the method is for.
        """
        item: dict[str, Any] = {}
        for domain in self.domains:
            item[domain] = to_tensor(_at_most(self.images[domain], SAMPLE_WIDTH))
            item[f"{domain}_paths"] = self.names[domain]
        if self.truth is not None:
            item["truth"] = to_tensor(_resize(self.truth, *item[self.domains[0]].shape[1:]))
        return collate([item])


def open_single_images(
    path: str | os.PathLike[str] | None,
    crops: Crops,
    *,
    domains: Sequence[str] = ("A", "B"),
    seed: int = 0,
    flip: bool = True,
    direction: str = "AtoB",
) -> SingleImageDataset:
    """The first readable image of each domain's training folder, or without ``path`` a street scene of each; with the
    direction BtoA that of the other domain.

    Streets are square and as large as the greatest width asked for, or as they can be. That of the first domain is
    known in the second.

    Raises:
        ValueError: folders are missing, one has no readable image, or ``crops`` are out of range.
    """
    if path is None:
        size = min(max(crops.most_width or MAX_SIZE, MIN_SIZE), MAX_SIZE)
        streets = StreetsDataset(domains=domains, split="train", size=size, seed=seed, limit=1, direction=direction)
        pictures = {domain: streets.picture(domain, 0) for domain in domains}
        truth = None
        if len(domains) > 1:
            truth = Image.fromarray(render(streets.scene(domains[0], 0), streets.streets_domains[domains[1]], size))
    else:
        places = in_direction(find_places(Path(path), domains, "train"), direction)
        pictures = {domain: _first(place) for domain, place in places.items()}
        truth = None
    return SingleImageDataset(pictures, crops, seed=seed, flip=flip, truth=truth)


def _first(place: Place) -> Picture:
    """The first image of a folder that can be read."""
    paths = place.images()
    for path in paths:
        try:
            image = read_image(path)
        except UnreadableImageError as error:
            logger.warning("skipped %s: %s", printable(path), error.reason)
            continue
        if len(paths) > 1:
            logger.warning("%s: one image of %d is used, %s", printable(place.folder), len(paths), printable(path.name))
        return Picture(image, str(path))
    raise ValueError(f"no readable image in {printable(place.folder)}; it holds {_content(place.folder)}")


def _resize(image: Image.Image, height: int, width: int) -> Image.Image:
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BICUBIC)


def _window(image: Image.Image, height: int, width: int, top: int, left: int, size: int) -> Image.Image:
    """The crop of ``_resize(image, height, width)`` at a place, without resizing the rest."""
    across, down = image.width / width, image.height / height
    right, bottom = min((left + size) * across, image.width), min((top + size) * down, image.height)
    return image.resize((size, size), Image.Resampling.BICUBIC, box=(left * across, top * down, right, bottom))


def _at_most(image: Image.Image, width: int) -> Image.Image:
    return image if image.width <= width else _resize(image, max(1, round(image.height * width / image.width)), width)


def _between(least: float, most: float, rng: random.Random) -> float:
    return least + (most - least) * rng.random()


def _anywhere(count: int, size: int, height: int, width: int, rng: random.Random) -> list[tuple[int, int]]:
    return [(_offset(height - size, rng), _offset(width - size, rng)) for _ in range(count)]


def _cells(count: int, size: int, height: int, width: int, rng: random.Random) -> list[tuple[int, int]]:
    """Cells of a grid with a random offset, in random order; those that are left over begin again from the first."""
    top, left = _offset((height - size) % size, rng), _offset((width - size) % size, rng)
    cells = [(y, x) for y in range(top, height - size + 1, size) for x in range(left, width - size + 1, size)]
    cells.sort(key=lambda _: rng.random())
    return [cells[index % len(cells)] for index in range(count)]
