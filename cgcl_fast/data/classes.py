"""Names of object classes: which requested class a name in an annotation means."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from cgcl_fast.data.formats import printable

logger = logging.getLogger(__name__)

_NAMED = 1000  # limits the log: this many left-out classes, and letters of a name
_LETTERS = 100

# Synonyms of different data sets. The left name is read as the right one if only the right one is requested, so that
# KITTI and Cityscapes share the four classes of MGUIT's Sec. 4.1, and BDD100K and INIT the three of INIT.
_SYNONYMS = {
    "pedestrian": "person",
    "person sitting": "person",
    "cyclist": "bicycle",
    "bike": "bicycle",
    "motor": "motorcycle",
    "motorbike": "motorcycle",
    "traffic sign": "sign",
    "t sign": "sign",
}


class ClassTable:
    """Indices of classes by name. Case, and joining words by spaces, ``_`` or ``-``, make no difference.

    Args:
        classes: the names, in index order. Integers are accepted for names that are numbers, as in INIT's label files
            and in YOLO's without a list of names.

    Raises:
        ValueError: no classes, an empty name, or a name twice.
    """

    def __init__(self, classes: Sequence[str | int]) -> None:
        if isinstance(classes, str) or not classes or not all(type(name) is int or _is_name(name) for name in classes):
            raise ValueError(f"classes must be one or more names, got {classes!r}")
        self.names = tuple(map(str, classes))
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"classes must differ from each other, got {', '.join(self.names)}")
        self._exact = {name: index for index, name in enumerate(self.names)}
        self._plain: dict[str, int] = {}
        for index, name in enumerate(self.names):
            self._plain.setdefault(_plain(name), index)
        self._unknown: set[str] = set()

    def find(self, name: str) -> int | None:
        """The index of the class, or None if it was not requested; such names are logged, each once."""
        if name in self._exact:
            return self._exact[name]
        plain = _plain(name)
        number = self._plain.get(plain, self._plain.get(_plain(_SYNONYMS.get(plain, ""))))
        if number is None and name not in self._unknown and len(self._unknown) <= _NAMED:
            self._unknown.add(name)
            if len(self._unknown) <= _NAMED:
                known = ", ".join(map(printable, self.names))
                logger.warning("boxes of class %r are left out: classes are %s", name[:_LETTERS], known)
            elif len(self._unknown) == _NAMED + 1:
                logger.warning("boxes of more than %d other classes are left out", _NAMED)
        return number


def _is_name(name: object) -> bool:
    return isinstance(name, str) and name != ""


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())
