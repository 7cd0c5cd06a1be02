"""BDD100K: ``images/100k/train``, and as a data folder by itself its images in groups, which are the domains.

The groups are sunny, night, cloudy and rainy, where its annotations tell time of day and weather.
"""

from __future__ import annotations

import logging
from pathlib import Path

from cgcl_fast.data.annotations.bdd import GROUPS, group_of
from cgcl_fast.data.formats import printable
from cgcl_fast.data.layouts._layout import Layout, images_named
from cgcl_fast.data.layouts._place import SPLITS, Place, known_already, place_in, subfolder, tell_words

logger = logging.getLogger(__name__)


def images(domain: Path, split: str) -> Place | None:
    for outer in ("images/100k", "images/10k"):
        folder = subfolder(domain, f"{outer}/{split}")
        if folder is not None:
            return place_in(folder)
    return None


def domains(root: Path, split: str) -> dict[str, Place]:
    place = images_named(root, split)
    if place is None or place.listed is not None:
        return {}
    place.home = None
    tell_words({"": place}, next(kind for kind, names in SPLITS.items() if split in names))
    index = place.annotations(root)
    groups: dict[str, set[Path]] = {group: set() for group in GROUPS}
    for path in place.images(unreadable=known_already):
        group = group_of(index[path])
        if group is not None:
            groups[group].add(path)
    if any(groups.values()):
        counts = ", ".join(f"{len(paths)} {group}" for group, paths in groups.items())
        logger.info("%s: %s", printable(place.folder), counts)
    return {
        group: Place(place.folder, keep=paths.__contains__, tars=place.tars, index=index)
        for group, paths in groups.items()
        if paths
    }


LAYOUT = Layout(domains=domains, images=images, pair=("sunny", "night"), names=tuple(GROUPS), last=True)
