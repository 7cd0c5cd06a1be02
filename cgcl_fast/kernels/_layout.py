"""Memory formats of feature maps: what `torch.compile` is told of the results of kernels, C++ and Triton."""

from __future__ import annotations

import torch
from torch import Tensor


def is_channels_last(x: Tensor) -> bool:
    """Whether x's channels are neighbours in memory and its rows follow each other."""
    _, C, H, W = x.shape
    _, c, h, w = x.stride()
    rows_follow = (H == 1 or h >= C) if W == 1 else w >= C and (H == 1 or h == W * w)
    return C > 1 and H * W > 1 and c == 1 and rows_follow


def is_linear(*maps: Tensor) -> bool:
    """Whether in each map the step from a position to the next is the same over the whole plane."""
    return all(x.shape[2] == 1 or x.stride(2) == x.shape[3] * x.stride(3) for x in maps)


def kernel_format(x: Tensor) -> torch.memory_format:
    """The memory format in which the kernels write a map like x: channels_last where x's channels are neighbours."""
    return torch.channels_last if is_channels_last(x) else torch.contiguous_format


def empty_map(x: Tensor, channels: int) -> Tensor:
    """A map of x's images, size and dtype with `channels` channels, in the memory format in which kernels write it."""
    B, _, H, W = x.shape
    return torch.empty((B, channels, H, W), dtype=x.dtype, device=x.device, memory_format=kernel_format(x))
