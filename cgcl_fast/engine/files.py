"""Files that are either complete or absent, and folders in which only one process works at a time."""

from __future__ import annotations

import os
import socket
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from operator import methodcaller
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

TEMPORARY = ".tmp"
LOCK = ".lock"

_entered: set[tuple[Path, int]] = set()
"""Locked folders, with the process that holds each lock: a forked process does not."""


class InUseError(OSError):
    """Another process works in the folder; the message says which."""


class _Sink:
    """A file that remembers its first failed write instead of raising: ``torch.save`` writes from C++, where the
    exception of a full disk would turn into an unrelated error."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        if self.error is None:
            try:
                self.file.write(data)
            except OSError as error:
                self.error = error
        return len(data)

    def flush(self) -> None:
        if self.error is None:
            try:
                self.file.flush()
            except OSError as error:
                self.error = error


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let ``write(file)`` fill a temporary file beside ``path``, flush it to disk and rename it to ``path``.

    Raises:
        OSError: it could not be written (a full disk); the temporary file is removed and ``path`` unchanged.
    """
    temporary = _write_beside(path, write)
    try:
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_together(folder: Path, contents: Mapping[str, bytes], *, last: str, remove: Collection[str] = ()) -> None:
    """Write files that belong together. As long as they are exchanged for older ones, ``last``, without which the
    others are not read, is missing: there is never one file of now beside another of before.

    Args:
        folder: exists.
        contents: by the files' names, ``last`` among them.
        remove: files of before that do not belong to these.

    Raises:
        OSError: one could not be written (a full disk); all files are unchanged.
    """
    temporary: dict[str, Path] = {}
    try:
        for name, content in contents.items():
            temporary[name] = _write_beside(folder / name, methodcaller("write", content))
        for name in (last, *remove):
            (folder / name).unlink(missing_ok=True)
        _sync_folder(folder)
        for name in sorted(contents, key=lambda name: name == last):
            os.replace(temporary[name], folder / name)
    except BaseException:
        for path in temporary.values():
            path.unlink(missing_ok=True)
        raise
    _sync_folder(folder)


def _write_beside(path: Path, write: Callable[[IO[bytes]], object]) -> Path:
    """A temporary file that is on the disk, to be renamed to ``path``."""
    temporary = path.with_name(_beside(path.name))
    try:
        with open(temporary, "wb") as file:
            sink = _Sink(file)
            write(sink)  # type: ignore[arg-type]
            sink.flush()
            if sink.error is not None:
                raise sink.error
            os.fsync(file.fileno())
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        # An encoder's error is an OSError without a number; adding a file name would lose its message.
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise
    return temporary


def _beside(name: str) -> str:
    """The name of the temporary file beside ``name``; most file systems allow 255 bytes."""
    ending = f".{threading.get_native_id()}{TEMPORARY}"  # the main thread's id is the process id
    room = 254 - len(ending)
    encoded = os.fsencode(name)
    if len(encoded) > room:  # long names with the same beginning differ in their checksum
        name = os.fsdecode(encoded[: room - 9]) + f"-{zlib.crc32(encoded):08x}"
    return f".{name}{ending}"


def _sync_folder(folder: Path) -> None:
    """Flush a rename, which is in the folder, to disk; does nothing on systems that cannot open a folder."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files of killed processes in ``folder`` and below; requires :func:`alone_in`."""
    for path in folder.rglob(f".*{TEMPORARY}"):
        if path.stem.rpartition(".")[2].isdecimal():  # else it is somebody else's
            path.unlink(missing_ok=True)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Lock ``folder`` against other processes that call this. The folder is created if missing, and removed if it
    remains empty. May be nested.

    The kernel releases the lock when the process ends, however it ends. A forked process that outlives it, such as a
    loader's worker, does not hold a POSIX lock; it would hold one of ``flock``, which filelock uses.

    Raises:
        InUseError: another process holds the lock, on any machine whose file system shares locks.
        OSError: the folder cannot be created or written.
    """
    key = folder.resolve(), os.getpid()
    if key in _entered:
        yield
        return
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        file = _lock(folder / LOCK)
        _entered.add(key)
        try:
            yield
        finally:
            _entered.discard(key)
            if os.getpid() == key[1]:  # a forked process holds no lock
                (folder / LOCK).unlink(missing_ok=True)  # before others can lock it; see _lock
            file.close()
    finally:
        with suppress(OSError):  # not empty
            for path in made:
                path.rmdir()


def _lock(path: Path) -> IO[str]:
    while True:
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115  closing it releases the lock
        try:
            if fcntl is None:
                raise OSError("this system has no fcntl")
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            with file:
                file.seek(0)
                holder = file.read().strip() or "another process"
            raise InUseError(f"{path.parent} is in use by {holder}; end it, or name another folder") from None
        except OSError as error:
            warnings.warn(
                f"{path}: cannot be locked ({error.strerror or error}); nothing else may train in this folder",
                stacklevel=3,
            )
        with suppress(FileNotFoundError):  # its owner removed it between opening and locking
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                break
        file.close()
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
    file.flush()
    return file
