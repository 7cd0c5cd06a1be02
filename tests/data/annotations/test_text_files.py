"""INIT and KITTI, and distinguishing them from YOLO."""

from __future__ import annotations

import numpy as np
import pytest

from cgcl_fast.data.annotations.text_files import guess, parse_init, parse_kitti

INIT = "/data/sunny/00012.png\n3\ncar 10 20 50 60\ntraffic sign 1 2 3.5 4\nperson 5 6 7 8\n"
KITTI = (
    "Car 0.00 0 1.85 387.63 181.54 423.81 203.12 1.67 1.87 3.69 -16.53 2.39 58.49 1.57\n"
    "Pedestrian 0.10 1 -0.20 712.40 143.00 810.73 307.92 1.89 0.48 1.20 1.84 1.47 8.41 0.01 0.9\n"
    "DontCare -1 -1 -10 5.00 229.89 214.12 367.61 -1 -1 -1 -1000 -1000 -1000 -10\n"
)
YOLO = "0 0.5 0.5 0.25 0.5\n2 0.1 0.2 0.1 0.1 0.99\n1 0.1 0.2 0.3 0.2 0.3 0.6\n"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (INIT, "init"),
        (KITTI, "kitti"),
        (YOLO, "yolo"),
        ("", None),
        ("\n \n", None),
        ("nothing of the kind\nat all\nin here\n", None),
        ("no suffix\n\ncar 1 2 3 4\n", "init"),
        ("scene.jpg\n0\n", "init"),  # an image without objects
        ("\x00\x01\x02\xff", None),
        ("0 nan nan nan nan\n", "yolo"),
    ],
)
def test_formats_are_told_by_their_content(content, expected):
    assert guess(content) == expected


def test_init():
    found = parse_init(INIT)
    assert found.names == ("car", "traffic sign", "person") and found.size is None and not found.relative
    np.testing.assert_array_equal(found.boxes, [[10, 20, 50, 60], [1, 2, 3.5, 4], [5, 6, 7, 8]])


def test_init_boxes_start_in_the_third_line():
    assert parse_init("car 1 2 3 4\ncar 1 2 3 4\ncar 5 6 7 8\n").boxes.tolist() == [[5, 6, 7, 8]]
    assert parse_init("path.png\n").boxes.shape == (0, 4)


def test_init_lines_that_are_no_boxes():
    found = parse_init("a.png\n5\ncar 1 2 3\ncar nan 2 3 4\n\ncar,1,2,3,4\ncar 1 2 3 x\ncar 50 60 10 20\n")
    assert found.boxes.tolist() == [[1, 2, 3, 4], [10, 20, 50, 60]] and found.broken == 3


def test_kitti():
    found = parse_kitti(KITTI)
    assert found.names == ("Car", "Pedestrian")
    np.testing.assert_array_equal(found.boxes, [[387.63, 181.54, 423.81, 203.12], [712.40, 143.00, 810.73, 307.92]])
    assert parse_kitti("Car 0 0\n" + KITTI).broken == 1


def test_classes_that_are_called_by_numbers():
    numbered = KITTI.replace("DontCare", "9").replace("Car", "3").replace("Pedestrian", "0")
    assert guess(numbered) == "kitti"
    found = parse_kitti(numbered)
    assert found.names == ("3", "0", "9") and found.boxes[0].tolist() == [387.63, 181.54, 423.81, 203.12]
    assert guess("/data/00012.png\n2\n1 10 20 50 60\n2 1 2 3 4\n") == "init"
    assert guess("0 " + "0.4 " * 14) == guess("0 " + "0.4 " * 15) == "yolo"  # as long as KITTI's lines
