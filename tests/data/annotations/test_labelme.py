"""LabelMe."""

from __future__ import annotations

from cgcl_fast.data.annotations.labelme import is_labelme, parse_labelme


def test_shapes():
    content = {
        "version": "5.4.1",
        "flags": {},
        "shapes": [
            {"label": "car", "points": [[30.5, 20], [10, 40]], "shape_type": "rectangle", "flags": {}},
            {"label": "bus", "points": [[1, 2], [9, 2], [9, 7], [1, 7]], "shape_type": "rectangle"},
            {"label": "car", "points": [[3, 9], [8, 1], [5, 4]], "shape_type": "polygon"},
            {"label": 7, "points": [[20, 30], [23, 34]], "shape_type": "circle"},
            {"label": "car", "points": [[2, 3], [4, 5]], "shape_type": "mask", "mask": "iVBORw0KGgo="},
            {"label": "car", "points": [[3, 9], [8, 1], [5, 4]]},  # of before there were types
            {"label": "pole", "points": [[1, 2]], "shape_type": "point"},
            {"label": "lane", "points": [[1, 2], [3, 4]], "shape_type": "line"},
            {"label": "lane", "points": [[1, 2], [3, 4]], "shape_type": "linestrip"},
            {"label": "car", "points": [], "shape_type": "polygon"},
            {"label": "car", "points": [[1, 2]], "shape_type": "circle"},
            {"label": "car", "points": [["x", 2], [3, 4]], "shape_type": "circle"},
            {"label": "car", "shape_type": "polygon"},
            "no shape",
        ],
        "imagePath": "..\\images\\0.jpg",
        "imageData": None,
        "imageHeight": 480,
        "imageWidth": 640,
    }
    assert is_labelme(content)
    found = parse_labelme(content)
    assert found.names == ("car", "bus", "car", "7", "car", "car") and found.broken == 4
    assert found.boxes.tolist() == [
        [10, 20, 30.5, 40],
        [1, 2, 9, 7],
        [3, 1, 8, 9],
        [15, 25, 25, 35],
        [2, 3, 4, 5],
        [3, 1, 8, 9],
    ]
    assert found.size == (640, 480) and not found.relative


def test_what_is_labelme():
    assert is_labelme({"shapes": []}) and not any(map(is_labelme, ([], {}, {"shapes": 3}, None)))
