"""Files that are either whole or not there, and folders that one process at a time works in."""

from __future__ import annotations

import os
import socket
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

TEMPORARY = ".tmp"
LOCK = ".lock"

_entered: set[tuple[Path, int]] = set()
"""Folders and the process that is alone in them: one that it forks is not."""


class InUseError(OSError):
    """Another process works in the folder; the message says which."""


class _Sink:
    """A file that remembers its first failing write instead of raising: ``torch.save`` writes from C++, where the
    exception of a full disk would come out as an unrelated error."""

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
    """Let ``write(file)`` fill a file beside ``path``, bring it to the disk and rename it to ``path``.

    Raises:
        OSError: it could not be written (a full disk); the file beside is gone and what was at ``path`` untouched.
    """
    temporary = path.with_name(_beside(path.name))
    try:
        with open(temporary, "wb") as file:
            sink = _Sink(file)
            write(sink)  # type: ignore[arg-type]
            sink.flush()
            if sink.error is not None:
                raise sink.error
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        # What an encoder refuses is an OSError without a number, and would lose its message with a file's name.
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise
    _sync_folder(path.parent)


def _beside(name: str) -> str:
    """The name of the file beside the one that is written; 255 bytes are what most file systems allow."""
    ending = f".{threading.get_native_id()}{TEMPORARY}"  # of the main thread, the process' own
    room = 254 - len(ending)
    encoded = os.fsencode(name)
    if len(encoded) > room:  # names that begin alike are told apart by their checksum
        name = os.fsdecode(encoded[: room - 9]) + f"-{zlib.crc32(encoded):08x}"
    return f".{name}{ending}"


def _sync_folder(folder: Path) -> None:
    """A rename is on the disk only when its folder is; systems that cannot open a folder do without."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed processes left in ``folder`` and below; for who is :func:`alone_in` it."""
    for path in folder.rglob(f".*{TEMPORARY}"):
        if path.stem.rpartition(".")[2].isdecimal():  # else it is somebody else's
            path.unlink(missing_ok=True)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes that ask for the same out of ``folder``, which is made if it is missing and removed again
    if it stays empty. May be entered again within.

    The kernel's lock ends with the process, whatever ends it. A process that it forked, such as a loader's worker that
    outlives it, does not hold a POSIX lock, as it would one of ``flock``, which filelock takes.

    Raises:
        InUseError: another process, on any machine where the file system knows locks, is in there.
        OSError: the folder cannot be made or written.
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
            if os.getpid() == key[1]:  # a forked process has nothing to give back
                (folder / LOCK).unlink(missing_ok=True)  # before others can have it; see _lock
            file.close()
    finally:
        with suppress(OSError):  # not empty
            for path in made:
                path.rmdir()


def _lock(path: Path) -> IO[str]:
    while True:
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115  closing it is giving the lock back
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
        with suppress(FileNotFoundError):  # removed by who had it, between opening and locking
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                break
        file.close()
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
    file.flush()
    return file
