"""The value range of a domain, measured from its images if nobody states it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cgcl_fast.data.decoding import read_file, type_of
from cgcl_fast.data.formats import Reading, UnreadableImageError
from cgcl_fast.data.values import PHOTOGRAPH, Values, measured

MEASURED = 256
"""Number of images measured, spread evenly over the domain, so that any folder takes only seconds."""


def measure(paths: Sequence[Path], reading: Reading, span: tuple[float, float] | None = None) -> Values:
    """Type and range of the numbers in a domain's images; :mod:`cgcl_fast.data.values` has the rule.

    Args:
        paths: the images; ``MEASURED`` of them are read.
        reading: how they are read; its values are ignored.
        span: the range, if it is given; then only the type is looked up.

    Raises:
        ValueError: no range is given and all numbers are equal, or ``span`` is not a range.
    """
    count = min(len(paths), MEASURED)
    looked_at = [paths[number * len(paths) // count] for number in range(count)]
    types = {path: pixel_type for path in looked_at if (pixel_type := type_of(path, reading)) is not None}
    # The most frequent type other than 8 bits; images of 8 bits are read as photographs anyway.
    deep = Counter(pixel_type for pixel_type in types.values() if pixel_type != PHOTOGRAPH.type).most_common(1)
    kind = deep[0][0] if deep else PHOTOGRAPH.type
    if span is not None:
        return Values(kind, *span)
    if not deep:
        return PHOTOGRAPH
    return measured(_numbers([path for path, pixel_type in types.items() if pixel_type == kind], reading), kind)


def _numbers(paths: Sequence[Path], reading: Reading) -> Iterator[np.ndarray]:
    for path in paths:
        try:
            yield read_file(path, reading).numbers
        except UnreadableImageError:  # reported when the image itself is read
            continue


def with_values(
    readings: Mapping[str, Reading], paths: Mapping[str, Sequence[Path]], span: tuple[float, float] | None
) -> dict[str, Reading]:
    """The readings of all domains with values: their own, else from ``span``, else measured from ``paths``."""
    readings_with_values = {}
    for domain, reading in readings.items():
        try:
            values = reading.values or measure(paths[domain], reading, span)
        except ValueError as error:
            raise ValueError(f"{error} (domain {domain})") from error
        readings_with_values[domain] = replace(reading, values=values)
    return readings_with_values
