"""Errors of files, and how files and reasons are named in them."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image


class DataError(ValueError):
    """No item or batch can be made of the data: the images that were there are gone, or differ in size."""


class UnreadableImageError(ValueError):
    """A file that is no image, is damaged, or is too large to decode. ``path`` and ``reason`` say which and why."""

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(f"cannot read image {printable(path)}: {reason}")
        self.path = Path(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[Path, str]]:
        return type(self), (self.path, self.reason)  # so that it survives the way out of a loader worker


def printable(path: str | os.PathLike[str]) -> str:
    """A path, or any text, on one line that every log and terminal shows as it is.

    File names may hold line breaks, after which a log would seem to say something else, sequences that terminals obey,
    and bytes that are no valid Unicode. All that is not printable comes as an escape of Python: ``\\n``, ``\\x1b``.
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
