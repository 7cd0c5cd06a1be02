"""Pascal VOC: ``JPEGImages``, of which ``ImageSets/Main/train.txt`` names those of a split."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from cgcl_fast.data.annotations.annotation import text_of
from cgcl_fast.data.layouts._layout import Layout
from cgcl_fast.data.layouts._place import Place


def images(domain: Path, split: str) -> Place | None:
    folder, listed = domain / "JPEGImages", domain / "ImageSets" / "Main" / f"{split}.txt"
    if not (folder.is_dir() and listed.is_file()):
        return None
    words = [line.split() for line in text_of(listed.read_bytes()).splitlines()]
    return Place(folder, keep=partial(_is_listed, frozenset(line[0] for line in words if line)))


def _is_listed(stems: frozenset[str], path: Path) -> bool:
    return path.stem in stems


LAYOUT = Layout(images=images)
