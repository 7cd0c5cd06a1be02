"""Memory formats of feature maps."""

from __future__ import annotations

import torch
from torch import Tensor


def kernel_format(x: Tensor) -> torch.memory_format:
    """The memory format in which the kernels write a map like x: channels_last where x's channels are neighbours."""
    _, C, H, W = x.shape
    _, c, h, w = x.stride()
    rows_follow = (H == 1 or h >= C) if W == 1 else w >= C and (H == 1 or h == W * w)
    if C > 1 and H * W > 1 and c == 1 and rows_follow:
        return torch.channels_last
    return torch.contiguous_format


def empty_map(x: Tensor, channels: int) -> Tensor:
    """A map of x's images, size and dtype with `channels` channels, in the memory format in which kernels write it."""
    B, _, H, W = x.shape
    return torch.empty((B, channels, H, W), dtype=x.dtype, device=x.device, memory_format=kernel_format(x))
