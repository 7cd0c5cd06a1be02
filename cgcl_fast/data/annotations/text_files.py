"""Text files with a box a line, one file an image: INIT, KITTI, YOLO.

========  =================================================================================================
INIT      line 1 the path of the image, line 2 anything, from line 3 on ``class x0 y0 x1 y1`` in pixels
KITTI     ``class truncated occluded alpha x0 y0 x1 y1 h w l x y z rotation [score]``, corners in pixels
YOLO      ``number x y width height [confidence]``, centre and size in fractions of the image, or the corners
          of a polygon ``number x y x y x y ...``; the classes' names are elsewhere (:func:`read_names`)
========  =================================================================================================

The suffix of all of them is ``.txt``, so :func:`guess` tells them apart by content. A line that is no box is left out
and counted.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from cgcl_fast._yaml import read_yaml
from cgcl_fast.data.annotations.annotation import Annotation, annotation, bytes_of, corners_around, text_of
from cgcl_fast.data.images import IMAGE_SUFFIXES, printable

logger = logging.getLogger(__name__)

NAME_FILES = ("classes.txt", "obj.names", "classes.names", "data.names", "_classes.txt", "_darknet.labels")
"""Files with the name of a YOLO class on each line."""

_MOST_OF_NAMES = 2**20  # bytes of a file of names

_IGNORED = ("dontcare", "ignore")  # KITTI's regions that were not looked at


def guess(content: str) -> str | None:
    """Which format a file is in: "init", "kitti" or "yolo"; None if nothing in it tells."""
    lines = [line.split() for line in content.splitlines()]
    votes = {
        "kitti": sum(len(line) >= 8 and not _number(line[0]) and all(map(_number, line[1:])) for line in lines),
        "yolo": sum(len(line) >= 5 and all(map(_number, line)) for line in lines),
        "init": sum(_split_init(line) is not None for line in lines[2:]),
    }
    first = content.lstrip().partition("\n")[0].strip().lower()
    if first.endswith(IMAGE_SUFFIXES):  # nothing else names its image
        return "init"
    if votes["kitti"]:
        return "kitti"
    if votes["yolo"] and (not lines[0] or _number(lines[0][0]) or not votes["init"]):
        return "yolo"
    return "init" if votes["init"] else None


def parse_init(content: str) -> Annotation:
    rows = [line.split() for line in content.splitlines()[2:]]
    return annotation(_split_init(row) or ("", ()) for row in rows if row)


def _split_init(row: Sequence[str]) -> tuple[str, Sequence[str]] | None:
    # A class may be of several words ("traffic sign"); some files separate by commas.
    if len(row) == 1:
        row = row[0].split(",")
    if len(row) < 5 or not all(map(_number, row[-4:])):
        return None
    return " ".join(row[:-4]), row[-4:]


def parse_kitti(content: str) -> Annotation:
    rows = [line.split() for line in content.splitlines()]
    return annotation((row[0], row[4:8]) for row in rows if row and row[0].casefold().replace("_", "") not in _IGNORED)


def parse_yolo(content: str, names: dict[int, str]) -> Annotation:
    """``names``: of the classes by number. A class without one is called by its number."""
    rows = []
    for line in content.splitlines():
        row = line.split()
        if row:
            rows.append((_yolo_name(row[0], names), _yolo_corners(row[1:])))
    return annotation(rows, relative=True)


def _yolo_name(number: str, names: dict[int, str]) -> str:
    try:
        index = int(float(number))
    except (ValueError, OverflowError):
        return number
    return names.get(index, str(index))


def _yolo_corners(values: Sequence[str]) -> tuple[float, ...]:
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        return ()
    if len(numbers) in (4, 5):  # the fifth is the confidence of a detection
        x, y, width, height = numbers[:4]
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    if len(numbers) >= 6 and len(numbers) % 2 == 0:
        return corners_around(zip(numbers[0::2], numbers[1::2], strict=True))
    return ()


def _number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def read_names(folders: Sequence[Path]) -> dict[int, str]:
    """Names of the YOLO classes by number, from the first of the folders that has some.

    They are in a ``data.yaml`` (any YAML file with ``names``: a list, or numbers to names), or in one of
    ``NAME_FILES``, a name on each line. A YAML file that cannot be read is named in the log.
    """
    for folder in folders:
        for path in sorted((*folder.glob("*.yaml"), *folder.glob("*.yml"))):
            names = _yaml_names(path)
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


def _yaml_names(path: Path) -> dict[int, str]:
    try:
        content = read_yaml(path, text_of)
    except (OSError, ValueError) as error:
        logger.warning("no names of classes: %s", printable(" ".join(str(error).split())))
        return {}
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, str):  # "names: [a, b]" in quotes, or one name
        names = [name for name in re.split(r"[\s,\[\]'\"]+", names) if name]
    if isinstance(names, list):
        names = dict(enumerate(names))
    try:
        return {int(number): str(name) for number, name in names.items()} if isinstance(names, dict) else {}
    except (ValueError, TypeError, OverflowError):  # the key is no number
        return {}
