"""YOLO: one text file per image, one line per object, all numbers as fractions of the image's width and height.

===========  ==========================================================================================================
boxes        ``number x y width height [confidence]``, the centre and the size
polygons     ``number x y x y x y ...``, of three points or more; the box is their bounding box
keypoints    ``number x y width height`` and for each keypoint ``x y`` or ``x y visibility``; only the box is taken
===========  ==========================================================================================================

The names of the classes are in another file (:func:`read_names`).
"""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cgcl_fast._yaml import read_yaml
from cgcl_fast.data.annotations.annotation import Annotation, annotation, bytes_of, corners_around, text_of
from cgcl_fast.data.formats import printable

logger = logging.getLogger(__name__)

_MOST_OF_NAMES = 2**20  # bytes of a file of names

NAME_FILES = ("classes.txt", "obj.names", "classes.names", "data.names", "_classes.txt", "_darknet.labels")
"""Files with the name of a YOLO class on each line."""

_LEAST_KEYPOINTS = 5
"""Without visibility values, keypoints need at least this many points; fewer are read as a polygon, because the four
corners of a rotated box have as many numbers as two keypoints."""

_TOLERANCE = 0.05  # how far keypoints and boxes may reach beyond the image


def parse_yolo(content: str, names: dict[int, str], *, keypoints: bool = False) -> Annotation:
    """The boxes of a file.

    Args:
        content: of the file.
        names: of the classes by number. A class without a name is called by its number.
        keypoints: lines with more numbers than a box needs are boxes with keypoints, not polygons.
    """
    rows = [(_name(row[0], names), _corners(row[1:], keypoints)) for row in map(str.split, content.splitlines()) if row]
    return annotation(rows, relative=True)


def _name(number: str, names: dict[int, str]) -> str:
    try:
        index = int(float(number))
    except (ValueError, OverflowError):
        return number
    return names.get(index, str(index))


def _corners(values: Sequence[str], keypoints: bool) -> tuple[float, ...]:
    numbers = _numbers(values)
    if len(numbers) in (4, 5) or (keypoints and len(numbers) > 5):  # the fifth is the confidence of a detection
        x, y, width, height = numbers[:4]
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    if len(numbers) >= 6 and len(numbers) % 2 == 0:
        return corners_around(zip(numbers[0::2], numbers[1::2], strict=True))
    return ()


def _numbers(values: Sequence[str]) -> list[float]:
    try:
        return [float(value) for value in values]
    except ValueError:
        return []


# ---- keypoints or polygons


def holds_keypoints(contents: Iterable[str]) -> bool:
    """Whether the files of a data set contain boxes with keypoints, not polygons; the format itself does not say.

    All lines have the same number of keypoints. With visibility, every third number is 0, 1 or 2. Without, all points
    lie in the box given by the first four numbers, which is rare for polygons of the same length. If there are few
    lines, read as a polygon either the box's size would be a corner far from all others, or the outline would zigzag.
    """
    rows = [row for content in contents for line in content.splitlines() if (row := _numbers(line.split()[1:]))]
    length = Counter(map(len, rows)).most_common(1)[0][0] if rows else 0
    boxes = [row for row in rows if len(row) == length and _is_box(row)]
    most = 0.9 * len(rows)
    if length < 6 or len(boxes) < most:
        return False
    if (length - 4) % 3 == 0 and sum(all(seen in (0, 1, 2) for seen in row[6::3]) for row in boxes) >= most:
        return True
    if length % 2 or length < 4 + 2 * _LEAST_KEYPOINTS or sum(map(_are_inside, boxes)) < most:
        return False
    return len(rows) >= 10 or sum(_leaps(row) or _wanders(row) for row in boxes) >= 0.2 * len(rows)


def _is_box(row: Sequence[float]) -> bool:
    return all(
        0 < size <= 1 + _TOLERANCE and centre - size / 2 >= -_TOLERANCE and centre + size / 2 <= 1 + _TOLERANCE
        for centre, size in zip(row[:2], row[2:4], strict=False)
    )


def _are_inside(row: Sequence[float]) -> bool:
    x, y, width, height = row[:4]
    return all(
        abs(px - x) <= width / 2 + _TOLERANCE and abs(py - y) <= height / 2 + _TOLERANCE for px, py in _points(row[4:])
    )


def _leaps(row: Sequence[float]) -> bool:
    """Whether the second point, read as one of a polygon, is isolated."""
    others = corners_around([row[:2], *_points(row[4:])])
    return any(
        not low - (high - low) / 4 <= value <= high + (high - low) / 4
        for value, low, high in zip(row[2:4], others[:2], others[2:], strict=False)
    )


def _wanders(row: Sequence[float]) -> bool:
    """Whether the path through the points is longer than the outline of any convex polygon in their box."""
    points = _points(row[4:])
    left, top, right, bottom = corners_around(points) or (0, 0, 0, 0)
    way = sum(math.dist(*pair) for pair in zip(points, points[1:], strict=False))
    return way > 2.2 * (right - left + bottom - top)


def _points(values: Sequence[float]) -> list[tuple[float, float]]:
    """Keypoints; those at (0, 0) are missing."""
    return [point for point in zip(values[0::2], values[1::2], strict=True) if point != (0, 0)]


def says_keypoints(folders: Sequence[Path]) -> bool:
    """Whether a YAML file in one of the folders declares keypoints (``kpt_shape``)."""
    return any(
        isinstance(content.get("kpt_shape"), list) for folder in folders for content in _described(folder, quiet=True)
    )


# ---- names


def read_names(folders: Sequence[Path]) -> dict[int, str]:
    """Names of the YOLO classes by number, from the first of the folders that has them.

    They come from a ``data.yaml`` (any YAML file with ``names``: a list, or a mapping of numbers to names), or from one
    of ``NAME_FILES``, one name per line. A YAML file that cannot be read is logged.
    """
    for folder in folders:
        for content in _described(folder):
            names = _names(content.get("names"))
            if names:
                return names
        for path in [folder / name for name in NAME_FILES]:
            try:
                lines = [line.strip() for line in text_of(bytes_of(path, _MOST_OF_NAMES)).splitlines()]
            except (OSError, ValueError):
                continue
            if any(lines):
                return {number: line for number, line in enumerate(lines) if line}
    return {}


def _described(folder: Path, *, quiet: bool = False) -> Iterator[dict[str, Any]]:
    """The contents of the YAML files in a folder."""
    for path in sorted((*folder.glob("*.yaml"), *folder.glob("*.yml"))):
        try:
            content = read_yaml(path, text_of)
        except (OSError, ValueError) as error:
            if not quiet:
                logger.warning("no names of classes: %s", printable(" ".join(str(error).split())))
            continue
        if isinstance(content, dict):
            yield content


def _names(names: Any) -> dict[int, str]:
    if isinstance(names, str):  # "names: [a, b]" in quotes, or one name
        names = [name for name in re.split(r"[\s,\[\]'\"]+", names) if name]
    if isinstance(names, list):
        names = dict(enumerate(names))
    try:
        return {int(number): str(name) for number, name in names.items()} if isinstance(names, dict) else {}
    except (ValueError, TypeError, OverflowError):  # a key is not a number
        return {}
