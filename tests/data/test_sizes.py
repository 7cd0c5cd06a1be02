"""Images that keep sizes of their own: what they become, and those that networks or batches cannot take."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from PIL import Image

from cgcl_fast.data import DataError, FolderDataset, Preprocess, open_dataset, read_image
from cgcl_fast.data.images import UnreadableImageError, read_size
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
