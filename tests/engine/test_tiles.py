"""Tiles cover the image, blend without seams, and give the network every pixel."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cgcl_fast.engine import translate_tiled
from cgcl_fast.engine.tiles import tile_starts


@given(st.integers(1, 300), st.integers(2, 64), st.data())
def test_tiles_cover_the_length_and_share_the_overlap(length: int, tile: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, tile - 1))
    starts = tile_starts(length, tile, overlap)
    assert starts[0] == 0 and starts[-1] == max(0, length - tile)
    assert all(0 < right - left <= tile - overlap for left, right in zip(starts, starts[1:], strict=False))


@given(st.integers(1, 60), st.integers(2, 16), st.integers(1, 5), st.data())
def test_tiles_begin_at_multiples(length: int, tile: int, multiple: int, data: st.DataObject) -> None:
    length, tile = length * multiple, tile * multiple
    overlap = data.draw(st.integers(0, tile - multiple))
    starts = tile_starts(length, tile, overlap, multiple)
    assert starts[0] == 0 and starts[-1] == max(0, length - tile) and all(start % multiple == 0 for start in starts)
    assert all(0 < right - left <= tile - overlap for left, right in zip(starts, starts[1:], strict=False))


@pytest.mark.parametrize("overlap", [6, 7, 12])
@pytest.mark.parametrize("shape", [(3, 50, 36), (3, 16, 64)])
def test_what_looks_no_further_than_the_margin_is_the_same_in_tiles(shape: tuple[int, ...], overlap: int) -> None:
    """Means over 7 pixels, with zeros around each tile, on values that are kept at even places only."""
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0))

    def translate(tiles: torch.Tensor) -> torch.Tensor:
        kept = torch.zeros_like(tiles)
        kept[..., ::2, ::2] = tiles[..., ::2, ::2]
        return torch.nn.functional.avg_pool2d(kept, 7, stride=1, padding=3)

    options = {"tile": 16, "overlap": overlap, "batch_size": 3}
    found = translate_tiled(translate, image, **options, margin=3, multiple=2)
    torch.testing.assert_close(found, translate(image[None])[0])
    assert not torch.allclose(translate_tiled(translate, image, **options), translate(image[None])[0])


@pytest.mark.parametrize("shape", [(3, 50, 37), (3, 16, 16), (1, 5, 40), (3, 1, 1)])
@pytest.mark.parametrize("overlap", [0, 5, 15])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_pointwise_network_is_the_same_in_tiles(shape: tuple[int, ...], overlap: int, batch_size: int) -> None:
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    sizes = []

    def translate(tiles: torch.Tensor) -> torch.Tensor:
        sizes.append(tiles.shape)
        return tiles * -0.5 + 0.25

    result = translate_tiled(translate, image, tile=16, overlap=overlap, batch_size=batch_size)
    torch.testing.assert_close(result, image * -0.5 + 0.25)
    assert max(size[0] for size in sizes) <= batch_size and all(size[2] <= 16 and size[3] <= 16 for size in sizes)


def test_neighbours_fade_into_each_other() -> None:
    values = iter([-1.0, 1.0])
    image = torch.zeros(1, 8, 24)
    result = translate_tiled(lambda tiles: torch.full_like(tiles, next(values)), image, tile=16, overlap=8)
    row = result[0, 0]
    assert torch.equal(row[:8], torch.full((8,), -1.0)) and torch.equal(row[16:], torch.ones(8))
    assert (row.diff() >= 0).all() and row.diff().max() < 0.3


@pytest.mark.parametrize(("tile", "overlap", "named"), [(0, 0, "tile"), (16, 16, "overlap"), (16, -1, "overlap")])
def test_wrong_tiles_are_named(tile: int, overlap: int, named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named} must"):
        translate_tiled(lambda x: x, torch.zeros(3, 20, 20), tile=tile, overlap=overlap)


def test_wrong_margins_and_multiples_are_named() -> None:
    with pytest.raises(ValueError, match="^margin must lie in 0..overlap/2=2, got 3"):
        translate_tiled(lambda x: x, torch.zeros(3, 20, 20), tile=16, overlap=5, margin=3)
    for tile, overlap in ((16, 5), (18, 5), (16, 14)):
        with pytest.raises(ValueError, match="^multiple must divide"):
            translate_tiled(lambda x: x, torch.zeros(3, 20, 22), tile=tile, overlap=overlap, multiple=4)
