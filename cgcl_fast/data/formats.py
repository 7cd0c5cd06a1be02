"""Image file formats: opening a file, recognising its format, and reading its pixels as they are stored.

:mod:`cgcl_fast.data.decoding` converts them to what a caller needs. To add a format, add a ``_Source``.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import math
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torchvision.io
from PIL import ExifTags, Image, ImageCms, ImageOps

from cgcl_fast.data import strips
from cgcl_fast.data.errors import DataError, UnreadableImageError, printable, reason_of
from cgcl_fast.data.tars import MemberFile, open_file
from cgcl_fast.data.values import Values

logger = logging.getLogger(__name__)

# Pillow would write its remarks on unreadable files to stderr, in addition to the exception it raises.
logging.getLogger("PIL.TiffImagePlugin").setLevel(logging.CRITICAL)

MOST_PIXELS = 179_000_000
"""Maximum number of pixels, as in Pillow: a small file may claim any size."""

LARGE = 2**28
"""From this many bytes on, numbers are kept in a file instead of in memory: in their own file if its format allows
(.npy, TIFF without compression), else, if libvips is installed, in one made by :mod:`cgcl_fast.data.strips`."""

_UNSAFE = ("EPS", "WMF", "MPEG", "BUFR", "GRIB", "HDF5", "IPTC")
"""Formats that Pillow knows but does not decode itself; EPS would start Ghostscript even for a file called
photo.jpg."""

_LUMA = np.array([0.299, 0.587, 0.114])
"""Luma weights of ITU-R BT.601, as in Pillow's conversion to grey."""


@dataclass(frozen=True)
class Reading:
    """How the images of a domain are read.

    Args:
        channels: their number. Grey is converted to colour and colour to grey as needed, and transparency is dropped;
            any other number of channels is rejected.
        values: the range of their numbers; None: the range of each file's type.
        most_pixels: larger images are rejected.
    """

    channels: int = 3
    values: Values | None = None
    most_pixels: int = MOST_PIXELS


class FileFormat(NamedTuple):
    """The format of a file, for writing another file like it.

    Attributes:
        name: Pillow's name of the format, or NPY.
        type: of its numbers, as in ``Values.type``.
        channels: number of channels without transparency.
        axes: of an array, "HW", "HWC" or "CHW".
        srgb: whether its colours were converted to sRGB from an embedded profile.
        frames: number of images in it; the first is read.
    """

    name: str
    type: str = "uint8"
    channels: int = 3
    axes: str = "HWC"
    srgb: bool = False
    frames: int = 1


class _Source(ABC):
    """An opened file: its format, and how to read its pixels."""

    form: FileFormat
    size: tuple[int, int]
    alpha: bool = False
    orientation: int = 1

    def channels_for(self, wanted: int) -> int:
        """The number of colour channels; including transparency if the total is then ``wanted``."""
        return self.form.channels + (1 if self.alpha and wanted == self.form.channels + 1 else 0)

    def upright_size(self) -> tuple[int, int] | None:
        """(width, height) after rotation to upright; None if that takes its pixels."""
        return self.size[::-1] if self.orientation >= 5 else self.size

    @abstractmethod
    def load(self, at_least: tuple[int, int] | None, channels: int) -> Decoded:
        """Its pixels with the requested channels. A JPEG may be reduced, but not below ``at_least`` (height, width)."""


class Decoded(NamedTuple):
    """Upright pixels with the requested channels: a PIL image of mode RGB or L, or numbers (H,W,C)."""

    pixels: Image.Image | np.ndarray
    alpha: Image.Image | np.ndarray | None
    size: tuple[int, int]
    orientation: int
    form: FileFormat


def check_channels(source: _Source, reading: Reading) -> None:
    has, wanted = source.channels_for(reading.channels), reading.channels
    if has != wanted and {has, wanted} != {1, 3}:
        raise ValueError(f"it has {has} channels, expected {wanted} (train with --input-nc {has} --output-nc {has})")


@contextmanager
def errors(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except (UnreadableImageError, DataError):  # DataError concerns more than this file
        raise
    except MemoryError as error:
        raise UnreadableImageError(path, "not enough memory to decode it") from error
    except Exception as error:  # for damaged files Pillow raises nearly anything: OSError, SyntaxError, struct.error...
        raise UnreadableImageError(path, reason_of(error)) from error


@contextmanager
def opened(path: str | os.PathLike[str], reading: Reading) -> Iterator[_Source]:
    with open_file(path) as file:
        start = file.read(32)
        file.seek(0)
        yield from _sources(path, file if isinstance(file, MemberFile) else path, start, reading)


def _sources(
    path: str | os.PathLike[str], content: str | os.PathLike[str] | MemberFile, start: bytes, reading: Reading
) -> Iterator[_Source]:
    """Yields the source for a file, once.

    Args:
        path: the file.
        content: what the libraries open: the path itself, or the open member of a tar, whose path they do not know.
        start: the first bytes of the file.
    """
    if start.startswith(b"\x93NUMPY"):
        source: _Source = _Array(content, reading)
        _check_size(source.size, reading)
        yield source
        return
    deep = start[24:25] == b"\x10" and start[25:26] in (b"\x02", b"\x04", b"\x06")  # 16 bits; several channels
    # torchvision may drop this function; PNGs are then read with 8 bits, as by Pillow.
    if start[:8] == b"\x89PNG\r\n\x1a\n" and deep and hasattr(torchvision.io, "decode_png"):
        with _pillow(path, content, reading) as png:
            source = _DeepPNG(path, png, 1 if start[25] == 4 else 3, start[25] != 2)
        yield source
        return
    tiff = start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    image: Any = None  # Pillow's image, if there is one
    try:
        image = _pillow(path, content, reading)
    except Image.UnidentifiedImageError:
        if not tiff:
            raise
    if image is not None:
        with image:
            bands = _bands_beyond_pillow(image, reading) if tiff else 0
            if not bands:
                photograph = _Photograph(path, image)
                in_file = not isinstance(content, MemberFile)  # libvips reads from files only
                yield _Strips(photograph) if in_file and _fits_strips(photograph) else photograph
                return
        if not has_tifffile():
            raise ValueError(f"a TIFF of {bands} bands; pip install tifffile, which reads it")
    elif not has_tifffile():
        raise ValueError("a TIFF that Pillow cannot read; where it has many bands, pip install tifffile")
    import tifffile

    if isinstance(content, MemberFile):
        content.seek(0)
    with tifffile.TiffFile(content) as file:
        source = _Tiff(file, reading)
        _check_size(source.size, reading)
        yield source


def _check_size(size: tuple[int, int], reading: Reading) -> None:
    if min(size) < 1:
        raise ValueError(f"its size is {size[0]}x{size[1]}")
    if size[0] * size[1] > reading.most_pixels:
        raise ValueError(_too_large(size[0] * size[1], reading))


def _too_large(pixels: int, reading: Reading) -> str:
    return (
        f"it has {pixels / 1e6:.0f} megapixels, more than {reading.most_pixels / 1e6:.0f}; "
        f"--max-megapixels {max(pixels, reading.most_pixels) // 10**6 + 1} reads it"
    )


def _pillow(
    path: str | os.PathLike[str], content: str | os.PathLike[str] | MemberFile, reading: Reading
) -> Image.Image:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and reading.most_pixels > max(limit, MOST_PIXELS):  # requested, and Pillow has a global limit
        Image.MAX_IMAGE_PIXELS = reading.most_pixels
    try:
        image = Image.open(content, formats=_formats_for(Path(path).suffix.lower()))  # type: ignore[arg-type]
    except Image.DecompressionBombError as error:
        match = re.search(r"\d+", str(error))
        raise ValueError(_too_large(int(match.group()) if match else 2 * reading.most_pixels, reading)) from error
    try:
        _check_size(image.size, reading)
    except ValueError:
        image.close()
        raise
    image.filename = os.fspath(path)  # Pillow does not know that of a member
    return image


@lru_cache(maxsize=1)
def _formats() -> tuple[tuple[str, ...], frozenset[str]]:
    """Names of the formats that Pillow reads, and of those among them without a signature at the beginning."""
    try:
        from pillow_heif import register_heif_opener  # type: ignore[import-not-found,unused-ignore]

        register_heif_opener()
    except ImportError:
        pass
    Image.init()
    names = tuple(name for name in Image.ID if name in Image.OPEN and name not in _UNSAFE)
    return names, frozenset(name for name in names if Image.OPEN[name][1] is None)


@lru_cache(maxsize=64)
def _formats_for(suffix: str) -> tuple[str, ...]:
    """Formats to try for a file with this suffix. Content decides, so this is nearly all of them, except that formats
    which accept any content also need the suffix."""
    names, unsigned = _formats()
    return tuple(name for name in names if name not in unsigned or Image.EXTENSION.get(suffix) == name)


@lru_cache(maxsize=1)
def image_suffixes() -> tuple[str, ...]:
    """Suffixes of the files that are read."""
    names, _ = _formats()
    return tuple(sorted({".npy", *(suffix for suffix, name in Image.EXTENSION.items() if name in names)}))


class _Photograph(_Source):
    """An image that Pillow reads without loss: up to 8 bits per channel, or grey of any type."""

    def __init__(self, path: str | os.PathLike[str], image: Image.Image) -> None:
        self.path, self.image, self.size = path, image, image.size
        kind = _type_of(image)
        alpha = image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info
        self.alpha = alpha and kind == "uint8"
        grey = image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I")
        several = getattr(image, "is_animated", False) and image.format != "MPO"
        self.form = FileFormat(
            "JPEG" if image.format == "MPO" else str(image.format),  # its other pictures are previews and depths
            kind,
            1 if grey else 3,
            srgb="icc_profile" in image.info,
            frames=2 if several else 1,
        )

    def upright_size(self) -> tuple[int, int] | None:
        if _orientation(self.image) < 5:
            return self.size
        return None if self.image.format == "TIFF" else self.size[::-1]  # Pillow may have turned a TIFF already

    def load(self, at_least: tuple[int, int] | None, channels: int) -> Decoded:
        image, size = self.image, self.size
        if at_least is not None:
            # Twice the requested size, so that the later resampling still sees more detail than it keeps. The longer
            # side is used for both, because the orientation may still swap them.
            longest = 2 * max(at_least)
            image.draft(None, (longest, longest))
        stated = _orientation(image) if image.format == "TIFF" else 1
        image.load()
        upright, orientation = _upright(image)
        if image.format == "TIFF" and orientation == 1:  # Pillow already rotated it while loading
            orientation = stated
            size = size[::-1] if stated >= 5 and size == upright.size else size
        if self.form.type != "uint8":
            numbers = np.asarray(upright).astype(self.form.type)[..., None]
            return Decoded(_with_channels(numbers, channels), None, size, orientation, self.form)
        pixels, alpha = _split_alpha(upright)
        profile = self.image.info.get("icc_profile")
        srgb = False
        if profile:
            before = upright if upright.mode in ("L", "CMYK") else pixels
            converted = _to_srgb(before, profile, self.path)
            srgb, pixels = converted is not None, converted or pixels
        form = self.form._replace(srgb=srgb)
        if self.alpha and channels == self.form.channels + 1:
            colours = pixels if self.form.channels == 3 else pixels.convert("L")
            return Decoded(np.dstack([np.asarray(colours), np.asarray(alpha)]), None, size, orientation, form)
        return Decoded(pixels if channels == 3 else pixels.convert("L"), alpha, size, orientation, form)


class _Strips(_Source):
    """A large photograph at full size, which libvips decodes into a file from top to bottom."""

    def __init__(self, photograph: _Photograph) -> None:
        self.photograph, self.size = photograph, photograph.size
        self.form, self.alpha = photograph.form, photograph.alpha

    def load(self, at_least: tuple[int, int] | None, channels: int) -> Decoded:
        if at_least is not None:
            return self.photograph.load(at_least, channels)
        numbers = strips.decode(self.photograph.path)
        profile = self.photograph.image.info.get("icc_profile") or b""
        srgb = profile != b"" and _strips_to_srgb(numbers, profile, self.photograph.path)
        decoded = _from_numbers(self, numbers, channels)
        return decoded._replace(form=self.form._replace(srgb=srgb))


def _fits_strips(photograph: _Photograph) -> bool:
    image, form = photograph.image, photograph.form
    large = image.width * image.height * len(image.getbands()) >= LARGE
    plain = image.mode in ("L", "RGB", "LA", "RGBA") and form.type == "uint8" and "transparency" not in image.info
    known = image.format in strips.READS and form.frames == 1 and _orientation(image) == 1
    return large and plain and known and (image.mode == "RGB" or not form.srgb) and strips.has_libvips()


def _strips_to_srgb(numbers: np.ndarray, profile: bytes, path: str | os.PathLike[str], rows: int = 256) -> bool:
    """Convert numbers (H,W,3) to sRGB in place, as ``_to_srgb`` does; returns whether the profile was usable."""
    for top in range(0, len(numbers), rows):
        converted = _to_srgb(Image.fromarray(numbers[top : top + rows]), profile, path)
        if converted is None:
            return False
        numbers[top : top + rows] = np.asarray(converted)
    return True


def _type_of(image: Image.Image) -> str:
    mode = image.mode
    if mode == "F":
        return "float32"
    if mode.startswith("I;16"):
        return "uint16"
    if image.format == "TIFF" and mode in ("I", "L"):
        tags = image.tag_v2  # type: ignore[attr-defined]
        bits, signed = tags.get(258, (32,))[0], tags.get(339, (1,))[0] == 2
        if mode == "L":
            return "int8" if signed else "uint8"
        return f"{'int' if signed else 'uint'}{bits}" if bits in (8, 16, 32) else "int32"
    if mode != "I":
        return "uint8"
    return "uint16" if image.format in ("PNG", "PPM") else "int32"


def _orientation(image: Image.Image) -> int:
    """The EXIF Orientation tag; 1 (upright) if it is missing or invalid."""
    try:
        if image.format == "PNG" and not _png_may_have_exif(image):
            return 1
        stated = image.getexif().get(ExifTags.Base.Orientation, 1)
        return stated if stated in range(2, 9) else 1
    except Exception:  # damaged EXIF data
        return 1


def _png_may_have_exif(image: Any) -> bool:
    """Whether a PNG may contain EXIF data, which can come after the pixels: Pillow would decode all pixels just to find
    none. ISO/IEC 15948: a signature, then length, name, data and checksum of each chunk."""
    if "exif" in image.info or "Raw profile type exif" in image.info:
        return True
    if not image.filename:
        return True
    with open_file(image.filename) as file:
        file.seek(8)
        behind = False
        while len(head := file.read(8)) == 8:
            name = head[4:]
            if name == b"eXIf" or (behind and name in (b"tEXt", b"zTXt", b"iTXt")):
                return True
            behind = behind or name == b"IDAT"
            file.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)
    return False


def _upright(image: Image.Image) -> tuple[Image.Image, int]:
    orientation = _orientation(image)
    if orientation == 1:  # otherwise Pillow would return a copy
        return image, 1
    try:
        return ImageOps.exif_transpose(image), orientation
    except Exception as error:  # damaged EXIF data does not make the image unreadable
        name = getattr(image, "filename", "an image")
        logger.debug("ignoring the EXIF data of %s: %s", printable(name), reason_of(error))
        return image, 1


def _split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return rgba.convert("RGB"), rgba.getchannel("A")
    return (image.copy() if image.mode == "RGB" else image.convert("RGB")), None


def _to_srgb(image: Image.Image, profile: bytes, path: str | os.PathLike[str]) -> Image.Image | None:
    """The image in sRGB; None if the profile is not usable for it."""
    try:
        transform = _colour_transform(profile, image.mode)
        return image.convert("RGB") if transform is None else transform.apply(image)
    except Exception as error:  # damaged, or for another number of channels
        logger.debug("ignoring the colour profile of %s: %s", printable(path), reason_of(error))
        return None


@lru_cache(maxsize=16)
def _colour_transform(profile: bytes, mode: str) -> Any:
    """The transform to sRGB; None for images that are already sRGB."""
    described = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    if mode == "RGB" and "srgb" in ImageCms.getProfileDescription(described).lower():
        return None
    return ImageCms.buildTransform(described, ImageCms.createProfile("sRGB"), mode, "RGB")


class _DeepPNG(_Source):
    """PNG with 16 bits per channel and several channels; Pillow would keep only 8 bits."""

    def __init__(self, path: str | os.PathLike[str], image: Image.Image, colours: int, alpha: bool) -> None:
        self.path, self.size, self.orientation, self.alpha = path, image.size, _orientation(image), alpha
        self.form = FileFormat("PNG", "uint16", colours)

    def load(self, at_least: tuple[int, int] | None, channels: int) -> Decoded:
        with open_file(self.path) as file:
            content = torch.frombuffer(bytearray(file.read()), dtype=torch.uint8)
        planes = torchvision.io.decode_png(content).to(torch.int32).numpy().astype(np.uint16)
        return _from_numbers(self, planes.transpose(1, 2, 0), channels)


class _Array(_Source):
    """A NumPy file with one array: (H,W), (H,W,C), or (C,H,W) if the last axis is longer than 16 and the first is
    not."""

    def __init__(self, content: str | os.PathLike[str] | MemberFile, reading: Reading) -> None:
        if isinstance(content, MemberFile):
            array = _mapped(content)
        else:
            array = np.load(content, mmap_mode="r", allow_pickle=False)
        if array.ndim not in (2, 3) or array.dtype.kind not in "uifb" or array.dtype.itemsize > 8:
            raise ValueError(f"expected numbers (H,W), (H,W,C) or (C,H,W), got {array.dtype.name} {array.shape}")
        axes = "HW" if array.ndim == 2 else "CHW" if array.shape[2] > 16 >= array.shape[0] else "HWC"
        self.array = _ordered(array, axes)
        self.size = (self.array.shape[1], self.array.shape[0])
        self.form = FileFormat("NPY", _known_type(array.dtype), self.array.shape[2], axes)

    def load(self, at_least: tuple[int, int] | None, channels: int) -> Decoded:
        return _from_numbers(self, self.array, channels)


def _mapped(member: MemberFile) -> np.ndarray:
    """The array in a ``.npy`` member of a tar, mapped into memory; ``np.load`` can only map whole files."""
    version = np.lib.format.read_magic(member)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"expected an array of numbers, got version {version[0]}.{version[1]} of NumPy's format")
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, columns_first, dtype = read_header(member)
    begin, needed = member.tell(), math.prod(shape) * dtype.itemsize
    if dtype.hasobject or member.size - begin < needed:  # the next member follows
        raise ValueError(f"it holds {member.size - begin} of the {needed} bytes of its array")
    if not needed:
        return np.zeros(shape, dtype)
    order: Any = "F" if columns_first else "C"
    return np.memmap(member.tar, dtype, "r", member.offset + begin, shape, order)


def _known_type(dtype: np.dtype) -> str:
    """The type of the file's numbers, in this machine's byte order."""
    if dtype.kind == "b":
        return "uint8"
    name = dtype.name
    return {"uint64": "float64", "int64": "float64"}.get(name, name)


def _bands_beyond_pillow(image: Image.Image, reading: Reading) -> int:
    """The number of bands of a TIFF if Pillow would drop some of them, or some of their bits; else 0."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    samples, bits = int(tags.get(277, 1)), max(tags.get(258, (1,)))
    if samples != (1 if image.mode in ("P", "1") else len(image.getbands())):
        return samples
    plain = tags.get(259, 1) == 1 and image.mode in ("L", "RGB") and tags.get(262) in (1, 2)
    if plain and image.width * image.height * samples >= LARGE and has_tifffile():
        return samples
    if samples > 1:  # Pillow keeps 8 of 16 bits per channel: still the picture, if there is no tifffile
        return samples if bits > 8 and has_tifffile() else 0
    pages = reading.channels > 1 and has_tifffile() and getattr(image, "n_frames", 1) == reading.channels
    return reading.channels if pages else 0


def has_tifffile() -> bool:
    return importlib.util.find_spec("tifffile") is not None


class _Tiff(_Source):
    """TIFF as read by tifffile: bands interleaved, in planes, or one per page if the number of pages is the requested
    number of channels. Otherwise only the first page is read."""

    def __init__(self, opened: Any, reading: Reading) -> None:
        if not opened.series:
            raise ValueError("a TIFF without images")
        self.series = opened.series[0]
        axes, self.shape, self.pages = self.series.axes, tuple(self.series.shape), 1
        while not (order := _order(axes, self.shape, reading.channels)):
            if len(axes) < 3 or axes[0] in "YX":
                raise ValueError(f"a TIFF with axes {self.series.axes}, expected rows, columns and bands")
            self.pages *= self.shape[0]
            axes, self.shape = axes[1:], self.shape[1:]
        self.axes = order
        bands, height, width = _ordered(np.broadcast_to(np.uint8(0), self.shape), self.axes).transpose(2, 0, 1).shape
        page = self.series.keyframe
        self.alpha = bands in (2, 4) and [int(extra) for extra in page.extrasamples] in ([1], [2])
        self.size = (width, height)
        tag = page.tags.get(274)
        self.orientation = int(tag.value) if tag is not None and int(tag.value) in range(2, 9) else 1
        colours = bands - 1 if self.alpha else bands
        self.form = FileFormat("TIFF", _known_type(self.series.dtype), colours, self.axes, frames=self.pages)

    def load(self, at_least: tuple[int, int] | None, channels: int) -> Decoded:
        one = slice(0, max(1, len(self.series.pages) // self.pages))
        out = "memmap" if self.series.nbytes // self.pages >= LARGE else None
        array = self.series.asarray(key=None if self.pages == 1 else one, out=out)
        array = array.reshape(-1, *self.shape)[0]
        return _from_numbers(self, _ordered(array, self.axes), channels)


def _order(axes: str, shape: tuple[int, ...], channels: int) -> str:
    """The position of the bands among tifffile's axes; "" if there is more than one image."""
    if axes in ("YX", "YXS", "YXC") or (axes[:2] == "YX" and shape[2:] == (1,)):
        return "HW" if axes == "YX" else "HWC"
    if axes[1:] == "YX" and (axes[0] in "SC" or shape[0] == channels > 1):
        return "CHW"
    return ""


def _ordered(array: np.ndarray, axes: str) -> np.ndarray:
    """An array with these axes as (H,W,C)."""
    return array[..., None] if axes == "HW" else array.transpose(1, 2, 0) if axes == "CHW" else array


def _from_numbers(source: _Source, numbers: np.ndarray, channels: int) -> Decoded:
    if numbers.dtype.kind == "b":
        numbers = numbers * np.uint8(255)
    numbers = _turned(numbers, source.orientation)
    if numbers.dtype.name != source.form.type:
        numbers = numbers.astype(source.form.type)
    alpha = None
    if source.alpha and numbers.shape[2] != channels:
        alpha, numbers = np.ascontiguousarray(numbers[..., -1]), numbers[..., :-1]
    return Decoded(_with_channels(numbers, channels), alpha, source.size, source.orientation, source.form)


def _turned(numbers: np.ndarray, orientation: int) -> np.ndarray:
    """Numbers (H,W,C) rotated by the EXIF orientation."""
    if orientation >= 5:
        numbers = numbers.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        numbers = numbers[:, ::-1]
    if orientation in (3, 4, 7, 8):
        numbers = numbers[::-1]
    return numbers


def _with_channels(numbers: np.ndarray, channels: int) -> np.ndarray:
    """Convert grey to colour, or colour to grey."""
    if numbers.shape[2] == channels:
        return numbers
    if numbers.shape[2] == 1:
        return np.broadcast_to(numbers, (*numbers.shape[:2], channels))
    grey = numbers.astype(np.float64) @ _LUMA
    return (grey if numbers.dtype.kind == "f" else np.rint(grey)).astype(numbers.dtype)[..., None]
