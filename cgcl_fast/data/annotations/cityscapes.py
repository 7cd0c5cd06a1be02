"""Cityscapes: one JSON file per image, with polygons (gtFine, gtCoarse) or boxes (gtBbox3d, gtBboxCityPersons).

The box of a polygon is its bounding box. Only the classes of single things are read (``THINGS``); groups (``cargroup``)
and regions to ignore are left out.
"""

from __future__ import annotations

import re
from typing import Any

from cgcl_fast.data.annotations.annotation import Annotation, annotation, corners_around, corners_of, dicts, text

THINGS = frozenset(
    (
        *("person", "rider", "car", "truck", "bus", "caravan", "trailer", "train", "motorcycle", "bicycle"),
        *("traffic sign", "traffic light"),
        *("pedestrian", "sitting person", "person (other)"),  # of gtBboxCityPersons
    )
)

KEY_ENDING = re.compile(
    r"_(?:leftImg8bit(?:_(?:foggy|rain)[\w.]*)?|gtFine_polygons|gtCoarse_polygons|gtBbox3d|gtBboxCityPersons)$"
)
"""Parts in which the names of an image, of its fog and rain versions, and of its annotation files differ."""


def is_cityscapes(content: Any) -> bool:
    return isinstance(content, dict) and isinstance(content.get("objects"), list) and "labels" not in content


def parse_cityscapes(content: dict[str, Any]) -> Annotation:
    rows = []
    for entry in dicts(content.get("objects")):
        name = text(entry.get("label"))
        if name in THINGS and not entry.get("deleted"):
            rows.append((name, _corners(entry)))
    return annotation(rows, size=(content.get("imgWidth"), content.get("imgHeight")))


def _corners(entry: dict[str, Any]) -> tuple[Any, ...]:
    flat = entry.get("2d")
    box = flat.get("modal") if isinstance(flat, dict) else entry.get("bbox")
    if isinstance(box, list) and len(box) == 4:
        return corners_of(*box)
    polygon = entry.get("polygon")
    return corners_around(polygon) if isinstance(polygon, list) else ()
