"""Tar files read as folders, such as the shards of WebDataset.

An index of each tar says at which byte each member begins and how long it is. Members can so be read in any order, and
everything that holds for files in folders holds for them: the order of an epoch, shuffling over all images, sharing
between processes, and resuming a run exactly. The webdataset library reads shards from beginning to end and shuffles
within a buffer. To resume that exactly, the content of every worker's buffer would have to be saved, and images that
are far apart in a shard hardly ever meet in a batch. Sequential reading would be worth this if it were faster, but the
decoding of the images takes far longer than either way of reading them; ``docs/tars.md`` has the measurements.

An index is made once, by reading the headers of all members, and kept in ``$XDG_CACHE_HOME/cgcl_fast/tars`` (by default
in ``~/.cache``). It is valid while the tar has the same size and modification time, which are also compared each time
a member is opened.

The path of a member is the path of the tar, followed by the member's name: ``trainA-000000.tar/0001.jpg``.
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

_INSIDE = re.compile(re.escape(f"{SUFFIX}/"), re.IGNORECASE)  # a tar ends here, or a folder with such a name
_BLOCK = tarfile.BLOCKSIZE
_BUFFER = 2**16  # bytes that are read at once
_VERSION = 1  # of the format of the cache


class Member(NamedTuple):
    """A regular file in a tar.

    Attributes:
        name: its path within the tar, without a leading ``./``.
        offset: the byte of the tar at which its content begins.
        size: the length of its content in bytes.
    """

    name: str
    offset: int
    size: int


class MemberFile(io.BufferedReader):
    """An open member. It has no ``fileno``, because libraries that use it would read the tar from its first byte.

    Attributes:
        tar: path of the tar.
        offset, size: see :class:`Member`.
    """

    def __init__(self, tar: str | os.PathLike[str], offset: int, size: int, file: io.FileIO) -> None:
        super().__init__(_Window(file, offset, size), _BUFFER)
        self.tar, self.offset, self.size = tar, offset, size


class _Window(io.RawIOBase):
    """Part of a file, as a file of its own."""

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

    def readall(self) -> bytes:  # the inherited one reads in pieces of 8 KB
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
        stamp: size of the tar, and its modification time in nanoseconds.
        names: names of the regular files, sorted.
        places: int64 (N,2), offset and size of each of them.
        left_out: number of other members, by kind.
    """

    stamp: tuple[int, int]
    names: list[str]
    places: np.ndarray
    left_out: dict[str, int]


_indexes: dict[str, _Index] = {}
"""The indexes that this process has read, by the path of the tar."""


def members(tar: str | os.PathLike[str]) -> Iterator[Member]:
    """The regular files in a tar, sorted by name.

    Raises:
        ValueError: the tar cannot be read, is compressed, truncated or damaged, or has two members of the same name.
    """
    index = _index(os.fspath(tar), fresh=True)
    for name, (offset, size) in zip(index.names, index.places.tolist(), strict=True):
        yield Member(name, offset, size)


def left_out(tar: str | os.PathLike[str]) -> dict[str, int]:
    """Number of members that :func:`members` leaves out, by kind: links, devices, sparse files, and names that lead out
    of the tar. Folders are not counted.

    Raises:
        ValueError: as :func:`members`.
    """
    return dict(_index(os.fspath(tar), fresh=True).left_out)


def open_member(tar: str | os.PathLike[str], offset: int, size: int) -> MemberFile:
    """Open a member of a tar for reading. Each call opens the tar anew, so threads and processes do not interfere.

    Raises:
        OSError: the tar cannot be opened.
        DataError: the tar has changed since it was indexed.
    """
    check_regular(tar)
    file = io.FileIO(tar)
    index = _indexes.get(os.fspath(tar))
    if index is not None and _stamp(os.fstat(file.fileno())) != index.stamp:
        file.close()
        raise DataError(f"{printable(tar)} has changed since its members were listed: start again")
    return MemberFile(tar, offset, size, file)


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file, or a member of a tar (as :class:`MemberFile`), for reading.

    Raises:
        OSError: the file does not exist, is not a regular file, or cannot be opened.
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
    """Size in bytes of a file, or of a member of a tar; 0 if it does not exist."""
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
    """The name of a tar file without its suffix; None if the suffix is not that of a tar, or the file is hidden.
    Suffixes of compressed tars count too, so that :func:`members` can say why they are refused."""
    suffix = next((suffix for suffix in _SUFFIXES if name.lower().endswith(suffix)), None)
    return None if suffix is None or name.startswith(".") else name[: -len(suffix)]


def described(tars: Sequence[Path]) -> str:
    """Which tars these are, in a few words for messages."""
    if len(tars) == 1:
        return f"the tar {printable(tars[0])}"
    return f"{len(tars)} tars, {printable(tars[0])} to {printable(tars[-1].name)}"


def _find(path: str | os.PathLike[str]) -> tuple[str, Member] | None:
    """The tar and the member that a path leads to; None if it does not lead through a tar.

    Raises:
        OSError: the tar has no such member, or cannot be read.
    """
    # Strings, because pathlib would take longer than it takes to copy a photograph of 100 KB.
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
    """The index of a tar: with ``fresh`` of the tar as it is now, otherwise as it was when it was last listed."""
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
                f"{printable(tar)} is compressed ({kind}): expected a plain tar, in which images can be read in any "
                "order; decompress it"
            )
        file.seek(0)
        found: dict[str, tuple[int, int]] = {}
        others: Counter[str] = Counter()
        for member in _headers(tar, file, stamp[0]):
            name = PurePosixPath(member.name)
            if member.isdir():
                continue
            if name.is_absolute() or ".." in name.parts or not name.parts or "\0" in member.name:
                others["with absolute names or .."] += 1
            elif member.issym() or member.islnk():
                others["links"] += 1
            elif not member.isreg():
                others["devices or unknown"] += 1
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
    """The members in the order of the tar, which is checked to its last byte."""
    count, end = 0, -1
    try:
        with tarfile.TarFile(fileobj=file) as opened:
            while (member := opened.next()) is not None:
                if member.size < 0 or member.offset_data <= end:  # tarfile would go backwards for ever
                    raise ValueError("a member of negative size")
                count, end = count + 1, member.offset_data
                yield member
                opened.members.clear()  # type: ignore[attr-defined]  # tarfile keeps 1 KB of each
            end = opened.offset
        # tarfile stops silently at anything that is not a header. At the end of a tar there are only zeros.
        file.seek(end)
        rest = file.read(_BLOCK)
        if len(rest) < _BLOCK:
            raise ValueError("no end marker: writing or copying it was interrupted")
        while rest:
            if rest.strip(b"\0"):
                raise ValueError("something that is not a header: it is damaged, or another tar was appended")
            rest = file.read(2**20)
    except OSError:
        raise
    except Exception as error:  # damaged headers make tarfile raise nearly anything, even RecursionError
        raise ValueError(
            f"{printable(tar)} ({size} bytes) is not a complete tar: after {count} member{'s' * (count != 1)}, "
            f"{reason_of(error)}"
        ) from error


def _cache_file(tar: str) -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    name = hashlib.sha256(os.fsencode(os.path.realpath(tar))).hexdigest()[:32]
    return Path(home, "cgcl_fast", "tars", f"{name}.json")


def _kept(tar: str, stamp: tuple[int, int]) -> _Index | None:
    """The index in the cache; None if there is none, or it is not of this state of the tar."""
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
        return None  # missing, damaged, or no home directory: it is made again


def _keep(tar: str, index: _Index) -> None:
    """Write an index to the cache atomically. If that is not possible, each process makes its own."""
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
