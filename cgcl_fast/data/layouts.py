"""Where the images of a domain are in a data folder.

==============================  ====================================================================================
``trainA testA trainB testB``   split and name of each domain; any names, any number
``NAME/train NAME/test``        a folder for each domain, which may also be laid out as its data set is:
                                ``NAME/images/train`` (YOLO), ``NAME/train/images``, ``NAME/images/100k/train``
                                (BDD100K), ``NAME/leftImg8bit/train`` (Cityscapes), ``NAME/training/image_2`` (KITTI),
                                ``NAME/JPEGImages`` with ``NAME/ImageSets/Main/train.txt`` (Pascal VOC)
BDD100K alone                   a data set of the last kind in place of the domains, with annotations that tell time of
                                day and weather: its images are grouped into sunny, night, cloudy and rainy
==============================  ====================================================================================

Where there is no ``test``, ``testing``, ``val``, ``valid`` or ``validation`` is taken for it, and ``training`` for
``train``. Annotations are found as :mod:`cgcl_fast.data.annotations.index` says.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from cgcl_fast.data.annotations import AnnotationIndex
from cgcl_fast.data.annotations.annotation import text_of
from cgcl_fast.data.annotations.bdd import GROUPS, group_of
from cgcl_fast.data.images import _content, folders_of, list_images, printable, walk_images

logger = logging.getLogger(__name__)

SPLITS = {"train": ("train", "training"), "test": ("test", "testing", "val", "valid", "validation")}
"""The splits and the names of their folders, the first that is there is taken."""

_INNER = ("images", "image_2", "img")
_OUTER = ("", "images", "images/100k", "images/10k", "leftImg8bit", "img")
_NO_DOMAINS = ("annot", "gtfine", "gtcoarse", "gtbbox", "image", "img", "label", "leftimg8bit", "rightimg8bit", "truth")


@dataclass(eq=False)
class Place:
    """The images of a domain and split.

    Attributes:
        folder: they are in it and its subfolders.
        keep: which of them; None: all.
        words: in the names of annotation files; see :class:`AnnotationIndex`.
        excluded: folders of other domains, where no annotations are looked for.
        index: the annotations, if they had to be read to find the images.
    """

    folder: Path
    keep: Callable[[Path], bool] | None = None
    words: tuple[tuple[frozenset[str], frozenset[str]], ...] = ()
    excluded: tuple[Path, ...] = ()
    index: AnnotationIndex | None = None

    def annotations(self, root: Path) -> AnnotationIndex:
        """The annotations of the images."""
        if self.index is None:
            self.index = AnnotationIndex(
                self.folder,
                root,
                list_images(self.folder, unreadable=_known_already),
                words=self.words,
                excluded=self.excluded,
            )
        return self.index


def find_places(root: Path, domains: Sequence[str], split: str, direction: str = "AtoB") -> dict[str, Place]:
    """Where the images of each domain are; see the layouts above. With the direction BtoA those of each of two domains
    are where the other's would be.

    For domains called A and B a folder with exactly two domains of other names will also do, which are A and B in
    alphabetical order, and of BDD100K's groups they are sunny and night. A single domain may be the data folder itself.

    Raises:
        ValueError: the folders are not there; names what was expected and what is there.
    """
    if direction == "BtoA":
        first, second = find_places(root, domains, split).values()
        return dict(zip(domains, (second, first), strict=True))
    if not root.is_dir():
        raise ValueError(f"data must be a folder with {_expected(domains)}; {printable(root)} is missing or no folder")
    joined = {domain: root / f"{split}{domain}" for domain in domains}
    present = [domain for domain, folder in joined.items() if folder.is_dir()]
    if len(present) == len(domains):
        return _places({domain: _inner(folder) for domain, folder in joined.items()}, split, joined)
    nested = {domain: found for domain in domains if (found := image_place(root / domain, split)) is not None}
    if not present and len(nested) == len(domains):
        return _places(nested, split, {domain: root / domain for domain in domains})
    if not present and tuple(domains) == ("A", "B"):
        names = _nested_names(root, split)
        if len(names) == 2:
            logger.info("%s: A is %s and B is %s", printable(root), *map(printable, names))
            by_letter = find_places(root, names, split)
            return dict(zip("AB", by_letter.values(), strict=True))
    if not present and not nested:
        alone = image_place(root, split)
        if len(domains) == 1 and alone is not None:
            return _places({domains[0]: alone}, split, {})
        asked = {"A": "sunny", "B": "night"} if tuple(domains) == ("A", "B") else {name: name for name in domains}
        groups = _bdd_groups(root, split) if all(name in GROUPS for name in asked.values()) else {}
        if groups and all(group in groups for group in asked.values()):
            if asked != {name: name for name in domains}:
                logger.info("%s: A is sunny and B is night", printable(root))
            return {domain: groups[group] for domain, group in asked.items()}
    raise ValueError(
        f"data must be a folder with {_expected(domains, split)}; {printable(root)} holds {_content(root)}"
    )


def find_domain_names(root: Path, split: str = "train") -> tuple[str, ...]:
    """Names of the domains of a data folder: sorted, or BDD100K's groups in the order sunny, night, cloudy, rainy.

    Raises:
        ValueError: fewer than two; names what was expected and what is there.
    """
    if not root.is_dir():
        raise ValueError(f"data must be a folder with a folder per domain; {printable(root)} is missing or no folder")
    folders = folders_of(root)
    joined = tuple(name.removeprefix(split) for name in folders if name.startswith(split) and _has_images(root / name))
    if len(joined) > 1 and all(joined):
        return joined
    names = _nested_names(root, split) or tuple(_bdd_groups(root, split))
    if len(names) < 2:
        raise ValueError(
            f"data must be a folder with two or more folders {split}NAME or NAME/{split}; {printable(root)} holds "
            f"{_content(root)}"
        )
    return names


def image_place(domain: Path, split: str) -> Place | None:
    """The images of a split in the folder of a data set, None if there is none."""
    for name in SPLITS[split]:
        for outer in _OUTER:
            folder = domain / outer / name
            if folder.is_dir():
                return _inner(folder)
    return _voc_place(domain, split)


def _voc_place(domain: Path, split: str) -> Place | None:
    folder = domain / "JPEGImages"
    for name in SPLITS[split]:
        listed = domain / "ImageSets" / "Main" / f"{name}.txt"
        if folder.is_dir() and listed.is_file():
            words = [line.split() for line in text_of(listed.read_bytes()).splitlines()]
            stems = frozenset(line[0] for line in words if line)
            return Place(folder, keep=partial(_is_listed, stems))
    return None


def _is_listed(stems: frozenset[str], path: Path) -> bool:
    return path.stem in stems


def _inner(folder: Path) -> Place:
    return Place(next((folder / name for name in _INNER if (folder / name).is_dir()), folder))


def _places(found: dict[str, Place], split: str, folders: dict[str, Path]) -> dict[str, Place]:
    """Tell each place what are its names and what those of others."""
    names = {domain: {domain, folders[domain].name} if domain in folders else {domain} for domain in found}
    everything = set().union(*names.values())
    of_split = {name: _words(SPLITS[name], everything, SPLITS[name]) for name in SPLITS}
    any_split = [alias for aliases in SPLITS.values() for alias in aliases]
    of_domain = {domain: _words(any_split, names[domain], names[domain]) for domain in found}
    for domain, place in found.items():
        place.words = (
            (of_split[split], frozenset().union(*of_split.values()) - of_split[split]),
            (of_domain[domain], frozenset().union(*of_domain.values()) - of_domain[domain]),
        )
        place.excluded = tuple(folder for other, folder in folders.items() if other != domain)
    return found


def _words(splits: Iterable[str], domains: Iterable[str], alone: Iterable[str]) -> frozenset[str]:
    """Words that mean one of these splits or domains: by itself, and both in one word ("trainA")."""
    joined = (f"{split}{domain}" for split in splits for domain in domains)
    return frozenset(word.lower() for word in (*alone, *joined))


def _nested_names(root: Path, split: str) -> tuple[str, ...]:
    """Folders that are domains: with images of the split in them."""
    return tuple(
        name
        for name in folders_of(root)
        if not name.lower().startswith((*_NO_DOMAINS, "."))
        and (place := image_place(root / name, split)) is not None
        and _has_images(place.folder)
    )


def _has_images(folder: Path) -> bool:
    """Whether there is one, or may be one where one cannot look."""
    hidden: list[Path] = []
    return any(islice(walk_images(folder, lambda place, _: hidden.append(place)), 1)) or bool(hidden)


def _known_already(place: Path, error: OSError) -> None:
    """Of folders that cannot be listed, where another search of the same folder names them."""


def _bdd_groups(root: Path, split: str) -> dict[str, Place]:
    """BDD100K's domains, if its annotations tell them; empty if they do not."""
    for name in SPLITS[split]:
        for outer in _OUTER:
            folder = root / outer / name
            if not folder.is_dir():
                continue
            place = _places({"": _inner(folder)}, split, {})[""]
            index, images = place.annotations(root), list_images(place.folder, unreadable=_known_already)
            groups: dict[str, set[Path]] = {}
            for path in images:
                group = group_of(index[path])
                if group is not None:
                    groups.setdefault(group, set()).add(path)
            if groups:
                logger.info(
                    "%s: %s", printable(folder), ", ".join(f"{len(groups.get(group, ()))} {group}" for group in GROUPS)
                )
                return {
                    group: Place(place.folder, keep=groups[group].__contains__, index=index)
                    for group in GROUPS
                    if group in groups
                }
    return {}


def _expected(domains: Sequence[str], split: str = "train") -> str:
    return " ".join(f"{split}{domain}" for domain in domains) + f", or a folder per domain with {split} in it"
