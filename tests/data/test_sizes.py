"""Images of different sizes: the sizes that they get, and those that networks or batches cannot accept."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from image_files import noise, write
from PIL import Image

from cgcl_fast.data import DataError, FolderDataset, Preprocess, Reading, open_dataset, read_image
from cgcl_fast.data.decoding import read_size, read_stored, size_of
from cgcl_fast.data.formats import UnreadableImageError
from cgcl_fast.data.needs import DataNeeds


def fill(root: Path, sizes: dict[str, list[tuple[int, int]]]) -> Path:
    for name, each in sizes.items():
        (root / name).mkdir(parents=True)
        for number, size in enumerate(each):
            Image.new("RGB", size, (number, 0, 0)).save(root / name / f"{number}.png")
    return root


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_the_header_tells_the_size_of_the_upright_image(suffix: str, orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned.{suffix}"
    Image.new("RGB", (14, 9)).save(path, exif=exif)
    assert read_size(path) == read_image(path).size == ((9, 14) if orientation >= 5 else (14, 9))


@pytest.mark.parametrize(
    ("name", "shape", "channels"),
    [
        ("grey.npy", (9, 14), 1), ("bands.npy", (9, 14, 5), 5), ("planes.npy", (5, 9, 20), 5), ("deep.png", (9, 14), 1),
        ("bands.tif", (9, 14, 5), 5), ("planes.tif", (5, 9, 14), 5),
    ],
)  # fmt: skip
def test_the_header_of_any_numbers_tells_their_size(
    name: str, shape: tuple[int, ...], channels: int, tmp_path: Path
) -> None:
    tiff = {"planarconfig": "separate" if name[0] == "p" else "contig"} if name.endswith("tif") else {}
    path, reading = write(tmp_path / name, noise(shape, "uint16", 0, 4095), **tiff), Reading(channels)
    assert read_size(path, reading) == size_of(read_stored(path, reading=reading).image)
    with pytest.raises(UnreadableImageError, match=f"it has {channels} channels, expected 2"):
        read_size(path, Reading(2))


@pytest.mark.parametrize("orientation", [1, 6])
def test_numbers_that_are_turned_have_the_size_of_what_is_upright(orientation: int, tmp_path: Path) -> None:
    tag = [(274, "H", 1, orientation, False)]
    path = write(tmp_path / "turned.tif", noise((9, 14, 5), "uint16", 0, 9), planarconfig="contig", extratags=tag)
    found = read_size(path, Reading(5))
    assert found == size_of(read_stored(path, reading=Reading(5)).image)
    assert found == ((9, 14) if orientation == 6 else (14, 9))


def test_sizes_of_images_of_any_channels_are_checked(tmp_path: Path) -> None:
    for domain, side in (("A", 40), ("B", 20)):
        for number in range(2):
            write(tmp_path / f"train{domain}" / f"{number}.npy", noise((side, 40 + 8 * number, 5), "uint16", 0, 9))
    data = open_dataset(tmp_path, preprocess="none", readings={domain: Reading(5) for domain in "AB"})
    assert data.check_sizes(20) == 4
    with pytest.raises(DataError, match="trainB/0.npy gives 40x20, and 1 more of 4 are too small"):
        data.check_sizes(24)


def test_a_file_without_a_size_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    for name, reason in (("broken.png", "not a JPEG, PNG"), ("missing.png", "No such file")):
        with pytest.raises(UnreadableImageError, match=f"{name}: {reason}"):
            read_size(tmp_path / name)


@pytest.mark.parametrize(("mode", "load_size"), [("none", None), ("scale_width", 40), ("scale_width", 11)])
def test_the_size_foretold_is_the_one_that_comes(mode: str, load_size: int | None) -> None:
    transform = Preprocess(mode, load_size=load_size)
    for width, height in ((30, 22), (41, 37), (3, 90), (200, 7), (64, 64)):
        image = transform(Image.new("RGB", (width, height)), random.Random(0))
        assert transform.whole_size(width, height) == (image.shape[2], image.shape[1])


def test_images_that_are_too_small_are_named_in_one_line(tmp_path: Path) -> None:
    root = fill(tmp_path, {"trainA": [(40, 40), (64, 21), (30, 90)], "trainB": [(48, 48), (20, 20), (64, 64)]})
    data = open_dataset(root, preprocess="none")
    assert data.check_sizes(20) == 6 and data.check_sizes(1) == 6
    with pytest.raises(DataError) as raised:
        data.check_sizes(24)
    assert str(raised.value) == (
        f"preprocess: networks with these options need images of at least 24x24 pixels, but with 'none' "
        f"{root}/trainA/1.png gives 64x20, and 1 more of 6 are too small: take larger images, or a mode that crops"
    )
    data = open_dataset(root, preprocess="scale_width", load_size=64)
    with pytest.raises(DataError, match=r"'scale_width' .*/trainA/1.png gives 64x20: take a larger load_size, or"):
        data.check_sizes(24)
    assert open_dataset(root, preprocess="crop", size=16).check_sizes(24) == 1  # what comes is looked at, not the files
    assert open_dataset(size=32).check_sizes(24) == 1


def test_a_batch_of_several_sizes_is_refused_by_name(tmp_path: Path) -> None:
    root = fill(tmp_path, {"trainA": [(40, 40), (40, 41), (40, 40)], "trainB": [(48, 48), (48, 48)]})
    assert open_dataset(root, preprocess="none").check_sizes(8, batch_size=2) == 2  # 41 is rounded to 40
    pairs = FolderDataset(root, preprocess=Preprocess("none"), needs=DataNeeds(random_pairs=True))
    assert pairs.check_sizes(8, batch_size=1) == 2
    with pytest.raises(DataError, match="batch_size: expected 1 where sizes differ, got 2, but with preprocess 'none'"):
        pairs.check_sizes(8, batch_size=2)  # an image of A may meet one of B
    Image.new("RGB", (52, 48)).save(root / "trainB" / "2.png")
    with pytest.raises(DataError) as raised:
        open_dataset(root, preprocess="none").check_sizes(8, batch_size=3)
    assert str(raised.value) == (
        f"batch_size: expected 1 where sizes differ, got 3, but with preprocess 'none' {root}/trainB/0.png gives 48x48 "
        f"and {root}/trainB/2.png 52x48: take batch_size 1, with accumulate 3 for as many images a step, or a mode "
        "that crops"
    )
