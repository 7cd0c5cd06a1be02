"""Files with numbers other than 8-bit RGB: reading them, and writing files like them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import noise, write
from PIL import Image

from cgcl_fast.data import Reading, UnreadableImageError, Values, read_file, read_image
from cgcl_fast.data import formats as formats_module
from cgcl_fast.data.decoding import read_stored
from cgcl_fast.data.formats import FileFormat
from cgcl_fast.data.writing import format_for, holds, write_numbers

RANGES = {"uint8": (0, 255), "uint16": (0, 4095), "int16": (-1024, 3071), "int32": (-70000, 70000),
          "float32": (-40.0, 31.5), "float64": (-1e9, 1e9)}  # fmt: skip
GREY = [("png", "uint8"), ("png", "uint16"), ("tif", "uint8"), ("tif", "uint16"), ("tif", "int16"), ("tif", "int32"),
        ("tif", "float32"), ("npy", "uint8"), ("npy", "int16"), ("npy", "float64"), ("pgm", "uint16")]  # fmt: skip
BANDS = [("tif", "uint8", 2), ("tif", "uint8", 4), ("tif", "uint16", 3), ("tif", "uint16", 12), ("tif", "float32", 5),
         ("tif", "int16", 16), ("npy", "uint8", 4), ("npy", "float32", 12)]  # fmt: skip


def written(image, form: FileFormat, path: Path) -> Path:
    with open(path, "wb") as file:
        write_numbers(file, image, form)
    return path


@pytest.mark.parametrize(("suffix", "kind"), GREY)
def test_grey_of_every_type_is_read_and_written(tmp_path: Path, suffix: str, kind: str) -> None:
    if kind == "int16":
        pytest.importorskip("tifffile")  # writes the file
    numbers = noise((7, 9), kind, *(RANGES[kind] if suffix != "pgm" else (0, 65535)))
    read = read_file(write(tmp_path / f"a.{suffix}", numbers), Reading(1))
    assert read.form.type == kind and read.form.channels == 1 and read.alpha is None
    np.testing.assert_array_equal(read.numbers[..., 0], numbers)
    again = read_file(written(read.numbers, read.form, tmp_path / f"b.{suffix}"), Reading(1))
    np.testing.assert_array_equal(again.numbers[..., 0], numbers)
    assert again.form == read.form


@pytest.mark.parametrize(("suffix", "kind", "bands"), BANDS)
def test_bands_are_channels(tmp_path: Path, suffix: str, kind: str, bands: int) -> None:
    if suffix == "tif":
        pytest.importorskip("tifffile")
    numbers = noise((20, 18, bands), kind, *RANGES[kind])
    options = {"planarconfig": "contig"} if suffix == "tif" else {}
    path = write(tmp_path / f"a.{suffix}", numbers, **options)
    read = read_file(path, Reading(bands))
    np.testing.assert_array_equal(read.numbers, numbers)
    again = read_file(written(read.numbers, read.form, tmp_path / f"b.{suffix}"), Reading(bands))
    np.testing.assert_array_equal(again.numbers, numbers)
    assert again.form == read.form == FileFormat({"tif": "TIFF", "npy": "NPY"}[suffix], kind, bands, "HWC")
    unit = read_stored(path, reading=Reading(bands, Values(kind, *RANGES[kind]))).image
    if bands == 3 and kind == "uint8":
        return
    assert unit.shape == (bands, 20, 18) and unit.min() == -1 and unit.max() == 1


def test_a_jpeg_with_previews_is_a_jpeg(tmp_path: Path) -> None:
    """As telephones write them: MPO to Pillow, which would write it with a lower quality."""
    numbers = np.full((20, 24, 3), 90, np.uint8)
    preview = Image.new("RGB", (8, 8))
    Image.fromarray(numbers).save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[preview])
    found = read_file(tmp_path / "a.jpg")
    assert found.form == FileFormat("JPEG") and np.abs(found.numbers.astype(int) - 90).max() <= 2


def test_planes_and_pages_are_channels_too(tmp_path: Path) -> None:
    pytest.importorskip("tifffile")
    numbers = noise((6, 20, 18), "uint16", 0, 60000)
    for name, options in (("planes", {"planarconfig": "separate"}), ("pages", {"metadata": None})):
        path = write(tmp_path / f"{name}.tif", numbers, **options)
        read = read_file(path, Reading(6))
        np.testing.assert_array_equal(read.numbers, numbers.transpose(1, 2, 0))
        again = read_file(written(read.numbers, read.form, tmp_path / "again.tif"), Reading(6))
        np.testing.assert_array_equal(again.numbers, read.numbers)
        assert again.form == read.form
    first = read_file(tmp_path / "pages.tif", Reading(1))
    np.testing.assert_array_equal(first.numbers[..., 0], numbers[0])
    assert first.form.frames > 1


@pytest.mark.parametrize("shape", [(9, 20), (20, 18, 3), (5, 20, 18)])
def test_arrays_keep_their_axes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    numbers = noise(shape, "float32", -2, 2)
    channels = {2: 1, 3: 3}[len(shape)] if shape[0] != 5 else 5
    read = read_file(write(tmp_path / "a.npy", numbers), Reading(channels))
    assert read.numbers.shape == ((*shape, 1) if len(shape) == 2 else (20, 18, channels))
    written(read.numbers, read.form, tmp_path / "b.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "b.npy"), numbers)


@pytest.mark.parametrize("array", [np.zeros((2, 3), complex), np.zeros(4), np.zeros((2, 2, 2, 2)), np.array(["a"])])
def test_arrays_that_are_no_images(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(UnreadableImageError, match=r"expected numbers \(H,W\), \(H,W,C\) or \(C,H,W\), got"):
        read_file(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(UnreadableImageError):
        read_file(tmp_path / "b.npy")


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_png_with_16_bits_a_colour(tmp_path: Path, channels: int) -> None:
    """Written without another library that could; read back by Pillow, which keeps the higher byte."""
    numbers = noise((11, 13, channels), "uint16", 0, 65535)
    path = written(numbers, FileFormat("PNG", "uint16", channels), tmp_path / "a.png")
    with Image.open(path) as image:
        seen = np.asarray(image).astype(int)[..., [0, 3] if channels == 2 else slice(None)]
        assert image.size == (13, 11) and np.abs(seen - (numbers >> 8)).max() <= 1
    read = read_file(path, Reading(channels))
    np.testing.assert_array_equal(read.numbers, numbers)
    if channels == 4:
        colours = read_file(path, Reading(3))
        np.testing.assert_array_equal(colours.numbers, numbers[..., :3])
        np.testing.assert_array_equal(colours.alpha, numbers[..., 3])
        with io.BytesIO() as file:
            write_numbers(file, colours.numbers, colours.form, colours.alpha)
            assert file.getvalue() == path.read_bytes()


def test_colours_become_grey_and_grey_colours(tmp_path: Path) -> None:
    colours = noise((5, 6, 3), "uint8", 0, 255)
    write(tmp_path / "a.png", colours)
    luma = np.rint(colours @ np.array([0.299, 0.587, 0.114]))
    grey = read_stored(tmp_path / "a.png", reading=Reading(1)).image
    assert grey.mode == "L" and np.abs(np.asarray(grey) - luma).max() <= 1
    deep = noise((5, 6), "uint16", 0, 4095)
    write(tmp_path / "b.png", deep)
    np.testing.assert_array_equal(read_file(tmp_path / "b.png", Reading(3)).numbers, deep[..., None].repeat(3, 2))
    write(tmp_path / "c.npy", colours.astype(np.float32) / 255)
    np.testing.assert_allclose(read_file(tmp_path / "c.npy", Reading(1)).numbers[..., 0] * 255, luma, atol=0.51)


def test_transparency_is_a_channel_where_it_is_asked_for(tmp_path: Path) -> None:
    numbers = noise((5, 6, 4), "uint8", 1, 255)
    write(tmp_path / "a.png", numbers)
    np.testing.assert_array_equal(read_file(tmp_path / "a.png", Reading(4)).numbers, numbers)
    found = read_file(tmp_path / "a.png", Reading(3))
    np.testing.assert_array_equal(found.numbers, numbers[..., :3])
    np.testing.assert_array_equal(found.alpha, numbers[..., 3])


def test_other_numbers_of_channels_are_refused_in_one_line(tmp_path: Path) -> None:
    pytest.importorskip("tifffile")
    path = write(tmp_path / "a.tif", noise((20, 18, 4), "uint8", 0, 255), planarconfig="contig")
    with pytest.raises(UnreadableImageError, match=r"a.tif: it has 4 channels, expected 3 \(train with --input-nc 4"):
        read_image(path)
    write(tmp_path / "a.png", noise((20, 18, 3), "uint8", 0, 255))
    with pytest.raises(UnreadableImageError, match="it has 3 channels, expected 4"):
        read_file(tmp_path / "a.png", Reading(4))


def test_bands_without_tifffile_are_a_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tifffile")
    four = write(tmp_path / "4.tif", noise((20, 18, 4), "uint8", 0, 255), planarconfig="contig")
    twelve = write(tmp_path / "12.tif", noise((20, 18, 12), "uint8", 0, 255), planarconfig="contig")
    deep = write(tmp_path / "deep.tif", noise((20, 18, 3), "uint16", 0, 65535), photometric="rgb")
    monkeypatch.setattr(formats_module, "has_tifffile", lambda: False)
    for path, wanted in ((four, 3), (four, 4), (twelve, 12)):
        with pytest.raises(UnreadableImageError, match="pip install tifffile"):
            read_file(path, Reading(wanted))
    assert read_image(deep).mode == "RGB"  # of which Pillow keeps 8 bits


def test_a_tiff_with_bands_is_turned_upright(tmp_path: Path) -> None:
    pytest.importorskip("tifffile")
    numbers = noise((20, 18, 5), "uint16", 0, 4095)
    turned = {1: numbers, 2: numbers[:, ::-1], 3: numbers[::-1, ::-1], 4: numbers[::-1], 5: numbers.swapaxes(0, 1),
              6: np.rot90(numbers, -1), 7: numbers.swapaxes(0, 1)[::-1, ::-1], 8: np.rot90(numbers)}  # fmt: skip
    for orientation, expected in turned.items():
        path = write(tmp_path / "a.tif", numbers, planarconfig="contig", extratags=[(274, 3, 1, orientation, True)])
        np.testing.assert_array_equal(read_file(path, Reading(5)).numbers, expected)


def test_what_claims_more_than_it_may_have_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npy", np.zeros((100, 50), np.float32))
    with pytest.raises(UnreadableImageError, match=r"more than 0; --max-megapixels 1 reads it"):
        read_file(path, Reading(1, most_pixels=4999))
    write(tmp_path / "a.png", np.zeros((100, 50), np.uint8))
    with pytest.raises(UnreadableImageError, match="--max-megapixels 1 reads it"):
        read_file(tmp_path / "a.png", Reading(1, most_pixels=4999))
    assert read_file(tmp_path / "a.png", Reading(1, most_pixels=5000)).numbers.shape == (100, 50, 1)


def test_a_range_of_8_bits_is_a_range(tmp_path: Path) -> None:
    write(tmp_path / "a.png", np.array([[0, 5, 10, 200]], np.uint8))
    unit = read_stored(tmp_path / "a.png", reading=Reading(1, Values("uint8", 0, 10))).image
    assert torch.equal(unit, torch.tensor([[[-1.0, 0, 1, 1]]]))


PHOTOGRAPHS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "QOI", "SGI", "TGA", "TIFF", "WEBP")


@pytest.mark.parametrize("name", [name for name in PHOTOGRAPHS if name in Image.SAVE])
@pytest.mark.parametrize("channels", [1, 3])
def test_photographs_are_written_in_the_format_that_they_come_in(tmp_path: Path, name: str, channels: int) -> None:
    """To a file that cannot be gone back in, as :func:`write_atomically` gives."""
    numbers = np.full((20, 24, channels), 100, np.uint8)
    numbers[:, :10] = 140
    written: list[bytes] = []

    class Sink:
        def write(self, data: bytes) -> int:
            written.append(bytes(data))
            return len(data)

    if not holds(name, "uint8", channels):
        assert (name, channels) == ("QOI", 1)
        return
    write_numbers(Sink(), numbers, FileFormat(name, "uint8", channels))  # type: ignore[arg-type]
    (tmp_path / "a.jpg").write_bytes(b"".join(written))
    if name == "TGA":  # which has no signature
        (tmp_path / "a.jpg").rename(tmp_path / "a.tga")
    found = read_file(next(tmp_path.iterdir()), Reading(channels))
    assert found.form.name == name and np.abs(found.numbers.astype(int) - numbers).mean() < 4


@pytest.mark.parametrize(("name", "kept"), [("SGI", False), ("TGA", True)])
def test_transparency_goes_where_the_format_has_none_beside_grey(tmp_path: Path, name: str, kept: bool) -> None:
    image = Image.fromarray(noise((20, 24, 4), "uint8", 1, 255))
    path = tmp_path / f"a.{name.lower()}"
    image.save(path, format=name)
    grey = read_file(path, Reading(1))
    form, suffix = format_for(grey.form, "uint8", 1)
    with open(path, "wb") as file:
        write_numbers(file, grey.numbers, form, grey.alpha)
    found = read_file(path, Reading(1))
    np.testing.assert_array_equal(found.numbers[..., 0], np.asarray(image.convert("RGB").convert("L")))
    assert suffix == "" and (found.alpha is not None) == kept
    if kept:
        np.testing.assert_array_equal(found.alpha, np.asarray(image)[..., 3])


def test_one_band_of_a_last_axis_of_one_is_an_image_and_no_pages(tmp_path: Path) -> None:
    """As tifffile writes (H,W,1), and as this package must not."""
    tifffile = pytest.importorskip("tifffile")
    numbers = noise((24, 32, 1), "float64", -5, 5)
    tifffile.imwrite(tmp_path / "a.tif", numbers, photometric="minisblack")
    read = read_file(tmp_path / "a.tif", Reading(1))
    np.testing.assert_array_equal(read.numbers, numbers)
    with tifffile.TiffFile(written(read.numbers, read.form, tmp_path / "b.tif")) as file:
        assert [page.shape for page in file.pages] == [(24, 32)]


def test_what_a_format_does_not_hold_goes_into_another_one() -> None:
    assert format_for(FileFormat("JPEG"), "uint8", 3) == (FileFormat("JPEG"), "")
    assert format_for(FileFormat("JPEG"), "uint16", 1) == (FileFormat("PNG", "uint16", 1), ".png")
    for name in (
        "PSD",
        "BLP",
        "ICO",
        "XBM",
    ):  # not written, with a palette only, in some sizes only, in black and white
        assert format_for(FileFormat(name), "uint8", 3) == (FileFormat("PNG"), ".png")
    assert format_for(FileFormat("PNG"), "float32", 1) == (FileFormat("TIFF", "float32", 1), ".tif")
    assert format_for(FileFormat("NPY"), "float64", 12)[1] == ""
    assert not holds("JPEG", "uint8", 4) and not holds("PNG", "uint8", 5)
