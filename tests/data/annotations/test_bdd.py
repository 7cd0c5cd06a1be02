"""BDD100K."""

from __future__ import annotations

import pytest

from cgcl_fast.data.annotations.bdd import group_of, is_frame, is_list, parse_frame, parse_list


def frame(name="a.jpg", weather="clear", time="daytime", **more):
    box = {"x1": 10.5, "y1": 20, "x2": 30, "y2": 40}
    labels = [
        {"category": "car", "box2d": box},
        {"category": "lane", "poly2d": []},
        {"category": "bus", "box2d": {"x1": 1}},
        {"category": "bike", "box2d": None},
    ]
    return {"name": name, "attributes": {"weather": weather, "timeofday": time}, "labels": labels, **more}


def test_a_frame():
    found = parse_frame(frame(size={"width": 1280, "height": 720}))
    assert found.names == ("car",) and found.boxes.tolist() == [[10.5, 20, 30, 40]]
    assert found.broken == 1 and found.size == (1280, 720)


def test_a_frame_in_a_file_of_its_own():
    content = {**frame(), "frames": [{"timestamp": 1, "objects": frame()["labels"]}]}
    del content["labels"]
    assert is_frame(content) and parse_frame(content).boxes.tolist() == [[10.5, 20, 30, 40]]


def test_lists():
    frames = [frame("a.jpg"), frame("b", labels=None), frame("c.jpg", labels="none", attributes=None)]
    for content in (frames, {"frames": frames, "config": {}}):
        assert is_list(content)
        found = parse_list(content)
        assert [len(found[name].names) for name in ("a.jpg", "b", "c.jpg")] == [1, 0, 0]
    assert not any(map(is_list, ([], {}, [1, 2], [{"file": 1}], None)))


@pytest.mark.parametrize(
    ("weather", "time", "expected"),
    [
        ("clear", "daytime", "sunny"),
        ("clear", "night", "night"),
        ("partly cloudy", "daytime", "cloudy"),
        ("rainy", "daytime", "rainy"),
        ("rainy", "night", None),
        ("overcast", "daytime", None),
        ("snowy", "daytime", None),
        ("clear", "dawn/dusk", None),
        ("undefined", "undefined", None),
        (None, 3, None),
    ],
)
def test_groups_of_table_1(weather, time, expected):
    assert group_of(parse_frame(frame(weather=weather, time=time))) == expected
