"""Recognising the format of a file."""

from __future__ import annotations

import json
import os
import random

import numpy as np
import pytest

from cgcl_fast.data.annotations.annotation import EMPTY, MOST_BYTES
from cgcl_fast.data.annotations.reading import image_key, read_file, read_set


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("a.jpg", "a"),
        ("a.JPG", "a"),
        ("train/a.b.png", "a.b"),
        ("C:\\data\\a.png", "a"),
        ("a.jpg.txt", "a"),
        ("0000f77c-6257be58", "0000f77c-6257be58"),
        ("aachen_000000_000019_leftImg8bit.png", "aachen_000000_000019"),
        ("aachen_000000_000019_gtFine_polygons.json", "aachen_000000_000019"),
        ("aachen_000000_000019_leftImg8bit_foggy_beta_0.02.png", "aachen_000000_000019"),
        ("aachen_000000_000019_leftImg8bit_rain_alpha_0.01_dropsize_0.005_pattern_1.png", "aachen_000000_000019"),
        (".jpg", ".jpg"),
    ],
)
def test_what_images_and_annotations_have_in_common(name, key):
    assert image_key(name) == key


@pytest.mark.parametrize(
    "content",
    [
        {"size": [9, 9], "boxes": [{"class": "car", "box": [1, 2, 3, 4]}]},
        {"name": "a", "labels": [{"category": "car", "box2d": {"x1": 1, "y1": 2, "x2": 3, "y2": 4}}]},
        {"shapes": [{"label": "car", "points": [[1, 2], [3, 4]], "shape_type": "rectangle"}]},
        {"imgWidth": 9, "imgHeight": 9, "objects": [{"label": "car", "polygon": [[1, 2], [3, 4]]}]},
        [{"name": "a.jpg", "labels": [{"category": "car", "box2d": {"x1": 1, "y1": 2, "x2": 3, "y2": 4}}]}],
        {
            "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
            "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 2, 2]}],
            "categories": [{"id": 1, "name": "car"}],
        },
    ],
)
def test_json_of_an_image(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    found = read_file(path, None, {})
    assert found.names == ("car",) and found.boxes.tolist() == [[1, 2, 3, 4]]


def test_json_of_something_else(tmp_path):
    path = tmp_path / "a.json"
    for content in ("{}", "[]", "3", '{"labels": 3}', '{"boxes": {}}', '{"objects": null}'):
        path.write_text(content)
        with pytest.raises(ValueError, match="no format that is known"):
            read_file(path, None, {})
        assert read_set(path) is None
    path.write_text(json.dumps([{"name": "b", "labels": []}, {"name": "c", "labels": []}]))
    with pytest.raises(ValueError, match="other images only"):
        read_file(path, None, {})


def test_empty_files(tmp_path):
    for suffix in ("txt", "xml", "json"):
        (tmp_path / f"a.{suffix}").write_text(" \n")
        assert read_file(tmp_path / f"a.{suffix}", None, {}) is None


def test_pipes_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(OSError, match="not a regular file"):
        read_file(tmp_path / "a.txt", "yolo", {})


@pytest.mark.parametrize("suffix", ["json", "xml", "txt"])
def test_files_that_are_too_large_for_one_image_are_not_read(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    path.touch()
    os.truncate(path, 100 * MOST_BYTES)  # takes nothing on the disk
    with pytest.raises(ValueError, match="it is larger than 16 MiB"):
        read_file(path, "yolo", {})


@pytest.mark.parametrize(
    ("content", "boxes", "broken"),
    [
        ('{"boxes": [{"class": "car", "box": [1, 2, 3, 1e400]}, {"class": "car", "box": [1, 2, 3, 4]}]}', 1, 1),
        ('{"boxes": [{"class": "car", "box": [1, 2, 3, %s]}, {"box": [1, 2, 3, 4]}]}' % ("7" * 100_000), 1, 1),
        ('{"boxes": [], "size": [%s, 1e400]}' % ("7" * 100_000), 0, 0),
        ('{"imgWidth": 9, "objects": [{"label": "car", "polygon": [' + "[1,2]," * 200_000 + "[3,4]]}]}", 1, 0),
        ('{"imgWidth": 9, "objects": [{"label": "car", "polygon": [[1, 2], [NaN, 3], [4, 5]]}]}', 0, 1),
        (
            '{"images": [{"id": [[[]]], "file_name": "a"}], "annotations": [{"image_id": {}, "bbox": [1, 2, 3, 4]}]}',
            1,
            0,
        ),
    ],
)
def test_numbers_without_bounds(tmp_path, content, boxes, broken):
    path = tmp_path / "a.json"
    path.write_text(content)
    found = read_file(path, None, {})
    assert (len(found.names), found.broken, found.size) == (boxes, broken, None)


KEYS = (
    *("boxes", "box", "class", "size", "name", "labels", "category", "box2d", "x1", "y1", "x2", "y2", "attributes"),
    *("weather", "frames", "objects", "label", "polygon", "bbox", "2d", "modal", "images", "annotations", "categories"),
    *("id", "image_id", "category_id", "file_name", "iscrowd"),
)
NUMBERS = (0, 1, -1, 0.5, 1e308, 10**400, float("nan"), float("-inf"), True, "1", "x", "\x00", "ü", None)


def value(rng, depth=0):
    kind = rng.random()
    if depth > 5 or kind < 0.25:
        return rng.choice(NUMBERS)
    if kind < 0.5:
        return [value(rng, depth + 1) for _ in range(rng.randrange(5))]
    return {key: value(rng, depth + 1) for key in rng.sample(KEYS, rng.randrange(1, 9))}


def likely(rng):
    """As the files should be, with anything in one place."""
    odd = [rng.random() < 0.3 for _ in range(12)]

    def maybe(number, good):
        return value(rng, 3) if odd[number] else good

    corners = maybe(0, [1, 2, 3, 4])
    return rng.choice(
        [
            {"size": maybe(1, [9, 9]), "boxes": [{"class": maybe(2, "car"), "box": corners}, maybe(3, {})]},
            {"labels": [{"category": maybe(4, "car"), "box2d": maybe(5, dict.fromkeys(("x1", "y1", "x2", "y2"), 1))}]},
            {
                "objects": [
                    {"label": "car", "polygon": maybe(6, [[1, 2], maybe(7, [3, 4])])},
                    {"label": maybe(8, "car")},
                ]
            },
            {"objects": [{"label": "car", "bbox": corners, "2d": value(rng, 3)}], "imgWidth": maybe(9, 3)},
            {
                "images": [{"id": maybe(10, 1), "file_name": maybe(11, "a.jpg")}],
                "annotations": [{"image_id": 1, "category_id": maybe(1, 1), "bbox": corners}, maybe(2, {})],
                "categories": maybe(3, [{"id": maybe(4, 1), "name": maybe(5, "car")}]),
            },
            [{"name": maybe(6, "a"), "labels": maybe(7, []), "attributes": maybe(8, {"weather": maybe(9, "clear")})}],
        ]
    )


def test_no_json_does_more_than_raise_value_error(tmp_path):
    path, rng, read_some = tmp_path / "a.json", random.Random(0), 0
    for number in range(600):
        path.write_text(json.dumps(likely(rng) if number % 2 else value(rng)))
        for read in (lambda: read_file(path, None, {}), lambda: read_set(path)):
            try:
                found = read()
            except ValueError:
                continue
            for each in found.values() if isinstance(found, dict) else [found or EMPTY]:
                assert each.boxes.shape == (len(each.names), 4) and np.isfinite(each.boxes).all()
                read_some += len(each.names)
    assert read_some > 50


def test_no_text_is_an_error(tmp_path):
    path, rng, read_some = tmp_path / "a.txt", random.Random(0), 0
    for number in range(200):
        rows = [[rng.choice(NUMBERS) for _ in range(rng.randrange(17))] for _ in range(rng.randrange(6))]
        name = "car " if number % 2 else ""
        path.write_text("\n".join(name + " ".join(map(str, row)) for row in rows))
        for form in ("init", "kitti", "yolo"):
            found = read_file(path, form, {}) or EMPTY
            assert found.boxes.shape == (len(found.names), 4) and np.isfinite(found.boxes).all()
            read_some += len(found.names)
    assert read_some > 10
