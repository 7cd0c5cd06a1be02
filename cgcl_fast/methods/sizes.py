"""Images whose sizes may differ: one pass of a network where they agree, as many as there are sizes where not.

With ``--preprocess none`` or ``scale_width`` an image keeps its shape, and a step's two images come in two sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from cgcl_fast.methods.base import Batch


def check_sides(batch: Batch, least: int = 4, multiple: int = 4) -> None:
    """Whether the images of both domains have sides that halvings and doublings give back as they were.

    Raises:
        ValueError: a side is no multiple of ``multiple``, or less than ``least``.
    """
    for name in ("A", "B"):
        height, width = batch[name].shape[2:]
        if height % multiple or width % multiple or min(height, width) < least:
            at_least = f", at least {least}" if least > multiple else ""
            raise ValueError(f"{name}: expected sides that are multiples of {multiple}{at_least}, got {height}x{width}")


def stack(images: Sequence[Tensor]) -> list[Tensor]:
    """Batches (B, ...) as one where they have one size, the rows of one behind those of the other; else as they are."""
    if any(image.shape[1:] != images[0].shape[1:] for image in images):
        return list(images)
    return [torch.cat(list(images))]


def together(network: Callable[..., Any], jobs: Sequence[Tensor | tuple[Tensor, ...]]) -> list[Any]:
    """What a network makes of each of several batches, in one pass where their sizes agree and one a size where not.

    Args:
        network: takes one tensor (B, ...) or several with as many rows, and gives a tensor with as many rows, or a list
            or tuple of such.
        jobs: what it takes each time: a tensor, or a tuple of them.

    Returns:
        A result for each job, in their order: what ``[network(*job) for job in jobs]`` gives of a network that looks
        at each row by itself.
    """
    arguments = [job if isinstance(job, tuple) else (job,) for job in jobs]
    sizes = [tuple(tensor.shape[1:] for tensor in job) for job in arguments]
    results: list[Any] = [None] * len(jobs)
    for size in dict.fromkeys(sizes):
        places = [place for place, other in enumerate(sizes) if other == size]
        found = network(*map(torch.cat, zip(*(arguments[place] for place in places), strict=True)))
        parts = _split(found, [len(arguments[place][0]) for place in places])
        for place, part in zip(places, parts, strict=True):
            results[place] = part
    return results


def _split(found: Any, counts: list[int]) -> list[Any]:
    """The rows of a network's result, so many in each part."""
    if isinstance(found, Tensor):
        return list(found.split(counts))
    return [type(found)(part) for part in zip(*(_split(each, counts) for each in found), strict=True)]
