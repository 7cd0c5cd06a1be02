"""Split and name of each domain in one word: ``trainA testA``, also ``TrainA``, ``train_A``, ``train-A``."""

from __future__ import annotations

from pathlib import Path

from cgcl_fast.data.images import folders_of
from cgcl_fast.data.layouts._layout import Layout
from cgcl_fast.data.layouts._place import Place, add_once, after_split, place_in


def domains(root: Path, split: str) -> dict[str, Place]:
    found: dict[str, Place] = {}
    for folder in folders_of(root):
        domain = after_split(folder, split)
        if domain is not None:
            add_once(found, domain, place_in(root / folder), split)
    return dict(sorted(found.items()))


LAYOUT = Layout(domains=domains, expected="{split}{name}")
