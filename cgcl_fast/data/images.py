"""Finding image files in a folder.

A file that cannot be decoded, or a folder in it that cannot be listed, never stops a training run: :func:`find_images`
leaves it out and names it in the log of this module, and whoever reads a file later gets an
:class:`UnreadableImageError` that names the file and the reason.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cgcl_fast.data.decoding import (
    RGB,
    Reading,
    UnreadableImageError,
    image_suffixes,
    look_at,
    printable,
    reason_of,
)

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = image_suffixes()

# Up to this many bytes of image files every file is decoded once when a folder is opened (a few seconds on one core);
# beyond it only headers are read, and a file that fails later is replaced by its neighbour (see folders.py).
FULL_CHECK_BYTES = 256 * 2**20

Unreadable = Callable[[Path, OSError], None]
"""What is told of a folder that cannot be listed, and why."""


def list_images(folder: str | os.PathLike[str], *, unreadable: Unreadable | None = None) -> list[Path]:
    """The image files in a folder and its subfolders, by suffix in any case, sorted by their path inside the folder.

    Hidden files and folders (``.ipynb_checkpoints``, ``._photo.jpg``) are left out; links to folders are followed.

    Args:
        folder: searched with its subfolders.
        unreadable: told of each subfolder that cannot be listed. If not given, they are named and counted in the log.

    Raises:
        ValueError: the folder does not exist, is no folder, or cannot be listed.
    """
    root, left_out = Path(folder), 0

    def named(place: Path, error: OSError) -> None:
        nonlocal left_out
        left_out += 1
        logger.warning("skipped folder %s: %s", printable(place), reason_of(error))

    found = sorted(walk_images(root, unreadable or named), key=lambda path: path.relative_to(root).as_posix())
    if left_out:
        logger.warning("skipped %d of the folders in %s: unreadable", left_out, printable(root))
    return found


def walk_images(root: Path, unreadable: Unreadable) -> Iterator[Path]:
    """:func:`list_images` as they are met."""
    for place, names in walk(root, unreadable):
        yield from (place / name for name in names if name.lower().endswith(IMAGE_SUFFIXES))


def walk(
    root: Path, unreadable: Unreadable, *, enter: Callable[[str], bool] | None = None
) -> Iterator[tuple[Path, list[str]]]:
    """A folder and those below it, each with the names of its files, in an order that does not depend on the disk.

    Hidden files and folders are left out. Links to folders are followed, but no folder is met twice.

    Args:
        root: where to begin.
        unreadable: told of each folder below that cannot be listed.
        enter: whether to look into folders of that name; all if not given.

    Raises:
        ValueError: ``root`` itself cannot be listed.
    """
    seen: set[str] = set()
    waiting = [root]
    while waiting:
        place = waiting.pop()
        real = os.path.realpath(place)
        if real in seen:  # a link back to a folder above, or to one met before
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


def entries_of(folder: str | os.PathLike[str]) -> list[os.DirEntry[str]]:
    """What a folder holds, sorted by name.

    Raises:
        OSError: it cannot be listed.
    """
    with os.scandir(folder) as found:
        return sorted(found, key=lambda entry: entry.name)


def folders_of(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted.

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
    except OSError:  # a link that leads in a circle, or where one may not look
        return False


def _why_not_listed(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "is missing"
    return "is not a folder" if isinstance(error, NotADirectoryError) else f"cannot be read: {reason_of(error)}"


def find_images(
    folder: str | os.PathLike[str],
    *,
    limit: int | None = None,
    keep: Callable[[Path], bool] | None = None,
    reading: Reading = RGB,
) -> list[Path]:
    """The readable image files of a folder (:func:`list_images` order), checked on several threads.

    Files and subfolders that cannot be read are counted and named in the log. Up to ``FULL_CHECK_BYTES`` of files each
    one is decoded (JPEGs at an eighth of their size), beyond that only the headers are read.

    Args:
        folder: searched with its subfolders.
        limit: look at no more than the first ``limit`` files.
        keep: look only at these files.
        reading: how they will be read; those that cannot be, as of another number of channels, are left out.

    Raises:
        ValueError: the folder is missing, cannot be listed, or holds no image that can be read.
    """
    paths = [path for path in list_images(folder) if keep is None or keep(path)][:limit]
    if not paths:
        raise ValueError(
            f"no images (JPEG, PNG, TIFF, .npy and all else that Pillow reads) in {printable(folder)}; it holds "
            f"{_content(folder)}"
        )
    decode = sum(_size(path) for path in paths) <= FULL_CHECK_BYTES
    reasons = _check_all(paths, reading, decode=decode)
    readable = []
    for path, reason in zip(paths, reasons, strict=True):
        if reason is None:
            readable.append(path)
        else:
            logger.warning("skipped %s: %s", printable(path), reason)
    if not readable:
        raise ValueError(
            f"none of the {len(paths)} image files in {printable(folder)} can be read; the first is "
            f"{printable(paths[0].relative_to(folder))}: {reasons[0]}"
        )
    if len(readable) < len(paths):
        skipped = len(paths) - len(readable)
        logger.warning("skipped %d of %d image files in %s: unreadable", skipped, len(paths), printable(folder))
    return readable


def _check_all(paths: Iterable[Path], reading: Reading, *, decode: bool) -> list[str | None]:
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(lambda path: _why_unreadable(path, reading, decode=decode), paths))


def _why_unreadable(path: Path, reading: Reading, *, decode: bool) -> str | None:
    try:
        look_at(path, reading, decode=decode)
    except UnreadableImageError as error:
        return error.reason
    return None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _content(folder: str | os.PathLike[str]) -> str:
    """What a folder holds, in a few words, for error messages."""
    try:
        names = [entry.name + ("/" if is_folder(entry) else "") for entry in entries_of(folder)]
    except OSError as error:
        return f"what cannot be listed ({reason_of(error)})"
    if not names:
        return "nothing"
    shown = ", ".join(printable(name) for name in names[:8])
    return shown if len(names) <= 8 else f"{shown} and {len(names) - 8} more"
