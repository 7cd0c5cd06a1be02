"""BDD100K: JSON, a list of frames in one file or a file for each frame, and its grouping into four domains.

A frame has a ``name``, ``labels`` with a ``category`` and a ``box2d`` of ``x1 y1 x2 y2`` in pixels, and ``attributes``;
labels without ``box2d`` (lanes, drivable areas) are left out. The list may also stand under ``frames``, and the files
for single frames have their labels as ``objects`` of the only one of their ``frames``.
"""

from __future__ import annotations

from typing import Any

from cgcl_fast.data.annotations.annotation import Annotation, annotation, dicts, text

GROUPS = {
    "sunny": ("daytime", ("clear",)),
    "night": ("night", ("clear",)),
    "cloudy": ("daytime", ("partly cloudy", "cloudy")),
    "rainy": ("daytime", ("rainy",)),
}
"""Time of day and weather of each domain in CGL's Table 1. Its 4262 images of "cloudy weather" in daytime are fewer
than BDD100K's overcast ones alone, so they must be those labelled partly cloudy. All other images (snow, fog, dawn,
rain at night) belong to no domain."""


def group_of(annotation: Annotation) -> str | None:
    """The domain of an image, or None if it is in none."""
    said = dict(annotation.attributes)
    for domain, (time, weathers) in GROUPS.items():
        if said.get("timeofday") == time and said.get("weather") in weathers:
            return domain
    return None


def is_frame(content: Any) -> bool:
    return isinstance(content, dict) and (
        ("labels" in content and isinstance(content["labels"], (list, type(None))))
        or any("objects" in frame for frame in dicts(content.get("frames")))
        or ("name" in content and "attributes" in content)
    )


def is_list(content: Any) -> bool:
    frames = dicts(content.get("frames")) if isinstance(content, dict) else dicts(content)
    return bool(frames) and all("name" in frame for frame in frames[:3])


def parse_frame(content: dict[str, Any]) -> Annotation:
    labels = content.get("labels")
    if labels is None:
        frames = dicts(content.get("frames"))
        labels = frames[0].get("objects") if frames else None
    rows = []
    for label in dicts(labels):
        box = label.get("box2d")
        if box is None:
            continue
        corners = [box.get(side) for side in ("x1", "y1", "x2", "y2")] if isinstance(box, dict) else ()
        rows.append((text(label.get("category")), corners))
    said = content.get("attributes")
    attributes = said if isinstance(said, dict) else {}
    size = content.get("size")
    return annotation(
        rows,
        size=(size.get("width"), size.get("height")) if isinstance(size, dict) else None,
        attributes=tuple((key, text(attributes.get(key)).lower()) for key in ("timeofday", "weather")),
    )


def parse_list(content: Any) -> dict[str, Annotation]:
    """The boxes of each image by its file name."""
    frames = dicts(content.get("frames")) if isinstance(content, dict) else dicts(content)
    return {text(frame.get("name")): parse_frame(frame) for frame in frames if text(frame.get("name"))}
