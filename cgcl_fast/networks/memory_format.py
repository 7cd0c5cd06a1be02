"""The memory format in which the networks compute."""

from __future__ import annotations

import torch
from torch import Tensor

CONTIGUOUS_TRAINING_ON_CPU = torch.backends.cpu.get_cpu_capability() != "AVX512"
"""Whether training on this CPU is faster in contiguous maps.

Where PyTorch has only AVX2, the gradient of a large convolution's weight takes two to five times as long in
channels_last; all else is about as fast or faster. With AVX-512 whole steps are faster in channels_last.
"""


def in_fast_format(x: Tensor) -> Tensor:
    """A map in the memory format in which convolutions on its device are fastest; a copy unless it is in that already.

    That is channels_last, except where gradients are recorded on a CPU without AVX-512. Convolutions, norms and the
    operators of this package keep the format, so a network calls this once, on its input.

    Args:
        x: (B, C, H, W).
    """
    if torch.jit.is_scripting():  # for inference
        return x.contiguous(memory_format=torch.channels_last)
    # A trace is for inference too, and PyTorch compares it with a second one, made without gradients.
    training = torch.is_grad_enabled() and not torch.jit.is_tracing()
    if CONTIGUOUS_TRAINING_ON_CPU and x.device.type == "cpu" and training:
        return x.contiguous()
    return x.contiguous(memory_format=torch.channels_last)
