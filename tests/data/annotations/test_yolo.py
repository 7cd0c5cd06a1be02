"""YOLO's boxes, polygons and keypoints."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from cgcl_fast.data.annotations.yolo import holds_keypoints, parse_yolo, read_names, says_keypoints

YOLO = "0 0.5 0.5 0.25 0.5\n2 0.1 0.2 0.1 0.1 0.99\n1 0.1 0.2 0.3 0.2 0.3 0.6\n"


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


# ---- keypoints


def line(*numbers):
    return " ".join(f"{number:g}" for number in (0, *numbers)) + "\n"


def person(rng, count, visibility):
    """A box, and keypoints in it, some of them not there."""
    width, height = 0.1 + 0.3 * rng.random(), 0.2 + 0.5 * rng.random()
    x, y = (side / 2 + (1 - side) * rng.random() for side in (width, height))
    points = []
    for _ in range(count):
        there = rng.random() < 0.8
        points += [x + width * (rng.random() - 0.5), y + height * (rng.random() - 0.5)] if there else [0, 0]
        points += [2 if there else 0] if visibility else []
    return (x, y, width, height, *points)


def outline(rng, count):
    """A polygon of so many corners around a point."""
    radius = 0.03 + 0.2 * rng.random()
    x, y = (radius + (1 - 2 * radius) * rng.random() for _ in range(2))
    turn = rng.random() * 6
    corners = [(turn + 2 * math.pi * corner / count, radius * (0.7 + 0.3 * rng.random())) for corner in range(count)]
    return [value for angle, far in corners for value in (x + far * math.cos(angle), y + far * math.sin(angle))]


@pytest.mark.parametrize("persons", [1, 2, 8, 40])
@pytest.mark.parametrize(
    ("count", "visibility"), [(1, True), (4, True), (17, True), (5, False), (17, False), (68, False)]
)
def test_keypoints_are_no_polygon(count, visibility, persons):
    rng = random.Random(f"{count} {visibility}")
    rows = [person(rng, count, visibility) for _ in range(persons)]
    contents = ["".join(line(*row) for row in rows[start::2]) for start in range(2)]
    assert holds_keypoints(contents)
    x, y, w, h = np.array([row[:4] for row in rows[::2]]).T
    found = parse_yolo(contents[0], {0: "person"}, keypoints=True)
    np.testing.assert_allclose(found.boxes.T, [x - w / 2, y - h / 2, x + w / 2, y + h / 2], atol=1e-5)
    assert set(found.names) == {"person"} and found.relative


@pytest.mark.parametrize("count", [3, 4, 5, 7, 11, 19, 40])
@pytest.mark.parametrize("polygons", [1, 5, 40])
def test_polygons_are_no_keypoints(count, polygons):
    rng = random.Random(f"{count} {polygons}")
    assert not holds_keypoints(line(*outline(rng, count)) for _ in range(polygons))


def test_polygons_of_many_lengths_and_boxes_are_no_keypoints():
    rng = random.Random(0)
    assert not holds_keypoints(line(*outline(rng, count)) for count in range(3, 30))
    assert not holds_keypoints([line(*person(rng, 17, False)), *[line(*person(rng, 17, False)[:4])] * 3])
    assert not holds_keypoints([YOLO, "", "no numbers\n"]) and not holds_keypoints([])
    assert not holds_keypoints([line(0.5, 0.5, 0.2, 0.2)] * 5)
    assert not holds_keypoints([line(0, 0, 1, 0, 1, 1, 0, 1)])  # a box by its corners


def test_a_file_of_names_may_say_that_there_are_keypoints(tmp_path):
    assert not says_keypoints([tmp_path / "nowhere", tmp_path])
    (tmp_path / "a.yaml").write_text("names: [car")
    (tmp_path / "b.yaml").write_text("names: [hand]\n")
    assert not says_keypoints([tmp_path])
    (tmp_path / "c.yaml").write_text("kpt_shape: [2, 2]\nnames: [hand]\n")
    assert says_keypoints([tmp_path / "nowhere", tmp_path])


def test_names_that_are_numbers(tmp_path):
    (tmp_path / "data.yaml").write_text("names: [10, 20]\n")
    assert read_names([tmp_path]) == {0: "10", 1: "20"}
    assert parse_yolo("1 0.5 0.5 0.1 0.1\n3.0 0.5 0.5 0.1 0.1\n", {0: "10", 1: "20"}).names == ("20", "3")
