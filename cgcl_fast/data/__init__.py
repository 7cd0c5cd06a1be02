"""Data: image files, unpaired folders, the built-in street scenes, and loaders that resume exactly.

The names exported here are the layer's interface; ``python -m cgcl_fast.data.streets`` writes street scenes to folders.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cgcl_fast.data.decoding import read_file, read_image, read_image_and_alpha, to_image, to_tensor
from cgcl_fast.data.folders import FolderDataset
from cgcl_fast.data.formats import DataError, Reading, UnreadableImageError, printable
from cgcl_fast.data.images import IMAGE_SUFFIXES, find_images, list_images
from cgcl_fast.data.layouts import find_domain_names
from cgcl_fast.data.needs import Crops, DataNeeds
from cgcl_fast.data.sampler import ResumableLoader, ResumableSampler, build_loader
from cgcl_fast.data.single_image import SingleImageDataset, open_single_images
from cgcl_fast.data.streets import DOMAINS
from cgcl_fast.data.streets.dataset import StreetsDataset
from cgcl_fast.data.transforms import PREPROCESS, Preprocess
from cgcl_fast.data.unpaired import FullViewKey, ItemKey, UnpairedDataset
from cgcl_fast.data.values import Values

__all__ = [
    "IMAGE_SUFFIXES",
    "PREPROCESS",
    "DataError",
    "FolderDataset",
    "FullViewKey",
    "ItemKey",
    "Preprocess",
    "Reading",
    "ResumableLoader",
    "ResumableSampler",
    "SingleImageDataset",
    "StreetsDataset",
    "UnpairedDataset",
    "UnreadableImageError",
    "Values",
    "build_loader",
    "find_domains",
    "find_images",
    "list_images",
    "open_dataset",
    "open_test_images",
    "read_file",
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
    classes: Sequence[str] | None = None,
    object_size: int | None = None,
    min_object: int = 16,
    random_pairs: bool = False,
    crops: Crops | None = None,
    readings: Mapping[str, Reading] | None = None,
    span: tuple[float, float] | None = None,
    needs: DataNeeds | None = None,
    direction: str = "AtoB",
    split: str | None = None,
    least_object: int | None = None,
) -> UnpairedDataset:
    """An unpaired data set: the folders in ``path``, or the built-in street scenes if it is None.

    An item is ``{"A": float32 (C,H,W) in [-1,1], "B": ..., "A_paths": str, "B_paths": str}``, and what
    :class:`UnpairedDataset` says of boxes, objects and pairs; of the streets A is sunny and B is night unless domains
    are named. ``dataset.sample_batch(n)`` gives fixed test images for sample grids.

    Args:
        path: a folder in one of the layouts of :class:`FolderDataset`.
        domains: names of the domains, which are the keys of an item (A and B with ``random_pairs``); see
            :func:`find_domains`.
        size, load_size, preprocess, flip, multiple: see :class:`Preprocess`. Streets are rendered at ``size`` and never
            cropped or flipped.
        train: training images and random transforms; False: test images, the same every time.
        limit: no more than this many images of each domain.
        seed: seed of everything random, the street scenes included.
        classes: names of the classes whose boxes come with the images.
        object_size: side of the crops of single objects that come with the images; None: none.
        min_object: boxes with a side of fewer pixels, in the image's file, are not cropped. In small images few
            objects have 16 pixels: of the streets nearly all of 256 pixels a side have such a one, of 64 hardly any.
        random_pairs: two domains, drawn for each item, in place of all.
        crops: minibatches of crops of one image a domain instead (:class:`SingleImageDataset`); ``size``,
            ``load_size``, ``preprocess`` and ``limit`` have no use then.
        readings: channels and values of the images of each domain in a folder; three channels where it is not given.
        span: the numbers that become -1 and 1 where a reading has no values; without it the images tell, as
            :mod:`cgcl_fast.data.values` says, and ``dataset.values`` has what they told. For test images give those of
            the training images.
        needs: what a method asks for, in place of the arguments from ``multiple`` to ``crops``.
        direction: BtoA exchanges the domains A and B: the items of A are what those of B would be, and the truth is
            that of this way.
        split: "train" or "test", whose images; those that ``train`` says if not given.
        least_object: old name of ``min_object``, accepted for one more version, with a warning.

    Raises:
        ValueError: an argument out of range, folders missing, or no readable image in one of them.
    """
    if least_object is not None:
        warnings.warn("least_object is now called min_object", FutureWarning, stacklevel=2)
        min_object = least_object
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    if direction not in ("AtoB", "BtoA"):
        raise ValueError(f"direction: expected AtoB or BtoA, got {direction!r}")
    if direction == "BtoA" and tuple(domains) != ("A", "B"):
        raise ValueError(f"direction: BtoA is of the domains A and B, got {', '.join(domains)}")
    if needs is None:
        needs = DataNeeds(
            random_pairs=random_pairs,
            classes=classes,
            object_size=object_size,
            min_object=min_object,
            crops=crops,
            multiple=multiple,
        )
    if needs.crops is not None:
        return open_single_images(
            path,
            needs.crops,
            domains=domains,
            seed=seed,
            flip=flip,
            readings=readings,
            span=span,
            direction=direction,
        )
    split = split or ("train" if train else "test")
    transform = Preprocess(preprocess, size=size, load_size=load_size, train=train, flip=flip, multiple=needs.multiple)
    if path is None:
        return StreetsDataset(
            domains=domains,
            split=split,
            size=transform.size,
            seed=seed,
            limit=limit,
            needs=needs,
            direction=direction,
        )
    return FolderDataset(
        path,
        domains=domains,
        split=split,
        preprocess=transform,
        seed=seed,
        limit=limit,
        readings=readings,
        span=span,
        needs=needs,
        direction=direction,
    )


def open_test_images(path: str | os.PathLike[str] | None = None, **options: Any) -> UnpairedDataset:
    """:func:`open_dataset` of test images, with nothing random done to them; where there are none, of those of the
    training, which a warning says.

    Raises:
        ValueError: as :func:`open_dataset`.
    """
    try:
        return open_dataset(path, train=False, flip=False, **options)
    except ValueError as error:
        try:
            found = open_dataset(path, train=False, flip=False, split="train", **options)
        except ValueError:
            raise error from None
        warnings.warn(f"{printable(path or '')}: no test images; those of the training are taken", stacklevel=2)
        return found


def find_domains(path: str | os.PathLike[str] | None = None) -> tuple[str, ...]:
    """Names of the domains in a data folder, or those of the built-in streets if ``path`` is None.

    Raises:
        ValueError: the folder has no domains.
    """
    return DOMAINS if path is None else find_domain_names(Path(path))
