"""Translating an image in overlapping tiles, if its activations do not fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor


def tile_starts(length: int, tile: int, overlap: int, multiple: int = 1) -> list[int]:
    """Start positions of tiles that cover ``length``: evenly spread, with neighbours overlapping by at least
    ``overlap``.

    All are multiples of ``multiple``. So must be ``length`` and ``tile``, and ``tile - overlap`` must be at least that.
    """
    if length <= tile:
        return [0]
    stride = (tile - overlap) // multiple * multiple
    steps = -(-(length - tile) // stride)
    return [step * (length - tile) // steps // multiple * multiple for step in range(steps + 1)]


def _feather(start: int, starts: list[int], size: int, margin: int) -> Tensor:
    """Weights (size,) of a tile along one axis: 1 where it is alone, a ramp where it overlaps a neighbour, 0 in the
    outer ``margin`` of the overlap."""
    weight = torch.ones(size)
    index = starts.index(start)
    if index > 0:
        weight[: starts[index - 1] + size - start] = _ramp(starts[index - 1] + size - start, margin)
    if index + 1 < len(starts):
        shared = start + size - starts[index + 1]
        weight[size - shared :] = torch.minimum(weight[size - shared :], _ramp(shared, margin).flip(0))
    return weight


def _ramp(shared: int, margin: int) -> Tensor:
    inner = shared - 2 * margin
    return ((torch.arange(shared) - margin + 1) / (inner + 1)).clamp(0, 1)


def translate_tiled(
    translate: Callable[[Tensor], Tensor],
    image: Tensor,
    *,
    tile: int,
    overlap: int,
    batch_size: int = 1,
    margin: int = 0,
    multiple: int = 1,
) -> Tensor:
    """Translate one image tile by tile and blend the overlaps.

    Instance norm computes its statistics per tile, so the result differs from that of the whole image, the less the
    larger the tiles. A network whose pixels depend only on pixels within ``margin`` gives the result of the whole
    image, if tiles start at multiples of its strides.

    Args:
        translate: (B, C, h, w) in [-1, 1] to (B, C', h, w), for any h and w.
        image: (C, H, W) in [-1, 1], on the CPU.
        tile: side of the tiles; a shorter axis is not split.
        overlap: minimum number of pixels that neighbours share, 0 <= overlap < tile.
        batch_size: tiles at a time.
        margin: pixels to ignore along a tile's inner edges, at most half of ``overlap``.
        multiple: tiles start at multiples of it; the sides of the image and ``tile`` must be multiples of it.

    Returns:
        (C', H, W), float32, on the CPU.

    Raises:
        ValueError: ``tile``, ``overlap``, ``margin`` or ``multiple`` out of range.
    """
    height, width = image.shape[-2:]
    bands = translate_bands(
        translate,
        lambda top, left, tall, wide: image[:, top : top + tall, left : left + wide],
        (height, width),
        tile=tile,
        overlap=overlap,
        batch_size=batch_size,
        margin=margin,
        multiple=multiple,
    )
    return torch.cat(list(bands), dim=1)


def translate_bands(
    translate: Callable[[Tensor], Tensor],
    window: Callable[[int, int, int, int], Tensor],
    size: tuple[int, int],
    *,
    tile: int,
    overlap: int,
    batch_size: int = 1,
    margin: int = 0,
    multiple: int = 1,
) -> Iterator[Tensor]:
    """:func:`translate_tiled` for an image that is not in memory, from top to bottom. Memory holds only a band as high
    as a tile and as wide as the image.

    Args:
        window: (top, left, height, width) to (C, height, width) in [-1, 1], a part of the image.
        size: (height, width) of the image.
        translate, tile, overlap, batch_size, margin, multiple: as in :func:`translate_tiled`.

    Yields:
        (C', h, width), float32, on the CPU: the next rows.

    Raises:
        ValueError: as :func:`translate_tiled`.
    """
    height, width = size
    if tile < 1:
        raise ValueError(f"tile must be at least 1, got {tile}")
    if not 0 <= overlap < tile:
        raise ValueError(f"overlap must lie in 0..tile-1={tile - 1}, got {overlap}")
    if not 0 <= 2 * margin <= overlap:
        raise ValueError(f"margin must lie in 0..overlap/2={overlap // 2}, got {margin}")
    if any(length % multiple for length in (tile, height, width)) or tile - overlap < multiple:
        raise ValueError(
            f"multiple must divide the tile {tile} and the image {height}x{width}, and be at most tile - overlap = "
            f"{tile - overlap}, got {multiple}"
        )
    tops, lefts = (tile_starts(length, tile, overlap, multiple) for length in (height, width))
    tall, wide = min(tile, height), min(tile, width)
    total = torch.zeros(())
    weights = torch.zeros(tall, width)
    for number, top in enumerate(tops):
        row = _feather(top, tops, tall, margin)[:, None]
        for first in range(0, len(lefts), batch_size):
            group = lefts[first : first + batch_size]
            results = translate(torch.stack([window(top, left, tall, wide) for left in group])).float().cpu()
            if total.dim() == 0:
                total = torch.zeros(results.shape[1], tall, width)
            for left, result in zip(group, results, strict=True):
                weight = row * _feather(left, lefts, wide, margin)
                total[:, :, left : left + wide] += result * weight
                weights[:, left : left + wide] += weight
        done = tall if number + 1 == len(tops) else tops[number + 1] - top
        yield total[:, :done] / weights[:done]
        total = torch.cat([total[:, done:], torch.zeros(len(total), done, width)], dim=1)
        weights = torch.cat([weights[done:], torch.zeros(done, width)])
