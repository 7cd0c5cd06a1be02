"""What a generator costs: the size of its weights, and the time that an image takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

TIMES = 10
"""Translations that the time is the median of, after as many as ``WARM``."""

WARM = 2


def model_bytes(generator: nn.Module) -> int:
    """Bytes of its parameters as float32, as the papers count the size of a model (1 MB is 10⁶)."""
    return 4 * sum(parameter.numel() for parameter in generator.parameters())


def seconds_an_image(translate: Callable[[Tensor], object], image: Tensor, device: torch.device) -> float:
    """Median of the time of one translation, with its way to the device and back.

    Args:
        image: (1, C, H, W).
    """
    taken = []
    for number in range(WARM + TIMES):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        begin = time.perf_counter()
        translate(image)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number >= WARM:
            taken.append(time.perf_counter() - begin)
    return statistics.median(taken)
