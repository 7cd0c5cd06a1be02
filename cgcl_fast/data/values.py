"""What the numbers in images are: their type, and which of them become -1 and 1.

The rule: numbers of 8 bits go from 0 to 255, whatever an image holds. Of other types a training takes ``--range``, or
the least and the greatest number in its training images, for each domain; its config and its generator keep them, so
that going on and translating use the same. Where nothing is known (a published generator) it is the range of the type:
all of an integer type, 0 to 1 of floating point.
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
"""Types of numbers that images are read and written with."""


@dataclass(frozen=True)
class Values:
    """The numbers of the images of a domain.

    Args:
        type: one of ``TYPES``.
        low: what becomes -1; lower numbers do too.
        high: what becomes 1; higher numbers do too.

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
    """The range of a type, for images of which nothing else is known."""
    if type.startswith("float"):
        return Values(type, 0.0, 1.0)
    return Values(type, float(np.iinfo(type).min), float(np.iinfo(type).max))


def values_read(type: str, domain: Values | None) -> Values:
    """How a file with numbers of ``type`` is read in a domain.

    Numbers of 8 bits have the domain's range only where the domain's images have 8 bits, and others only where they
    have not: a photograph among 12-bit images still goes from 0 to 255.
    """
    if domain is not None and (domain.type == "uint8") == (type == "uint8"):
        return Values(type, domain.low, domain.high)
    return values_of_type(type)


def values_written(read: Values, source: Values | None, target: Values | None) -> Values:
    """How the translation of an image is written.

    It is an image of the target domain, so its numbers have that domain's range; their type is that of the image that
    was read, unless the two domains differ in it.

    Args:
        read: how the image was read.
        source, target: of the domains; None where that is not known.
    """
    if source is None or target is None:
        return read
    if source.type != target.type:
        return target
    return Values(read.type, target.low, target.high) if (read.low, read.high) == (source.low, source.high) else read


def to_unit(array: np.ndarray, values: Values) -> Tensor:
    """Numbers (H, W, C) as float32 (C, H, W) in [-1, 1]; beyond the range they are clipped, and what is not finite is
    taken for the lowest."""
    # In NumPy, here and below: every thread that asks torch for this would start threads of its own for it.
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
    """The inverse of :func:`to_unit`: float (C, H, W) to numbers (H, W, C) of the type, rounded where it has no
    fractions; values beyond [-1, 1] are clipped."""
    exact = torch.float32 if np.dtype(values.type).itemsize <= 2 else torch.float64  # that have all of the numbers
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
    """The least and the greatest number in images; what is not finite does not count.

    Raises:
        ValueError: all numbers are the same, or none is finite.
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
    """Plain containers, as configs and generators keep them."""
    return {domain: asdict(each) for domain, each in values.items()}


def values_from_dict(entries: Any) -> dict[str, Values]:
    """The inverse of :func:`values_to_dict`; ``type`` may be left out.

    Raises:
        ValueError: it is something else.
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
    """(B, C, H, W) of any channels as the (B, 3, H, W) that is shown in sample grids and compared in colour: of one or
    two channels the first in grey, of three and more the first three."""
    return images[:, :3] if images.shape[1] >= 3 else images[:, :1].expand(-1, 3, -1, -1)


def as_picture(images: Tensor) -> Image.Image:
    """The first of (B, C, H, W) in [-1, 1] as a picture of 8 bits, of other than three channels ``as_shown``."""
    return Image.fromarray(from_unit(as_shown(images.float())[0], PHOTOGRAPH))
