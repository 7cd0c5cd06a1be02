"""The cost of a generator: the size of its weights, and the time per image."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

TIMES = 10
"""The time is the median of this many translations, after ``WARM`` others."""

WARM = 2


def model_bytes(generator: nn.Module) -> int:
    """Bytes of its parameters as float32: the model size that the papers report (1 MB is 10⁶)."""
    return 4 * sum(parameter.numel() for parameter in generator.parameters())


def seconds_an_image(translate: Callable[[Tensor], object], image: Tensor, device: torch.device) -> float:
    """Median time of a translation, including the transfer to the device and back.

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
