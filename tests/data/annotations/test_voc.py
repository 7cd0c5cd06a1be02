"""Pascal VOC."""

from __future__ import annotations

import numpy as np
import pytest

from cgcl_fast.data.annotations.voc import parse_voc

BOX = "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>"


def document(*objects, size="<size><width>640</width><height>380</height></size>"):
    entries = "".join(f"<object><name>{name}</name>{box}</object>" for name, box in objects)
    return f"<annotation><filename>other.png</filename>{size}{entries}</annotation>".encode()


def test_boxes():
    found = parse_voc(document(("car", BOX.format(1, 2, 3, 4)), ("traffic_light", BOX.format("10.5", 20, 30, 40))))
    assert found.names == ("car", "traffic_light") and found.size == (640, 380)
    np.testing.assert_array_equal(found.boxes, [[1, 2, 3, 4], [10.5, 20, 30, 40]])


def test_parts_are_no_objects():
    part = f"<part><name>head</name>{BOX.format(0, 0, 9, 9)}</part>"
    found = parse_voc(document(("person", part + BOX.format(1, 2, 3, 4))))
    assert found.names == ("person",) and found.boxes.tolist() == [[1, 2, 3, 4]]


def test_boxes_that_are_none():
    found = parse_voc(document(("a", ""), ("b", "<bndbox/>"), ("c", BOX.format("nan", 1, 2, 3)), size=""))
    assert found.boxes.shape == (0, 4) and found.broken == 3 and found.size is None


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1"])
def test_encodings(encoding):
    assert parse_voc(document(("straße", BOX.format(1, 2, 3, 4))).decode().encode(encoding)).names == ("straße",)
    declared = b'<?xml version="1.0" encoding="ISO-8859-1"?>' + document(("straße", "")).decode().encode("latin-1")
    assert parse_voc(declared).broken == 1


def test_nothing_outside_the_file_is_read(tmp_path):
    (tmp_path / "secret").write_text("secret")
    for declaration in (
        f'<!ENTITY x SYSTEM "file://{tmp_path}/secret">',
        f'<!ENTITY % x SYSTEM "file://{tmp_path}/secret"> %x;',
        '<!ENTITY x "lol"><!ENTITY y "&x;&x;&x;&x;&x;&x;&x;">',
    ):
        content = b"<!DOCTYPE annotation [" + declaration.encode() + b"]>" + document(("&x;", BOX.format(1, 2, 3, 4)))
        with pytest.raises(ValueError, match="declares entities"):
            parse_voc(content)
    external = f'<!DOCTYPE annotation SYSTEM "file://{tmp_path}/secret">'.encode()
    assert parse_voc(external + document(("car", BOX.format(1, 2, 3, 4)))).names == ("car",)


@pytest.mark.parametrize(
    "content", [b"<annotation><object>", b"no xml", b"\x00\xff", b"<html/>", b"<annotation>&undefined;</annotation>"]
)
def test_other_content(content):
    with pytest.raises(ValueError):
        parse_voc(content)


def test_deeply_nested():
    assert parse_voc(b"<annotation>" + b"<a>" * 50_000 + b"</a>" * 50_000 + b"</annotation>").names == ()
