"""Minibatches of crops of one image per domain (CUT, Sec. 4.3 and Appendix B: SinCUT)."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from cgcl_fast.data.decoding import RGB, Pixels, look_at, read_stored, size_of, to_tensor
from cgcl_fast.data.formats import Reading, UnreadableImageError, printable
from cgcl_fast.data.images import _content
from cgcl_fast.data.layouts import Place, find_places, in_direction
from cgcl_fast.data.measuring import with_values
from cgcl_fast.data.needs import Crops
from cgcl_fast.data.random import item_random
from cgcl_fast.data.streets import MAX_SIZE, MIN_SIZE, render
from cgcl_fast.data.streets.dataset import StreetsDataset
from cgcl_fast.data.transforms import Preprocess, _offset
from cgcl_fast.data.unpaired import Picture, UnpairedDataset, collate
from cgcl_fast.data.values import Values

logger = logging.getLogger(__name__)

CROPS_PER_EPOCH = 100_000
SAMPLE_WIDTH = 512


class SingleImageDataset(UnpairedDataset):
    """Minibatches of crops of one image of each domain.

    ``dataset[index]`` or ``dataset[epoch, index]`` is a whole minibatch: for each domain float32 (count,C,size,size) in
    [-1,1], and ``domain + "_paths"``. For each domain the image is scaled at random, once per minibatch or per crop
    (``per_crop``), to a width between ``min_width`` and ``max_width``, with its aspect kept or not (``independent``);
    crops are cut from it and flipped. An image too small for a crop is enlarged. An epoch has 100,000 crops.

    Args:
        pictures: image and name of each domain.
        crops: see :class:`Crops`.
        seed: seed of everything random.
        flip: flip half of the crops horizontally.
        truth: the first domain's image as it looks in the second domain, if known.

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
        truth: Pixels | None = None,
    ) -> None:
        for name in ("count", "size"):
            if getattr(crops, name) < 1:
                raise ValueError(f"{name} of crops must be at least 1, got {getattr(crops, name)}")
        widths = [width for width in (crops.min_width, crops.max_width) if width is not None]
        if widths != sorted(widths) or (widths and widths[0] < crops.size):
            raise ValueError(
                "widths of crops must be at least their size and the least not above the most, got size "
                f"{crops.size}, min_width {crops.min_width}, max_width {crops.max_width}"
            )
        super().__init__(tuple(pictures), Preprocess("none", train=False, multiple=1), seed)
        self.crops = crops
        self.flip = flip
        self.truth = truth
        self.names = {domain: picture.name for domain, picture in pictures.items()}
        # Scaled down once to the largest width needed: reading every pixel of a photograph in each step would cost more
        # than the crops.
        self.images = {
            domain: _at_most(picture.image, crops.max_width or size_of(picture.image)[0])
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

    def _minibatch(self, image: Pixels, rng: random.Random) -> torch.Tensor:
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

    def _zoom(self, image: Pixels, rng: random.Random) -> tuple[int, int]:
        """Height and width of a zoomed image, neither smaller than a crop."""
        crops = self.crops
        columns, rows = size_of(image)
        most = crops.max_width or max(columns, crops.min_width or 0)
        least = crops.min_width or most / 3
        across = _between(least, most, rng)
        down = _between(least, most, rng) if crops.independent else across
        return max(crops.size, round(rows * down / columns)), max(crops.size, round(across))

    def sample_batch(self, count: int = 4) -> dict[str, Any]:
        """The whole images, up to 512 pixels wide, and the truth if known.

        ``count`` is ignored: there is only one image per domain.
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
    readings: Mapping[str, Reading] | None = None,
    span: tuple[float, float] | None = None,
    direction: str = "AtoB",
) -> SingleImageDataset:
    """The first readable image in each domain's training folder or, without ``path``, a street scene per domain. With
    direction BtoA the domains are exchanged.

    Streets are square, with the largest width requested or possible. The first domain's scene is also known in the
    second domain.

    Raises:
        ValueError: folders are missing, one has no readable image, or ``crops`` are out of range.
    """
    values: dict[str, Values] = {}
    truth = None
    if path is None:
        size = min(max(crops.max_width or MAX_SIZE, MIN_SIZE), MAX_SIZE)
        streets = StreetsDataset(domains=domains, split="train", size=size, seed=seed, limit=1, direction=direction)
        pictures = {domain: streets.picture(domain, 0) for domain in domains}
        if len(domains) > 1:
            truth = Image.fromarray(render(streets.scene(domains[0], 0), streets.streets_domains[domains[1]], size))
    else:
        places = in_direction(find_places(Path(path), domains, "train"), direction)
        firsts = {domain: _first(place, (readings or {}).get(domain, RGB)) for domain, place in places.items()}
        found = with_values(
            {d: r for d, (_, r) in firsts.items()}, {d: [path] for d, (path, _) in firsts.items()}, span
        )
        values = {domain: reading.values for domain, reading in found.items() if reading.values}
        pictures = {
            domain: Picture(read_stored(path, reading=found[domain]).image, str(path))
            for domain, (path, _) in firsts.items()
        }
    dataset = SingleImageDataset(pictures, crops, seed=seed, flip=flip, truth=truth)
    dataset.values = values
    return dataset


def _first(place: Place, reading: Reading) -> tuple[Path, Reading]:
    """The first readable image of a folder, and its reading."""
    paths = place.images()
    reason = ""
    for path in paths:
        try:
            look_at(path, reading, decode=True)
        except UnreadableImageError as error:
            reason = reason or error.reason
            logger.warning("skipped %s: %s", printable(path), error.reason)
            continue
        if len(paths) > 1:
            logger.warning("%s: one image of %d is used, %s", printable(place.folder), len(paths), printable(path.name))
        return path, reading
    why = f"{printable(paths[0].name)}: {reason}" if paths else f"it holds {_content(place.folder)}"
    raise ValueError(f"no readable image in {printable(place.folder)}; {why}")


def _resize(image: Pixels, height: int, width: int) -> Pixels:
    if size_of(image) == (width, height):
        return image
    return F.resize(image, [height, width], interpolation=InterpolationMode.BICUBIC, antialias=True)


def _window(image: Pixels, height: int, width: int, top: int, left: int, size: int) -> Pixels:
    """One crop of ``_resize(image, height, width)``, without resizing the rest."""
    if not isinstance(image, Image.Image):  # plane by plane: PyTorch cannot resize windows with fractional bounds
        planes = [_window(Image.fromarray(plane.numpy()), height, width, top, left, size) for plane in image]
        return torch.from_numpy(np.stack([np.asarray(plane) for plane in planes]))
    across, down = image.width / width, image.height / height
    right, bottom = min((left + size) * across, image.width), min((top + size) * down, image.height)
    return image.resize((size, size), Image.Resampling.BICUBIC, box=(left * across, top * down, right, bottom))


def _at_most(image: Pixels, width: int) -> Pixels:
    columns, rows = size_of(image)
    return image if columns <= width else _resize(image, max(1, round(rows * width / columns)), width)


def _between(least: float, most: float, rng: random.Random) -> float:
    return least + (most - least) * rng.random()


def _anywhere(count: int, size: int, height: int, width: int, rng: random.Random) -> list[tuple[int, int]]:
    return [(_offset(height - size, rng), _offset(width - size, rng)) for _ in range(count)]


def _cells(count: int, size: int, height: int, width: int, rng: random.Random) -> list[tuple[int, int]]:
    """Cells of a grid with a random offset, in random order; if they run out, they repeat from the first."""
    top, left = _offset((height - size) % size, rng), _offset((width - size) % size, rng)
    cells = [(y, x) for y in range(top, height - size + 1, size) for x in range(left, width - size + 1, size)]
    cells.sort(key=lambda _: rng.random())
    return [cells[index % len(cells)] for index in range(count)]
