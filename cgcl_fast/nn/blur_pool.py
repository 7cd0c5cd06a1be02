"""Anti-aliased resampling by 2 with binomial filters (Zhang, "Making Convolutional Networks Shift-Invariant Again")."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cgcl_fast.nn.pad import reflect_pad


def _binomial(x: Tensor) -> Tensor:
    taps = torch.tensor([0.25, 0.5, 0.25], dtype=x.dtype, device=x.device)
    return torch.outer(taps, taps).expand(x.shape[1], 1, 3, 3)


def blur_down(x: Tensor) -> Tensor:
    """Blur with [1, 2, 1] / 4 along both axes after a reflection padding of 1, and keep every second pixel.

    Args:
        x: (B, C, H, W), H and W at least 2.

    Returns:
        (B, C, ceil(H / 2), ceil(W / 2)).
    """
    return F.conv2d(reflect_pad(x, 1), _binomial(x), stride=2, groups=x.shape[1])


def blur_up(x: Tensor) -> Tensor:
    """Twice the size, by the transposed filter [1, 3, 3, 1] / 4 along both axes after a replication padding of 1.

    An output pixel lies a quarter of a pixel from the nearer of its two neighbours, which is 3/4 and 1/4 of them: the
    published transposed convolution is bilinear interpolation, and the interpolation kernel is several times faster.

    Args:
        x: (B, C, H, W).

    Returns:
        (B, C, 2 H, 2 W).
    """
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
