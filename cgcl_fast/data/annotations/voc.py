"""Pascal VOC: an XML file an image, ``<annotation>`` with an ``<object>`` for each box.

    <object><name>car</name><bndbox><xmin>10</xmin><ymin>20</ymin><xmax>50</xmax><ymax>60</ymax></bndbox></object>

Corners are taken as they are, in pixels from 0. The ``<filename>`` inside is not looked at: it often has another
suffix than the image. Nothing outside the file is read: a file that declares entities of its own is refused.
"""

from __future__ import annotations

from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from cgcl_fast.data.annotations.annotation import Annotation, annotation


def parse_voc(data: bytes) -> Annotation:
    """The boxes of a file.

    Raises:
        ValueError: it is no XML, declares entities, or is XML of something else.
    """
    root = _tree(data)
    if root.tag.lower() != "annotation":
        raise ValueError(f"its outermost element is <{root.tag[:40]}>, not <annotation>")
    rows = []
    for entry in root.iterfind("object"):
        box = entry.find("bndbox")  # a child: the parts of an object have boxes and names of their own
        corners = [None if box is None else box.findtext(side) for side in ("xmin", "ymin", "xmax", "ymax")]
        rows.append(((entry.findtext("name") or "").strip(), corners))
    return annotation(rows, size=(root.findtext("size/width"), root.findtext("size/height")))


def _tree(data: bytes) -> Element:
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.EntityDeclHandler = _refuse
    try:
        parser.Parse(_readable(data), True)
        return builder.close()
    except (expat.ExpatError, AssertionError) as error:
        raise ValueError(f"no XML: {error}") from error


def _refuse(*declaration: object) -> None:
    raise ValueError("it declares entities")


def _readable(data: bytes) -> bytes:
    """Bytes that are no UTF-8, though nothing in the file says that they are anything else, as UTF-8."""
    if b"encoding" in data[:100] or data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1").encode("utf-8")
    return data
