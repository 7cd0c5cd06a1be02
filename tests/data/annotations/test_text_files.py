"""INIT, KITTI and YOLO."""

from __future__ import annotations

import numpy as np
import pytest

from cgcl_fast.data.annotations.text_files import guess, parse_init, parse_kitti
from cgcl_fast.data.annotations.yolo import parse_yolo, read_names

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


def test_yolo():
    found = parse_yolo(YOLO, {0: "car", 1: "bus"})
    assert found.names == ("car", "2", "bus") and found.relative
    np.testing.assert_allclose(
        found.boxes, [[0.375, 0.25, 0.625, 0.75], [0.05, 0.15, 0.15, 0.25], [0.1, 0.2, 0.3, 0.6]]
    )


def test_yolo_lines_that_are_no_boxes():
    found = parse_yolo("0 0.5 0.5\nx 0.5 0.5 0.1 0.1\n0 a b c d\n0 1e400 0.5 0.5 0.5\n1e999 0.5 0.5 1 1\n", {})
    assert found.names == ("x", "1e999") and found.broken == 3


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("classes.txt", "car\nbus\n"),
        ("obj.names", "car\r\nbus\r\n\r\n"),
        ("data.yaml", "names: [car, bus]\nnc: 2\n"),
        ("data.yaml", "names:\n  0: car\n  1: bus\n"),
        ("data.yml", "names: \"['car', 'bus']\"\n"),
    ],
)
def test_names(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert read_names([tmp_path / "nowhere", tmp_path]) == {0: "car", 1: "bus"}


def test_broken_names(tmp_path, caplog):
    (tmp_path / "a.yaml").write_text("names: [car")
    (tmp_path / "b.yaml").write_text("- 1\n")
    (tmp_path / "c.yaml").write_text("!!python/object/apply:os.system [touch /tmp/never]\n")
    (tmp_path / "d.yaml").write_text("names: {x: car}\n")
    (tmp_path / "e.yaml").write_text("names: {.inf: car}\n")
    (tmp_path / "f.yaml").write_text("names: " + "[" * 100_000)
    (tmp_path / "classes.txt").write_bytes(b"")
    assert read_names([tmp_path]) == {}
    said = [record.getMessage() for record in caplog.records]
    assert [name for name in "abcdef" for line in said if f"/{name}.yaml: cannot be read" in line] == ["a", "c", "f"]
    assert not any("\n" in line for line in said)
    (tmp_path / "classes.txt").write_bytes("motorrad\ngrün\n".encode("latin-1"))
    assert read_names([tmp_path]) == {0: "motorrad", 1: "grün"}


def test_names_of_a_few_bytes_that_would_take_all_memory_are_left_out(tmp_path, caplog):
    lines = [f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]" for old, new in zip("abcdefgh", "bcdefghi", strict=True)]
    (tmp_path / "data.yaml").write_text("a: &a [x, x]\n" + "\n".join(lines) + "\nnames: [*i, *i]\n")
    assert read_names([tmp_path]) == {}
    assert "data.yaml: cannot be read (aliases and tags are not read, line 2)" in caplog.text


def test_a_polygon_with_a_point_that_is_none_has_no_box():
    """Wherever it stands: what is least of numbers and NaN depends on their order."""
    found = parse_yolo("0 nan 1 2 3 4 5\n0 2 3 nan 1 4 5\n0 2 3 4 1e400 4 5\n0 2 3 4 5 1 1\n", {})
    assert found.broken == 3 and found.boxes.tolist() == [[1, 1, 4, 5]]


def test_a_file_of_names_without_end_is_not_read(tmp_path):
    (tmp_path / "classes.txt").write_text("x\n" * 2**20)
    assert read_names([tmp_path]) == {}
