"""Whether an exported file computes what its generator does."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cgcl_fast.engine import CheckpointError
from cgcl_fast.exporting.interface import Interface

LIMIT = 1e-3
"""The largest difference from eager that a file may have: an eighth of a step of 8 bits, of numbers in [-1, 1]."""

SIZES = ((1, 2, 2), (2, 3, 2), (3, 2, 4))
"""Batch, height and width, in steps of the interface, of what is compared: one image and several, and three shapes."""

TRACED = (2, 3, 5)
"""The same of what the exporters look at, which is none of them."""


class ExportError(CheckpointError):
    """A generator that cannot be exported, or a file that does not compute what it does; one line."""


class Difference(NamedTuple):
    """What one comparison found.

    Attributes:
        shape: (B, C, H, W) of the image.
        domain: name of the domain, "" where there is none.
        largest: the largest absolute difference of the translations, NaN if one of them has NaN.
    """

    shape: tuple[int, ...]
    domain: str
    largest: float


@torch.no_grad()
def differences(interface: Interface, exported: Callable[..., Tensor]) -> Iterator[Difference]:
    """Compare with eager on images of :data:`SIZES`, once for each domain where there are more domains than sizes.

    Args:
        exported: the function that was read from the file.
    """
    names = interface.domains or ("",)
    for number in range(max(len(SIZES), len(names))):
        batch, height, width = SIZES[number % len(SIZES)]
        domain = number % len(names)
        inputs = interface.example(batch, height, width, domain, seed=number)
        expected, found = interface.eager(*inputs), exported(*inputs)
        shape = tuple(inputs[0].shape)
        if found.shape != expected.shape:
            raise ExportError(f"expected {tuple(expected.shape)} of an image {shape}, got {tuple(found.shape)}")
        yield Difference(shape, names[domain], (found - expected).abs().max().item())


def largest_difference(found: Sequence[Difference]) -> float:
    """Of several; NaN if one is."""
    values = [each.largest for each in found]
    return math.nan if any(map(math.isnan, values)) else max(values)


def check(interface: Interface, exported: Callable[..., Tensor], limit: float = LIMIT) -> list[Difference]:
    """The differences from eager.

    Raises:
        ExportError: one is larger than ``limit``, or the file cannot be run.
    """
    found = list(differences(interface, exported))
    largest = largest_difference(found)
    if not largest <= limit:  # nor NaN
        raise ExportError(f"the exported generator differs from eager by {largest:.1e}, more than {limit:.0e}")
    return found
