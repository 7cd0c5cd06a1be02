"""Resizing, cropping and flipping."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_checks import examples
from PIL import Image

from cgcl_fast.data import PREPROCESS, Preprocess
from cgcl_fast.data.transforms import round_to_multiple


def picture(width, height, seed=0):
    return Image.fromarray(np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8))


@settings(max_examples=examples(80))
@given(
    width=st.integers(1, 150),
    height=st.integers(1, 150),
    size=st.integers(1, 70),
    extra=st.integers(0, 20),
    mode=st.sampled_from(PREPROCESS),
    multiple=st.sampled_from([1, 4, 8]),
    train=st.booleans(),
)
def test_any_image_comes_out_in_a_size_the_network_takes(width, height, size, extra, mode, multiple, train):
    transform = Preprocess(mode, size=size, load_size=size + extra, train=train, multiple=multiple)
    tensor = transform(picture(width, height), random.Random(0))
    assert tensor.dtype == torch.float32
    assert tensor.min() >= -1 and tensor.max() <= 1
    channels, rows, columns = tensor.shape
    assert channels == 3 and rows % multiple == 0 and columns % multiple == 0
    if transform.fixed_size:
        assert rows == columns == round_to_multiple(size + extra if mode == "resize" else size, multiple)
    elif mode == "scale_width":
        assert columns == round_to_multiple(size + extra, multiple)
        assert abs(rows - height * (size + extra) / width) <= max(multiple, 1)
    else:
        assert abs(rows - height) <= multiple and abs(columns - width) <= multiple


@pytest.mark.parametrize("load_size", [30, 34, 59, 70])
def test_scale_width_gives_every_width_the_same_multiple(load_size):
    """Also 11, for which load_size / 11 * 11 is a little less than 30, half-way between 28 and 32."""
    transform = Preprocess("scale_width", size=4, load_size=load_size, train=False)
    for width in range(1, 120):
        rows, columns = transform(picture(width, 1)).shape[1:]
        exact = Fraction(load_size, width) / 4 + Fraction(1, 2)
        assert (rows, columns) == (max(1, math.floor(exact)) * 4, round_to_multiple(load_size, 4))


@pytest.mark.parametrize(("length", "expected"), [(1, 4), (5, 4), (6, 8), (7, 8), (256, 256), (30, 32), (25.9, 24)])
def test_rounding_is_to_the_nearest_multiple(length, expected):
    assert round_to_multiple(length, 4) == expected


def test_resize_and_crop_takes_a_window_of_the_resized_image():
    image = picture(60, 40)
    resized = torch.from_numpy(np.array(image.resize((36, 36), Image.Resampling.BICUBIC))).permute(2, 0, 1)
    crop = Preprocess("resize_and_crop", size=32, load_size=36, flip=False)(image, random.Random(3))
    windows = [resized[:, y : y + 32, x : x + 32] / 127.5 - 1 for y in range(5) for x in range(5)]
    assert sum(torch.equal(crop, window) for window in windows) == 1


def test_scale_shortside_keeps_the_aspect():
    mode = "scale_shortside_and_crop"
    image = picture(80, 40)
    centre = image.crop((20, 0, 60, 40)).resize((16, 16), Image.Resampling.BICUBIC)
    expected = torch.from_numpy(np.array(centre)).permute(2, 0, 1) / 127.5 - 1
    assert torch.equal(Preprocess(mode, size=16, load_size=20, train=False)(image), expected)
    squares = [image.crop((x, 0, x + 40, 40)).resize((16, 16), Image.Resampling.BICUBIC) for x in range(41)]
    known = [torch.from_numpy(np.array(square)).permute(2, 0, 1) / 127.5 - 1 for square in squares]
    train = Preprocess(mode, size=16, flip=False)
    assert all(any(torch.equal(train(image, random.Random(s)), one) for one in known) for s in range(10))
    part = Preprocess(mode, size=16, load_size=20, flip=False)  # a window of 32 of the 40 rows
    boxes = torch.tensor([[0.0, 0.0, 80.0, 40.0]])
    assert part.apply(image, boxes, random.Random(0)).boxes.tolist() == [[0, 0, 16, 16]]
    assert part.reads_at_least == (20, 20)


def test_scale_width_and_crop_keeps_the_aspect_but_is_at_least_as_high_as_the_crop():
    """As the published code: width 20, height 20 * 40 / 80 = 10 but at least 16, then a window of 16 x 16."""
    mode = "scale_width_and_crop"
    wide, high = picture(80, 40), picture(40, 80)
    train = Preprocess(mode, size=16, load_size=20, flip=False)
    windows = [wide.crop((x, 0, x + 64, 40)).resize((16, 16), Image.Resampling.BICUBIC) for x in range(17)]
    known = [torch.from_numpy(np.array(window)).permute(2, 0, 1) / 127.5 - 1 for window in windows]
    found = [train(wide, random.Random(seed)) for seed in range(60)]
    assert all(any(torch.equal(one, window) for window in known) for one in found)
    assert len({tuple(one.flatten().tolist()) for one in found}) > 10
    boxes = torch.tensor([[0.0, 0.0, 40.0, 80.0]])
    assert train.apply(high, boxes, random.Random(0)).boxes.tolist() == [[0, 0, 16, 16]]
    corners = [(x, y) for x in range(9) for y in range(49)]
    squares = [high.crop((x, y, x + 32, y + 32)).resize((16, 16), Image.Resampling.BICUBIC) for x, y in corners]
    known = [torch.from_numpy(np.array(square)).permute(2, 0, 1) / 127.5 - 1 for square in squares]
    assert all(any(torch.equal(train(high, random.Random(s)), one) for one in known) for s in range(5))
    centre = high.crop((0, 20, 40, 60)).resize((16, 16), Image.Resampling.BICUBIC)
    expected = torch.from_numpy(np.array(centre)).permute(2, 0, 1) / 127.5 - 1
    assert torch.equal(Preprocess(mode, size=16, load_size=20, train=False)(high), expected)
    full = train(high, random.Random(1), load_size=16)  # the whole width, in the decay phase
    assert any(
        torch.equal(full, torch.from_numpy(np.array(one)).permute(2, 0, 1) / 127.5 - 1)
        for one in (high.crop((0, y, 40, y + 40)).resize((16, 16), Image.Resampling.BICUBIC) for y in range(41))
    )


def test_resize_is_without_a_crop():
    image = picture(40, 20)
    expected = torch.from_numpy(np.array(image.resize((20, 20), Image.Resampling.BICUBIC))).permute(2, 0, 1) / 127.5 - 1
    for train in (True, False):
        transform = Preprocess("resize", size=16, load_size=20, train=train, flip=False)
        assert torch.equal(transform(image, random.Random(0)), expected) and transform.fixed_size
    assert Preprocess("resize", size=64, load_size=30)(image, random.Random(0)).shape == (3, 32, 32)


def test_every_offset_and_both_flips_occur():
    transform = Preprocess("crop", size=4, train=True)
    image = Image.fromarray(np.arange(36, dtype=np.uint8).reshape(6, 6)[..., None].repeat(3, axis=2))
    rng = random.Random(0)
    corners = set()
    for _ in range(300):
        crop = ((transform(image, rng)[0] + 1) * 127.5).round().int()
        corners.add((int(crop[:, :].min()), bool(crop[0, 0] < crop[0, 1])))
    assert {corner for corner, _ in corners} == {y * 6 + x for y in range(3) for x in range(3)}
    assert len(corners) == 18


def test_flip_mirrors():
    image = picture(8, 8)
    plain = Preprocess("none", train=False)(image)
    seen = {torch.equal(Preprocess("none")(image, random.Random(seed)), plain) for seed in range(20)}
    assert seen == {True, False}
    mirrored = [Preprocess("none")(image, random.Random(seed)) for seed in range(20)]
    assert all(torch.equal(one, plain) or torch.equal(one, plain.flip(-1)) for one in mirrored)
    assert all(torch.equal(Preprocess("none", flip=False)(image, random.Random(s)), plain) for s in range(20))


def test_testing_is_the_whole_image_or_its_centre():
    image = picture(40, 20)
    whole = Preprocess("resize_and_crop", size=16, load_size=20, train=False)(image)
    resized = torch.from_numpy(np.array(image.resize((16, 16), Image.Resampling.BICUBIC))).permute(2, 0, 1)
    assert torch.equal(whole, resized / 127.5 - 1)
    centre = Preprocess("crop", size=8, train=False)(image)
    assert torch.equal(centre, Preprocess("none", train=False, multiple=1)(image)[:, 6:14, 16:24])


def test_load_size_of_one_call_gives_the_full_view():
    image = picture(40, 20)
    train = Preprocess("resize_and_crop", size=16, load_size=24, flip=False)
    test = Preprocess("resize_and_crop", size=16, train=False)
    assert torch.equal(train(image, random.Random(0), load_size=16), test(image))
    train = Preprocess("scale_shortside_and_crop", size=16, load_size=24, flip=False)
    boxes = torch.tensor([[0.0, 0, 40, 20]])
    assert train.apply(image, boxes, random.Random(0), load_size=16).boxes.tolist() == [[0, 0, 16, 16]]
    squares = [image.crop((x, 0, x + 20, 20)).resize((16, 16), Image.Resampling.BICUBIC) for x in range(21)]
    found = train(image, random.Random(0), load_size=16)
    known = [torch.from_numpy(np.array(square)).permute(2, 0, 1) / 127.5 - 1 for square in squares]
    assert sum(torch.equal(found, one) for one in known) == 1


def test_resize_keeps_the_whole_image():
    image = picture(40, 20)
    expected = torch.from_numpy(np.array(image.resize((16, 16), Image.Resampling.BICUBIC))).permute(2, 0, 1) / 127.5 - 1
    train = Preprocess("resize", size=16, flip=False)
    assert torch.equal(train(image, random.Random(0)), expected) and train.reads_at_least == (16, 16)
    assert torch.equal(Preprocess("resize", size=16, train=False)(image), expected)
    done = Preprocess("resize", size=16).apply(image, torch.tensor([[10.0, 5, 20, 15]]), random.Random(1))
    x0, x1 = (8, 12) if done.flipped else (4, 8)
    assert done.boxes.tolist() == [[x0, 4, x1, 12]]


def test_default_load_size_is_the_published_ratio():
    assert Preprocess("resize_and_crop", size=256).load_size == 286
    assert Preprocess("scale_width", size=256).load_size == 256


@pytest.mark.parametrize("mode", PREPROCESS)
def test_images_of_any_channels_go_the_way_of_photographs(mode):
    image = picture(46, 30).point(lambda value: 96 + value // 4)  # nothing is clipped where it overshoots
    planes = torch.from_numpy(np.array(image)).permute(2, 0, 1)[[0, 1, 2, 0]] / 127.5 - 1
    transform = Preprocess(mode, size=16, load_size=20)
    for seed in range(4):
        photograph = transform(image, random.Random(seed))
        found = transform(planes, random.Random(seed))
        assert found.shape == (4, *photograph.shape[1:]) and (found[:3] - photograph).abs().max() < 3 / 255


def test_a_thin_image_is_cropped_without_being_enlarged_whole():
    for mode in ("crop", "scale_shortside_and_crop", "scale_width_and_crop"):
        assert Preprocess(mode, size=64)(picture(1, 30000), random.Random(0)).shape == (3, 64, 64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "zoom"}, f"preprocess must be one of {', '.join(PREPROCESS)}, got 'zoom'"),
        ({"size": 0}, "size must be a positive integer, got 0"),
        ({"size": 64.0}, "size must be a positive integer, got 64.0"),
        ({"size": 64, "load_size": 32}, "load_size must be at least size 64, got 32"),
        (
            {"mode": "scale_shortside_and_crop", "size": 64, "load_size": 32},
            "load_size must be at least size 64, got 32",
        ),
        ({"multiple": -4}, "multiple must be a positive integer, got -4"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        Preprocess(**options)


def test_training_needs_a_source_of_randomness():
    with pytest.raises(ValueError, match="rng must be given"):
        Preprocess()(picture(8, 8))


# ---- boxes


def marked(width, height, box):
    """A black image that is white in a box."""
    values = np.zeros((height, width, 3), np.uint8)
    x0, y0, x1, y1 = box
    values[y0:y1, x0:x1] = 255
    return Image.fromarray(values)


@settings(max_examples=examples(60))
@given(
    mode=st.sampled_from(PREPROCESS),
    width=st.integers(40, 120),
    height=st.integers(40, 120),
    left=st.integers(0, 25),
    top=st.integers(0, 25),
    train=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_boxes_go_where_their_objects_go(mode, width, height, left, top, train, seed):
    box = (left, top, left + 14, top + 11)
    transform = Preprocess(mode, size=32, load_size=44, train=train, multiple=4)
    image = marked(width, height, box)
    done = transform.apply(image, torch.tensor([box], dtype=torch.float32), random.Random(seed))
    assert torch.equal(done.image, transform(image, random.Random(seed)))
    rows, columns = done.image.shape[1:]
    white = done.image[0] > 0
    if len(done.boxes) == 0:
        assert white[1:-1, 1:-1].sum() == 0 or not (white.any(0).sum() > 2 and white.any(1).sum() > 2)
        return
    x0, y0, x1, y1 = done.boxes[0].tolist()
    assert 0 <= x0 < x1 <= columns and 0 <= y0 < y1 <= rows and done.kept.tolist() == [0]
    ys, xs = white.nonzero(as_tuple=True)
    if len(ys):  # less than half of a pixel is blended to black
        found = (xs.min().item(), ys.min().item(), xs.max().item() + 1, ys.max().item() + 1)
        assert max(abs(a - b) for a, b in zip(found, (x0, y0, x1, y1), strict=True)) <= 1.0


def test_boxes_against_their_own_arithmetic():
    # 60x40 to 36x36, then a window of 32, then perhaps mirrored: each window and side in turn.
    image, box = picture(60, 40), torch.tensor([[10.0, 20, 50, 30]])
    resized = torch.from_numpy(np.array(image.resize((36, 36), Image.Resampling.BICUBIC))).permute(2, 0, 1) / 127.5 - 1
    transform = Preprocess("resize_and_crop", size=32, load_size=36)
    seen = set()
    for seed in range(40):
        done = transform.apply(image, box, random.Random(seed))
        plain = done.image.flip(-1) if done.flipped else done.image
        ((left, top),) = [
            (x, y) for x in range(5) for y in range(5) if torch.equal(plain, resized[:, y : y + 32, x : x + 32])
        ]
        x0, y0, x1, y1 = 10 * 0.6 - left, 20 * 0.9 - top, 50 * 0.6 - left, 30 * 0.9 - top
        expected = [32 - x1, y0, 32 - x0, y1] if done.flipped else [x0, y0, x1, y1]
        np.testing.assert_allclose(done.boxes[0].numpy(), expected, atol=1e-4)
        seen.add(done.flipped)
    assert seen == {True, False}


def test_boxes_are_cut_at_the_border_and_dropped_beyond_it():
    boxes = torch.tensor(
        [
            [-50.0, -50, 10, 10],
            [30, 30, 1e30, 1e30],
            [-1e30, -1e30, 1e30, 1e30],
            [-9, 5, 0.5, 9],  # half a pixel is left
            [40, 5, 50, 9],
            [5, 5, 5, 9],
            [5, 5, 6, 6],
        ]
    )
    done = Preprocess("none", train=False).apply(picture(40, 40), boxes)
    assert done.kept.tolist() == [0, 1, 2, 6]
    assert done.boxes.tolist() == [[0, 0, 10, 10], [30, 30, 40, 40], [0, 0, 40, 40], [5, 5, 6, 6]]


def test_no_boxes():
    done = Preprocess("resize_and_crop", size=16).apply(picture(40, 30), torch.zeros(0, 4), random.Random(0))
    assert done.boxes.shape == (0, 4) and done.kept.shape == (0,)
