"""Decoding image files. The content of a file, not its name, decides how it is read.

Supported are all formats of the installed Pillow, with HEIC if ``pillow_heif`` is installed; PNG with 16 bits per
channel; NumPy's ``.npy``; and, with ``tifffile``, TIFF with any number of bands of any type. Photographs of 8 bits
become PIL images, everything else float tensors in [-1, 1], see :mod:`cgcl_fast.data.values`.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cgcl_fast.data.formats import (
    Decoded,
    FileFormat,
    Reading,
    UnreadableImageError,
    check_channels,
    errors,
    opened,
)
from cgcl_fast.data.values import PHOTOGRAPH, Values, to_unit, values_read

Pixels: TypeAlias = Image.Image | Tensor
"""A PIL image of mode RGB or L, or float32 (C,H,W) in [-1,1]."""


RGB = Reading()


class StoredImage(NamedTuple):
    """An image, and how it is stored in its file, which is what the boxes of its objects refer to.

    Attributes:
        image: upright; see ``Pixels``.
        size: (width, height) in the file, before rotation to upright and before ``at_least`` makes it smaller.
        orientation: how it was rotated: the EXIF Orientation tag, 1 to 8.
    """

    image: Any  # Pixels; a PIL image of mode RGB unless a Reading asks for something else
    size: tuple[int, int]
    orientation: int


class FileImage(NamedTuple):
    """An image with its original numbers.

    Attributes:
        numbers: (H,W,C), upright, with the requested channels.
        alpha: (H,W), None if the file has no transparency.
        values: how the numbers are interpreted.
        form: format of the file.
    """

    numbers: np.ndarray
    alpha: np.ndarray | None
    values: Values
    form: FileFormat


def read_image(path: str | os.PathLike[str], *, at_least: tuple[int, int] | None = None) -> Image.Image:
    """Decode an image file to a PIL image of mode RGB, turned upright as its EXIF orientation says.

    Grayscale, palette and CMYK images are converted, other number types are scaled from their full range (floating
    point: 0 to 1) to 8 bits, and colours with an embedded profile become sRGB. Transparency is dropped and the colours
    stored beneath it are returned, as in published code; :func:`read_image_and_alpha` keeps it.

    Args:
        path: any image file (the first frame, if there are several).
        at_least: (height, width) to which the caller will scale the image down. A JPEG of more than twice that size may
            then be decoded at a half, a quarter or an eighth of its size, which is several times faster.

    Raises:
        UnreadableImageError: the file is missing, not an image, damaged, truncated or too large to decode, or has
            neither one nor three channels.
    """
    return _as_pil(_decode(path, at_least, RGB).pixels, RGB)


def read_image_and_alpha(
    path: str | os.PathLike[str], *, at_least: tuple[int, int] | None = None
) -> tuple[Image.Image, Image.Image | None]:
    """:func:`read_image` with transparency: (RGB image, image of mode L or None if the file has no transparency).

    Raises:
        UnreadableImageError: as :func:`read_image`.
    """
    decoded = _decode(path, at_least, RGB)
    alpha = decoded.alpha
    if isinstance(alpha, np.ndarray):
        alpha = _as_pil(alpha[..., None], Reading(1))
    return _as_pil(decoded.pixels, RGB), alpha


def read_stored(
    path: str | os.PathLike[str], *, at_least: tuple[int, int] | None = None, reading: Reading = RGB
) -> StoredImage:
    """An image read according to ``reading``, and how it is stored. It is a PIL image if it has 8 bits from 0 to 255
    and one or three channels, else a tensor.

    Raises:
        UnreadableImageError: as :func:`read_image`, or the number of channels differs.
    """
    decoded = _decode(path, at_least, reading)
    return StoredImage(_as_read(decoded.pixels, reading), decoded.size, decoded.orientation)


def read_file(path: str | os.PathLike[str], reading: Reading = RGB) -> FileImage:
    """An image with its original numbers, and the format of the file.

    Raises:
        UnreadableImageError: as :func:`read_stored`.
    """
    decoded = _decode(path, None, reading)
    numbers = decoded.pixels if isinstance(decoded.pixels, np.ndarray) else np.asarray(decoded.pixels)
    alpha = decoded.alpha if decoded.alpha is None else np.asarray(decoded.alpha)
    values = values_read(numbers.dtype.name, reading.values)
    return FileImage(numbers.reshape(*numbers.shape[:2], -1), alpha, values, decoded.form)


def look_at(
    path: str | os.PathLike[str], reading: Reading = RGB, *, decode: bool = False
) -> tuple[FileFormat, tuple[int, int]]:
    """The format of a file, from its header, and its (width, height) as stored.

    Args:
        decode: also decode it, a JPEG at an eighth of its size, to detect damage.

    Raises:
        UnreadableImageError: as :func:`read_stored`.
    """
    if decode:
        decoded = _decode(path, (1, 1), reading)
        return decoded.form, decoded.size
    with errors(path), opened(path, reading) as source:
        check_channels(source, reading)
        return source.form, source.size


def read_size(path: str | os.PathLike[str], reading: Reading = RGB) -> tuple[int, int]:
    """(width, height) of what :func:`read_stored` returns, from the file's header if possible.

    Raises:
        UnreadableImageError: as :func:`read_stored`.
    """
    with errors(path), opened(path, reading) as source:
        check_channels(source, reading)
        size = source.upright_size()
    return size_of(read_stored(path, reading=reading).image) if size is None else size


def type_of(path: str | os.PathLike[str], reading: Reading) -> str | None:
    """The number type of a file, from its header; None if it cannot be read."""
    try:
        with errors(path), opened(path, reading) as source:
            return source.form.type
    except UnreadableImageError:
        return None


def to_tensor(image: Pixels | np.ndarray) -> Tensor:
    """An image of 8 bits (PIL of mode RGB or L, or uint8 array (H,W,3)) as float32 (C,H,W) in [-1,1]; a tensor stays as
    it is, clipped to that range."""
    if isinstance(image, Tensor):
        return image.clamp(-1, 1)
    # With NumPy: torch would start all its threads, in every loader worker, for work of a fraction of a millisecond.
    pixels = np.asarray(image, dtype=np.uint8)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1)).astype(np.float32)
    planes /= np.float32(127.5)
    planes -= np.float32(1.0)
    return torch.from_numpy(planes)


def to_image(tensor: Tensor) -> Image.Image:
    """Float (3,H,W) in [-1,1] (clipped) as a PIL image: the inverse of :func:`to_tensor`.

    Raises:
        ValueError: the tensor is not (3,H,W).
    """
    if tensor.dim() != 3 or tensor.shape[0] != 3:
        raise ValueError(f"tensor must be (3,H,W), got {tuple(tensor.shape)}")
    values = tensor.detach().to("cpu", torch.float32).add(1.0).mul(127.5).round_().clamp_(0.0, 255.0)
    return Image.fromarray(values.to(torch.uint8).permute(1, 2, 0).contiguous().numpy())


def size_of(image: Pixels) -> tuple[int, int]:
    """(width, height)."""
    return image.size if isinstance(image, Image.Image) else (image.shape[-1], image.shape[-2])


def _as_read(pixels: Image.Image | np.ndarray, reading: Reading) -> Pixels:
    numbers = pixels if isinstance(pixels, np.ndarray) else None
    values = values_read("uint8" if numbers is None else numbers.dtype.name, reading.values)
    if values == PHOTOGRAPH and numbers is not None and numbers.shape[2] in (1, 3):
        return Image.fromarray(np.ascontiguousarray(numbers[..., 0] if numbers.shape[2] == 1 else numbers))
    if values == PHOTOGRAPH and numbers is None:
        return pixels  # type: ignore[return-value]
    numbers = np.asarray(pixels)
    return to_unit(numbers.reshape(*numbers.shape[:2], -1), values)


def _as_pil(pixels: Image.Image | np.ndarray, reading: Reading) -> Image.Image:
    """Converted to 8 bits from any type."""
    read = _as_read(pixels, reading)
    if isinstance(read, Image.Image):
        return read
    grey = read.shape[0] == 1
    return to_image(read.expand(3, -1, -1)).getchannel(0) if grey else to_image(read)


def _decode(path: str | os.PathLike[str], at_least: tuple[int, int] | None, reading: Reading) -> Decoded:
    with errors(path), opened(path, reading) as source:
        check_channels(source, reading)
        return source.load(at_least, reading.channels)
