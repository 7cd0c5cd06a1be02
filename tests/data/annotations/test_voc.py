"""Pascal VOC."""

from __future__ import annotations

import random
import tracemalloc
from xml.etree import ElementTree

import numpy as np
import pytest

from cgcl_fast.data.annotations.annotation import annotation
from cgcl_fast.data.annotations.voc import DEEPEST, parse_voc

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
        with pytest.raises(ValueError, match="its DOCTYPE has declarations"):
            parse_voc(content)
    external = f'<!DOCTYPE annotation SYSTEM "file://{tmp_path}/secret">'.encode()
    assert parse_voc(external + document(("car", BOX.format(1, 2, 3, 4)))).names == ("car",)


@pytest.mark.parametrize(
    "content", [b"<annotation><object>", b"no xml", b"\x00\xff", b"<html/>", b"<annotation>&undefined;</annotation>"]
)
def test_other_content(content):
    with pytest.raises(ValueError):
        parse_voc(content)


def test_default_attributes_that_make_a_small_file_fill_the_memory_are_refused():
    attribute = f'<!DOCTYPE annotation [<!ATTLIST a x CDATA "{"x" * 10_000}">]>'.encode()
    with pytest.raises(ValueError, match="its DOCTYPE has declarations"):
        parse_voc(attribute + b"<annotation>" + b"<a/>" * 10_000 + b"</annotation>")


def test_many_small_elements_take_little_more_memory_than_their_file():
    content = b"<annotation>" + b"<a/>" * 200_000 + b"</annotation>"
    tracemalloc.start()
    try:
        assert parse_voc(content).names == ()
        assert tracemalloc.get_traced_memory()[1] < 2 * len(content)
    finally:
        tracemalloc.stop()


def test_deeply_nested():
    def nested(depth):
        return b"<annotation>" + b"<a>" * (depth - 1) + b"</a>" * (depth - 1) + b"</annotation>"

    assert parse_voc(nested(DEEPEST)).names == ()
    for depth in (DEEPEST + 1, 50_000):
        with pytest.raises(ValueError, match="more than 100 elements inside each other"):
            parse_voc(nested(depth))


def test_an_encoding_that_nobody_knows_is_no_xml():
    for encoding in ("shift-jis-99", "zlib", "idna"):
        with pytest.raises(ValueError):
            parse_voc(f'<?xml version="1.0" encoding="{encoding}"?>'.encode() + document(("car", "")))


def of_tree(content):
    """The boxes of a document as a tree of all its elements gives them."""
    root = ElementTree.fromstring(content)
    rows = []
    for entry in root.iterfind("object"):
        box = entry.find("bndbox")
        corners = [None if box is None else box.findtext(side) for side in ("xmin", "ymin", "xmax", "ymax")]
        rows.append(((entry.findtext("name") or "").strip(), corners))
    return annotation(rows, size=(root.findtext("size/width"), root.findtext("size/height")))


def element(rng, tag, depth=0):
    children = [
        "size",
        "width",
        "height",
        "object",
        "name",
        "bndbox",
        "xmin",
        "ymin",
        "xmax",
        "ymax",
        "part",
        "<!---->",
    ]
    parts = [rng.choice(["1", "2.5", " ", "car", "&lt;", ""])]
    for _ in range(rng.randrange(6) if depth < 4 else 0):
        child = rng.choice(children)
        parts.append(child if child.startswith("<") else element(rng, child, depth + 1))
        parts.append(rng.choice(["3", "x", ""]))
    return f"<{tag}>{''.join(parts)}</{tag}>"


def test_what_stands_where_is_taken_as_from_a_tree():
    rng, boxes = random.Random(0), 0
    for _ in range(400):
        sides = [f"<{side}>{rng.randrange(9)}</{side}>" for side in ("xmin", "ymin", "xmax", "ymax")]
        wild = [element(rng, rng.choice(["object", "size", "name", "bndbox"])) for _ in range(3)]
        inside = [element(rng, rng.choice(["name", "bndbox", "part"])) for _ in range(2)]
        inside.append(f"<bndbox>{''.join(sides)}{element(rng, 'xmin')}</bndbox>")
        rng.shuffle(inside)
        wild.append(f"<object>{''.join(inside)}</object>")
        rng.shuffle(wild)
        content = f"<annotation>{''.join(wild)}</annotation>"
        found, expected = parse_voc(content.encode()), of_tree(content)
        assert (found.names, found.broken, found.size) == (expected.names, expected.broken, expected.size)
        np.testing.assert_array_equal(found.boxes, expected.boxes)
        boxes += len(found.names)
    assert boxes > 100
