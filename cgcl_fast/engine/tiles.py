"""Translating an image in overlapping tiles, for images whose activations do not fit into memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin so that they cover ``length``: spread evenly, neighbours sharing at least ``overlap``."""
    if length <= tile:
        return [0]
    steps = -(-(length - tile) // (tile - overlap))
    return [round(step * (length - tile) / steps) for step in range(steps + 1)]


def _feather(start: int, starts: list[int], size: int) -> Tensor:
    """Weights (size,) of a tile along one axis: 1 where it is alone, a ramp where it overlaps a neighbour."""
    weight = torch.ones(size)
    index = starts.index(start)
    if index > 0:
        shared = starts[index - 1] + size - start
        weight[:shared] = torch.arange(1, shared + 1) / (shared + 1)
    if index + 1 < len(starts):
        shared = start + size - starts[index + 1]
        ramp = torch.arange(shared, 0, -1) / (shared + 1)
        weight[size - shared :] = torch.minimum(weight[size - shared :], ramp)
    return weight


def translate_tiled(
    translate: Callable[[Tensor], Tensor], image: Tensor, *, tile: int, overlap: int, batch_size: int = 1
) -> Tensor:
    """Translate one image tile by tile and blend the overlaps.

    Networks with instance norm take their statistics from each tile, so the result differs from that of the whole
    image; larger tiles are closer to it.

    Args:
        translate: (B, C, h, w) in [-1, 1] to (B, C', h, w), any h and w.
        image: (C, H, W) in [-1, 1], on the CPU.
        tile: side of the tiles; an axis shorter than that is taken whole.
        overlap: least number of pixels that neighbours share, 0 <= overlap < tile.
        batch_size: tiles at a time.

    Returns:
        (C', H, W), float32, on the CPU.

    Raises:
        ValueError: ``tile`` or ``overlap`` out of range.
    """
    if tile < 1:
        raise ValueError(f"tile must be at least 1, got {tile}")
    if not 0 <= overlap < tile:
        raise ValueError(f"overlap must lie in 0..tile-1={tile - 1}, got {overlap}")
    height, width = image.shape[-2:]
    tops, lefts = tile_starts(height, tile, overlap), tile_starts(width, tile, overlap)
    tall, wide = min(tile, height), min(tile, width)
    places = [(top, left) for top in tops for left in lefts]
    total = torch.zeros(())
    weights = torch.zeros(height, width)
    for first in range(0, len(places), batch_size):
        group = places[first : first + batch_size]
        tiles = torch.stack([image[:, top : top + tall, left : left + wide] for top, left in group])
        results = translate(tiles).float().cpu()
        if total.dim() == 0:
            total = torch.zeros(results.shape[1], height, width)
        for (top, left), result in zip(group, results, strict=True):
            weight = _feather(top, tops, tall)[:, None] * _feather(left, lefts, wide)
            total[:, top : top + tall, left : left + wide] += result * weight
            weights[top : top + tall, left : left + wide] += weight
    return total / weights
