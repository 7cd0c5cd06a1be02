"""COCO."""

from __future__ import annotations

import numpy as np

from cgcl_fast.data.annotations.annotation import UNDECIDED
from cgcl_fast.data.annotations.coco import is_coco, parse_coco

CONTENT = {
    "images": [
        {"id": 1, "file_name": "train/a.jpg", "width": 640, "height": 480},
        {"id": "2", "file_name": "b.jpg"},
        {"id": 3, "file_name": None},
        "no image",
    ],
    "categories": [{"id": 7, "name": "car"}, {"id": 8, "name": "person"}],
    "annotations": [
        {"image_id": 1, "category_id": 7, "bbox": [10, 20, 30, 40]},
        {"image_id": 1, "category_id": 8, "bbox": [0, 0, 9, 9], "iscrowd": 1},
        {"image_id": 2, "category_id": 8, "bbox": [5, 5, -2, -3]},
        {"image_id": 2, "category_id": 99, "bbox": [1, 1, 1, 1]},
        {"image_id": 2, "category_id": 8, "bbox": [float("nan"), 1, 1, 1]},
        {"image_id": 2, "category_id": 8, "bbox": "none"},
        {"image_id": 2, "category_id": 8},
        {"image_id": [], "category_id": {}, "bbox": [1, 1, 1, 1]},
        None,
    ],
}


def test_boxes():
    found = parse_coco(CONTENT)
    assert set(found) == {"train/a.jpg", "b.jpg"}
    first, second = found["train/a.jpg"], found["b.jpg"]
    assert first.names == ("car",) and first.size == (640, 480)
    np.testing.assert_array_equal(first.boxes, [[10, 20, 40, 60]])
    assert second.names == ("person", "99") and second.broken == 3 and second.size is None
    np.testing.assert_array_equal(second.boxes[0], [3, 2, 5, 5])


def test_what_is_coco():
    assert is_coco(CONTENT)
    assert not any(map(is_coco, ([], {}, {"images": 1, "annotations": []}, {"images": []}, None, "text")))
    assert parse_coco({"images": [], "annotations": None}) == {}


def test_polygons_without_a_box():
    entries = [
        {"segmentation": [[10, 20, 40, 25, 30, 60.5], [5, 30, 12, 30, 8, 31]]},
        {"segmentation": [1, 2, 3, 4, 0, 9], "bbox": []},  # one polygon, not in a list
        {"segmentation": [[1, 1, 99, 99, 1, 99]], "bbox": [2, 2, 3, 3]},
        {"segmentation": [[1, 2, 3]]},
        {"segmentation": [[1, 2, float("nan"), 4]]},
        {"segmentation": []},
        {"segmentation": {"counts": "PPYo0", "size": [9, 9]}},
        {"segmentation": ["1", [2]]},
    ]
    found = parse_coco(
        {
            "images": [{"id": 1.0, "file_name": "a.jpg"}],
            "categories": [{"id": 7, "name": 3}],
            "annotations": [{"image_id": 1, "category_id": 7.0, **entry} for entry in entries],
        }
    )["a.jpg"]
    assert found.boxes.tolist() == [[5, 20, 40, 60.5], [0, 2, 3, 9], [2, 2, 5, 5]]
    assert found.names == ("3",) * 3 and found.broken == 5


def test_a_name_of_several_images_with_boxes_is_undecided():
    found = parse_coco(
        {
            "images": [{"id": n, "file_name": name} for n, name in enumerate(("a.jpg", "b.jpg", "a.jpg", "b.jpg"))]
            + [{"id": 1, "file_name": "b.jpg"}],
            "categories": [{"id": 1, "name": "car"}],
            "annotations": [{"image_id": n, "category_id": 1, "bbox": [n, 0, 1, 1]} for n in (0, 1, 2)],
        }
    )
    assert found["a.jpg"] is UNDECIDED and found["b.jpg"].boxes.tolist() == [[1, 0, 2, 1]]
