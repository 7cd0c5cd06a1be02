"""Which annotation belongs to which image of a folder.

An image and its annotation have the same name except for the suffix, or the image's name appears in a file about many
images. Annotation files are searched

* beside the images and in the folders below;
* in folders whose names begin with one of ``FOLDER_NAMES``, beside any folder on the path from the data folder to the
  images: for ``images/train`` in ``labels/train``, else ``labels``; for ``trainA`` in ``annotations/trainA``, else
  ``annotations``, and ``trainA_labels``; for ``leftImg8bit/train`` in ``gtFine/train``;
* files about many images (COCO, BDD100K) also in every folder on that way;
* in the tar that holds the images; they annotate images of that tar only.

Folders and files about many images that are named after another split or domain (``instances_val.json``) are left out.
So are entries of such a file that belong to an image of another folder: an entry's path is compared with the image's,
from the end, for as many parts as name existing folders.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from cgcl_fast.data.annotations.annotation import EMPTY, UNDECIDED, Annotation, bytes_of, text_of
from cgcl_fast.data.annotations.reading import SUFFIXES, image_key, read_file, read_set
from cgcl_fast.data.annotations.text_files import guess
from cgcl_fast.data.annotations.yolo import holds_keypoints, read_names, says_keypoints
from cgcl_fast.data.formats import printable, reason_of
from cgcl_fast.data.images import entries_of, is_folder, walk, walk_tars
from cgcl_fast.data.tars import size_of_file

logger = logging.getLogger(__name__)

FOLDER_NAMES = (
    *("annot", "label", "bbox", "box", "det", "json", "xml"),
    *("bdd", "coco", "gtbbox", "gtcoarse", "gtfine", "init", "kitti", "voc", "yolo"),
)

FULL_READ_BYTES = 64 * 2**20
"""Up to this many bytes of annotation files are read when the folder is opened; beyond it, each file is read together
with its image."""

_NAMED = 200  # log at most this many names per line

_DEEPEST = 16  # look at most at this many trailing folders of a path in a file

_SET_FILES = 64  # more unmatched JSON files than this, in a tar or out of tars, are assumed to annotate other images


class _Candidate(NamedTuple):
    """A possible annotation of an image: a file, or an entry of a file about many images."""

    parts: tuple[str, ...]  # its folders
    rank: int  # the smallest is preferred
    file: Path
    known: Annotation | None = None  # None: a file about a single image
    entry: str = ""  # the image's name in the file


class AnnotationIndex:
    """The annotations of the images in a folder. A problem with an annotation is logged once, and its image counts as
    having no boxes.

    Attributes:
        sources: for each image that has an annotation, its file and, in a file about many images, its name there.

    Args:
        folder: the images, including those in subfolders.
        root: the data folder: nothing outside it is searched.
        images: all images in ``folder``.
        words: pairs of lower-case words in names of files and folders: those that mean these images ("train"), and
            those that mean other images ("test") unless one of the former is there, too.
        excluded: folders with the images of other domains.
        borrowed: folders anywhere in the data folder where annotations are looked for last.
        tars: the tar files that hold the images, if they are members of tars.
    """

    def __init__(
        self,
        folder: Path,
        root: Path,
        images: Sequence[Path],
        *,
        words: Sequence[tuple[frozenset[str], frozenset[str]]] = (),
        excluded: Iterable[Path] = (),
        borrowed: Iterable[Path] = (),
        tars: Iterable[Path] = (),
    ) -> None:
        self.folder = folder
        self._root = root
        self._words = tuple(words)
        self._borrowed = [path for path in borrowed if root in path.parents]
        self._tars = frozenset(tars)
        self._excluded = {os.path.realpath(path) for path in excluded}
        # By the tar that they are in (None: a file of its own) and what image and annotation have in common.
        self._candidates: dict[tuple[Path | None, str], list[_Candidate]] = {
            key: [] for path in images for key in self._keys(path)
        }
        self._known: dict[Path, Annotation] = {}
        self._said: set[Path] = set()
        self._named: dict[tuple[Path, tuple[str, ...]], list[Path]] = {}
        self._reals: dict[Path, Path] = {}
        self._scan()
        chosen = {path: one for path in images if (one := self._choose(path)) is not None}
        self._files = {path: one.file for path, one in chosen.items() if one.known is None}
        self._entries = {path: one.known for path, one in chosen.items() if one.known is not None}
        self.sources = {path: (one.file, one.entry) for path, one in chosen.items()}
        self._candidates.clear()
        self._format = self._text_format()
        self._names = self._yolo_names() if (self._format or "").startswith("yolo") else {}

    def read(self, images: Sequence[Path]) -> None:
        """Read the annotations of these images now, unless they are too large, and log what is wrong with them."""
        files = [self._files[path] for path in images if path in self._files]
        if sum(map(size_of_file, files)) <= FULL_READ_BYTES:
            for path in files:
                self._known[path] = self._read(path, quiet=True)
        missing, empty = [], []
        for path in images:
            file, annotation = self._files.get(path), self._entries.get(path)
            if file is None and annotation is None:
                missing.append(path)
                continue
            annotation = annotation or self._known.get(file)  # type: ignore[arg-type]
            if path in self._entries:
                self._say_if_wrong(path, self._entries[path])
            if annotation is not None and not annotation.names and not annotation.broken and file not in self._said:
                empty.append(path)
        where = printable(self.folder)
        if len(missing) == len(images):
            logger.warning("no annotations of the images in %s: none has boxes", where)
        elif missing:
            logger.warning("%s: %d images have no annotation and count as without boxes: %s", where, *_named(missing))
        if empty:
            logger.warning("%s: annotations of %d images hold no boxes: %s", where, *_named(empty))

    def names(self) -> set[str]:
        """Classes of all boxes read so far."""
        return {name for annotation in (*self._known.values(), *self._entries.values()) for name in annotation.names}

    def count(self, images: Sequence[Path], wanted: Callable[[str], bool]) -> str:
        """How many of the images have boxes of wanted classes, in words. Images not read yet do not count."""
        annotations = [self._entries.get(path) or self._known.get(self._files.get(path, path)) for path in images]
        boxes = sum(each is not None and any(map(wanted, each.names)) for each in annotations)
        unread = sum(each is None and path in self._files for path, each in zip(images, annotations, strict=True))
        return f"{unread} with annotations, read when they are needed" if unread else f"{boxes} with boxes"

    def __getitem__(self, image: Path) -> Annotation:
        """The annotation of an image; without boxes if it has none that can be read."""
        if image in self._entries:
            return self._entries[image]
        file = self._files.get(image)
        if file is None:
            return EMPTY
        return self._known[file] if file in self._known else self._read(file)

    # ---- reading

    def _read(self, path: Path, *, quiet: bool = False) -> Annotation:
        try:
            annotation = read_file(path, self._format, self._names)
        except Exception as error:  # damaged files make parsers raise nearly anything, RecursionError included
            self._say(path, f"{reason_of(error)}: its image counts as without boxes")
            return EMPTY
        if annotation is None:
            if not quiet:
                self._say(path, "it is empty: its image counts as without boxes")
            return EMPTY
        self._say_if_wrong(path, annotation)
        return annotation

    def _say_if_wrong(self, path: Path, boxes: Annotation) -> None:
        if boxes.broken:
            self._say(path, f"{boxes.broken} of {boxes.broken + len(boxes.names)} boxes are no boxes and left out")

    def _say(self, path: Path, what: str) -> None:
        if path not in self._said:
            self._said.add(path)
            logger.warning("annotation %s: %s", printable(path), what)

    def _text_format(self) -> str | None:
        """The format of most of the text files. Empty or broken files do not count."""
        votes: Counter[str] = Counter()
        contents: list[str] = []
        for path in (path for path in self._files.values() if path.suffix.lower() == ".txt"):
            try:
                content = text_of(bytes_of(path)[: 2**16])
            except (OSError, ValueError):
                continue
            vote = guess(content)
            if vote is not None:
                votes[vote] += 1
                contents.append(content.rpartition("\n")[0] if len(content) >= 2**15 else content)  # whole lines
                if sum(votes.values()) >= 25:
                    break
        most = votes.most_common(1)[0][0] if votes else None
        if most == "yolo" and (says_keypoints(self._around_text()) or holds_keypoints(contents)):
            return "yolo keypoints"
        return most

    def _around_text(self) -> list[Path]:
        """Folders that may hold a description of the text files."""
        first = next(path for path in self._files.values() if path.suffix.lower() == ".txt")
        return list(dict.fromkeys([*_up(first.parent, self._root), *_up(self.folder, self._root)]))

    def _yolo_names(self) -> dict[int, str]:
        folders = self._around_text()
        names = read_names(folders)
        if not names:
            logger.warning(
                "%s: no names of the YOLO classes (classes.txt, data.yaml, ...): they are called by their numbers",
                printable(folders[0]),
            )
        return names

    # ---- finding

    def _scan(self) -> None:
        sets: list[tuple[Path, tuple[str, ...]]] = []
        for order, file, parts in self._annotation_files():
            key = self._tar_of(file), image_key(file.name)
            if key in self._candidates:
                rank = 10 * SUFFIXES.index(file.suffix.lower()) + ("_gtBbox" in file.name)
                self._candidates[key].append(_Candidate(parts, 1000 * rank + order, file))
            elif file.suffix.lower() == ".json":
                sets.append((file, parts))
        unique = {os.path.realpath(file): (file, parts) for file, parts in sets}
        counts = Counter(self._tar_of(file) for file, _ in unique.values())
        for tar, count in counts.items():
            if count > _SET_FILES:
                logger.info("%s: %d JSON files belong to no image", printable(tar or self.folder), count)
        for file, parts in unique.values():
            if counts[self._tar_of(file)] <= _SET_FILES and not self._is_other(*parts, file.stem):
                self._add_set(file)

    def _add_set(self, file: Path) -> None:
        try:
            annotations = read_set(file)
        except Exception as error:
            self._say(file, f"{reason_of(error)}: the images that it is about count as without boxes")
            return
        undecided = [name for name, known in (annotations or {}).items() if known is UNDECIDED]
        if undecided:
            count, first = len(undecided), printable(undecided[0])
            self._say(file, f"{count} names stand for several images, as {first}: they count as without boxes")
        tar = self._tar_of(file)
        for name, known in (annotations or {}).items():
            key = tar, image_key(name)
            if key in self._candidates and known is not UNDECIDED:
                parts = PurePosixPath(name.replace("\\", "/")).parent.parts
                self._candidates[key].append(_Candidate(parts, 10**6, file, known, name))

    def _choose(self, image: Path) -> _Candidate | None:
        best: tuple[int, int, _Candidate] | None = None
        tar = self._tar_of(image)
        inside = _plain(image.parent.relative_to(tar or self.folder).parts)
        for candidate in (candidate for key in self._keys(image) for candidate in self._candidates[key]):
            parts = _plain(candidate.parts)
            if candidate.known is None:
                common = _common(parts, inside)
                if parts and inside and not common:  # an image of the same name in another subfolder
                    continue
            else:
                if not self._may_be_of(candidate, image):
                    continue
                common = _common(parts, _plain(image.parent.parts))
            if best is None or (-common, candidate.rank) < best[:2]:
                best = (-common, candidate.rank, candidate)
        return None if best is None else best[2]

    def _keys(self, image: Path) -> list[tuple[Path | None, str]]:
        """Keys of the annotations that may be of an image: those in its own tar, before files of their own."""
        return [(tar, image_key(image.name)) for tar in dict.fromkeys((self._tar_of(image), None))]

    def _tar_of(self, path: Path) -> Path | None:
        return next((above for above in path.parents if above in self._tars), None) if self._tars else None

    def _may_be_of(self, entry: _Candidate, image: Path) -> bool:
        """Whether the folders in front of an entry's file name can be those of the image, not of another with its
        name."""
        named = self._folders_named(entry.file, entry.parts)
        if not named:
            return not self._is_other(*entry.parts)
        here = self._real(image.parent)
        return here in named or any(folder in here.parents and not (folder / image.name).is_file() for folder in named)

    def _folders_named(self, file: Path, parts: tuple[str, ...]) -> list[Path]:
        """The existing folders that a path in a file may mean, matched from its end."""
        if (file, parts) not in self._named:
            names = [part for part in parts if part.strip("/.")][-_DEEPEST:]  # not "/", "." and ".."
            roots = dict.fromkeys([*_up(file.parent, self._root), *_up(self.folder, self._root)])
            tails = ([root.joinpath(*names[start:]) for root in roots] for start in range(len(names)))
            candidates = ([self._real(folder) for folder in tail if os.path.isdir(folder)] for tail in tails)
            self._named[file, parts] = next(filter(None, candidates), [])
        return self._named[file, parts]

    def _real(self, folder: Path) -> Path:
        if folder not in self._reals:
            self._reals[folder] = Path(os.path.realpath(folder))
        return self._reals[folder]

    def _places(self) -> Iterator[tuple[Path, bool]]:
        """(folder, whether its subfolders belong to it)."""
        yield self.folder, True
        way = _up(self.folder, self._root)
        for above, below in zip(way[1:], way, strict=False):
            rest = self.folder.relative_to(above).parts
            yield above, False
            for sibling in self._folders(above):
                name = sibling.name.lower().removeprefix(below.name.lower()).lstrip("_- ")
                if not name.startswith(FOLDER_NAMES) or sibling == below or self._is_other(sibling.name):
                    continue
                if os.path.realpath(sibling) in self._excluded:
                    continue
                mirrored = [sibling.joinpath(*parts) for parts in (rest[1:], rest) if parts]
                own = next((place for place in mirrored if os.path.isdir(place)), None)
                if own is not None:
                    yield own, True
                    yield sibling, False
                    yield from ((folder, False) for folder in self._folders(sibling) if not self._is_other(folder.name))
                else:
                    yield sibling, True
        yield from ((folder, True) for folder in self._borrowed)

    def _folders(self, place: Path) -> list[Path]:
        try:
            return [place / entry.name for entry in entries_of(place) if is_folder(entry)]
        except OSError as error:
            self._say_hidden(place, error)
            return []

    def _annotation_files(self) -> Iterator[tuple[int, Path, tuple[str, ...]]]:
        """Files that may be annotations: the number of the place where it was found, the file, the folders between."""
        for tar in sorted(self._tars):
            for here, names in walk_tars([tar]):
                parts = here.relative_to(tar).parts
                yield from ((0, here / name, parts) for name in names if name.lower().endswith(SUFFIXES))
        for order, (place, deep) in enumerate(self._places()):
            yield from ((order, file, parts) for file, parts in self._files_in(place, deep))

    def _files_in(self, place: Path, deep: bool) -> Iterator[tuple[Path, tuple[str, ...]]]:

        def enter(name: str) -> bool:
            return deep and not self._is_other(name)

        try:
            for here, names in walk(place, self._say_hidden, enter=enter):
                parts = here.relative_to(place).parts
                yield from ((here / name, parts) for name in names if name.lower().endswith(SUFFIXES))
        except ValueError as error:  # an OSError of the place itself
            self._say_hidden(place, error.__cause__ or error)

    def _say_hidden(self, place: Path, error: BaseException) -> None:
        self._say(place, f"{reason_of(error)}: the annotations in this folder are not found")

    def _is_other(self, *names: str) -> bool:
        """Whether the names of a file and its folders mark it as one of another split or domain."""
        words = {word.lower() for name in names for word in (name, *re.findall("[A-Z]?[a-z]+|[A-Z]+", name))}
        words |= {word for name in names for word in re.findall("[a-z]+", name.lower())}
        return any(words & others and not words & mine for mine, others in self._words)


def _up(folder: Path, root: Path) -> list[Path]:
    """The folder and all folders above it, up to the root."""
    above = [folder, *folder.parents]
    return above[: above.index(root) + 1] if root in above else [folder]


def _plain(parts: Sequence[str]) -> tuple[str, ...]:
    """The parts without folders that only name their kind of content ("images", "labels")."""
    return tuple(part for part in parts if not part.lower().startswith(("image", "img", "jpegimages", *FOLDER_NAMES)))


def _common(first: Sequence[str], second: Sequence[str]) -> int:
    """How many trailing parts are equal."""
    count = 0
    for one, other in zip(reversed(first), reversed(second), strict=False):
        if one != other:
            break
        count += 1
    return count


def _named(paths: Sequence[Path]) -> tuple[int, str]:
    """Their number and names."""
    names = ", ".join(printable(path.name) for path in paths[:_NAMED])
    return len(paths), names + (" ..." if len(paths) > _NAMED else "")
