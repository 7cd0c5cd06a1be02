"""Data: image files, unpaired folders, the built-in street scenes, and loaders that resume exactly.

The names exported here are the layer's interface; ``python -m cgcl_fast.data.streets`` writes street scenes to folders.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from cgcl_fast.data.folders import FolderDataset
from cgcl_fast.data.images import (
    IMAGE_SUFFIXES,
    UnreadableImageError,
    find_images,
    list_images,
    read_image,
    read_image_and_alpha,
    to_image,
    to_tensor,
)
from cgcl_fast.data.sampler import ResumableLoader, ResumableSampler, build_loader
from cgcl_fast.data.streets.dataset import StreetsDataset
from cgcl_fast.data.transforms import PREPROCESS, Preprocess
from cgcl_fast.data.unpaired import ItemKey, UnpairedDataset

__all__ = [
    "IMAGE_SUFFIXES",
    "PREPROCESS",
    "FolderDataset",
    "ItemKey",
    "Preprocess",
    "ResumableLoader",
    "ResumableSampler",
    "StreetsDataset",
    "UnpairedDataset",
    "UnreadableImageError",
    "build_loader",
    "find_images",
    "list_images",
    "open_dataset",
    "read_image",
    "read_image_and_alpha",
    "to_image",
    "to_tensor",
]


def open_dataset(
    path: str | os.PathLike[str] | None = None,
    *,
    domains: Sequence[str] = ("A", "B"),
    size: int = 256,
    load_size: int | None = None,
    preprocess: str = "resize_and_crop",
    train: bool = True,
    flip: bool = True,
    limit: int | None = None,
    seed: int = 0,
    multiple: int = 4,
) -> UnpairedDataset:
    """An unpaired data set: the folders in ``path``, or the built-in street scenes if it is None.

    An item is ``{"A": float32 (3,H,W) in [-1,1], "B": ..., "A_paths": str, "B_paths": str}``; of the streets A is
    sunny and B is night unless domains are named. ``dataset.sample_batch(n)`` gives fixed test images for sample grids.

    Args:
        path: a folder in one of the layouts of :class:`FolderDataset`.
        domains: names of the domains, which are the keys of an item.
        size, load_size, preprocess, flip, multiple: see :class:`Preprocess`. Streets are rendered at ``size`` and never
            cropped or flipped.
        train: training images and random transforms; False: test images, the same every time.
        limit: no more than this many images of each domain.
        seed: seed of everything random, the street scenes included.

    Raises:
        ValueError: an argument out of range, folders missing, or no readable image in one of them.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    split = "train" if train else "test"
    transform = Preprocess(preprocess, size=size, load_size=load_size, train=train, flip=flip, multiple=multiple)
    if path is None:
        return StreetsDataset(domains=domains, split=split, size=transform.size, seed=seed, limit=limit)
    return FolderDataset(path, domains=domains, split=split, preprocess=transform, seed=seed, limit=limit)
