"""Text files with one box per line, one file per image: INIT, KITTI, and the decision between them and :mod:`.yolo`.

========  =================================================================================================
INIT      line 1 the path of the image, line 2 anything, from line 3 on ``class x0 y0 x1 y1`` in pixels
KITTI     ``class truncated occluded alpha x0 y0 x1 y1 h w l x y z rotation [score]``, corners in pixels
========  =================================================================================================

All of them have the suffix ``.txt``; :func:`guess` tells them apart by content. A line that is not a box is left out
and counted.
"""

from __future__ import annotations

from collections.abc import Sequence

from cgcl_fast.data.annotations.annotation import Annotation, annotation
from cgcl_fast.data.images import IMAGE_SUFFIXES

_IGNORED = ("dontcare", "ignore")  # KITTI's regions without annotation


def guess(content: str) -> str | None:
    """The format of a file: "init", "kitti" or "yolo"; None if its content does not tell."""
    lines = [line.split() for line in content.splitlines()]
    numbers = [line for line in lines if len(line) >= 5 and all(map(_number, line))]
    numbered = [line for line in numbers if _is_numbered_kitti(line)]
    named = sum(len(line) >= 8 and not _number(line[0]) and all(map(_number, line[1:])) for line in lines)
    votes = {
        "kitti": named + len(numbered),
        "yolo": len(numbers) - len(numbered),
        "init": sum(_split_init(line) is not None for line in lines[2:]),
    }
    first = content.lstrip().partition("\n")[0].strip().lower()
    if first.endswith(IMAGE_SUFFIXES):  # only INIT names its image
        return "init"
    if votes["kitti"]:
        return "kitti"
    if votes["yolo"] and (not lines[0] or _number(lines[0][0]) or not votes["init"]):
        return "yolo"
    return "init" if votes["init"] else None


def _is_numbered_kitti(line: Sequence[str]) -> bool:
    """Whether a line of numbers is KITTI's with a number as class: then its corners are in pixels."""
    return len(line) in (15, 16) and any(abs(float(corner)) > 2 for corner in line[4:8])


def parse_init(content: str) -> Annotation:
    rows = [line.split() for line in content.splitlines()[2:]]
    return annotation(_split_init(row) or ("", ()) for row in rows if row)


def _split_init(row: Sequence[str]) -> tuple[str, Sequence[str]] | None:
    # A class may have several words ("traffic sign"); some files use commas as separators.
    if len(row) == 1:
        row = row[0].split(",")
    if len(row) < 5 or not all(map(_number, row[-4:])):
        return None
    return " ".join(row[:-4]), row[-4:]


def parse_kitti(content: str) -> Annotation:
    rows = [line.split() for line in content.splitlines()]
    return annotation((row[0], row[4:8]) for row in rows if row and row[0].casefold().replace("_", "") not in _IGNORED)


def _number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
