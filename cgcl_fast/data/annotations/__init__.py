"""Boxes of objects in the files of common data sets; :mod:`.reading` lists the formats, :mod:`.index` says where the
files are looked for."""

from __future__ import annotations

from cgcl_fast.data.annotations.annotation import EMPTY, Annotation
from cgcl_fast.data.annotations.index import AnnotationIndex

__all__ = ["EMPTY", "Annotation", "AnnotationIndex"]
