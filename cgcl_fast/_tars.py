"""Images in tars: where each one is, and tars of translations (WebDataset's shards).

This is the standard library's ``tarfile`` and not the package webdataset, which gives the samples of a shard as a
stream. To go on exactly where a work stopped, and to share one tar among processes and threads, takes the place of each
image in its tar, so that any of them can be read by itself.
"""

from __future__ import annotations

import os
import re
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import IO, NamedTuple

from cgcl_fast._files import check_regular
from cgcl_fast.data import IMAGE_SUFFIXES
from cgcl_fast.data.formats import reason_of

_NUMBERS = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True)
class Member:
    """A file in a tar.

    Attributes:
        tar: the tar's path.
        name: of the file, as the tar has it.
        offset: where its content begins.
        size: bytes of it.
    """

    tar: Path
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return os.path.join(self.tar, self.name)

    def read(self) -> bytes:
        """Its content.

        Raises:
            OSError: the tar cannot be read, or ends before it.
        """
        check_regular(self.tar)
        with open(self.tar, "rb") as file:
            file.seek(self.offset)
            content = file.read(self.size)
        if len(content) < self.size:
            raise OSError("the tar ends within it")
        return content

    @contextmanager
    def as_file(self) -> Iterator[Path]:
        """It is read from a file of its own meanwhile, as images outside of tars are; what is mapped to memory from
        that stays there.

        Raises:
            OSError: as :meth:`read`, or there is no room for the file.
        """
        with tempfile.NamedTemporaryFile(suffix=os.path.splitext(self.name)[1]) as file:
            file.write(self.read())
            file.flush()
            yield Path(file.name)


class Sample(NamedTuple):
    """Files in a tar whose names are the same up to the first dot of the last part, one after the other.

    Attributes:
        images: those with a suffix of an image.
        others: labels, captions and what else belongs to them.
    """

    images: tuple[Member, ...]
    others: tuple[Member, ...]


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


def samples_in(tar: Path, failed: Callable[[str], object]) -> Iterator[Sample]:
    """The samples with images in a tar, in its order. Only the headers are read. Hidden files are left out.

    Args:
        tar: not compressed.
        failed: told why the tar cannot be read, or not to its end; the samples before that are given.
    """
    for _, members in groupby(_members_of(tar, failed), lambda member: key_of(member.name)):
        images: list[Member] = []
        others: list[Member] = []
        for member in members:
            is_image = os.path.splitext(member.name)[1].lower() in IMAGE_SUFFIXES
            (images if is_image else others).append(member)
        if images:
            yield Sample(tuple(images), tuple(others))


def key_of(name: str) -> str:
    """What the files of a sample share, by WebDataset's rule."""
    folder, _, last = name.rpartition("/")
    return f"{folder}/{last.partition('.')[0]}"


def _members_of(tar: Path, failed: Callable[[str], object]) -> Iterator[Member]:
    try:
        check_regular(tar)
        with open(tar, "rb") as content, tarfile.open(fileobj=content, mode="r:") as file:
            last = ""
            for info in file:
                last = info.name
                hidden = any(part.startswith(".") and part not in (".", "..") for part in last.split("/"))
                if info.isreg() and not info.issparse() and not hidden:
                    yield Member(tar, last, info.offset_data, info.size)
            content.seek(file.offset)
            if content.read(tarfile.BLOCKSIZE).strip(b"\0"):  # where tarfile just ends
                failed(f"damaged after {last}")
    except tarfile.TarError as error:
        failed(f"no tar without compression, or a damaged one ({reason_of(error)})")
    except OSError as error:
        failed(reason_of(error))


class TarWriter:
    """Files one after the other into a tar, the same files always as the same bytes.

    Args:
        file: where to; it is only written to, from its beginning on.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def add(self, name: str, content: bytes) -> None:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        self._file.write(info.tobuf(tarfile.PAX_FORMAT))
        self._file.write(content)
        self._file.write(bytes(-len(content) % tarfile.BLOCKSIZE))

    def end(self) -> None:
        self._file.write(bytes(2 * tarfile.BLOCKSIZE))


def leads_out(name: str) -> bool:
    """Whether a file of this name would be written outside of the folder that a tar is unpacked to."""
    return os.path.isabs(name) or ".." in name.split("/")


def members_by_name(tar: Path, names: Iterable[str]) -> dict[str, Member]:
    """Those of these files that a tar has."""
    wanted = set(names)
    return {member.name: member for member in _members_of(tar, lambda _: None) if member.name in wanted}
