"""The layouts of data folders: where the images of a domain are.

==============================  ====================================================================================
``trainA testA trainB testB``   split and name of each domain, any names and number: :mod:`.joined`
``NAME/train NAME/test``        a folder for each domain, which may also be laid out as its data set is: :mod:`.nested`,
                                :mod:`.bdd100k`, :mod:`.cityscapes`, :mod:`.voc`
``train/NAME test/NAME``        a folder for each split: :mod:`.split_folders`
``train_A.txt train_B.txt``     lists of files: :mod:`.text_lists`
``A B``                         a folder for each domain, all for training: :mod:`.unsplit`
``trainA-000000.tar ...``       WebDataset's shards, any number for each domain: :mod:`.webdataset`
Cityscapes, BDD100K alone       a data set in place of the domains, with images that are of different domains
==============================  ====================================================================================

Each layout is a module of this package; :class:`Layout` says what it defines, so a new layout is a new file. If a
folder holds tars and no images, its images are those in the tars, as in ``trainA/000000.tar``.

If there is no ``test``, then ``testing``, ``val``, ``valid`` or ``validation`` is used in its place, and ``training``
for ``train``. Annotations are found as :mod:`cgcl_fast.data.annotations.index` says.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from cgcl_fast.data.annotations.index import FOLDER_NAMES
from cgcl_fast.data.formats import printable
from cgcl_fast.data.images import _content
from cgcl_fast.data.layouts._layout import Layout, image_place, layouts
from cgcl_fast.data.layouts._place import SPLITS, Place, tell_words

__all__ = ["SPLITS", "Layout", "Place", "find_domain_names", "find_places", "in_direction"]

logger = logging.getLogger(__name__)

_ABOUT_IMAGES = (*FOLDER_NAMES, "mask", "seg", "truth")
_NO_DOMAINS = (
    *("annot", "gtfine", "gtcoarse", "gtbbox", "label", "mask", "segmentation", "truth"),
    *("image", "img", "jpegimages", "leftimg8bit", "rightimg8bit"),
)

Recognised = list[tuple[Layout, dict[str, Place]]]


def find_places(root: Path, domains: Sequence[str], split: str) -> dict[str, Place]:
    """Find the images of each domain in any of the layouts above.

    If the domains are called A and B, a folder with exactly two domains of other names also fits: they become A and B
    in alphabetical order. Of BDD100K's groups A and B are sunny and night, of Cityscapes clear and foggy. A single
    domain may be the data folder itself.

    Raises:
        ValueError: no layout fits, or several do; the message names what was expected and what is there.
    """
    if not root.is_dir():
        raise ValueError(f"data must be a folder with {_expected(domains)}; {printable(root)} is missing or no folder")
    others: set[str] = set()
    for found in _recognise(root, split, domains):
        named = [(layout, tuple(domains)) for layout, places in found if places.keys() >= set(domains)]
        partly = any(domain in places for domain in domains for _, places in found)
        if not partly and tuple(domains) == ("A", "B"):
            named = [(layout, pair) for layout, places in found if (pair := _pair(layout, places)) is not None]
        if named:
            layout, names = _only(root, named, split)
            places = dict(found)[layout]
            if names != tuple(domains):
                logger.info("%s: A is %s and B is %s", printable(root), *map(printable, names))
            told = tell_words({name: places[name] for name in names}, split)
            return dict(zip(domains, told.values(), strict=True))
        others.update(name for _, places in found for name in places)
        if partly:
            break
        if len(domains) == 1 and (alone := image_place(root, split)) is not None:
            alone.home = None
            return tell_words({domains[0]: alone}, split)
    raise ValueError(
        f"data must be a folder with {_expected(domains, split)}; {printable(root)} holds {_content(root)}"
        + (f", with domains {', '.join(map(printable, sorted(others)))}" if others else "")
    )


def in_direction(places: dict[str, Place], direction: str) -> dict[str, Place]:
    """The places themselves, or with the direction BtoA those of two domains exchanged."""
    if direction == "AtoB":
        return places
    return dict(zip(places, reversed(places.values()), strict=True))


def find_domain_names(root: Path, split: str = "train") -> tuple[str, ...]:
    """Names of the domains of a data folder: sorted, or those of a data set in its own order (BDD100K's groups: sunny,
    night, cloudy, rainy).

    Raises:
        ValueError: fewer than two, or several layouts; names what was expected and what is there.
    """
    if not root.is_dir():
        raise ValueError(f"data must be a folder with a folder per domain; {printable(root)} is missing or no folder")
    for found in _recognise(root, split, ()):
        several = [(layout, tuple(places)) for layout, places in found if len(places) > 1]
        if several:
            return _only(root, several, split)[1]
    raise ValueError(
        f"data must be a folder with two or more domains, {_expected(['NAME'], split)}; {printable(root)} holds "
        f"{_content(root)}"
    )


def _recognise(root: Path, split: str, wanted: Sequence[str]) -> Iterator[Recognised]:
    """What each layout finds; layouts marked ``last`` come last."""
    for last in (False, True):
        found: Recognised = []
        for layout in layouts():
            if layout.domains is None or layout.last != last:
                continue
            if wanted and layout.names and not {*layout.names, "A", "B"}.issuperset(wanted):
                continue
            places: dict[str, Place] = {}
            for name in SPLITS[split]:
                for domain, place in layout.domains(root, name).items():
                    places.setdefault(domain, place)
            found.append((layout, {n: place for n, place in places.items() if n in wanted or _is_domain(n, places)}))
        yield found


def _is_domain(name: str, places: dict[str, Place]) -> bool:
    """Whether a folder counts as a domain although its name was not asked for: it holds photographs, not masks."""
    lower = name.lower()
    about = any(
        lower.startswith(other.lower()) and lower[len(other) :].lstrip("_- ").startswith(_ABOUT_IMAGES)
        for other in places
        if other != name and lower[len(other) : len(other) + 1] in ("_", "-", " ")
    )
    return not about and not lower.startswith((*_NO_DOMAINS, ".")) and places[name].has_images()


def _pair(layout: Layout, places: dict[str, Place]) -> tuple[str, ...] | None:
    """The names of the domains that A and B stand for."""
    if layout.pair is not None and places.keys() >= set(layout.pair):
        return layout.pair
    return tuple(places) if len(places) == 2 else None


def _only(root: Path, found: list[tuple[Layout, tuple[str, ...]]], split: str) -> tuple[Layout, tuple[str, ...]]:
    if len(found) > 1:
        ways = " and as ".join(_stands(layout, names, split) for layout, names in found)
        raise ValueError(f"{printable(root)} holds domains as {ways}; leave only one of them there")
    return found[0]


def _stands(layout: Layout, names: Sequence[str], split: str) -> str:
    form = layout.expected or "{name}"
    return " ".join(printable(form.format(split=split, name=name)) for name in names)


def _expected(domains: Sequence[str], split: str = "train") -> str:
    return ", or ".join(_stands(layout, domains, split) for layout in layouts() if layout.expected is not None)
