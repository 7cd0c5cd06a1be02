"""Pascal VOC: one XML file per image, ``<annotation>`` with an ``<object>`` for each box.

    <object><name>car</name><bndbox><xmin>10</xmin><ymin>20</ymin><xmax>50</xmax><ymax>60</ymax></bndbox></object>

Corners are used as they are, in pixels from 0. The ``<filename>`` in the file is ignored: its suffix often differs from
the image's. The parser never reads outside the file, keeps nothing but the boxes, and rejects files that declare
entities or default attributes, which can expand to many times the file's size.
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.parsers import expat

from cgcl_fast.data.annotations.annotation import Annotation, annotation

DEEPEST = 100
"""Maximum nesting depth of elements; a box needs five."""

_SIDES = ("xmin", "ymin", "xmax", "ymax")
_SIZE: dict[tuple[str, ...], str] = {("size", side): side for side in ("width", "height")}
_OBJECT: dict[tuple[str, ...], str] = {("object", "name"): "name"} | {("object", "bndbox", s): s for s in _SIDES}


def parse_voc(data: bytes) -> Annotation:
    """The boxes of a file.

    Raises:
        ValueError: it is not XML, contains declarations, is nested too deeply, or is not Pascal VOC.
    """
    reader = _Reader()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = reader.doctype
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.characters
    try:
        parser.Parse(_readable(data), True)
    except (expat.ExpatError, LookupError) as error:  # LookupError: an encoding that Python does not know
        raise ValueError(f"no XML: {error}") from error
    return annotation(reader.rows, size=(reader.size.get("width"), reader.size.get("height")))


class _Reader:
    """Collects the boxes while parsing; a tree of all elements would be far larger than the file.

    Attributes:
        rows: class and corners of each object.
        size: of the image, if the file has it.
    """

    def __init__(self) -> None:
        self.rows: list[tuple[str, Sequence[str | None]]] = []
        self.size: dict[str, str] = {}
        self._inside: list[str] = []  # the open elements
        self._object: dict[str, str] = {}
        self._boxes = 0  # of the object
        self._text: list[str] | None = None  # of the last opened element, if it is needed

    def doctype(self, name: str, system: str | None, public: str | None, declarations: int) -> None:
        if declarations:
            raise ValueError("its DOCTYPE has declarations, which could make it fill the memory")

    def start(self, tag: str, attributes: object) -> None:
        self._keep_text()
        if not self._inside and tag.lower() != "annotation":
            raise ValueError(f"its outermost element is <{tag[:40]}>, not <annotation>")
        if len(self._inside) == DEEPEST:
            raise ValueError(f"it has more than {DEEPEST} elements inside each other")
        self._inside.append(tag)
        place = tuple(self._inside[1:])
        if place == ("object",):
            self._object, self._boxes = {}, 0
        elif place == ("object", "bndbox"):  # a child element: the parts of an object have boxes and names, too
            self._boxes += 1
        elif place in _SIZE or place == ("object", "name") or (place in _OBJECT and self._boxes == 1):
            self._text = []

    def characters(self, text: str) -> None:
        if self._text is not None:
            self._text.append(text)

    def end(self, tag: str) -> None:
        self._keep_text()
        self._inside.pop()
        if len(self._inside) == 1 and tag == "object":
            annotated = self._object
            corners = [annotated.get(side) for side in _SIDES] if self._boxes else ()
            self.rows.append((annotated.get("name", "").strip(), corners))

    def _keep_text(self) -> None:
        """Of repeated elements the first counts; of its text, what comes before any child element."""
        if self._text is None:
            return
        text, self._text = "".join(self._text), None
        place = tuple(self._inside[1:])
        if place in _SIZE:
            self.size.setdefault(_SIZE[place], text)
        else:
            self._object.setdefault(_OBJECT[place], text)


def _readable(data: bytes) -> bytes:
    """The bytes as UTF-8: re-encodes them if they are not valid UTF-8 and the file declares no other encoding."""
    if b"encoding" in data[:100] or data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1").encode("utf-8")
    return data
