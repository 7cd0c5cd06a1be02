"""A folder for each domain with its images, all of them for training: ``A B``.

Only where no folder, there or in these folders, has the name of a split: then it is something else. Folders of tars are
domains only where none has images: beside those, they are what was downloaded.
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
    places = {name: place_in(root / name) for name in names}
    if any(place.has_images() for place in places.values() if not place.tars):
        return {name: place for name, place in places.items() if not place.tars}
    return places


LAYOUT = Layout(domains=domains, expected="{name}", last=True)
