"""COCO: one JSON file with ``images``, ``annotations`` and ``categories``; ``bbox`` is ``[x, y, width, height]``.

Boxes of crowds (``iscrowd``), which hold any number of objects, are left out.
"""

from __future__ import annotations

from typing import Any

from cgcl_fast.data.annotations.annotation import Annotation, annotation, corners_of, dicts, text


def is_coco(content: Any) -> bool:
    return isinstance(content, dict) and isinstance(content.get("images"), list) and "annotations" in content


def parse_coco(content: dict[str, Any]) -> dict[str, Annotation]:
    """The boxes of each image by its file name (with the folders that stand before it)."""
    names = {_id(category.get("id")): text(category.get("name")) for category in dicts(content.get("categories"))}
    rows: dict[str | None, list[tuple[str, Any]]] = {}
    for entry in dicts(content.get("annotations")):
        if entry.get("iscrowd") in (1, True):
            continue
        box = entry.get("bbox")
        corners = corners_of(*box) if isinstance(box, list) and len(box) == 4 else ()
        number = _id(entry.get("category_id"))
        rows.setdefault(_id(entry.get("image_id")), []).append((names.get(number) or str(number), corners))
    found: dict[str, Annotation] = {}
    for image in dicts(content.get("images")):
        name = text(image.get("file_name"))
        if name:
            size = (image.get("width"), image.get("height"))
            found[name] = annotation(rows.get(_id(image.get("id")), ()), size=size)
    return found


def _id(value: Any) -> str | None:
    """Ids are numbers, but some programs write them as text; anything else is no id."""
    return str(value) if isinstance(value, (int, float, str)) else None
