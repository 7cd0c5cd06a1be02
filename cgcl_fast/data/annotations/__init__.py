"""Object boxes in the file formats of common data sets: :mod:`.reading` lists the formats, :mod:`.index` describes
where the files are searched."""

from __future__ import annotations

from cgcl_fast.data.annotations.annotation import EMPTY, Annotation
from cgcl_fast.data.annotations.index import AnnotationIndex

__all__ = ["EMPTY", "Annotation", "AnnotationIndex"]
