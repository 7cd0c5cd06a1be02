"""A folder for each split, with the domains in it: ``train/NAME test/NAME`` (AFHQ, CelebA-HQ, ImageFolder)."""

from __future__ import annotations

from pathlib import Path

from cgcl_fast.data.layouts._layout import Layout
from cgcl_fast.data.layouts._place import Place, folders_in, place_in, subfolder


def domains(root: Path, split: str) -> dict[str, Place]:
    folder = subfolder(root, split)
    return {} if folder is None else {name: place_in(folder / name) for name in folders_in(folder)}


LAYOUT = Layout(domains=domains, expected="{split}/{name}")
