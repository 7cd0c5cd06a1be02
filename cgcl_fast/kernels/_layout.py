"""Memory formats of feature maps, and what `torch.compile` is told about the results of C++ and Triton kernels."""

from __future__ import annotations

import torch
from torch import Tensor


def is_channels_last(x: Tensor) -> bool:
    """Whether x's channels are contiguous in memory and its rows follow each other."""
    _, C, H, W = x.shape
    _, c, h, w = x.stride()
    rows_follow = (H == 1 or h >= C) if W == 1 else w >= C and (H == 1 or h == W * w)
    return C > 1 and H * W > 1 and c == 1 and rows_follow


def has_pixels(x: Tensor) -> bool:
    """Whether x's channels are contiguous in memory, as of a channels_last map or a part of one."""
    _, C, H, W = x.shape
    return C > 1 and H * W > 1 and x.stride(1) == 1 and (W == 1 or x.stride(3) >= C)


def is_linear(*maps: Tensor) -> bool:
    """Whether, in each map, consecutive positions of a plane are the same distance apart, across row ends too."""
    return all(x.shape[2] == 1 or x.stride(2) == x.shape[3] * x.stride(3) for x in maps)


def kernel_format(x: Tensor) -> torch.memory_format:
    """The memory format of the kernels' results for a map like x: channels_last if x's channels are contiguous."""
    return torch.channels_last if is_channels_last(x) else torch.contiguous_format


def empty_map(x: Tensor, channels: int) -> Tensor:
    """An uninitialised map like x with `channels` channels, in the kernels' memory format."""
    B, _, H, W = x.shape
    return torch.empty((B, channels, H, W), dtype=x.dtype, device=x.device, memory_format=kernel_format(x))
