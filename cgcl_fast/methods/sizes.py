"""Images of different sizes: one pass of a network if the sizes agree, one pass per size otherwise.

With ``--preprocess none`` or ``scale_width`` images keep their shape, so a step's two images may differ in size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from cgcl_fast.methods.base import Batch


def check_sides(batch: Batch, least: int = 4, multiple: int = 4) -> None:
    """Check that halving and doubling restores the sides of both domains' images.

    Raises:
        ValueError: a side is not a multiple of ``multiple``, or less than ``least``.
    """
    for name in ("A", "B"):
        height, width = batch[name].shape[2:]
        if height % multiple or width % multiple or min(height, width) < least:
            at_least = f", at least {least}" if least > multiple else ""
            raise ValueError(f"{name}: expected sides that are multiples of {multiple}{at_least}, got {height}x{width}")


def stack(images: Sequence[Tensor]) -> list[Tensor]:
    """Batches (B, ...) of one size joined into one, row blocks in order; otherwise the batches as they are."""
    if any(image.shape[1:] != images[0].shape[1:] for image in images):
        return list(images)
    return [torch.cat(list(images))]


def together(network: Callable[..., Any], jobs: Sequence[Tensor | tuple[Tensor, ...]]) -> list[Any]:
    """A network's results for several batches, in one pass if their sizes agree, otherwise in one pass per size.

    Args:
        network: takes one tensor (B, ...), or several with the same number of rows, and returns a tensor with that
            number of rows, or a list or tuple of such.
        jobs: its inputs for each batch: a tensor, or a tuple of tensors.

    Returns:
        One result per job, in order: the same as ``[network(*job) for job in jobs]`` if the network treats rows
        independently.
    """
    arguments = [job if isinstance(job, tuple) else (job,) for job in jobs]
    sizes = [tuple(tensor.shape[1:] for tensor in job) for job in arguments]
    results: list[Any] = [None] * len(jobs)
    for size in dict.fromkeys(sizes):
        places = [place for place, other in enumerate(sizes) if other == size]
        output = network(*map(torch.cat, zip(*(arguments[place] for place in places), strict=True)))
        parts = _split(output, [len(arguments[place][0]) for place in places])
        for place, part in zip(places, parts, strict=True):
            results[place] = part
    return results


def _split(output: Any, counts: list[int]) -> list[Any]:
    """Split the rows of a network's result into parts of the given sizes."""
    if isinstance(output, Tensor):
        return list(output.split(counts))
    return [type(output)(part) for part in zip(*(_split(each, counts) for each in output), strict=True)]
