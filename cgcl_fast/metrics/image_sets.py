"""Sets of images to evaluate: a folder, or a domain of a data set; distributed to processes, in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from accelerate.utils import gather_object
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cgcl_fast.data import Preprocess, Reading, UnpairedDataset, find_images
from cgcl_fast.data.decoding import RGB, read_stored
from cgcl_fast.data.values import as_shown
from cgcl_fast.metrics.weights import MeasureError

T = TypeVar("T")


class Images(Protocol):
    """Images in a fixed order, float32 (C, H, W) in [-1, 1], whose sizes may differ."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Tensor: ...


class FolderImages(Dataset):
    """The image files of a folder and its subfolders, sorted by name; unreadable ones are left out and logged.

    Args:
        preprocess: applied to each image.
        limit: use at most the first ``limit`` images.

    Raises:
        ValueError: the folder is missing, or has no readable image.
    """

    def __init__(
        self, folder: Path, preprocess: Preprocess, *, limit: int | None = None, reading: Reading = RGB
    ) -> None:
        self.folder = folder
        self.paths = find_images(folder, limit=limit, reading=reading)
        self.preprocess = preprocess
        self.reading = reading

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        """Raises UnreadableImageError: the file can no longer be read."""
        at_least = self.preprocess.reads_at_least
        return self.preprocess(read_stored(self.paths[index], at_least=at_least, reading=self.reading).image)


class DomainImages(Dataset):
    """The images of a data set's domain, preprocessed as test images.

    Args:
        limit: use at most the first ``limit`` images.
    """

    def __init__(self, dataset: UnpairedDataset, domain: str, limit: int | None = None) -> None:
        self.dataset = dataset
        self.domain = domain
        self.count = min(dataset.count(domain), limit or dataset.count(domain))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        return self.dataset.preprocess(self.dataset.picture(self.domain, index).image)


class _Places(Dataset):
    """One process's share of images, with their indices in the set."""

    def __init__(self, images: Images, places: Sequence[int]) -> None:
        self.images = images
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> tuple[int, Tensor]:
        return self.places[index], self.images[self.places[index]]


def _listed(items: list[tuple[int, Tensor]]) -> list[tuple[int, Tensor]]:
    return items


def batches(
    images: Images, rank: int = 0, world: int = 1, batch_size: int = 32, workers: int = 0
) -> Iterator[list[tuple[list[int], Tensor]]]:
    """A process's share of a set: in each turn up to ``batch_size`` images, as one (B, C, H, W) per size, with their
    indices in the set. All processes have the same number of turns; the last one may be empty.

    Args:
        workers: processes that read images in addition to this one.
    """
    turns = -(-len(images) // (batch_size * world))
    own = _Places(images, range(rank, len(images), world))
    loader = DataLoader(own, batch_size, num_workers=workers, collate_fn=_listed)
    loaded = iter(loader)
    for _ in range(turns):
        by_size: dict[torch.Size, list[tuple[int, Tensor]]] = {}
        for place, image in next(loaded, []):
            by_size.setdefault(image.shape, []).append((place, image))
        yield [([p for p, _ in each], torch.stack([image for _, image in each])) for each in by_size.values()]


def pixels(images: Tensor) -> Tensor:
    """(B, C, H, W) in [-1, 1] as uint8 (B, 3, H, W), as in a saved picture."""
    return as_shown(images).clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)


def gathered(work: Callable[[], list[T]]) -> list[T]:
    """The concatenated results of ``work`` of all processes, returned in each.

    Raises:
        MeasureError: it was raised in one process; then it is raised in all, so that none waits for the others.
    """
    results: list[T] = []
    problem = None
    try:
        results = work()
    except MeasureError as error:
        problem = str(error)
    shares = gather_object([(results, problem)])
    for _, reason in shares:
        if reason is not None:
            raise MeasureError(reason)
    return [each for share, _ in shares for each in share]
