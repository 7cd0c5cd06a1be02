"""Names of object classes."""

from __future__ import annotations

import logging

import pytest

from cgcl_fast.data.classes import ClassTable


def test_indices():
    table = ClassTable(["car", "person", "Traffic Light"])
    assert [table.find(name) for name in ("person", "Car", "traffic_light", "traffic-light")] == [1, 0, 2, 2]


def test_the_exact_name_comes_first():
    table = ClassTable(["car", "Car"])
    assert table.find("car") == 0 and table.find("Car") == 1 and table.find("CAR") == 0


def test_other_names_of_a_class_are_taken_only_where_they_are_not_asked_for():
    assert ClassTable(["person"]).find("Pedestrian") == 0
    assert ClassTable(["person", "pedestrian"]).find("Pedestrian") == 1
    assert ClassTable(["person", "bicycle"]).find("Cyclist") == 1
    assert ClassTable(["sign"]).find("traffic sign") == 0
    assert ClassTable(["pedestrian"]).find("person") is None


def test_numbers_are_names():
    table = ClassTable([1, "2", 30])
    assert table.names == ("1", "2", "30")
    assert [table.find(name) for name in ("30", "2", "1", "3")] == [2, 1, 0, None]


def test_unknown_classes_are_named_once_each(caplog):
    table = ClassTable(["car"])
    with caplog.at_level(logging.WARNING):
        assert [table.find(name) for name in ("tram", "van", "tram", "", "")] == [None] * 5
    assert [record.getMessage().split(" are")[0] for record in caplog.records] == [
        "boxes of class 'tram'",
        "boxes of class 'van'",
        "boxes of class ''",
    ]


def test_a_file_of_endless_class_names_does_not_fill_the_log(caplog):
    table = ClassTable(["car"])
    with caplog.at_level(logging.WARNING):
        assert all(table.find(f"{number}{'x' * 10_000}") is None for number in range(5000))
    assert len(caplog.records) == 1001 and "more than 1000 other classes" in caplog.records[-1].getMessage()
    assert max(len(record.getMessage()) for record in caplog.records) < 200


@pytest.mark.parametrize("classes", [[], "car", [""], [1.5], [True], ["car", "car"], [1, "1"]])
def test_wrong_classes(classes):
    with pytest.raises(ValueError, match="classes must"):
        ClassTable(classes)
