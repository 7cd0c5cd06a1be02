"""The format of ``python -m cgcl_fast.data.streets``: a JSON file beside each image.

{"size": [width, height], "boxes": [{"class": "car", "box": [x0, y0, x1, y1]}, ...]}
"""

from __future__ import annotations

from typing import Any

from cgcl_fast.data.annotations.annotation import Annotation, annotation, dicts, text


def is_streets(content: Any) -> bool:
    return isinstance(content, dict) and isinstance(content.get("boxes"), list)


def parse_streets(content: dict[str, Any]) -> Annotation:
    size = content.get("size")
    return annotation(
        [
            (text(entry.get("class")), box if isinstance(box := entry.get("box"), list) else ())
            for entry in dicts(content["boxes"])
        ],
        size=(size[0], size[1]) if isinstance(size, list) and len(size) == 2 else None,
    )
