"""COCO: one JSON file with ``images``, ``annotations`` and ``categories``; ``bbox`` is ``[x, y, width, height]``.

Without a ``bbox``, the box is the bounding box of the polygons in ``segmentation``, ``[[x, y, x, y, ...], ...]``.
Boxes of crowds (``iscrowd``), which hold any number of objects, are left out.
"""

from __future__ import annotations

from typing import Any

from cgcl_fast.data.annotations.annotation import (
    UNDECIDED,
    Annotation,
    annotation,
    corners_around,
    corners_of,
    dicts,
    text,
)


def is_coco(content: Any) -> bool:
    return isinstance(content, dict) and isinstance(content.get("images"), list) and "annotations" in content


def parse_coco(content: dict[str, Any]) -> dict[str, Annotation]:
    """The boxes of each image, by its file name (including the folders in front of it)."""
    names = {_id(category.get("id")): text(category.get("name")) for category in dicts(content.get("categories"))}
    rows: dict[str | None, list[tuple[str, Any]]] = {}
    for entry in dicts(content.get("annotations")):
        if entry.get("iscrowd") in (1, True):
            continue
        number = _id(entry.get("category_id"))
        rows.setdefault(_id(entry.get("image_id")), []).append((names.get(number) or str(number), _corners(entry)))
    annotations: dict[str, Annotation] = {}
    numbers: dict[str, str | None] = {}  # ids of the images with boxes
    for image in dicts(content.get("images")):
        name, number = text(image.get("file_name")), _id(image.get("id"))
        if not name or (name in annotations and number not in rows):
            continue
        if numbers.get(name, number) != number:  # for example after two data sets were joined
            annotations[name] = UNDECIDED
            continue
        annotations[name] = annotation(rows.get(number, ()), size=(image.get("width"), image.get("height")))
        if number in rows:
            numbers[name] = number
    return annotations


def _corners(entry: dict[str, Any]) -> tuple[Any, ...]:
    box, polygons = entry.get("bbox"), entry.get("segmentation")
    if isinstance(box, list) and len(box) == 4:
        return corners_of(*box)
    if not isinstance(polygons, list):
        return ()
    if not any(isinstance(each, list) for each in polygons):  # a single polygon, not in a list
        polygons = [polygons]
    if not all(isinstance(each, list) and len(each) % 2 == 0 for each in polygons):
        return ()
    return corners_around(point for each in polygons for point in zip(each[0::2], each[1::2], strict=True))


def _id(value: Any) -> str | None:
    """An id as text. Ids are numbers, but some programs write them as text; anything else is not an id."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, (int, float, str)) else None
