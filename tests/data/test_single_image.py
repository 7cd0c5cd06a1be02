"""Minibatches of crops of one image per domain."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from PIL import Image

from cgcl_fast.data import SingleImageDataset, build_loader, open_dataset, to_tensor
from cgcl_fast.data.needs import Crops
from cgcl_fast.data.random import item_random
from cgcl_fast.data.single_image import _cells, _resize, _window
from cgcl_fast.data.unpaired import Picture

CROPS = Crops(count=5, size=16, min_width=32, max_width=64)


def ramp(width, height):
    """Red grows along the width and green along the height, so that a crop tells where it is from and how scaled."""
    values = np.zeros((height, width, 3), np.uint8)
    values[..., 0] = np.linspace(0, 255, width)[None]
    values[..., 1] = np.linspace(0, 255, height)[:, None]
    return Image.fromarray(values)


def dataset_of(crops=CROPS, size=(100, 60), **options):
    pictures = {domain: Picture(ramp(*size), f"{domain.lower()}.png") for domain in "AB"}
    return SingleImageDataset(pictures, crops, **options)


def zooms(minibatch, size):
    """(width, height) of the scaled image, from the slopes of each crop's colours."""
    inner = minibatch[..., 2:-2, 2:-2]  # away from what resampling does at the image's border
    across = inner[:, 0].diff(dim=-1).abs().mean((1, 2))
    down = inner[:, 1].diff(dim=-2).abs().mean((1, 2))
    return 2 / across, 2 / down


def test_an_item_is_a_minibatch():
    data = dataset_of()
    item = data[3]
    assert set(item) == {"A", "B", "A_paths", "B_paths"} and item["A_paths"] == "a.png"
    for domain in "AB":
        assert item[domain].shape == (5, 3, 16, 16) and item[domain].dtype == torch.float32
        assert -1 <= item[domain].min() < item[domain].max() <= 1
    assert len(data) == 20_000
    with pytest.raises(IndexError, match="index must be from 0 to 19999"):
        data[20_000]


def test_items_are_a_function_of_seed_epoch_and_index():
    one, two, other = (dataset_of(seed=seed) for seed in (1, 1, 2))
    for key in [(0, 0), (0, 7), (3, 7)]:
        assert torch.equal(one[key]["A"], two[key]["A"]) and torch.equal(one[key]["B"], two[key]["B"])
        assert not torch.equal(one[key]["A"], other[key]["A"])
    assert not torch.equal(one[0, 7]["A"], one[3, 7]["A"]) and not torch.equal(one[0]["A"], one[1]["A"])


def test_one_zoom_for_a_minibatch_that_keeps_the_shape():
    data = dataset_of(Crops(count=6, size=16, min_width=40, max_width=80))
    widths = []
    for index in range(20):
        for domain in "AB":
            across, down = zooms(data[index][domain], 16)
            assert across.max() / across.min() < 1.1
            assert abs(across.mean() / down.mean() - 100 / 60) < 0.25
            widths.append(float(across.mean()))
    assert 36 < min(widths) < 50 and 70 < max(widths) < 88


def test_published_factors_are_independent():
    data = dataset_of(Crops(count=4, size=16, min_width=40, max_width=80, independent=True))
    shapes = []
    for index in range(40):
        across, down = zooms(data[index]["A"], 16)
        shapes.append(float(across.mean() / down.mean()) / (100 / 60))
    assert min(shapes) < 0.75 and max(shapes) > 1.35


def test_a_zoom_for_each_crop_of_the_images_own_size():
    """As published: width and height by factors from 1/3 to 1, independently, and never below a crop."""
    data = dataset_of(Crops(count=40, size=16, per_crop=True, independent=True, grid=True), size=(120, 90), flip=False)
    across, down = (torch.cat(sides) for sides in zip(*(zooms(data[n]["A"], 16) for n in range(8)), strict=True))
    for found, side in ((across, 120), (down, 90)):
        assert side / 3 * 0.9 < found.min() < side * 0.4 and side * 0.93 < found.max() < side * 1.1
        assert abs(found.mean() / side - 2 / 3) < 0.03  # uniform
    assert abs(torch.corrcoef(torch.stack([across, down]))[0, 1]) < 0.15
    small = dataset_of(Crops(count=4, size=16, per_crop=True, independent=True, grid=True), size=(20, 12))
    assert small[0]["A"].shape == (4, 3, 16, 16)
    wide = dataset_of(Crops(count=9, size=16, min_width=150, per_crop=True), size=(120, 90))
    assert zooms(wide[0]["A"], 16)[0].mean() == pytest.approx(150, rel=0.1)


def test_images_of_any_channels_are_zoomed_for_each_crop():
    """Numbers of floating point, plane by plane, give what 8 bits give but for their rounding after each pass."""
    noise = np.random.default_rng(0).integers(96, 160, (90, 120, 3), dtype=np.uint8)
    image = Image.fromarray(noise)  # nothing is clipped where it overshoots
    planes = to_tensor(image)[[0, 1, 2, 0, 1]]
    for where in ((60, 80, 3, 7), (200, 260, 150, 31)):
        eight, found = to_tensor(_window(image, *where, 16)), to_tensor(_window(planes, *where, 16))
        assert found.shape == (5, 16, 16) and (found[:3] - eight).abs().max() < 3 / 255
        assert torch.equal(found[3:], found[:2])
    crops = Crops(count=6, size=16, min_width=40, max_width=100, per_crop=True, independent=True, grid=True)
    five, three = (
        SingleImageDataset({"A": Picture(each, "a"), "B": Picture(each, "b")}, crops)[3]["A"]
        for each in (planes, image)
    )
    assert five.shape == (6, 5, 16, 16) and (five[:, :3] - three).abs().max() < 6 / 255  # resized twice


@pytest.mark.parametrize(("height", "width"), [(30, 77), (61, 43), (50, 97), (60, 100)])
def test_a_window_is_the_crop_of_the_resized_image(height, width):
    # No extremes: Pillow clips between its two passes, in an order that depends on the size of the result.
    image = Image.fromarray(np.random.RandomState(0).randint(80, 176, (60, 100, 3)).astype(np.uint8))
    whole = to_tensor(_resize(image, height, width))
    for top, left in [(0, 0), (height - 16, width - 16), (9, 13)]:
        found = to_tensor(_window(image, height, width, top, left, 16))
        torch.testing.assert_close(found, whole[:, top : top + 16, left : left + 16], atol=1.5 / 127.5, rtol=0)


def test_crops_lie_anywhere_and_half_are_flipped():
    data = dataset_of(flip=True)
    lefts, tops, flips = [], [], []
    for index in range(60):
        crops = data[index]["A"]
        flips += (crops[:, 0, 0, 0] > crops[:, 0, 0, -1]).tolist()
        lefts += crops[:, 0].amin((1, 2)).tolist()
        tops += crops[:, 1].amin((1, 2)).tolist()
    assert 0.4 < np.mean(flips) < 0.6
    assert min(lefts) < -0.9 and max(lefts) > 0.2 and min(tops) < -0.9 and max(tops) > -0.2
    unflipped = dataset_of(flip=False)[0]["A"]
    assert (unflipped[:, 0, 0, 0] < unflipped[:, 0, 0, -1]).all()


@pytest.mark.parametrize(("height", "width", "cells"), [(50, 70, 12), (16, 16, 1), (47, 33, 4)])
def test_cells_do_not_overlap(height, width, cells):
    for seed in range(20):
        places = _cells(12, 16, height, width, item_random(seed))
        assert len(places) == 12 and len(set(places)) <= cells
        assert len(set(places)) >= min(12, cells - 3 - 4)
        assert all(0 <= top <= height - 16 and 0 <= left <= width - 16 for top, left in places)
        for one in set(places):
            for other in set(places) - {one}:
                assert abs(one[0] - other[0]) >= 16 or abs(one[1] - other[1]) >= 16
    starts = {_cells(1, 16, 50, 70, item_random(seed))[0] for seed in range(200)}
    assert len({top % 16 for top, _ in starts}) == 3 and len({left % 16 for _, left in starts}) == 7


def test_a_low_picture_is_enlarged():
    data = dataset_of(size=(200, 10))
    assert data[0]["A"].shape == (5, 3, 16, 16)


def test_the_loader_gives_minibatches_and_goes_on_where_it_was():
    loader = build_loader(dataset_of(), seed=3)
    batches = [batch for batch, _ in zip(loader, range(5), strict=False)]
    assert batches[0]["A"].shape == (5, 3, 16, 16) and batches[0]["A_paths"] == ["a.png"]
    again = build_loader(dataset_of(), seed=3)
    for _ in zip(again, range(2), strict=False):
        pass
    state = {**again.state_dict(), "position": 2}
    resumed = build_loader(dataset_of(), seed=3)
    resumed.load_state_dict(state)
    for batch, expected in zip(resumed, batches[2:], strict=False):
        assert torch.equal(batch["A"], expected["A"]) and torch.equal(batch["B"], expected["B"])
    two = next(iter(build_loader(dataset_of(), seed=3, batch_size=2)))
    assert two["A"].shape == (10, 3, 16, 16) and torch.equal(two["A"][:5], batches[0]["A"])


def test_folders_give_their_first_readable_image(tmp_path, caplog):
    for domain, size in (("A", (80, 50)), ("B", (48, 70))):
        folder = tmp_path / f"train{domain}"
        folder.mkdir()
        ramp(*size).save(folder / "b.png")
        ramp(30, 30).save(folder / "c.png")
    (tmp_path / "trainA" / "a.png").write_bytes(b"broken")
    with caplog.at_level(logging.WARNING, "cgcl_fast"):
        data = open_dataset(tmp_path, crops=CROPS)
    assert isinstance(data, SingleImageDataset)
    assert data.names == {d: str(tmp_path / f"train{d}" / "b.png") for d in "AB"}
    assert "skipped" in caplog.text and "one image of 3 is used, b.png" in caplog.text
    sample = data.sample_batch()
    assert sample["A"].shape == (1, 3, 40, 64) and sample["B"].shape == (1, 3, 70, 48) and "truth" not in sample
    (tmp_path / "trainB" / "b.png").write_bytes(b"")
    (tmp_path / "trainB" / "c.png").unlink()
    with pytest.raises(ValueError, match="no readable image in .*trainB"):
        open_dataset(tmp_path, crops=CROPS)


def test_streets_know_the_truth():
    data = open_dataset(crops=CROPS, seed=4)
    assert isinstance(data, SingleImageDataset)
    sample = data.sample_batch()
    assert sample["A"].shape == sample["B"].shape == sample["truth"].shape == (1, 3, 64, 64)
    assert torch.equal(sample["A"][0], to_tensor(data.images["A"]))
    assert sample["A"].mean() > sample["truth"].mean()  # sunny, and night
    assert not torch.equal(sample["truth"], sample["B"])  # another scene


@pytest.mark.parametrize(
    ("crops", "message"),
    [
        (Crops(0, 16, 32, 64), "count of crops must be at least 1, got 0"),
        (Crops(4, 0, 32, 64), "size of crops must be at least 1, got 0"),
        (Crops(4, 40, 32, 64), "got size 40, min_width 32, max_width 64"),
        (Crops(4, 16, 65, 64), "got size 16, min_width 65, max_width 64"),
    ],
)
def test_wrong_crops_are_named(crops, message):
    with pytest.raises(ValueError, match=message):
        dataset_of(crops)


def test_the_direction_b_to_a_exchanges_the_images():
    crops = Crops(count=1, size=16, min_width=32, max_width=32)
    there, back = (open_dataset(None, crops=crops, direction=way) for way in ("AtoB", "BtoA"))
    assert back.names == {"A": there.names["B"], "B": there.names["A"]}
    assert back.images["A"] == there.images["B"] and back.truth.size == (32, 32)
