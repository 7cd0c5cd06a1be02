"""The numbers in images: their type, and which of them map to -1 and 1.

The rule: 8-bit numbers range from 0 to 255, whatever an image contains. For other types a training uses ``--range`` or,
per domain, the smallest and the largest number in its training images; config and generator keep them, so that resuming
and translating use the same. If nothing is known (a published generator) it is the full range of an integer type, and
0 to 1 for floating point.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64")
"""Number types in which images are read and written."""


@dataclass(frozen=True)
class Values:
    """The range of the numbers in a domain's images.

    Args:
        type: one of ``TYPES``.
        low: maps to -1, as do lower numbers.
        high: maps to 1, as do higher numbers.

    Raises:
        ValueError: an unknown type, or a range that is not finite or empty.
    """

    type: str = "uint8"
    low: float = 0.0
    high: float = 255.0

    def __post_init__(self) -> None:
        if self.type not in TYPES:
            raise ValueError(f"type: expected one of {', '.join(TYPES)}, got {self.type!r}")
        for name in ("low", "high"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ValueError(f"range: expected two finite numbers, got {value!r}")
            object.__setattr__(self, name, float(value))
        if not self.low < self.high:
            raise ValueError(f"range: expected the lower number before the higher one, got {self.low:g} {self.high:g}")

    def __str__(self) -> str:
        return f"{self.type}, {self.low:g} to {self.high:g}"


PHOTOGRAPH = Values()


def values_of_type(type: str) -> Values:
    """The range of a type, for images about which nothing else is known."""
    if type.startswith("float"):
        return Values(type, 0.0, 1.0)
    return Values(type, float(np.iinfo(type).min), float(np.iinfo(type).max))


def values_read(type: str, domain: Values | None) -> Values:
    """How a file with numbers of ``type`` is read in a domain.

    The domain's range applies if both the file and the domain have 8 bits, or neither has: a photograph among 12-bit
    images still ranges from 0 to 255.
    """
    if domain is not None and (domain.type == "uint8") == (type == "uint8"):
        return Values(type, domain.low, domain.high)
    return values_of_type(type)


def values_written(read: Values, source: Values | None, target: Values | None) -> Values:
    """How the translation of an image is written.

    It is an image of the target domain, so its numbers have that domain's range. Their type is that of the image read,
    unless the types of the two domains differ.

    Args:
        read: how the image was read.
        source, target: of the domains; None if unknown.
    """
    if source is None or target is None:
        return read
    if source.type != target.type:
        return target
    return Values(read.type, target.low, target.high) if (read.low, read.high) == (source.low, source.high) else read


def to_unit(array: np.ndarray, values: Values) -> Tensor:
    """Numbers (H, W, C) as float32 (C, H, W) in [-1, 1], clipped to the range; numbers that are not finite map to the
    lowest."""
    # With NumPy, here and below: torch would start separate threads for each calling thread.
    planes = np.ascontiguousarray(array.transpose(2, 0, 1))
    if planes.dtype.kind == "f" or planes.dtype.itemsize > 2:
        planes = np.nan_to_num(planes.astype(np.float64), nan=values.low, posinf=values.low, neginf=values.low)
        planes -= values.low
        planes *= 2.0 / (values.high - values.low)
        planes = (planes - 1.0).astype(np.float32)
    else:
        planes = planes.astype(np.float32)
        planes -= np.float32(values.low)
        planes /= np.float32((values.high - values.low) / 2)
        planes -= np.float32(1.0)
    return torch.from_numpy(planes.clip(-1, 1, out=planes))


def from_unit(images: Tensor, values: Values) -> np.ndarray:
    """The inverse of :func:`to_unit`: float (C, H, W) to numbers (H, W, C) of the type, rounded for integer types;
    values beyond [-1, 1] are clipped."""
    exact = torch.float32 if np.dtype(values.type).itemsize <= 2 else torch.float64  # holds all their numbers
    numbers = images.detach().to("cpu", exact).permute(1, 2, 0).numpy().clip(-1, 1)
    numbers += 1.0
    numbers *= (values.high - values.low) / 2
    numbers += values.low
    if values.type.startswith("float"):
        return numbers.astype(values.type)
    kind = np.iinfo(values.type)
    np.rint(numbers, out=numbers)
    return np.ascontiguousarray(numbers.clip(kind.min, kind.max).astype(values.type))


def measured(images: Iterable[np.ndarray], type: str) -> Values:
    """The range from the smallest to the largest number in images, ignoring those that are not finite.

    Raises:
        ValueError: all numbers are equal, or none is finite.
    """
    low, high = math.inf, -math.inf
    for image in images:
        finite = image[np.isfinite(image)] if image.dtype.kind == "f" else image
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    if not low < high:
        what = f"only the number {low:g}" if low == high else "no finite number"
        raise ValueError(f"range: the images hold {what}; --range LOW HIGH says what becomes -1 and 1")
    return Values(type, low, high)


def values_to_dict(values: Mapping[str, Values]) -> dict[str, dict[str, Any]]:
    """As plain containers, for configs and generators."""
    return {domain: asdict(each) for domain, each in values.items()}


def values_from_dict(entries: Any) -> dict[str, Values]:
    """The inverse of :func:`values_to_dict`; ``type`` may be left out.

    Raises:
        ValueError: the content is not of that form.
    """
    if not isinstance(entries, Mapping):
        raise ValueError(f"ranges: expected a range for each domain, got {entries!r}")
    values = {}
    for domain, each in entries.items():
        if not isinstance(domain, str) or not isinstance(each, Mapping) or not {"low", "high"} <= each.keys():
            raise ValueError(f"ranges: expected low, high and type of {domain}, got {each!r}")
        if each.keys() - {"low", "high", "type"}:
            raise ValueError(f"ranges: expected low, high and type of {domain}, got {', '.join(map(str, each))}")
        values[domain] = Values(**each)
    return values


def as_shown(images: Tensor) -> Tensor:
    """(B, C, H, W) with any number of channels as (B, 3, H, W), as in sample grids and colour comparisons: the first of
    one or two channels as grey, the first three of three and more."""
    return images[:, :3] if images.shape[1] >= 3 else images[:, :1].expand(-1, 3, -1, -1)


def as_picture(images: Tensor) -> Image.Image:
    """The first of (B, C, H, W) in [-1, 1] as an 8-bit picture, with channels as in ``as_shown``."""
    return Image.fromarray(from_unit(as_shown(images.float())[0], PHOTOGRAPH))
