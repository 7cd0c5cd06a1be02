"""Lists of files: ``train_A.txt test_A.txt`` (or ``trainA.txt``, or ``train.txt`` in the folder of a domain, as Darknet
has it) with the path of an image on each line.

Paths are absolute or begin in the folder of the list. Behind a path there may be more, as the number of a class; a line
that begins with ``#`` is none. A text file whose first line is no path of an image is no list.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from cgcl_fast.data.annotations.annotation import bytes_of, text_of
from cgcl_fast.data.images import IMAGE_SUFFIXES, entries_of, is_folder
from cgcl_fast.data.layouts._layout import Layout
from cgcl_fast.data.layouts._place import Place, add_once, after_split, common_folder

_IMAGE = re.compile(rf"(.+?(?:{'|'.join(map(re.escape, IMAGE_SUFFIXES))}))\s", re.IGNORECASE)


def domains(root: Path, split: str) -> dict[str, Place]:
    found: dict[str, Place] = {}
    for entry in entries_of(root):
        path = Path(entry)
        domain = after_split(path.stem, split)
        if domain is None or path.suffix.lower() != ".txt" or is_folder(entry):
            continue
        place = _listed(path)
        if place is not None:
            add_once(found, domain, place, split)
    return dict(sorted(found.items()))


def images(domain: Path, split: str) -> Place | None:
    path = domain / f"{split}.txt"
    return _listed(path) if path.is_file() else None


def _listed(path: Path) -> Place | None:
    files = tuple(dict.fromkeys(_paths(path)))
    if len({file.is_absolute() for file in files}) > 1:
        files = tuple(file.absolute() for file in files)
    return Place(common_folder(files), files=files, listed=path) if files else None


def _paths(path: Path) -> Iterator[Path]:
    lines = [line.strip() for line in text_of(bytes_of(path, None)).splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines or _image(lines[0]) is None:
        return
    root = path.parent
    for line in lines:
        name = root / (_image(line) or line)  # what is no image is named where images are read
        if name.is_absolute() and name.is_relative_to(root.absolute()):
            name = root / name.relative_to(root.absolute())
        yield Path(os.path.normpath(name))


def _image(line: str) -> str | None:
    """The path at the beginning of a line, which may have spaces in it."""
    if line.lower().endswith(IMAGE_SUFFIXES):
        return line
    found = _IMAGE.match(line)
    return found and found[1]


LAYOUT = Layout(domains=domains, images=images, expected="{split}_{name}.txt")
