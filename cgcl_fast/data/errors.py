"""The errors that reading data raises, and the form in which messages give paths and reasons."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image


class DataError(ValueError):
    """The data cannot provide an item or batch: all images are gone by now, or they differ in size."""


class UnreadableImageError(ValueError):
    """The file is not an image, is damaged, or is too large to decode. ``path`` and ``reason`` say which and why."""

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(f"cannot read image {printable(path)}: {reason}")
        self.path = Path(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[Path, str]]:
        return type(self), (self.path, self.reason)  # picklable, so that it can leave a loader worker


def printable(path: str | os.PathLike[str]) -> str:
    """A path, or any text, on a single line that all logs and terminals show literally.

    File names may contain line breaks, which could forge lines of a log, control sequences that terminals execute, and
    bytes that are not valid Unicode. Everything unprintable is shown as a Python escape: ``\\n``, ``\\x1b``.
    """
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
        for letter in os.fsdecode(path)
    )


def reason_of(error: BaseException) -> str:
    """An error in a few words, on one line."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "not a JPEG, PNG, WebP, BMP, TIFF or other image that Pillow reads"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).splitlines()
    return printable(lines[0]) if lines and lines[0] else type(error).__name__
