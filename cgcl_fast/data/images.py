"""Finding image files in a folder.

A file that cannot be decoded, or a subfolder that cannot be listed, never stops a training run: :func:`find_images`
leaves it out and logs its name. Reading such a file later raises an :class:`UnreadableImageError` with the file and the
reason.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cgcl_fast.data import tars as tar_files
from cgcl_fast.data.decoding import RGB, look_at
from cgcl_fast.data.formats import FileFormat, Reading, UnreadableImageError, image_suffixes, printable, reason_of

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = image_suffixes()

# Up to this many bytes of image files, every file is decoded once when a folder is opened (a few seconds on one core).
# Beyond it only headers are read; a file that fails later is replaced by its neighbour (see folders.py).
FULL_CHECK_BYTES = 256 * 2**20

_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"\x93NUMPY")

_COMPANIONS = frozenset(
    (
        ".csv", ".cache", ".db", ".html", ".ini", ".json", ".jsonl", ".labels", ".lst", ".md", ".names", ".pkl", ".py",
        ".tmp", ".tsv", ".txt", ".xml", ".yaml", ".yml",
    )
)  # fmt: skip
"""Suffixes of files that usually accompany images; they are not reported as left out."""

_ANNOTATION_FOLDERS = frozenset(
    (
        "anno", "annot", "annotation", "annotations", "annots", "bbox", "bboxes", "boxes", "groundtruth",
        "ground_truth", "gt", "gtcoarse", "gtfine", "instances", "label", "labels", "mask", "masks", "seg",
        "segmentation", "segmentationclass", "segmentationobject", "segmentations", "semantic",
    )
)  # fmt: skip

_ANNOTATION_ENDING = re.compile(r"[-_. ](mask|masks|seg|segmentation|label|labels|gt|labelids|instanceids|bbox)$")

Unreadable = Callable[[Path, OSError], None]
"""Called with a folder that cannot be listed, and the error."""


def list_images(
    folder: str | os.PathLike[str],
    *,
    tars: Sequence[Path] = (),
    unreadable: Unreadable | None = None,
    left_out: Callable[[str], None] | None = None,
) -> list[Path]:
    """The image files in a folder and its subfolders, sorted by their path in the folder: those with the suffix of an
    image, in any case, and those with an unknown suffix or none whose content starts like an image.

    Hidden files and folders (``.ipynb_checkpoints``, ``._photo.jpg``) are left out. So are pictures that annotate
    photographs: folders called masks, bbox, labels, ... and ``NAME_mask.png`` beside ``NAME.jpg``. Links to folders are
    followed.

    Args:
        folder: searched with its subfolders.
        tars: tar files somewhere in the folder, whose members are listed instead of the files (:mod:`.tars`).
        unreadable: told of each subfolder that cannot be listed. If not given, they are named and counted in the log.
        left_out: told once, in a few words, how many files of which kinds are no images or annotate others; not of text
            files, which are annotations.

    Raises:
        ValueError: the folder does not exist, is no folder, or cannot be listed; a tar is compressed or broken.
    """
    root, skipped = Path(folder), 0

    def named(place: Path, error: OSError) -> None:
        nonlocal skipped
        skipped += 1
        logger.warning("skipped folder %s: %s", printable(place), reason_of(error))

    files: list[Path] = []
    others: Counter[str] = Counter()
    for tar in tars:
        others.update(tar_files.left_out(tar))
    for place, names in walk_tars(tars) if tars else walk(root, unreadable or named):
        for name in names:
            if _is_image(place, name):
                files.append(place / name)
            else:
                others[Path(name).suffix or "without a suffix"] += 1
    if skipped:
        logger.warning("skipped %d of the folders in %s: unreadable", skipped, printable(root))
    photographs = without_annotations(root, files, others)
    for suffix in _COMPANIONS & others.keys():
        del others[suffix]
    if others and left_out is not None:
        left_out(_counted(others))
    return sorted(photographs, key=lambda path: path.relative_to(root).as_posix())


def _counted(others: Counter[str]) -> str:
    most = sorted(others.items(), key=lambda each: (-each[1], each[0]))[:8]
    kinds = ", ".join(f"{count} {printable(kind)}" for kind, count in most)
    more = sum(others.values()) - sum(count for _, count in most)
    heic = any(kind.lower() in (".heic", ".heif") for kind in others)
    total = sum(others.values())
    return (
        f"{total} file{'' if total == 1 else 's'} left out: {kinds}{f', {more} others' if more else ''}"
        f"{' (pip install pillow-heif reads HEIC)' if heic else ''}"
    )


def _is_image(place: Path, name: str) -> bool:
    """Whether it is an image, by its suffix or, if that is unknown, by the beginning of its content."""
    suffix = os.path.splitext(name)[1].lower()
    return suffix in IMAGE_SUFFIXES or (suffix not in _COMPANIONS and _begins_like_an_image(place / name))


def _begins_like_an_image(path: Path) -> bool:
    try:
        with tar_files.open_file(path) as file:
            start = file.read(16)
    except OSError:
        return False
    return start.startswith(_SIGNATURES) or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")


def without_annotations(root: Path, files: list[Path], others: Counter[str]) -> list[Path]:
    """The files that are not annotations of others; all of them if every file looks like one, as for a domain of label
    maps. Adds those left out to ``others``, by folder or ending."""
    kept: list[Path] = []
    annotations: Counter[str] = Counter()
    stems = {(path.parent, path.stem.lower()) for path in files}
    for path in files:
        folder = next((part for part in path.relative_to(root).parts[:-1] if part.lower() in _ANNOTATION_FOLDERS), None)
        ending = _ANNOTATION_ENDING.search(path.stem.lower())
        if folder is not None:
            annotations[f"in {folder}/"] += 1
        elif ending and (path.parent, path.stem.lower()[: ending.start()]) in stems:
            annotations[f"*{ending.group()}{path.suffix}"] += 1
        else:
            kept.append(path)
    if not kept:
        return files
    others.update(annotations)
    return kept


def walk_images(root: Path, unreadable: Unreadable) -> Iterator[Path]:
    """Image files by suffix, in the order found."""
    for place, names in walk(root, unreadable):
        yield from (place / name for name in names if name.lower().endswith(IMAGE_SUFFIXES))


def walk(
    root: Path, unreadable: Unreadable, *, enter: Callable[[str], bool] | None = None
) -> Iterator[tuple[Path, list[str]]]:
    """A folder and all folders below, each with the names of its files, in an order independent of the disk.

    Hidden files and folders are left out. Links to folders are followed, but no folder is visited twice.

    Args:
        root: where to begin.
        unreadable: called for each folder below that cannot be listed.
        enter: whether to enter a folder of that name; by default always.

    Raises:
        ValueError: ``root`` itself cannot be listed.
    """
    seen: set[str] = set()
    waiting = [root]
    while waiting:
        place = waiting.pop()
        real = os.path.realpath(place)
        if real in seen:  # a link back to a folder above, or to one already visited
            continue
        seen.add(real)
        try:
            entries = [entry for entry in entries_of(place) if not entry.name.startswith(".")]
        except OSError as error:
            if place is root:
                raise ValueError(f"{printable(root)} {_why_not_listed(error)}") from error
            unreadable(place, error)
            continue
        folders = {entry.name for entry in entries if is_folder(entry)}
        yield place, [entry.name for entry in entries if entry.name not in folders]
        waiting.extend(place / name for name in sorted(folders, reverse=True) if enter is None or enter(name))


def walk_tars(tars: Iterable[Path]) -> Iterator[tuple[Path, list[str]]]:
    """As :func:`walk`, the folders in tars.

    Raises:
        ValueError: a tar is compressed or broken.
    """
    for tar in tars:
        folders: dict[str, list[str]] = {}
        for member in tar_files.members(tar):
            folder, _, name = member.name.rpartition("/")
            if not any(part.startswith(".") for part in member.name.split("/")):
                folders.setdefault(folder, []).append(name)
        yield from ((tar / folder, names) for folder, names in folders.items())


def tars_in(folder: Path) -> tuple[Path, ...]:
    """The tars in a folder, sorted; none if there are images in it or below, which may have been unpacked from them."""
    try:
        found = []
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.lower().endswith(IMAGE_SUFFIXES):
                    return ()
                if tar_files.stem_of(entry.name) is not None and not is_folder(entry):
                    found.append(folder / entry.name)
        if not found or any(True for _ in walk_images(folder, lambda place, error: None)):
            return ()
    except (OSError, ValueError):  # reported when its images are listed
        return ()
    return tuple(sorted(found))


def entries_of(folder: str | os.PathLike[str]) -> list[os.DirEntry[str]]:
    """The entries of a folder, sorted by name.

    Raises:
        OSError: it cannot be listed.
    """
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def folders_of(folder: Path) -> list[str]:
    """Names of a folder's subfolders, sorted.

    Raises:
        ValueError: it cannot be listed.
    """
    try:
        return [entry.name for entry in entries_of(folder) if is_folder(entry)]
    except OSError as error:
        raise ValueError(f"{printable(folder)} {_why_not_listed(error)}") from error


def is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a circular link, or no permission
        return False


def _why_not_listed(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "is missing"
    return "is not a folder" if isinstance(error, NotADirectoryError) else f"cannot be read: {reason_of(error)}"


def find_images(
    folder: str | os.PathLike[str],
    *,
    tars: Sequence[Path] = (),
    limit: int | None = None,
    keep: Callable[[Path], bool] | None = None,
    reading: Reading = RGB,
    files: Iterable[Path] | None = None,
) -> list[Path]:
    """The readable image files of a folder (in :func:`list_images` order), checked on several threads.

    Files and subfolders that cannot be read are counted and logged. Up to ``FULL_CHECK_BYTES`` of files, each one is
    decoded (JPEGs at an eighth of their size); beyond that only headers are read.

    Args:
        folder: searched with its subfolders.
        tars: searched instead; see :func:`list_images`.
        limit: look at no more than the first ``limit`` files.
        keep: look only at these files.
        reading: how they will be read; those that cannot be, as of another number of channels, are left out.
        files: look at these instead of searching; they may be anywhere below the folder.

    Raises:
        ValueError: the folder is missing, cannot be listed, or holds no image that can be read; a tar is compressed or
            broken.
    """
    where = tar_files.described(tars) if tars else printable(folder)

    def left_out(kinds: str) -> None:
        logger.warning("%s: %s", where, kinds)

    there = list_images(folder, tars=tars, left_out=left_out) if files is None else files
    paths = [path for path in there if keep is None or keep(path)][:limit]
    if not paths:
        raise ValueError(
            f"no images (JPEG, PNG, TIFF, .npy and all else that Pillow reads) in {where}"
            f"{'' if tars else f'; it holds {_content(folder)}'}"
        )
    decode = sum(map(tar_files.size_of_file, paths)) <= FULL_CHECK_BYTES
    checked = _check_all(paths, reading, decode=decode)
    readable, several = [], []
    for path, outcome in zip(paths, checked, strict=True):
        if isinstance(outcome, str):
            logger.warning("skipped %s: %s", printable(path), outcome)
            continue
        readable.append(path)
        if outcome.frames > 1:
            several.append(path)
    if not readable:
        raise ValueError(
            f"none of the {len(paths)} image files in {where} can be read; the first is "
            f"{printable(paths[0].relative_to(folder))}: {checked[0]}"
        )
    if len(readable) < len(paths):
        skipped = len(paths) - len(readable)
        logger.warning("skipped %d of %d image files in %s: unreadable", skipped, len(paths), where)
    if several:
        logger.warning(
            "of %d image files in %s with several frames the first is used, as of %s",
            len(several),
            where,
            printable(several[0].name),
        )
    return readable


def _check_all(paths: Iterable[Path], reading: Reading, *, decode: bool) -> list[FileFormat | str]:
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(lambda path: _checked(path, reading, decode=decode), paths))


def _checked(path: Path, reading: Reading, *, decode: bool) -> FileFormat | str:
    """The format of a file, or why it cannot be read."""
    try:
        return look_at(path, reading, decode=decode)[0]
    except UnreadableImageError as error:
        return error.reason


def _content(folder: str | os.PathLike[str]) -> str:
    """A short description of a folder's content, for error messages."""
    try:
        names = [entry.name + ("/" if is_folder(entry) else "") for entry in entries_of(folder)]
    except OSError as error:
        return f"what cannot be listed ({reason_of(error)})"
    if not names:
        return "nothing"
    shown = ", ".join(printable(name) for name in names[:8])
    return shown if len(names) <= 8 else f"{shown} and {len(names) - 8} more"
