"""Files that claim more than they hold, or that are not files at all, for the tests of everything that reads files."""

from __future__ import annotations

import io
import os
import random
import signal
import socket
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch


@contextmanager
def no_waiting(seconds: int = 60) -> Iterator[None]:
    """A test that would wait for a pipe for ever fails instead."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise AssertionError("waits for ever")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def make_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the address of a socket may not be long
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(here)


NO_FILES: dict[str, Callable[[Path], Any]] = {
    "a named pipe": os.mkfifo,
    "a socket": make_socket,
    "a device": lambda path: path.symlink_to("/dev/zero"),
}
"""What to put in the place of a file, by the words for it. A folder is something else to many commands."""


def saved(thing: object, **more: object) -> bytes:
    """What ``torch.save`` writes."""
    buffer = io.BytesIO()
    torch.save(thing, buffer, **more)  # type: ignore[arg-type]
    return buffer.getvalue()


def with_pickle(pickle: bytes, content: bytes | None = None) -> bytes:
    """A file of ``torch.save`` with another pickle in it."""
    return rezipped(saved({}) if content is None else content, lambda data: pickle)


def rezipped(content: bytes, change: Callable[[bytes], bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, change(old.read(name)) if name.endswith("/data.pkl") else old.read(name))
    return buffer.getvalue()


def text(word: str) -> bytes:
    """A pickle's opcode for a string."""
    return b"X" + len(word).to_bytes(4, "little") + word.encode()


def doubling_lists(levels: int = 100, name: str = "format") -> bytes:
    """A pickle of a kilobyte: ``{name: list}``, each list holding the one before it twice."""
    lists = b"]q\x00"
    for level in range(1, levels):
        lists += b"]q%c(h%ch%ce" % (level, level - 1, level - 1)
    return b"\x80\x02" + lists + b"}" + text(name) + b"h%cs." % (levels - 1)


def calling(module: str, name: str, argument: bytes) -> bytes:
    """A pickle that calls ``module.name`` with one argument."""
    return b"\x80\x02" + f"c{module}\n{name}\n".encode() + argument + b"\x85R."


def damaged(content: bytes, cases: int, seed: int = 0) -> Iterator[bytes]:
    """``content`` with one to eight flipped bits, and cut short, in turn."""
    chance = random.Random(seed)
    for case in range(cases):
        if case % 4 == 3:
            yield content[: chance.randrange(len(content))]
            continue
        changed = bytearray(content)
        for _ in range(chance.choice((1, 1, 2, 8))):
            changed[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        yield bytes(changed)
