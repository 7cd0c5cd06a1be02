"""The definition of a layout, and the list of all layouts."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cgcl_fast.data.layouts._place import SPLITS, Place


@dataclass(frozen=True)
class Layout:
    """How one kind of data folder is laid out. Both functions are called for each name of a split, "train" and then
    "training".

    Args:
        domains: (data folder, name of the split) -> the images of each domain; empty if the folder has another layout.
            It may include folders that only might be domains, such as one without images.
        images: (folder of a domain, name of the split) -> its images; None if the folder has another layout.
        expected: where the images of a domain are, for errors: "{split}{name}".
        pair: the domains that A and B stand for if there are more than two; of exactly two, A is the first.
        names: the only names that domains can have; empty: any.
        last: try it only if no other layout fits, because it takes long or fits nearly anything.
    """

    domains: Callable[[Path, str], dict[str, Place]] | None = None
    images: Callable[[Path, str], Place | None] | None = None
    expected: str | None = None
    pair: tuple[str, str] | None = None
    names: tuple[str, ...] = ()
    last: bool = False


@cache
def layouts() -> tuple[Layout, ...]:
    """The ``LAYOUT`` of every public module of this package, sorted by the modules' names."""
    package = importlib.import_module(__package__)
    names = sorted(found.name for found in pkgutil.iter_modules(package.__path__) if not found.name.startswith("_"))
    return tuple(importlib.import_module(f"{__package__}.{name}").LAYOUT for name in names)


def image_place(domain: Path, split: str) -> Place | None:
    """The images of a split in the folder of a data set; None if it has none."""
    return next((place for name in SPLITS[split] if (place := images_named(domain, name)) is not None), None)


def images_named(domain: Path, split: str) -> Place | None:
    """:func:`image_place` of one name of the split."""
    found = (layout.images(domain, split) for layout in layouts() if layout.images is not None)
    return next((place for place in found if place is not None), None)
