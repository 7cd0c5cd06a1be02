"""Decoding of image files, and finding the readable ones."""

from __future__ import annotations

import io
import logging
import os
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from cgcl_fast.data import (
    UnreadableImageError,
    find_images,
    list_images,
    read_image,
    read_image_and_alpha,
    to_image,
    to_tensor,
)
from cgcl_fast.data import images as images_module
from cgcl_fast.data.decoding import read_size, read_stored
from cgcl_fast.data.formats import Reading, printable

LOSSLESS = ("png", "bmp", "tiff", "webp")


def pattern(height=20, width=28):
    """Different in every corner, so that a turned or mirrored image is not equal."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // (width - 1), y * 255 // (height - 1), (x * y) % 251], axis=-1).astype(np.uint8)


def save(path, array, mode=None, **options):
    Image.fromarray(array).convert(mode).save(path, **options) if mode else Image.fromarray(array).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_lossless_formats_come_back_exactly(tmp_path, suffix):
    options = {"lossless": True} if suffix == "webp" else {}
    image = read_image(save(tmp_path / f"a.{suffix}", pattern(), **options))
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), pattern())


def test_jpeg_comes_back_closely(tmp_path):
    smooth = np.asarray(Image.fromarray(pattern()[:, :, :1].repeat(3, axis=2)))
    image = read_image(save(tmp_path / "a.jpg", smooth, quality=98, subsampling=0))
    assert np.abs(np.asarray(image).astype(int) - smooth).max() <= 4


@pytest.mark.parametrize("mode", ["L", "1", "P"])
@pytest.mark.parametrize("suffix", ["png", "tiff", "bmp"])
def test_gray_bilevel_and_palette(tmp_path, mode, suffix):
    expected = Image.fromarray(pattern()).convert(mode)
    expected.save(tmp_path / f"a.{suffix}")
    image = read_image(tmp_path / f"a.{suffix}")
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), np.asarray(expected.convert("RGB")))


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bit_gray_is_scaled_not_clipped(tmp_path, suffix):
    values = np.linspace(0, 65535, 20 * 30).reshape(20, 30).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    got = np.asarray(read_image(tmp_path / f"a.{suffix}"))
    np.testing.assert_array_equal(got, np.round(values / 257.0).astype(np.uint8)[..., None].repeat(3, axis=2))


def test_big_endian_sixteen_bit_tiff(tmp_path):
    values = np.array([[0, 256, 32768, 65535]], dtype=np.uint16)
    Image.frombytes("I;16B", (4, 1), values.astype(">u2").tobytes()).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "a.tif"))[0, :, 0], [0, 1, 128, 255])


@pytest.mark.parametrize("top", [1.0, 1.001])
def test_floating_point_tiff_goes_from_0_to_1(tmp_path, top):
    """By rule, not by what is in it: one value above 1 must not make all others dark."""
    values = np.linspace(0, top, 64, dtype=np.float32).reshape(8, 8)
    Image.fromarray(values).save(tmp_path / "a.tif")
    got = np.asarray(read_image(tmp_path / "a.tif"))[..., 0]
    np.testing.assert_allclose(got, values.clip(0, 1) * 255, atol=0.51)


def test_cmyk_jpeg(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    red, green, blue = np.asarray(read_image(tmp_path / "a.jpg"))[4, 4].astype(int)
    assert red > 240 and green < 16 and blue < 16


@pytest.mark.parametrize("suffix", ["png", "tiff", "webp"])
def test_alpha_is_kept_beside_the_colours(tmp_path, suffix):
    alpha = np.arange(20 * 28, dtype=np.int64).reshape(20, 28).astype(np.uint8)
    rgba = np.dstack([pattern(), np.maximum(alpha, 1)])
    options = {"lossless": True, "exact": True} if suffix == "webp" else {}
    Image.fromarray(rgba).save(tmp_path / f"a.{suffix}", **options)
    image, transparency = read_image_and_alpha(tmp_path / f"a.{suffix}")
    assert (image.mode, transparency.mode) == ("RGB", "L")
    np.testing.assert_array_equal(np.asarray(image), rgba[..., :3])
    np.testing.assert_array_equal(np.asarray(transparency), rgba[..., 3])
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / f"a.{suffix}")), rgba[..., :3])


def test_gray_with_alpha_and_palette_with_transparency(tmp_path):
    Image.merge("LA", [Image.new("L", (4, 4), 90), Image.new("L", (4, 4), 30)]).save(tmp_path / "la.png")
    image, alpha = read_image_and_alpha(tmp_path / "la.png")
    assert image.getpixel((0, 0)) == (90, 90, 90) and alpha.getpixel((0, 0)) == 30
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putpixel((1, 1), 1)
    palette.save(tmp_path / "p.png", transparency=0)
    image, alpha = read_image_and_alpha(tmp_path / "p.png")
    assert image.getpixel((1, 1)) == (200, 100, 50)
    assert (alpha.getpixel((0, 0)), alpha.getpixel((1, 1))) == (0, 255)


def test_no_alpha_is_none(tmp_path):
    assert read_image_and_alpha(save(tmp_path / "a.png", pattern()))[1] is None


TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("suffix", ["png", "tiff", "webp"])
def test_exif_orientation(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if suffix == "webp" else {}
    save(tmp_path / f"a.{suffix}", pattern(), exif=exif, **options)
    got = np.asarray(read_image(tmp_path / f"a.{suffix}"))
    np.testing.assert_array_equal(got, TURNS[orientation](pattern()))


def test_exif_orientation_turns_alpha_too(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.dstack([pattern(), pattern()[..., 0]])).save(tmp_path / "a.png", exif=exif)
    image, alpha = read_image_and_alpha(tmp_path / "a.png")
    assert image.size == alpha.size == (20, 28)


def test_at_least_reads_large_jpegs_small_but_never_too_small(tmp_path):
    large = np.kron(pattern(), np.ones((40, 40, 1), dtype=np.uint8))
    save(tmp_path / "a.jpg", large)
    whole, small = read_image(tmp_path / "a.jpg"), read_image(tmp_path / "a.jpg", at_least=(100, 100))
    assert whole.size == (1120, 800)
    assert small.size == (280, 200)
    assert read_image(tmp_path / "a.jpg", at_least=(1000, 1000)).size == whole.size


def broken_files(folder):
    """One file for each way of being unreadable."""
    save(folder / "whole.png", pattern(64, 64))
    save(folder / "whole.jpg", pattern(64, 64))
    save(folder / "whole.webp", pattern(64, 64))
    for name in ("whole.png", "whole.jpg", "whole.webp"):
        data = (folder / name).read_bytes()
        (folder / name.replace("whole", "truncated")).write_bytes(data[: len(data) // 2])
        (folder / name).unlink()
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.png").write_text("this is no image")
    (folder / "postscript.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    header = b"IHDR" + struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    chunks = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (folder / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    return sorted(path.name for path in folder.iterdir())


def test_unreadable_files_raise_one_kind_of_error(tmp_path):
    for name in broken_files(tmp_path):
        with pytest.raises(UnreadableImageError) as caught:
            read_image(tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value)
        assert caught.value.reason and caught.value.path == tmp_path / name
    with pytest.raises(UnreadableImageError, match="No such file"):
        read_image(tmp_path / "nothing.png")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(UnreadableImageError, match="not a regular file"):
        read_image(tmp_path / "a.png")


def test_sixteen_bit_colour(tmp_path):
    values = np.array([[[0, 32768, 65535], [65535, 257, 128 * 257]]], dtype=">u2")
    chunks = []
    for name, data in (
        (b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\0" + values.tobytes())),
        (b"IEND", b""),
    ):
        chunks.append(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    assert np.asarray(read_image(tmp_path / "a.png")).tolist() == [[[0, 128, 255], [255, 1, 128]]]


def test_the_error_survives_pickling():
    error = pickle.loads(pickle.dumps(UnreadableImageError("a.png", "broken")))
    assert (str(error.path), error.reason) == ("a.png", "broken")


def test_find_images_names_and_counts_what_it_skips(tmp_path, caplog):
    broken = broken_files(tmp_path)
    save(tmp_path / "good.png", pattern())
    with caplog.at_level(logging.WARNING):
        found = find_images(tmp_path)
    assert [path.name for path in found] == ["good.png"]
    for name in broken:
        assert name in caplog.text
    assert f"skipped {len(broken)} of {len(broken) + 1} image files" in caplog.text


def test_large_folders_are_checked_by_their_headers(tmp_path, monkeypatch):
    broken_files(tmp_path)
    save(tmp_path / "good.png", pattern())
    monkeypatch.setattr(images_module, "FULL_CHECK_BYTES", 10)
    names = {path.name for path in find_images(tmp_path)}
    assert "good.png" in names and "text.png" not in names and "bomb.png" not in names


def test_a_folder_without_a_readable_image_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no images .* it holds nothing"):
        find_images(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match="it holds notes.txt"):
        find_images(tmp_path)
    (tmp_path / "text.png").write_text("this is no image")
    with pytest.raises(ValueError, match="none of the 1 image files .* text.png: not a JPEG") as caught:
        find_images(tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="is missing"):
        find_images(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="is not a folder"):
        find_images(tmp_path / "notes.txt")


def test_list_images_is_recursive_sorted_and_ignores_case(tmp_path):
    names = ["b.JPG", "a.png", "sub/c.Tiff", "sub/deep/d.webp", "A.bmp", "ten10.jpeg", "f.gif", "g.PPM", "h.npy"]
    for name in [*names, "._a.png", ".cache/e.png", "g.txt", "g.pdf"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "sub" / "up").symlink_to(tmp_path)  # a circle
    (tmp_path / "folder.png").mkdir()
    assert [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)] == sorted(names)


def test_tensor_and_back():
    image = Image.fromarray(pattern())
    tensor = to_tensor(image)
    assert tensor.dtype == torch.float32 and tensor.shape == (3, 20, 28)
    assert tensor.min() == -1 and tensor.max() == 1
    np.testing.assert_array_equal(np.asarray(to_image(tensor)), pattern())
    assert np.asarray(to_image(tensor * 9)).max() == 255
    with pytest.raises(ValueError, match=r"tensor must be \(3,H,W\), got \(1, 4, 4\)"):
        to_image(torch.zeros(1, 4, 4))


def test_how_an_image_is_stored(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 8
    large = np.kron(pattern(), np.ones((40, 40, 1), dtype=np.uint8))
    save(tmp_path / "a.jpg", large, exif=exif)
    stored = read_stored(tmp_path / "a.jpg", at_least=(100, 100))
    assert stored.image.size == (200, 280) and stored.size == (1120, 800) and stored.orientation == 8
    for suffix in ("png", "tiff", "webp"):
        for number in TURNS:
            exif[0x0112] = number
            save(tmp_path / f"c.{suffix}", pattern(), exif=exif)
            assert read_stored(tmp_path / f"c.{suffix}")[1:] == ((28, 20), number)
    exif[0x0112] = 77
    save(tmp_path / "b.jpg", pattern(), exif=exif)
    assert read_stored(tmp_path / "b.jpg")[1:] == ((28, 20), 1)


def test_find_images_looks_only_at_those_to_keep(tmp_path):
    for number in range(4):
        save(tmp_path / f"{number}.png", pattern())
    (tmp_path / "2.png").write_bytes(b"no image")
    found = find_images(tmp_path, keep=lambda path: path.stem in "013", limit=2)
    assert [path.stem for path in found] == ["0", "1"]
    assert [path.stem for path in find_images(tmp_path, keep=lambda path: path.stem in "13")] == ["1", "3"]


def test_a_path_is_shown_on_one_line_without_what_terminals_obey():
    """A line break in a file's name would begin a line of its own in a log; escape sequences change what is seen."""
    name = "straße 写真/a\nerror: b\r\x1b[2J\x7f\x85\u2028\u202ec.png"
    shown = printable(name)
    assert shown == r"straße 写真/a\nerror: b\r\x1b[2J\x7f\x85\u2028\u202ec.png"
    assert shown.isprintable() and len(shown.splitlines()) == 1
    assert printable(b"a\xff.png") == r"a\udcff.png"
    forged = UnreadableImageError("a\nerror: b.png", "broken")
    assert str(forged) == r"cannot read image a\nerror: b.png: broken"


def test_names_in_the_log_stay_on_their_line(tmp_path, caplog):
    save(tmp_path / "good.png", pattern())
    (tmp_path / "bad\nskipped good.png: forged.png").write_bytes(b"no image")
    with caplog.at_level(logging.WARNING):
        find_images(tmp_path)
    assert all(record.getMessage().isprintable() for record in caplog.records)
    assert r"bad\nskipped good.png: forged.png: not a JPEG" in caplog.text


def test_folders_that_cannot_be_listed_are_named_and_counted(tmp_path, caplog, hide):
    for name in ("a/1.png", "hidden/2.png", "z/also hidden/3.png", "z/4.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        save(tmp_path / name, pattern())
    hide(tmp_path / "hidden")
    hide(tmp_path / "z" / "also hidden")
    with caplog.at_level(logging.WARNING):
        found = find_images(tmp_path)
    assert [path.name for path in found] == ["1.png", "4.png"]
    assert [record.getMessage() for record in caplog.records] == [
        f"skipped folder {tmp_path}/hidden: Permission denied",
        f"skipped folder {tmp_path}/z/also hidden: Permission denied",
        f"skipped 2 of the folders in {tmp_path}: unreadable",
    ]
    told = []
    list_images(tmp_path, unreadable=lambda place, error: told.append((place.name, error.strerror)))
    assert told == [("hidden", "Permission denied"), ("also hidden", "Permission denied")]


def test_a_data_folder_that_cannot_be_listed_is_an_error(tmp_path, hide):
    save(tmp_path / "a.png", pattern())
    hide(tmp_path)
    for look in (list_images, find_images):
        with pytest.raises(ValueError, match=f"{tmp_path} cannot be read: Permission denied"):
            look(tmp_path)


def test_files_left_out_are_counted_by_kind(tmp_path, caplog):
    for name in ("a.png", "b.jfif", "sub/c", "sub/d.dat"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        save(tmp_path / name, pattern(), format="PNG")
    for name in ("x.HEIC", "y.heic", "z.HEIC", "v.mp4", "a.txt", "coco.json", "README"):
        (tmp_path / name).write_bytes(b"\0\0\0\x18ftypheic")
    with caplog.at_level(logging.WARNING):
        found = find_images(tmp_path)
    assert [path.name for path in found] == ["a.png", "b.jfif", "c", "d.dat"]
    heic = ", 2 .HEIC, 1 .heic" if ".heic" not in images_module.IMAGE_SUFFIXES else ""
    if heic:
        assert [record.getMessage() for record in caplog.records] == [
            f"{tmp_path}: 5 files left out: 2 .HEIC, 1 .heic, 1 .mp4, 1 without a suffix "
            "(pip install pillow-heif reads HEIC)"
        ]


def test_pictures_that_annotate_others_are_no_photographs(tmp_path):
    names = ["imgs/1.jpg", "bbox/1.jpg", "imgs/2.jpg", "imgs/2_mask.png", "imgs/lonely_mask.png", "Masks/x/2.png"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        save(tmp_path / name, pattern())
    told = []
    found = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path, left_out=told.append)]
    assert found == ["imgs/1.jpg", "imgs/2.jpg", "imgs/lonely_mask.png"]
    assert len(told) == 1 and told[0].startswith("3 files left out: ")
    assert all(kind in told[0] for kind in ("1 in bbox/", "1 in Masks/", "1 *_mask.png"))
    assert [path.name for path in list_images(tmp_path / "bbox")] == ["1.jpg"]
    only = tmp_path / "labels only"
    for name in ("labels/1.png", "labels/2.png"):  # a domain of label maps
        (only / name).parent.mkdir(parents=True, exist_ok=True)
        save(only / name, pattern())
    assert len(list_images(only)) == 2


def test_of_several_frames_the_first_is_read_and_that_is_said(tmp_path, caplog):
    frames = [Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (10, 200)]
    for suffix in ("gif", "tif", "webp", "png"):
        options = {"lossless": True} if suffix == "webp" else {}
        frames[0].save(tmp_path / f"{suffix}.{suffix}", save_all=True, append_images=frames[1:], **options)
    save(tmp_path / "one.png", pattern())
    with caplog.at_level(logging.WARNING):
        paths = find_images(tmp_path)
    assert f"of 4 image files in {tmp_path} with several frames the first is used, as of gif.gif" in caplog.text
    assert all(read_image(path).getpixel((0, 0)) == (10, 10, 10) for path in paths if path.name != "one.png")


def wide_profile():
    """An ICC profile (ICC.1:2010) of a display with wider primaries than sRGB and a gamma of 2."""

    def fixed(*values):
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    # Columns of the matrix to CIE XYZ under D50: red, green, blue.
    columns = {b"rXYZ": (0.5, 0.25, 0.0), b"gXYZ": (0.3, 0.65, 0.1), b"bXYZ": (0.1642, 0.1, 0.7249)}
    tags = {name: b"XYZ \0\0\0\0" + fixed(*values) for name, values in columns.items()}
    tags[b"wtpt"] = b"XYZ \0\0\0\0" + fixed(0.9642, 1.0, 0.8249)
    tags |= {name: b"curv\0\0\0\0" + struct.pack(">IH", 1, 2 * 256) + b"\0\0" for name in (b"rTRC", b"gTRC", b"bTRC")}
    tags[b"desc"] = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"wide\0" + bytes(78)
    tags[b"cprt"] = b"text\0\0\0\0none\0\0\0\0"
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data
    header = struct.pack(">I4sI4s4s4s", start + len(body), b"test", 0x02400000, b"mntr", b"RGB ", b"XYZ ")
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + fixed(0.9642, 1.0, 0.8249)
    return header.ljust(128, b"\0") + table + body, np.array(list(columns.values())).T


def test_colours_of_a_profile_become_srgb(tmp_path):
    """Computed from the profile's matrix, and that of IEC 61966-2-1 adapted to D50 (Bradford)."""
    profile, matrix = wide_profile()
    colours = np.array([[[128, 128, 128], [100, 120, 90], [150, 140, 160], [200, 190, 180]]], np.uint8)
    save(tmp_path / "a.png", colours, icc_profile=profile)
    to_srgb = np.linalg.inv(
        [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
    )
    linear = (colours[0] / 255.0) ** 2 @ (to_srgb @ matrix).T
    expected = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055) * 255
    got = np.asarray(read_image(tmp_path / "a.png"))[0]
    assert np.abs(got - expected).max() <= 1.5 and np.abs(got.astype(int) - colours[0]).max() > 5
    save(tmp_path / "broken.png", colours, icc_profile=profile[:100])
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "broken.png")), colours)


def test_more_pixels_than_pillow_allows_are_named_with_the_option(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    save(tmp_path / "a.png", pattern())
    with pytest.raises(UnreadableImageError, match="it has 0 megapixels, more than 179; --max-megapixels 180 reads it"):
        read_image(tmp_path / "a.png")
    assert read_stored(tmp_path / "a.png", reading=Reading(most_pixels=180_000_000)).image.size == (28, 20)


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("named", ["eXIf", "zTXt"])
def test_a_png_is_turned_as_it_says_before_or_behind_its_pixels(tmp_path: Path, named: str, behind: bool) -> None:
    exif = Image.Exif()
    exif[274] = 6
    content = io.BytesIO()
    Image.new("RGB", (4, 6)).save(content, format="PNG", pnginfo=None)
    data = exif.tobytes()[6:]  # without "Exif\0\0"
    if named == "zTXt":
        text = b"\nexif\n" + str(len(data) + 6).encode() + b"\n" + (b"Exif\0\0" + data).hex().encode() + b"\n"
        data = b"Raw profile type exif\0\0" + zlib.compress(text)
    chunk = len(data).to_bytes(4, "big") + named.encode() + data
    chunk += zlib.crc32(named.encode() + data).to_bytes(4, "big")
    before, end = content.getvalue()[:-12], content.getvalue()[-12:]
    start = before.index(b"IDAT") - 4
    whole = before + chunk + end if behind else before[:start] + chunk + before[start:] + end
    (tmp_path / "turned.png").write_bytes(whole)
    assert read_image(tmp_path / "turned.png").size == (6, 4)
    assert read_size(tmp_path / "turned.png") == (6, 4)


def test_the_size_of_a_png_is_read_without_its_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (4, 6)).save(tmp_path / "plain.png")

    def load(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)
    assert read_size(tmp_path / "plain.png") == (4, 6)
