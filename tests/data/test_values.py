"""Mapping numbers to [-1, 1] and back."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import noise, write

from cgcl_fast.data import FolderDataset, Preprocess, Reading, Values, open_dataset
from cgcl_fast.data.measuring import measure
from cgcl_fast.data.values import (
    TYPES,
    as_shown,
    from_unit,
    measured,
    to_unit,
    values_from_dict,
    values_of_type,
    values_read,
    values_to_dict,
    values_written,
)

TWELVE = Values("uint16", 0, 4095)


@pytest.mark.parametrize("values", [TWELVE, Values("int16", -1024, 3071), Values("float32", -40, 40), Values()])
def test_the_range_goes_to_one_and_back(values: Values) -> None:
    numbers = noise((6, 5, 4), values.type, values.low, values.high)
    unit = to_unit(numbers, values)
    assert unit.shape == (4, 6, 5) and unit.dtype == torch.float32
    expected = 2 * (numbers.astype(np.float64) - values.low) / (values.high - values.low) - 1
    np.testing.assert_allclose(unit.permute(1, 2, 0).numpy(), expected, atol=2e-7)
    back = from_unit(unit, values)
    assert back.dtype == numbers.dtype
    np.testing.assert_allclose(back, numbers, atol=0 if values.type[0] in "ui" else 1e-5)


def test_numbers_beyond_the_range_are_clipped() -> None:
    numbers = np.array([[[-9.0], [0], [5], [10], [99], [np.nan], [np.inf]]], np.float32)
    assert to_unit(numbers, Values("float32", 0, 10)).flatten().tolist() == [-1, -1, 0, 1, 1, -1, -1]
    images = torch.tensor([[[-3.0, 0, 3]]])
    assert from_unit(images, Values("int16", -100, 50)).flatten().tolist() == [-100, -25, 50]
    assert from_unit(images, Values("uint8", -100, 500)).flatten().tolist() == [0, 200, 255]  # what the type holds


def test_types_have_ranges_of_their_own() -> None:
    assert values_of_type("int16") == Values("int16", -32768, 32767)
    assert values_of_type("uint16") == Values("uint16", 0, 65535)
    assert values_of_type("float32") == Values("float32", 0, 1)
    for kind in TYPES:
        numbers = np.array([[[values_of_type(kind).low], [values_of_type(kind).high]]]).astype(kind)
        assert to_unit(numbers, values_of_type(kind)).flatten().tolist() == [-1, 1]


def test_files_of_8_bits_are_photographs_among_others() -> None:
    assert values_read("uint16", TWELVE) == TWELVE
    assert values_read("float32", TWELVE) == Values("float32", 0, 4095)
    assert values_read("uint8", TWELVE) == Values()
    assert values_read("uint8", Values("uint8", 0, 10)) == Values("uint8", 0, 10)
    assert values_read("uint16", Values()) == values_read("uint16", None) == values_of_type("uint16")


def test_translations_are_images_of_the_target_in_the_type_of_the_source() -> None:
    magnetic = Values("uint16", 0, 900)
    assert values_written(TWELVE, TWELVE, magnetic) == magnetic
    assert values_written(Values("float32", 0, 4095), TWELVE, magnetic) == Values("float32", 0, 900)
    assert values_written(Values(), TWELVE, magnetic) == Values()  # a photograph stays one
    assert values_written(TWELVE, TWELVE, Values()) == Values()  # another type of images
    assert values_written(Values(), Values(), Values("float32", 20, 40)) == Values("float32", 20, 40)
    assert values_written(TWELVE, None, None) == TWELVE


@pytest.mark.parametrize(
    "found",
    [3, [], {"A": 3}, {"A": {"low": 0}}, {"A": {"low": 0, "high": 1, "more": 2}}, {3: {"low": 0, "high": 1}},
     {"A": {"low": 1, "high": 1}}, {"A": {"low": "0", "high": 1}}, {"A": {"low": 0, "high": float("nan")}},
     {"A": {"low": 0, "high": 1, "type": "complex64"}}, {"A": {"low": True, "high": 2}}],
)  # fmt: skip
def test_what_is_no_range_is_refused(found: object) -> None:
    with pytest.raises(ValueError, match=r"^(ranges|range|type): expected "):
        values_from_dict(found)


def test_ranges_in_plain_containers() -> None:
    values = {"A": TWELVE, "B": Values("float32", -1.5, 2)}
    assert values_from_dict(values_to_dict(values)) == values
    assert values_from_dict({"A": {"low": 0, "high": 255}}) == {"A": Values()}


def test_the_least_and_the_greatest_number_are_measured() -> None:
    images = [np.array([[3, 7]], np.int16), np.array([[-5, 0]], np.int16)]
    assert measured(images, "int16") == Values("int16", -5, 7)
    assert measured([np.array([np.nan, -1.5, np.inf, 2])], "float64") == Values("float64", -1.5, 2)
    with pytest.raises(ValueError, match="range: the images hold only the number 4; --range LOW HIGH"):
        measured([np.full((2, 2), 4, np.uint16)], "uint16")
    with pytest.raises(ValueError, match="no finite number"):
        measured([np.full((2, 2), np.nan)], "float64")


def test_a_domain_is_measured_in_its_images_that_have_not_8_bits(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{n}.png", noise((4, 4), "uint16", 10 * n, 1000 * n, n)) for n in (1, 2, 3)]
    assert measure(paths, Reading(1)) == Values("uint16", 10, 3000)
    paths.append(write(tmp_path / "photograph.png", noise((4, 4), "uint8", 0, 255)))
    paths.append(tmp_path / "gone.png")
    assert measure(paths, Reading(1)) == Values("uint16", 10, 3000)
    assert measure(paths, Reading(1), (0, 4095)) == TWELVE
    assert measure(paths[3:], Reading(3)) == Values()
    assert measure(paths[3:], Reading(3), (0, 9)) == Values("uint8", 0, 9)


def domains(root: Path, suffix: str = ".png") -> Path:
    for domain, high in (("A", 3645), ("B", 900)):
        for number in range(3):
            path = root / f"train{domain}" / f"{number}{suffix}"
            write(path, noise((8, 8), "uint16", number, high, number))
    return root


def test_a_folder_tells_its_values(tmp_path: Path) -> None:
    data = open_dataset(
        domains(tmp_path), readings={"A": Reading(1), "B": Reading(1)}, preprocess="none", train=True, flip=False
    )
    assert data.values == {"A": Values("uint16", 0, 3645), "B": Values("uint16", 0, 900)}
    numbers = noise((8, 8), "uint16", 2, 3645, 2).astype(float)
    np.testing.assert_allclose(data[2]["A"][0].numpy(), numbers / 3645 * 2 - 1, atol=1e-6)


def test_stated_values_come_before_measured_ones(tmp_path: Path) -> None:
    readings = {"A": Reading(1, Values("uint16", 0, 8191)), "B": Reading(1)}
    data = FolderDataset(
        domains(tmp_path), preprocess=Preprocess("none", train=False), readings=readings, span=(0, 4095)
    )
    assert data.values == {"A": Values("uint16", 0, 8191), "B": TWELVE}


def test_images_of_one_number_only_are_refused_with_their_domain(tmp_path: Path) -> None:
    domains(tmp_path)
    for path in (tmp_path / "trainB").iterdir():
        write(path, np.full((8, 8), 7, np.uint16))
    with pytest.raises(ValueError, match=r"only the number 7; --range .* \(domain B\)"):
        open_dataset(tmp_path)


def test_images_with_many_bands_are_resized_cropped_and_flipped_like_others(tmp_path: Path) -> None:
    """Each band as if it were a grey image; Pillow rounds, and would clip, after each direction."""
    numbers = noise((40, 30, 5), "uint8", 70, 180)
    for domain in "AB":
        write(tmp_path / "many" / f"train{domain}" / "a.npy", numbers)
        write(tmp_path / "one" / f"train{domain}" / "a.npy", numbers[..., 3])
    for options in ({"preprocess": "resize_and_crop"}, {"preprocess": "crop"}, {"preprocess": "scale_width"}):
        many = open_dataset(tmp_path / "many", readings={"A": Reading(5), "B": Reading(5)}, size=24, **options)
        one = open_dataset(tmp_path / "one", readings={"A": Reading(1), "B": Reading(1)}, size=24, **options)
        for epoch in range(3):
            found = many[epoch, 0]["A"]
            assert found.shape[0] == 5 and found.min() >= -1 and found.max() <= 1
            torch.testing.assert_close(found[3], one[epoch, 0]["A"][0], atol=4 / 127.5, rtol=0)


def test_files_with_other_channels_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for domain in "AB":
        write(tmp_path / f"train{domain}" / "a.npy", noise((8, 8, 5), "uint8", 0, 255))
        write(tmp_path / f"train{domain}" / "b.npy", noise((8, 8, 3), "uint8", 0, 255))
    with caplog.at_level(logging.WARNING):
        data = open_dataset(tmp_path)
    assert data.count("A") == 1
    assert "a.npy: it has 5 channels, expected 3 (train with --input-nc 5 --output-nc 5)" in caplog.text


@pytest.mark.parametrize(("channels", "shown"), [(1, [0, 0, 0]), (2, [0, 0, 0]), (3, [0, 1, 2]), (12, [0, 1, 2])])
def test_what_is_shown_of_many_channels(channels: int, shown: list[int]) -> None:
    images = torch.rand(2, channels, 3, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(as_shown(images), images[:, shown])
