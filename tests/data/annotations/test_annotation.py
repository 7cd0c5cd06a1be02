"""Boxes from annotation files, independent of the format."""

from __future__ import annotations

import numpy as np
import pytest

from cgcl_fast.data.annotations.annotation import annotation, corners_around, corners_of, json_of, text_of


def test_boxes_that_are_none_are_counted_and_left_out():
    rows = [
        ("car", (1, 2, 3, 4)),
        ("nan", (1, float("nan"), 3, 4)),
        ("inf", (1, 2, float("inf"), 4)),
        ("short", (1, 2, 3)),
        ("long", (1, 2, 3, 4, 5)),
        ("word", (1, 2, "x", 4)),
        ("none", (None, 2, 3, 4)),
        ("huge", (10**400, 2, 3, 4)),
        ("text", ("5", " 6.5 ", "7e0", 8)),
    ]
    found = annotation(rows)
    assert found.names == ("car", "text") and found.broken == 7
    np.testing.assert_array_equal(found.boxes, [[1, 2, 3, 4], [5, 6.5, 7, 8]])


def test_reversed_corners_are_put_in_order():
    np.testing.assert_array_equal(annotation([("a", (9, 2, 3, 8))]).boxes, [[3, 2, 9, 8]])
    np.testing.assert_array_equal(annotation([("a", corners_of(9, 8, -6, -6))]).boxes, [[3, 2, 9, 8]])


@pytest.mark.parametrize("size", [None, (0, 5), (None, 5), ("x", 5), (float("nan"), 5), (float("inf"), 5)])
def test_a_size_that_is_none(size):
    assert annotation([], size=size).size is None


def test_a_size():
    assert annotation([], size=("640", 380.0)).size == (640, 380)
    assert annotation([]).boxes.shape == (0, 4)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_encodings(encoding):
    assert text_of("straße 1 2".encode(encoding)) == "straße 1 2"


def test_json_with_numbers_that_are_none():
    assert np.isnan(json_of(b'{"a": NaN}')["a"])
    with pytest.raises(ValueError):
        json_of(b'{"a": ')


def test_json_that_is_nested_deeply():
    for depth in (10_000, 1_000_000):
        for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
            with pytest.raises(ValueError, match="it is nested too deeply"):
                json_of(opening * depth + b"1" + closing * depth)


def test_integers_without_end_are_read_as_numbers_that_are_none():
    """Python refuses integers of thousands of digits, and takes minutes for millions where it does not."""
    found = json_of(b'{"a": 12, "b": -12, "c": %s, "d": -%s, "e": 1e400}' % (b"9" * 10**6, b"9" * 10**6))
    assert found == {"a": 12, "b": -12, "c": np.inf, "d": -np.inf, "e": np.inf}
    assert annotation([("car", (1, 2, 3, found["c"]))]).broken == 1


def test_corners_around_a_polygon():
    assert corners_around([[3, 9], ["1", 2.5], (2, 4)]) == (1, 2.5, 3, 9)
    nan, inf = float("nan"), float("inf")
    for points in ([], [[]], [[1]], [[1, 2, 3]], [[1, "x"]], [None], [1], [[10**400, 1]], [[1, 2], [inf, 3], [4, 5]]):
        assert corners_around(points) == ()
    for place in range(3):  # wherever it stands
        points = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
        points[place][0] = nan
        assert corners_around(points) == ()
