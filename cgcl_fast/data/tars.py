"""Tar files that are read as folders: WebDataset's shards, in any order.

What a member's name leads to is a place in the tar, which an index of all members holds; so a tar is a folder of
files, and order, shuffling, shares of several processes and exact resume are those of any folder. WebDataset's own
reading is sequential, with a buffer to shuffle in: where a run stood is then a matter of all its buffers, and the
images of an epoch are never drawn from the whole of it. It is faster where a disk must seek, and only there: images of
a page cache or an SSD come from a tar as fast either way (``docs/tars.md`` has figures of both).

An index is made by reading the headers once and kept in a file of ``$XDG_CACHE_HOME/cgcl_fast/tars`` (``~/.cache`` if
that is not set), where it is good for as long as size and time of change of the tar are the same. Both are looked at
whenever a member is opened. The path of a member is that of the tar and its name in it:
``trainA-000000.tar/0001.jpg``.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import tarfile
import tempfile
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from cgcl_fast._files import check_regular
from cgcl_fast.data.errors import DataError, printable, reason_of

SUFFIX = ".tar"

_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"\x1f\x9d": "compress",
}
_SUFFIXES = (SUFFIX, ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.lz4", ".tar.z", ".tgz", ".tbz2", ".txz")

_INSIDE = re.compile(re.escape(f"{SUFFIX}/"), re.IGNORECASE)  # what comes before is a tar, unless it is a folder
_BLOCK = tarfile.BLOCKSIZE
_BUFFER = 2**16  # bytes of a member that are read at once
_VERSION = 1  # of the files that hold indexes


class Member(NamedTuple):
    """A regular file in a tar: its name, without ``./`` before it, and where its content begins and how long it is."""

    name: str
    offset: int
    size: int


class MemberFile(io.BufferedReader):
    """A member that is open. It has no ``fileno``: what reads by that would read the tar from its beginning.

    Attributes:
        tar: the file that it is in.
        offset, size: where.
    """

    def __init__(self, tar: str | os.PathLike[str], offset: int, size: int, file: io.FileIO) -> None:
        super().__init__(_Window(file, offset, size), _BUFFER)
        self.tar, self.offset, self.size = tar, offset, size


class _Window(io.RawIOBase):
    """A part of a file, as a file."""

    def __init__(self, file: io.FileIO, offset: int, size: int) -> None:
        self._file, self._offset, self._size, self._at = file, offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self._size - self._at))
        self._file.seek(self._offset + self._at)
        read = self._file.readinto(memoryview(buffer)[:count]) or 0
        self._at += read
        return read

    def readall(self) -> bytes:  # that of RawIOBase reads it in small pieces
        count = max(0, self._size - self._at)
        self._file.seek(self._offset + self._at)
        data = self._file.read(count) or b""
        self._at += len(data)
        return data

    def close(self) -> None:
        self._file.close()
        super().close()


class _Index(NamedTuple):
    """The members of a tar.

    Attributes:
        stamp: size and time of change, in nanoseconds, of the tar.
        names: sorted.
        places: int64 (N,2), offset and size of each.
        left_out: how many other members there are, by kind.
    """

    stamp: tuple[int, int]
    names: list[str]
    places: np.ndarray
    left_out: dict[str, int]


_indexes: dict[str, _Index] = {}
"""Of the tars of this process, by their paths."""


def members(tar: str | os.PathLike[str]) -> Iterator[Member]:
    """The regular files in a tar, sorted by name.

    Raises:
        ValueError: it cannot be read, is compressed, truncated or broken, or has two members of one name.
    """
    index = _index(os.fspath(tar), fresh=True)
    for name, (offset, size) in zip(index.names, index.places.tolist(), strict=True):
        yield Member(name, offset, size)


def left_out(tar: str | os.PathLike[str]) -> dict[str, int]:
    """How many members are none of :func:`members`, by kind: links, devices, sparse files, and names that lead out of
    the tar. Folders do not count.

    Raises:
        ValueError: as :func:`members`.
    """
    return dict(_index(os.fspath(tar), fresh=True).left_out)


def open_member(tar: str | os.PathLike[str], offset: int, size: int) -> MemberFile:
    """Open the content of a member, with a position of its own.

    Raises:
        OSError: the tar cannot be opened.
        DataError: it is another file than the one that was indexed.
    """
    check_regular(tar)
    file = io.FileIO(tar)
    index = _indexes.get(os.fspath(tar))
    if index is not None and _stamp(os.fstat(file.fileno())) != index.stamp:
        file.close()
        raise DataError(f"{printable(tar)} has changed since its members were listed: start again")
    return MemberFile(tar, offset, size, file)


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file to read its bytes: a regular file, or a member of a tar (a :class:`MemberFile`) by its path.

    Raises:
        OSError: there is none, or it is no regular file, or cannot be opened.
        DataError: as :func:`open_member`.
    """
    try:
        check_regular(path)
    except NotADirectoryError:
        found = _find(path)
        if found is None:
            raise
        tar, member = found
        return open_member(tar, member.offset, member.size)
    return open(path, "rb")


def size_of_file(path: str | os.PathLike[str]) -> int:
    """Bytes of a file, or of a member of a tar; 0 if there is none."""
    try:
        return os.stat(path).st_size
    except NotADirectoryError:
        with suppress(OSError):
            found = _find(path)
            return 0 if found is None else found[1].size
    except OSError:
        pass
    return 0


def stem_of(name: str) -> str | None:
    """The name of a tar without its suffix, None if it is that of no tar, or hidden. A compressed tar, which
    :func:`members` refuses, is one by its name."""
    suffix = next((suffix for suffix in _SUFFIXES if name.lower().endswith(suffix)), None)
    return None if suffix is None or name.startswith(".") else name[: -len(suffix)]


def described(tars: Sequence[Path]) -> str:
    """Tars in a few words."""
    if len(tars) == 1:
        return f"the tar {printable(tars[0])}"
    return f"{len(tars)} tars, {printable(tars[0])} to {printable(tars[-1].name)}"


def _find(path: str | os.PathLike[str]) -> tuple[str, Member] | None:
    """The tar and the member that a path leads to; None where it leads through no tar.

    Raises:
        OSError: the tar has no such member, or cannot be read.
    """
    # By strings: pathlib would take several times as long as reading a photograph of 100 KB from memory.
    whole = str(path if isinstance(path, Path) else Path(path))
    for inside in _INSIDE.finditer(whole):
        tar, name = whole[: inside.start() + len(SUFFIX)], whole[inside.end() :]
        if tar in _indexes or os.path.isfile(tar):
            break
    else:
        return None
    try:
        index = _index(tar)
    except ValueError as error:
        raise OSError(errno.EIO, reason_of(error), whole) from error
    number = bisect_left(index.names, name)
    if number == len(index.names) or index.names[number] != name:
        raise FileNotFoundError(errno.ENOENT, "no such file in the tar", whole)
    return tar, Member(name, *index.places[number].tolist())


# ---- indexes


def _index(tar: str, *, fresh: bool = False) -> _Index:
    """The index of a tar; ``fresh``: of the tar as it is now, else as it was when its members were listed."""
    if not fresh and tar in _indexes:
        return _indexes[tar]
    try:
        check_regular(tar)
        stamp = _stamp(os.stat(tar))
        known = _indexes.get(tar)
        if known is None or known.stamp != stamp:
            known = _kept(tar, stamp)
            if known is None:
                known = _read(tar, stamp)
                _keep(tar, known)
            _indexes[tar] = known
        return known
    except OSError as error:
        raise ValueError(f"{printable(tar)} cannot be read: {reason_of(error)}") from error


def _stamp(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


def _read(tar: str, stamp: tuple[int, int]) -> _Index:
    with open(tar, "rb") as file:
        start = file.read(8)
        kind = next((name for sign, name in _COMPRESSED.items() if start.startswith(sign)), None)
        if kind is not None:
            raise ValueError(
                f"{printable(tar)} is compressed ({kind}), so that no image can be read before all that stand before "
                "it; expected a plain tar: unpack that"
            )
        file.seek(0)
        found: dict[str, tuple[int, int]] = {}
        others: Counter[str] = Counter()
        for member in _headers(tar, file, stamp[0]):
            name = PurePosixPath(member.name)
            if member.isdir():
                continue
            if name.is_absolute() or ".." in name.parts or not name.parts or "\0" in member.name:
                others["with a name that leads out of the tar"] += 1
            elif member.issym() or member.islnk():
                others["links"] += 1
            elif not member.isreg():
                others["devices or of unknown kind"] += 1
            elif member.issparse():
                others["sparse files"] += 1
            elif name.as_posix() in found:
                raise ValueError(f"{printable(tar)} holds {printable(name)} twice; leave only one in it")
            else:
                found[name.as_posix()] = (member.offset_data, member.size)
    names = sorted(found)
    places = np.array([found[name] for name in names], dtype=np.int64).reshape(-1, 2)
    return _Index(stamp, names, places, dict(others))


def _headers(tar: str, file: BinaryIO, size: int) -> Iterator[tarfile.TarInfo]:
    """The members as they stand in a tar, which is read to its very end."""
    count, end = 0, -1
    try:
        with tarfile.TarFile(fileobj=file) as opened:
            while (member := opened.next()) is not None:
                if member.size < 0 or member.offset_data <= end:  # it would lead back
                    raise ValueError("a member of negative size")
                count, end = count + 1, member.offset_data
                yield member
                opened.members.clear()  # type: ignore[attr-defined]  # of all that were met: nobody asks for them
            end = opened.offset
        # There tarfile has met no header: the blocks of zeros that end a tar, or anything else.
        file.seek(end)
        rest = file.read(_BLOCK)
        if len(rest) < _BLOCK:
            raise ValueError("no end, as where writing or copying stopped")
        while rest:
            if rest.strip(b"\0"):
                raise ValueError("no header of a member, as where it was damaged or another tar was appended")
            rest = file.read(2**20)
    except OSError:
        raise
    except Exception as error:  # damaged headers make tarfile raise nearly anything, RecursionError included
        raise ValueError(
            f"{printable(tar)} is no whole tar: of its {size} bytes, {count} members and then {reason_of(error)}"
        ) from error


def _cache_file(tar: str) -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    name = hashlib.sha256(os.fsencode(os.path.realpath(tar))).hexdigest()[:32]
    return Path(home, "cgcl_fast", "tars", f"{name}.json")


def _kept(tar: str, stamp: tuple[int, int]) -> _Index | None:
    """The index in the cache, if it is that of the tar as it is."""
    try:
        with open(_cache_file(tar), "rb") as file:
            content = json.load(file)
        if (content["version"], content["stamp"]) != (_VERSION, list(stamp)):
            return None
        names, places = content["names"], np.array(content["places"], dtype=np.int64).reshape(-1, 2)
        ends = places.sum(axis=1)
        if not all(isinstance(name, str) for name in names) or names != sorted(set(names)):
            return None
        if len(names) != len(places) or (places < 0).any() or (ends > stamp[0]).any():
            return None
        others = {str(kind): int(count) for kind, count in content["left_out"].items()}
        return _Index(stamp, names, places, others)
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return None  # none, no home, or damaged: it is made again


def _keep(tar: str, index: _Index) -> None:
    """Put an index into the cache, whole or not at all; where that cannot be written, each process makes its own."""
    content = {"version": _VERSION, "tar": os.path.realpath(tar), **index._asdict(), "places": index.places.tolist()}
    with suppress(OSError, RuntimeError):
        path = _cache_file(tar)
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        try:
            with open(descriptor, "w", encoding="ascii") as file:
                json.dump(content, file)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
