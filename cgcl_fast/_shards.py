"""WebDataset's shards: patterns for their names, the samples in one, and how one is written.

Where a file is in a tar :mod:`cgcl_fast.data.tars` knows. The package webdataset gives the samples of a shard as a
stream; to go on exactly where a work stopped, and to share one tar among processes and threads, any image must be read
by itself.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from cgcl_fast.data import IMAGE_SUFFIXES
from cgcl_fast.data.errors import printable
from cgcl_fast.data.images import without_annotations
from cgcl_fast.data.tars import Member, members

_NUMBERS = re.compile(r"\{(\d+)\.\.(\d+)\}")


class Sample(NamedTuple):
    """Files in a tar whose names are the same up to the first dot of the last part.

    Attributes:
        images: those with a suffix of an image, without masks of others, as in folders (``1.seg.png`` of ``1.jpg``).
        others: labels, captions, masks and what else belongs to them.
    """

    images: tuple[str, ...]
    others: tuple[str, ...]


def is_pattern(name: str) -> bool:
    """Whether a name stands for several: ``shards-{000..009}.tar``."""
    return _NUMBERS.search(name) is not None


def expanded(pattern: str) -> Iterator[str]:
    """The names that a pattern stands for, as in bash: those of ``a-{08..10}.tar`` are a-08.tar, a-09.tar, a-10.tar."""
    found = _NUMBERS.search(pattern)
    if found is None:
        yield pattern
        return
    first, last = found.groups()
    width = max(len(first), len(last)) if "0" in (first[0], last[0]) else 0
    step = 1 if int(first) <= int(last) else -1
    for number in range(int(first), int(last) + step, step):
        for rest in expanded(pattern[found.end() :]):
            yield f"{pattern[: found.start()]}{number:0{width}d}{rest}"


def samples_in(tar: Path) -> list[Sample]:
    """The samples with images in a tar, in its order. Hidden files are left out.

    Raises:
        ValueError: it cannot be read, is compressed or damaged.
    """
    found: dict[str, list[Member]] = {}
    for member in sorted(members(tar), key=lambda member: member.offset):
        if not any(part.startswith(".") for part in member.name.split("/")):
            found.setdefault(key_of(member.name), []).append(member)
    files = [Path(member.name) for of_key in found.values() for member in of_key if _is_image(member.name)]
    photographs = {path.as_posix() for path in without_annotations(Path(), files, Counter())}
    samples = []
    for of_key in found.values():
        images = tuple(member.name for member in of_key if member.name in photographs)
        if images:
            samples.append(Sample(images, tuple(member.name for member in of_key if member.name not in photographs)))
    return samples


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def key_of(name: str) -> str:
    """What the files of a sample share, by WebDataset's rule."""
    folder, _, last = name.rpartition("/")
    return f"{folder}/{last.partition('.')[0]}"


class TarWriter:
    """Files one after the other into a tar, the same files always as the same bytes.

    Args:
        file: where to; it is only written to, from its beginning on.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._names: set[str] = set()

    def add(self, name: str, content: bytes) -> None:
        """Add a file.

        Raises:
            ValueError: there is one of this name.
        """
        if name in self._names:
            raise ValueError(f"two files would be called {printable(name)} in it")
        self._names.add(name)
        info = tarfile.TarInfo(name)
        info.size = len(content)
        self._file.write(info.tobuf(tarfile.PAX_FORMAT))
        self._file.write(content)
        self._file.write(bytes(-len(content) % tarfile.BLOCKSIZE))

    def end(self) -> None:
        self._file.write(bytes(2 * tarfile.BLOCKSIZE))
