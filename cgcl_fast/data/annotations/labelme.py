"""LabelMe: one JSON file per image, whose ``shapes`` have a ``label``, a ``shape_type`` and ``points`` in pixels.

The box of a polygon, a rectangle (two opposite corners, or all four) or a mask is the bounding box of its points; that
of a circle, given by its centre and a point of the line, encloses it. Points and lines have no area and are left out.
"""

from __future__ import annotations

import math
from typing import Any

from cgcl_fast.data.annotations.annotation import Annotation, annotation, corners_around, dicts, text

_LINES = ("line", "linestrip", "point", "points")


def is_labelme(content: Any) -> bool:
    return isinstance(content, dict) and isinstance(content.get("shapes"), list)


def parse_labelme(content: dict[str, Any]) -> Annotation:
    rows = [
        (text(shape.get("label")), _corners(shape))
        for shape in dicts(content["shapes"])
        if shape.get("shape_type") not in _LINES
    ]
    return annotation(rows, size=(content.get("imageWidth"), content.get("imageHeight")))


def _corners(shape: dict[str, Any]) -> tuple[float, ...]:
    points = shape.get("points")
    if not isinstance(points, list):
        return ()
    if shape.get("shape_type") != "circle":
        return corners_around(points)
    try:
        (x, y), (edge_x, edge_y) = points
        radius = math.hypot(edge_x - x, edge_y - y)
        return x - radius, y - radius, x + radius, y + radius
    except (TypeError, ValueError, OverflowError):
        return ()
