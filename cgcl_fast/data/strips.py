"""Photographs too large for memory, processed from top to bottom: libvips decodes them into an unnamed file, and
encodes from one. It comes with ``pip install "cgcl_fast[large]"`` (pyvips)."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

READS = ("JPEG", "PNG", "TIFF", "WEBP")
"""Formats from which libvips reads 8-bit photographs, by Pillow's names."""

WRITES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "JPEG": (".jpg", {"Q": 95, "subsample_mode": "off"}),
    "PNG": (".png", {"compression": 6, "filter": "all"}),
    "WEBP": (".webp", {"Q": 95}),
}
"""Formats that libvips writes, each with its suffix and options, which are those of ``SAVE_OPTIONS``."""


def has_libvips() -> bool:
    """Whether pyvips is installed."""
    return importlib.util.find_spec("pyvips") is not None


def decode(path: str | os.PathLike[str]) -> np.ndarray:
    """The numbers (H,W,C) of an 8-bit image, as stored, in a file in the folder of temporary files.

    Raises:
        OSError: there is not enough space for them.
        ValueError: the file is damaged, or not of 8 bits.
    """
    vips = _pyvips()
    with tempfile.TemporaryFile() as file:
        try:
            image = vips.Image.new_from_file(os.fspath(path), access="sequential", fail_on="truncated")
            if image.format != "uchar":
                raise ValueError(f"expected 8 bits a channel, got {image.format}")
            _through(file, lambda target: image.rawsave_target(target))
        except vips.Error as error:
            raise ValueError(_reason(error)) from error
        file.flush()
        return np.memmap(file, np.uint8, mode="r+", shape=(image.height, image.width, image.bands))


def encode(file: IO[bytes], numbers: np.ndarray, name: str, *, srgb: bool = False) -> None:
    """Write 8-bit numbers (H,W,C), with C from 1 to 4, in a format of ``WRITES``.

    Args:
        srgb: state in the file that its colours are sRGB.

    Raises:
        OSError: the file cannot be written.
        ValueError: the format does not support them.
    """
    vips = _pyvips()
    height, width, channels = numbers.shape
    image = vips.Image.new_from_memory(np.ascontiguousarray(numbers), width, height, channels, "uchar")
    suffix, options = WRITES[name]
    if srgb:
        options = {**options, "profile": "srgb"}
    image = image.copy(interpretation="b-w" if channels < 3 else "srgb")
    try:
        _through(file, lambda target: image.write_to_target(target, suffix, **options))
    except vips.Error as error:
        raise ValueError(_reason(error)) from error


def _through(file: IO[bytes], work: Any) -> None:
    """Call ``work`` with a target that writes to a file; an error of the file is raised after ``work`` has ended."""
    failed: list[OSError] = []

    def write(data: Any) -> int:
        try:
            file.write(data)
            return len(data)
        except OSError as error:
            failed.append(error)
            return -1

    target = _pyvips().TargetCustom()
    target.on_write(write)
    try:
        work(target)
    finally:
        if failed:
            raise failed[0]


def _pyvips() -> Any:
    import pyvips

    pyvips.cache_set_max(0)  # the cache would keep files open
    return pyvips


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[1] if len(lines) > 1 else lines[0] if lines else type(error).__name__
