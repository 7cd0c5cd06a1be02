"""The boxes of an image, independent of the file format."""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cgcl_fast.data.tars import open_file

MOST_BYTES = 16 * 2**20
"""Maximum size of a file about one image. Its parsed content takes up to about thirty times as much memory."""

_MOST_DIGITS = 100  # of an integer: conversion takes quadratic time, and Python refuses thousands of digits


@dataclass(frozen=True, eq=False)
class Annotation:
    """The boxes of one image.

    Attributes:
        boxes: float64 (N,4), finite corners x0 y0 x1 y1 with x0 <= x1 and y0 <= y1; they may extend beyond the image.
        names: class of each box.
        size: (width, height) of the image according to the file, None if the file does not say.
        relative: whether corners are fractions of width and height instead of pixels.
        broken: number of boxes left out because their corners are not numbers.
        attributes: other statements about the image ("timeofday", "weather").
    """

    boxes: np.ndarray
    names: tuple[str, ...]
    size: tuple[int, int] | None = None
    relative: bool = False
    broken: int = 0
    attributes: tuple[tuple[str, str], ...] = ()


EMPTY = Annotation(np.zeros((0, 4)), ())

UNDECIDED = Annotation(np.zeros((0, 4)), ())
"""The annotation of a name that several images with boxes share, in a file about many images."""


def annotation(
    rows: Iterable[tuple[str, Sequence[Any]]],
    *,
    size: tuple[Any, Any] | None = None,
    relative: bool = False,
    attributes: tuple[tuple[str, str], ...] = (),
) -> Annotation:
    """Boxes from (class, corners) pairs as written in a file.

    Reversed corners are put in order. A box whose corners are not four finite numbers is left out and counted.
    """
    boxes: list[tuple[float, float, float, float]] = []
    names: list[str] = []
    broken = 0
    for name, corners in rows:
        box = _box(corners)
        if box is None:
            broken += 1
        else:
            boxes.append(box)
            names.append(name)
    # The same few strings repeat in a great many annotations: keep one object of each.
    shared = {name: name for name in names}
    return Annotation(
        np.array(boxes, dtype=np.float64).reshape(-1, 4),
        tuple(shared[name] for name in names),
        _size(size),
        relative,
        broken,
        attributes,
    )


def _box(corners: Sequence[Any]) -> tuple[float, float, float, float] | None:
    try:
        x0, y0, x1, y1 = (float(value) for value in corners)
    except (TypeError, ValueError, OverflowError):
        return None
    if not all(math.isfinite(value) for value in (x0, y0, x1, y1)):
        return None
    return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


def _size(size: tuple[Any, Any] | None) -> tuple[int, int] | None:
    try:
        width, height = (int(float(side)) for side in size or ())
    except (TypeError, ValueError, OverflowError):
        return None
    return (width, height) if width > 0 and height > 0 else None


def corners_of(x: Any, y: Any, width: Any, height: Any) -> tuple[Any, Any, Any, Any]:
    """Corners of a box given by its top left corner and size; anything that is not a number becomes NaN."""
    try:
        x, y, width, height = float(x), float(y), float(width), float(height)
    except (TypeError, ValueError, OverflowError):
        return (None, None, None, None)
    return x, y, x + width, y + height


def corners_around(points: Iterable[Any]) -> tuple[float, ...]:
    """Corners of the box that the points (x, y) of a polygon span; () if there are none or they are not all finite."""
    left = top = math.inf
    right = bottom = -math.inf
    try:
        for x, y in points:  # one at a time: there may be millions
            x, y = float(x), float(y)
            if not (math.isfinite(x) and math.isfinite(y)):
                return ()
            left, right = x if x < left else left, x if x > right else right
            top, bottom = y if y < top else top, y if y > bottom else bottom
    except (TypeError, ValueError, OverflowError):
        return ()
    return (left, top, right, bottom) if left <= right else ()


def bytes_of(path: Path, most: int | None = MOST_BYTES) -> bytes:
    """Content of a file, which may be a member of a tar.

    Raises:
        OSError: it cannot be read, or is no regular file.
        ValueError: it has more than ``most`` bytes.
    """
    with open_file(path) as file:
        data = file.read() if most is None else file.read(most + 1)
    if most is not None and len(data) > most:
        raise ValueError(f"it is larger than {most / 2**20:g} MiB")
    return data


def text_of(data: bytes) -> str:
    """Text in UTF-8, in UTF-16 with a byte order mark, or otherwise in Latin-1."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def json_of(data: bytes) -> Any:
    """Content of a JSON file. NaN and infinities, which are not valid JSON but occur, are accepted. Integers with very
    many digits are read as floating-point numbers.

    Raises:
        ValueError: it is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(text_of(data), parse_int=_integer)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MOST_DIGITS else float(digits)


def text(value: Any) -> str:
    """A value of a JSON file that should be a name; "" if it is not one."""
    return value.strip() if isinstance(value, str) else str(value) if isinstance(value, int) else ""


def dicts(value: Any) -> list[dict[str, Any]]:
    """The objects of what should be a list of objects; anything else is left out."""
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []
