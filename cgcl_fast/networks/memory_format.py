"""The memory format in which the networks compute."""

from __future__ import annotations

import torch
from torch import Tensor, nn

CONTIGUOUS_TRAINING_ON_CPU = torch.backends.cpu.get_cpu_capability() != "AVX512"
"""Whether training on this CPU is faster in contiguous maps.

Where PyTorch has only AVX2, the gradient of a large convolution's weight takes two to five times as long in
channels_last; all else is about as fast or faster. With AVX-512 whole steps are faster in channels_last.
"""

CHANNELS_LAST_WEIGHTS = ("cuda",)
"""Types of devices on which the weights of convolutions are kept in channels_last.

cuDNN wants them as the maps are, and PyTorch would turn them round in each call, forward and backward. The convolutions
of a CPU reorder weights by themselves.
"""

LARGE_WEIGHT = 1 << 22
"""Numbers in a weight from which a CPU that trains in channels_last keeps it so too.

A weight's gradient then comes in channels_last, and is copied if the weight is not. For weights that no cache holds, as
those of the last convolutions of CGL's discriminators, this copy takes longer than reordering does.
"""


def weights_in_fast_format(module: nn.Module, device: torch.device) -> None:
    """Keep the weights of a module's convolutions, in place, in the memory format of the maps on their device.

    Before an optimiser or a copy is made, of which the state and the weights take over the format.

    Args:
        module: it is on the device.
        device: see ``CHANNELS_LAST_WEIGHTS``, and for a CPU ``LARGE_WEIGHT``; on others nothing is done.
    """
    if device.type in CHANNELS_LAST_WEIGHTS:
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    elif device.type == "cpu" and not CONTIGUOUS_TRAINING_ON_CPU:
        for weight in module.parameters():
            if weight.dim() == 4 and weight.numel() >= LARGE_WEIGHT:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)


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
