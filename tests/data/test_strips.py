"""Photographs too large for memory give the same results as small ones."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

pytest.importorskip("pyvips")

from cgcl_fast.data import UnreadableImageError, decoding, formats, strips, writing  # noqa: E402
from cgcl_fast.data.decoding import read_file, read_stored  # noqa: E402
from cgcl_fast.data.formats import FileFormat, Reading  # noqa: E402

SMOOTH = np.add.outer(np.arange(90), np.arange(60))[..., None] + np.array([0, 40, 90])


@pytest.fixture
def all_are_large(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The threshold is a byte; what is decoded and encoded by libvips is listed."""
    seen: list[str] = []
    for name in ("decode", "encode"):
        true = getattr(strips, name)
        monkeypatch.setattr(
            strips, name, lambda *a, _true=true, _name=name, **k: (seen.append(_name), _true(*a, **k))[1]
        )
    monkeypatch.setattr(formats, "LARGE", 1)
    monkeypatch.setattr(writing, "LARGE", 1)
    return seen


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA"])
@pytest.mark.parametrize("name", ["PNG", "TIFF", "JPEG", "WEBP"])
@pytest.mark.parametrize("channels", [1, 3])
def test_they_are_read_the_same(
    tmp_path: Path, name: str, mode: str, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "JPEG" and mode in ("RGBA", "LA"):
        return  # which has no transparency
    pixels = np.dstack([SMOOTH, SMOOTH[..., :1][::-1]]).astype(np.uint8)
    picture = Image.fromarray(pixels, "RGBA").convert(mode)
    options = {"compression": "tiff_deflate"} if name == "TIFF" else {"lossless": True} if name == "WEBP" else {}
    path = tmp_path / "picture.bin"  # content decides
    picture.save(path, format=name, **options)
    expected = read_file(path, Reading(channels))
    monkeypatch.setattr(formats, "LARGE", 1)
    found = read_file(path, Reading(channels))
    assert found.form == expected.form and found.values == expected.values
    furthest = 3 if name == "JPEG" else 1 if channels == 1 and mode in ("RGB", "RGBA") else 0
    difference = np.abs(found.numbers.astype(int) - expected.numbers.astype(int))
    assert difference.max() <= furthest  # libjpegs round otherwise, and grey of numbers is not that of Pillow
    assert (found.alpha is None) == (expected.alpha is None)
    if found.alpha is not None and expected.alpha is not None:
        assert np.array_equal(found.alpha, expected.alpha)


def test_they_stay_on_the_disk(tmp_path: Path, all_are_large: list[str]) -> None:
    Image.fromarray(SMOOTH.astype(np.uint8)).save(tmp_path / "a.png")
    numbers = read_file(tmp_path / "a.png").numbers
    while isinstance(numbers.base, np.ndarray):
        numbers = numbers.base
    assert isinstance(numbers, np.memmap)
    assert all_are_large == ["decode"]


def test_a_profile_is_applied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    content = bytearray(lab.tobytes())
    path = tmp_path / "wide.png"
    picture = Image.fromarray((SMOOTH % 256).astype(np.uint8))
    picture.save(path, icc_profile=bytes(content).replace(b"sRGB", b"wRGB"))
    expected = read_file(path)
    monkeypatch.setattr(formats, "LARGE", 1)
    monkeypatch.setattr(formats._strips_to_srgb, "__defaults__", (7,))  # rows, in several parts
    found = read_file(path)
    assert expected.form.srgb and found.form == expected.form
    assert np.array_equal(found.numbers, expected.numbers)


def test_what_is_turned_or_made_smaller_is_pillows(tmp_path: Path, all_are_large: list[str]) -> None:
    picture = Image.fromarray(SMOOTH.astype(np.uint8))
    exif = Image.Exif()
    exif[274] = 6
    picture.save(tmp_path / "turned.png", exif=exif)
    assert read_file(tmp_path / "turned.png").numbers.shape == (60, 90, 3)
    picture.save(tmp_path / "upright.jpg")
    assert read_stored(tmp_path / "upright.jpg", at_least=(8, 8)).image.size == (30, 45)
    assert all_are_large == []


def test_damaged_files_are_named(tmp_path: Path, all_are_large: list[str]) -> None:
    noise = np.random.RandomState(0).randint(0, 256, (64, 64, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(noise).save(content, format="PNG")
    (tmp_path / "cut.png").write_bytes(content.getvalue()[:4000])
    with pytest.raises(UnreadableImageError, match="cut.png"):
        read_file(tmp_path / "cut.png")


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("channels", [1, 3])
def test_they_are_written_the_same(tmp_path: Path, name: str, channels: int, all_are_large: list[str]) -> None:
    numbers = SMOOTH[..., :channels].astype(np.uint8)
    with open(tmp_path / "written", "wb") as file:
        writing.write_numbers(file, numbers, FileFormat(name, channels=channels, srgb=channels == 3))
    assert all_are_large == ["encode"]
    with Image.open(tmp_path / "written") as found:
        assert found.format == name and found.size == (60, 90)
        assert (channels == 3) == ("icc_profile" in found.info)
        pixels = np.asarray(found.convert("RGB" if channels == 3 else "L")).reshape(numbers.shape)
    assert np.abs(pixels.astype(int) - numbers.astype(int)).max() <= (0 if name == "PNG" else 8)


def test_a_full_disk_is_an_error_of_the_disk(all_are_large: list[str]) -> None:
    class Full(io.BytesIO):
        def write(self, _: object) -> int:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        writing.write_numbers(Full(), SMOOTH.astype(np.uint8), FileFormat("PNG"))


def test_without_libvips_pillow_reads_them(
    tmp_path: Path, all_are_large: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strips, "has_libvips", lambda: False)
    Image.fromarray(SMOOTH.astype(np.uint8)).save(tmp_path / "a.png")
    assert np.array_equal(decoding.read_file(tmp_path / "a.png").numbers, SMOOTH.astype(np.uint8))
    assert all_are_large == []
