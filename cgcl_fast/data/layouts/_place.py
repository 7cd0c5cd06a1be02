"""The place of the images of a domain and split, and the names of splits in folder names."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePath

from cgcl_fast.data.annotations import AnnotationIndex
from cgcl_fast.data.formats import printable
from cgcl_fast.data.images import IMAGE_SUFFIXES, Unreadable, folders_of, list_images, tars_in, walk_images
from cgcl_fast.data.tars import described, members

SPLITS = {"train": ("train", "training"), "test": ("test", "testing", "val", "valid", "validation")}
"""The splits and the names of their folders, the first that is there is taken."""

_ALIASES = tuple(sorted((alias for aliases in SPLITS.values() for alias in aliases), key=len, reverse=True))
_INNER = ("images", "image_2", "img")
_JOINTS = "_-. "
_OF_SPLIT = re.compile(rf"(?i:{'|'.join(_ALIASES)})(?i:s|sets?|data|images?|labels?)?([A-Z0-9_. -].*|[a-z])?")


@dataclass(eq=False)
class Place:
    """The images of a domain and split.

    Attributes:
        folder: the images are in it and its subfolders.
        keep: selects among them; None: all.
        files: the images themselves, if a list names them, in its order.
        tars: tar files in the folder, if the images are members of them.
        home: a folder of this domain alone, where no other domain looks for annotations; None: there is none.
        listed: the file that names the images.
        name: what the folders call the domain.
        words: the words in names of annotation files that mean this domain or another; see :class:`AnnotationIndex`.
        excluded: folders of other domains, where no annotations are looked for.
        borrowed: folders of other domains that also hold annotations of this one.
        index: the annotations, if they had to be read to find the images.
    """

    folder: Path
    keep: Callable[[Path], bool] | None = None
    files: tuple[Path, ...] | None = None
    tars: tuple[Path, ...] = ()
    home: Path | None = None
    listed: Path | None = None
    name: str | None = None
    words: tuple[tuple[frozenset[str], frozenset[str]], ...] = ()
    excluded: tuple[Path, ...] = ()
    borrowed: tuple[Path, ...] = ()
    index: AnnotationIndex | None = None

    def images(self, unreadable: Unreadable | None = None) -> list[Path]:
        """All image files, whether they can be read or not; see :func:`list_images`."""
        found = list_images(self.folder, tars=self.tars, unreadable=unreadable) if self.files is None else self.files
        return [path for path in found if self.keep is None or self.keep(path)]

    def has_images(self) -> bool:
        """Whether there is one, or may be one where one cannot look."""
        if self.files is not None:
            return bool(self.files)
        if self.tars:
            return any(map(_may_hold_images, self.tars))
        hidden: list[Path] = []
        return any(islice(walk_images(self.folder, lambda place, _: hidden.append(place)), 1)) or bool(hidden)

    def annotations(self, root: Path) -> AnnotationIndex:
        """The annotations of the images.

        Raises:
            ValueError: the images have no folder in common where annotations could be looked for.
        """
        if self.index is None:
            if self.files is not None and self.folder.absolute() in root.absolute().parents:
                raise ValueError(
                    f"{printable(self.listed or root)}: images with boxes must be in one folder, in the data folder or "
                    f"beside it; these have only {printable(self.folder)} in common"
                )
            images = self.images(unreadable=known_already)
            self.index = AnnotationIndex(
                self.folder,
                root,
                images,
                words=self.words,
                excluded=self.excluded,
                borrowed=self.borrowed,
                tars=self.tars,
            )
        return self.index

    def __str__(self) -> str:
        if self.listed is not None:
            return f"the list {printable(self.listed)}"
        return described(self.tars) if self.tars else printable(self.folder)


def place_in(folder: Path, home: Path | None = None) -> Place:
    """The images in a folder: in its subfolder ``images`` if there is one, and in tars if there are no image files."""
    inner = next((folder / name for name in _INNER if (folder / name).is_dir()), folder)
    return Place(inner, tars=tars_in(inner), home=home or folder)


def _may_hold_images(tar: Path) -> bool:
    try:
        return any(member.name.lower().endswith(IMAGE_SUFFIXES) for member in members(tar))
    except ValueError:  # reported when its images are listed
        return True


def folders_in(folder: Path) -> list[str]:
    """Names of the folders in a folder, none if it is not there or cannot be listed."""
    try:
        return folders_of(folder)
    except ValueError:
        return []


def subfolder(folder: Path, path: str) -> Path | None:
    """A folder below another, in any case where that is no other's name; None if there is none."""
    if (folder / path).is_dir():
        return folder / path
    for part in PurePath(path).parts:
        same = [name for name in folders_in(folder) if name.lower() == part.lower()]
        if len(same) != 1:
            return None
        folder = folder / same[0]
    return folder


def after_split(name: str, split: str) -> str | None:
    """The rest of a name that begins with that of a split: ``A`` of ``trainA``, ``TrainA`` and ``train_A``. None if it
    begins with another or there is no rest."""
    alias = next((alias for alias in _ALIASES if name.lower().startswith(alias)), "")
    rest = name[len(alias) :].lstrip(_JOINTS)
    return rest if alias == split and rest and rest.lower() not in _ALIASES else None


def is_of_split(name: str) -> bool:
    """Whether a name is that of a split, or begins with it as a word: ``test``, ``Test2``, ``testA``, ``testset``."""
    return _OF_SPLIT.fullmatch(name) is not None


def add_once(places: dict[str, Place], domain: str, place: Place, split: str) -> None:
    """Put the place of a domain into ``places``.

    Raises:
        ValueError: the domain has one.
    """
    if domain in places:
        raise ValueError(
            f"{places[domain]} and {place} are both {split} images of domain {printable(domain)}; leave only one there"
        )
    places[domain] = place


def known_already(place: Path, error: OSError) -> None:
    """Of folders that cannot be listed, where another search of the same folder names them."""


def tell_words(places: dict[str, Place], split: str) -> dict[str, Place]:
    """Tell each domain's place what are its names and what those of the others."""
    names = {domain: {domain} | ({place.home.name} if place.home else set()) for domain, place in places.items()}
    everything = set().union(*names.values())
    of_split = {name: _words(SPLITS[name], everything, SPLITS[name]) for name in SPLITS}
    of_domain = {domain: _words(_ALIASES, names[domain], names[domain]) for domain in places}
    for domain, place in places.items():
        place.name = domain
        place.words = (
            (of_split[split], frozenset().union(*of_split.values()) - of_split[split]),
            (of_domain[domain], frozenset().union(*of_domain.values()) - of_domain[domain]),
        )
        others = [other.home for name, other in places.items() if name != domain and other.home is not None]
        place.excluded = tuple(home for home in others if home not in (place.folder, *place.folder.parents))
    return places


def _words(splits: Iterable[str], domains: Iterable[str], alone: Iterable[str]) -> frozenset[str]:
    """Words that mean one of these splits or domains: by itself, and both in one word ("trainA")."""
    joined = (f"{split}{domain}" for split in splits for domain in domains)
    return frozenset(word.lower() for word in (*alone, *joined))


def common_folder(files: Iterable[Path]) -> Path:
    """The deepest folder that all files are in.

    Raises:
        ValueError: there is none, as on different drives.
    """
    return Path(os.path.commonpath([path.parent for path in files]) or ".")
