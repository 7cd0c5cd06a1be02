"""Writing numbers to image files, in the format, type and channels of the file they came from."""

from __future__ import annotations

import io
import struct
import zlib
from functools import lru_cache
from typing import IO, Any

import numpy as np
from PIL import Image, ImageCms

from cgcl_fast.data import strips
from cgcl_fast.data.formats import LARGE, FileFormat, has_tifffile

SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"quality": 95},
    "TIFF": {"compression": "tiff_deflate"},
}

_GREY = ("uint16", "int16", "int32", "float32")
"""Number types for which Pillow writes grey TIFFs."""

_WITH_PROFILES = ("AVIF", "JPEG", "PNG", "TIFF", "WEBP")


def holds(name: str, type: str, channels: int) -> bool:
    """Whether a format supports such numbers."""
    if name == "NPY":
        return True
    if name == "TIFF":
        photograph = type == "uint8" and channels in (1, 3)
        return photograph or (channels == 1 and type in _GREY) or (has_tifffile() and type in TIFF_TYPES)
    if name == "PNG":
        return type in ("uint8", "uint16") and channels <= 4
    if name == "PPM" and type == "uint16":
        return channels == 1
    if type != "uint8" or channels not in ((1, 3, 4) if name == "WEBP" else (1, 3)):
        return False
    return _keeps(name, {1: "L", 3: "RGB", 4: "RGBA"}[channels])


@lru_cache(maxsize=64)
def _keeps(name: str, mode: str) -> bool:
    """Whether Pillow writes pictures of a mode in a format, at their own size. Found out by trying: each format has its
    own rules, and icons exist in a few sizes only."""
    with io.BytesIO() as content:
        try:
            Image.new(mode, (40, 40)).save(content, format=name)
            with Image.open(content) as image:
                return image.size == (40, 40)
        except Exception:  # encoders raise nearly anything
            return False


def _holds_alpha(form: FileFormat) -> bool:
    if form.channels not in (1, 3) or form.name in ("NPY", "PNG", "TIFF"):
        return form.channels in (1, 3)
    return _keeps(form.name, "LA" if form.channels == 1 else "RGBA")


TIFF_TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64")


def format_for(form: FileFormat, type: str, channels: int) -> tuple[FileFormat, str]:
    """The format for writing such an image: that of its file or, if that does not support it, the first of PNG, TIFF
    and NPY that does. Also the suffix to append to the file's name in that case."""
    name = next(name for name in (form.name, "PNG", "TIFF", "NPY") if holds(name, type, channels))
    suffix = "" if name == form.name else {"PNG": ".png", "TIFF": ".tif", "NPY": ".npy"}[name]
    return form._replace(name=name, type=type, channels=channels), suffix


def write_numbers(file: IO[bytes], numbers: np.ndarray, form: FileFormat, alpha: np.ndarray | None = None) -> None:
    """Write an image.

    Args:
        file: to write to.
        numbers: (H,W,C), with the type and channels of ``form``.
        form: the format.
        alpha: (H,W) of the same type; dropped if the format has no transparency.

    Raises:
        ValueError, OSError: the format does not support it, or the file cannot be written.
    """
    if alpha is not None and alpha.dtype == numbers.dtype and _holds_alpha(form):
        numbers = np.dstack([numbers, alpha])
    channels = numbers.shape[2]
    if form.name == "NPY":
        order = {"HW": numbers[..., 0] if channels == 1 else numbers, "CHW": numbers.transpose(2, 0, 1)}
        np.save(file, order.get(form.axes, numbers))
    elif form.name == "PNG" and numbers.dtype == np.uint16 and channels > 1:
        _write_deep_png(file, numbers)
    elif form.name == "TIFF" and not _is_photograph(numbers, form):
        _write_tiff(file, numbers, form, alpha is not None)
    elif numbers.nbytes >= LARGE and form.name in strips.WRITES and channels <= 4 and strips.has_libvips():
        strips.encode(file, numbers, form.name, srgb=bool(_profile(form)))
    else:
        _save(file, numbers, form.name, **SAVE_OPTIONS.get(form.name, {}), **_profile(form))


def _is_photograph(numbers: np.ndarray, form: FileFormat) -> bool:
    """Whether Pillow writes it; large images are left to tifffile, which needs no second copy in memory."""
    large = numbers.nbytes >= LARGE and has_tifffile()
    return numbers.dtype == np.uint8 and form.channels in (1, 3) and not large


def _save(file: IO[bytes], numbers: np.ndarray, name: str, **options: Any) -> None:
    picture = Image.fromarray(np.ascontiguousarray(numbers[..., 0] if numbers.shape[2] == 1 else numbers))
    with io.BytesIO() as content:  # some encoders seek back in their output
        picture.save(content, format=name, **options)
        file.write(content.getbuffer())


def _profile(form: FileFormat) -> dict[str, Any]:
    return {"icc_profile": _srgb()} if form.srgb and form.channels == 3 and form.name in _WITH_PROFILES else {}


@lru_cache(maxsize=1)
def _srgb() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def _write_tiff(file: IO[bytes], numbers: np.ndarray, form: FileFormat, transparent: bool) -> None:
    kind = numbers.dtype.name
    if numbers.shape[2] == 1 and kind in _GREY:
        options: dict[str, Any] = dict(SAVE_OPTIONS["TIFF"])
        if kind == "int16":  # Pillow needs to be told about it
            numbers, options["tiffinfo"] = numbers.view(np.uint16), {339: 2}
        _save(file, numbers, "TIFF", **options)
        return
    import tifffile

    single = numbers.shape[2] == 1  # else tifffile would read each row as a page
    planes = form.axes == "CHW" and not single
    photograph = form.channels == 3 and kind in ("uint8", "uint16")
    bands = numbers.shape[2] - (3 if photograph else 1)
    tifffile.imwrite(
        getattr(file, "file", file),  # a real file, because tifffile seeks in it
        np.ascontiguousarray(numbers.transpose(2, 0, 1)) if planes else numbers[..., 0] if single else numbers,
        photometric="rgb" if photograph else "minisblack",
        planarconfig=("separate" if planes else "contig") if not single else None,
        extrasamples=["unassalpha" if transparent else "unspecified"] * bands or None,
        metadata=None,
        bigtiff=numbers.nbytes > 2**32 - 2**25,
    )


def _write_deep_png(file: IO[bytes], numbers: np.ndarray) -> None:
    """PNG with 16 bits and several channels, which Pillow cannot write (ISO/IEC 15948: signature, header, data)."""
    height, width, channels = numbers.shape

    def chunk(name: bytes, data: bytes) -> None:
        file.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)))

    file.write(b"\x89PNG\r\n\x1a\n")
    chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0))
    packing = zlib.compressobj()
    for row in numbers:
        if data := packing.compress(b"\0" + row.astype(">u2").tobytes()):
            chunk(b"IDAT", data)
    chunk(b"IDAT", packing.flush())
    chunk(b"IEND", b"")
