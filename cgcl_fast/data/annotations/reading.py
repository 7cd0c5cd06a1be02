"""The list of annotation formats, and reading a file in the right one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from cgcl_fast.data.annotations import bdd, cityscapes, coco, labelme, streets, text_files
from cgcl_fast.data.annotations.annotation import Annotation, bytes_of, json_of, text_of
from cgcl_fast.data.annotations.voc import parse_voc
from cgcl_fast.data.annotations.yolo import parse_yolo
from cgcl_fast.data.images import IMAGE_SUFFIXES

SUFFIXES = (".xml", ".json", ".txt")
"""Suffixes of annotation files. If an image has several files, the first suffix wins: YOLO's text has no class
names."""


class JsonFormat(NamedTuple):
    """How to recognise a format from the content of a JSON file, and how to read it."""

    recognise: Callable[[Any], bool]
    parse: Callable[[Any], Any]


TEXT_FORMATS: dict[str, Callable[..., Annotation]] = {
    "init": text_files.parse_init,
    "kitti": text_files.parse_kitti,
    "yolo": parse_yolo,
    "yolo keypoints": partial(parse_yolo, keypoints=True),
}

IMAGE_FORMATS = {  # of one image; each gives an Annotation
    "streets": JsonFormat(streets.is_streets, streets.parse_streets),
    "bdd": JsonFormat(bdd.is_frame, bdd.parse_frame),
    "cityscapes": JsonFormat(cityscapes.is_cityscapes, cityscapes.parse_cityscapes),
    "labelme": JsonFormat(labelme.is_labelme, labelme.parse_labelme),
}

SET_FORMATS = {  # of many images; each gives a dict, file name to Annotation
    "coco": JsonFormat(coco.is_coco, coco.parse_coco),
    "bdd": JsonFormat(bdd.is_list, bdd.parse_list),
}


def image_key(name: str) -> str:
    """The name that an image and its annotation share: that of the file without suffixes."""
    base = PurePosixPath(name.replace("\\", "/")).name
    for _ in range(2):  # photo.jpg.xml
        stem, dot, suffix = base.rpartition(".")
        if stem and f"{dot}{suffix}".lower() in (*IMAGE_SUFFIXES, *SUFFIXES):
            base = stem
    return cityscapes.KEY_ENDING.sub("", base)


def read_set(path: Path) -> dict[str, Annotation] | None:
    """The boxes of many images by file name; None if the file holds something else.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    content = json_of(bytes_of(path, None))  # no limit: files of large data sets have more than a GiB
    for form in SET_FORMATS.values():
        if form.recognise(content):
            annotations: dict[str, Annotation] = form.parse(content)
            return annotations
    return None


def read_file(path: Path, text_format: str | None, names: dict[int, str]) -> Annotation | None:
    """The boxes of one image; None if the file is empty.

    Args:
        path: a file with one of ``SUFFIXES``.
        text_format: one of ``TEXT_FORMATS``, for a ``.txt`` file.
        names: YOLO's classes by number.

    Raises:
        OSError, ValueError: it cannot be read, or is in none of the formats.
    """
    data = bytes_of(path)
    if not data.strip():
        return None
    suffix = path.suffix.lower()
    if suffix == ".xml":
        return parse_voc(data)
    if suffix == ".json":
        return _read_json(path, json_of(data))
    if text_format is None:
        raise ValueError("none of its lines is a box in a format that is known")
    parse = TEXT_FORMATS[text_format]
    return parse(text_of(data), names) if text_format.startswith("yolo") else parse(text_of(data))


def _read_json(path: Path, content: Any) -> Annotation:
    for form in SET_FORMATS.values():  # a set with a single image
        if form.recognise(content):
            annotations = {image_key(name): each for name, each in form.parse(content).items()}
            if image_key(path.name) in annotations or len(annotations) == 1:
                mine: Annotation = annotations.get(image_key(path.name)) or next(iter(annotations.values()))
                return mine
            raise ValueError("it names other images only")
    for form in IMAGE_FORMATS.values():
        if form.recognise(content):
            mine = form.parse(content)
            return mine
    raise ValueError("its content is in no format that is known")
