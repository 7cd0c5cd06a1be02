"""A folder for each domain with its images, all of them for training: ``A B``.

Only where no folder, there or in these folders, has the name of a split: then it is something else.
"""

from __future__ import annotations

from pathlib import Path

from cgcl_fast.data.layouts._layout import Layout
from cgcl_fast.data.layouts._place import Place, folders_in, is_of_split, place_in


def domains(root: Path, split: str) -> dict[str, Place]:
    names = folders_in(root)
    if split != "train" or any(map(is_of_split, names)):
        return {}
    if any(is_of_split(inner) for name in names for inner in folders_in(root / name)):
        return {}
    return {name: place_in(root / name) for name in names}


LAYOUT = Layout(domains=domains, expected="{name}", last=True)
