"""A folder for each domain, with the splits in it: ``NAME/train NAME/test``.

The folder may also be laid out as its data set is, by any layout that finds images of a split in a folder. Those of
this file are ``NAME/images/train`` (YOLO), ``NAME/train/images`` and ``NAME/training/image_2`` (KITTI).
"""

from __future__ import annotations

from pathlib import Path

from cgcl_fast.data.images import folders_of
from cgcl_fast.data.layouts._layout import Layout, images_named
from cgcl_fast.data.layouts._place import Place, place_in, subfolder


def domains(root: Path, split: str) -> dict[str, Place]:
    found: dict[str, Place] = {}
    for name in folders_of(root):
        place = images_named(root / name, split)
        if place is not None:
            place.home = root / name
            found[name] = place
    return found


def images(domain: Path, split: str) -> Place | None:
    for outer in ("", "images/", "img/"):
        folder = subfolder(domain, f"{outer}{split}")
        if folder is not None:
            return place_in(folder)
    return None


LAYOUT = Layout(domains=domains, images=images, expected="{name}/{split}")
