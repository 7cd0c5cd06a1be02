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
        return split_rows(output, counts)
    return [type(output)(part) for part in zip(*(_split(each, counts) for each in output), strict=True)]


class _SplitRows(torch.autograd.Function):
    """The gradient of PyTorch's own split, and of a slice, is contiguous where a part has none."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, counts: Sequence[int]) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.shape, ctx.counts = x.shape, counts
        pixels = x.dim() == 4 and x.shape[1] > 1 and x.stride(1) == 1
        ctx.memory_format = torch.channels_last if pixels else torch.contiguous_format
        return x.split(counts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None]:
        given = next((grad for grad in grads if grad is not None), None)
        if given is None:
            return None, None
        whole = torch.empty(ctx.shape, dtype=given.dtype, device=given.device, memory_format=ctx.memory_format)
        for part, grad in zip(whole.split(ctx.counts), grads, strict=True):
            part.zero_() if grad is None else part.copy_(grad)
        return whole, None


def split_rows(x: Tensor, counts: Sequence[int]) -> list[Tensor]:
    """``x.split(counts)``, whose gradient is channels_last if x is.

    Args:
        x: (B, ...).
        counts: rows of each part; B in all.
    """
    if len(counts) == 1:
        return [x]
    if torch.compiler.is_compiling():
        return list(x.split(counts))
    return list(_SplitRows.apply(x, counts))
