"""Distances of images in one folder to images of the same names in another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from accelerate import Accelerator

from cgcl_fast.data.formats import printable
from cgcl_fast.data.values import as_shown
from cgcl_fast.metrics.distances import Distance
from cgcl_fast.metrics.image_sets import FolderImages, batches, gathered
from cgcl_fast.metrics.weights import MeasureError


def pairs_by_name(images: FolderImages, truth: FolderImages) -> list[tuple[int, int]]:
    """Indices of images and their truths: the same path in the folders, apart from the suffix.

    Raises:
        MeasureError: no image has a truth.
    """
    there = {_name(truth, path): place for place, path in enumerate(truth.paths)}
    named = [(place, there.get(_name(images, path))) for place, path in enumerate(images.paths)]
    pairs = [(place, other) for place, other in named if other is not None]
    if not pairs:
        raise MeasureError(
            f"no image of {printable(images.folder)} has one of its name in {printable(truth.folder)}; the truth of "
            "a.png is a.png there, or a.jpg"
        )
    return pairs


def _name(images: FolderImages, path: Path) -> str:
    return path.relative_to(images.folder).with_suffix("").as_posix()


class _Counterparts:
    """The truths, in the order of their images."""

    def __init__(self, images: FolderImages, truth: FolderImages, places: list[tuple[int, int]]) -> None:
        self.images, self.truth, self.places = images, truth, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> torch.Tensor:
        """Image and truth, (2, 3, H, W)."""
        place, other = self.places[index]
        image, truth = (as_shown(each[None])[0] for each in (self.images[place], self.truth[other]))
        if image.shape != truth.shape:
            name = printable(self.images.paths[place].name)
            sizes = " and ".join(f"{each.shape[2]}x{each.shape[1]}" for each in (image, truth))
            raise MeasureError(f"{name} and its truth are of {sizes} pixels; --size N makes them equal")
        return torch.stack([image, truth])


@torch.no_grad()
def distances_to_truth(
    images: FolderImages,
    truth: FolderImages,
    distances: Mapping[str, Distance],
    accelerator: Accelerator,
    *,
    batch_size: int = 32,
) -> tuple[dict[str, float], int]:
    """The mean of each distance over all images with a truth, and their number; computed by all processes together.

    Raises:
        MeasureError: no image has a truth, or one has another size.
        ValueError: images are too small for a distance.
    """
    both = _Counterparts(images, truth, pairs_by_name(images, truth))

    def own() -> list[dict[str, list[float]]]:
        rows = []
        for part in batches(both, accelerator.process_index, accelerator.num_processes, batch_size):
            for _, batch in part:
                first, second = batch.to(accelerator.device).unbind(1)
                rows.append({name: each.measure(first, second).double().tolist() for name, each in distances.items()})
        return rows

    values = gathered(own)
    return {name: sum(sum(each[name]) for each in values) / len(both) for name in distances}, len(both)
