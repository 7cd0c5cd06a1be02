"""Padding of maps and its gradient, in plain PyTorch. Both keep the memory format and give the same bits every time.

PyTorch's own kernels do so on a CPU. On a GPU they only take and return contiguous maps, so that a channels_last map is
copied on the way in and again on the way out, and their gradients use atomic additions, whose order varies.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def padded(x: Tensor, pad: int, mode: str) -> Tensor:
    """(B, C, H, W) to (B, C, H + 2 pad, W + 2 pad), `mode` "reflect" or "replicate"; with derivatives of any order."""
    # For maps without channels F.pad only supports constant padding.
    return F.pad(x, (pad,) * 4, mode="constant" if x.shape[1] == 0 else mode)


def gathered(x: Tensor, pad: int) -> Tensor:
    """`padded` with reflection, for a dense channels_last map: copies whole pixels in one pass. Without a gradient."""
    B, C, H, W = x.shape
    rows, columns = (_reflected(n, pad, x.device) for n in (H, W))
    pixels = x.permute(0, 2, 3, 1).reshape(B, H * W, C)
    copied = pixels.index_select(1, (rows[:, None] * W + columns).flatten())
    return copied.view(B, H + 2 * pad, W + 2 * pad, C).permute(0, 3, 1, 2)


def _reflected(n: int, pad: int, device: torch.device) -> Tensor:
    """The source positions of a reflected side of length n."""
    return n - 1 - (n - 1 - torch.arange(-pad, n + pad, device=device).abs()).abs()


def folded(grad: Tensor, pad: int, mode: str) -> Tensor:
    """The gradient of `padded`: (B, C, H + 2 pad, W + 2 pad) to (B, C, H, W).

    One pass over the map; the small margins are added to the positions that they copy.
    """
    middle, low, high = (_folded(part, 2, pad, mode) for part in _parts(grad, 3, pad))
    return _with_ends(middle, low, high, 3, mode)


def _folded(grad: Tensor, dim: int, pad: int, mode: str) -> Tensor:
    middle, low, high = _parts(grad, dim, pad)
    return _with_ends(middle.clone(), low, high, dim, mode)


def _parts(grad: Tensor, dim: int, pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """The middle of a padded side, and its two margins."""
    size = grad.shape[dim]
    return grad.narrow(dim, pad, size - 2 * pad), grad.narrow(dim, 0, pad), grad.narrow(dim, size - pad, pad)


def _with_ends(middle: Tensor, low: Tensor, high: Tensor, dim: int, mode: str) -> Tensor:
    """`middle`, changed in place, with both margins added to the positions that they copy."""
    size, pad = middle.shape[dim], low.shape[dim]
    if mode == "replicate":
        middle.narrow(dim, 0, 1).add_(low.sum(dim, keepdim=True))
        middle.narrow(dim, size - 1, 1).add_(high.sum(dim, keepdim=True))
    else:
        middle.narrow(dim, 1, pad).add_(low.flip(dim))
        middle.narrow(dim, size - 1 - pad, pad).add_(high.flip(dim))
    return middle
