"""Cityscapes."""

from __future__ import annotations

from cgcl_fast.data.annotations.cityscapes import is_cityscapes, parse_cityscapes


def test_polygons():
    content = {
        "imgHeight": 1024,
        "imgWidth": 2048,
        "objects": [
            {"label": "road", "polygon": [[0, 769], [290, 574], [528, 0]]},
            {"label": "car", "polygon": [[30, 20], [10, 40], [25, 60.5]]},
            {"label": "cargroup", "polygon": [[0, 0], [9, 9]]},
            {"label": "person", "polygon": []},
            {"label": "person", "polygon": [[1, "x"]]},
            {"label": "bus", "polygon": [[1, 1], [2, 2]], "deleted": 1},
        ],
    }
    assert is_cityscapes(content)
    found = parse_cityscapes(content)
    assert found.names == ("car",) and found.boxes.tolist() == [[10, 20, 30, 60.5]]
    assert found.size == (2048, 1024) and found.broken == 2


def test_boxes():
    persons = {"objects": [{"label": "pedestrian", "bbox": [10, 20, 30, 40], "bboxVis": [10, 20, 1, 1]}]}
    assert parse_cityscapes(persons).boxes.tolist() == [[10, 20, 40, 60]]
    cars = {"objects": [{"label": "car", "2d": {"modal": [1, 2, 3, 4], "amodal": [0, 0, 9, 9]}, "3d": {}}]}
    assert parse_cityscapes(cars).boxes.tolist() == [[1, 2, 4, 6]]


def test_what_is_cityscapes():
    assert not any(map(is_cityscapes, ([], {}, {"objects": 3}, None)))
