"""COCO."""

from __future__ import annotations

import numpy as np

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
