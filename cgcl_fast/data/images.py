"""Image files: finding them in a folder and decoding them to 8-bit RGB.

A file that cannot be decoded never stops a training run: :func:`find_images` leaves it out and names it in the log of
this module, and whoever reads a file later gets an :class:`UnreadableImageError` that names the file and the reason.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from cgcl_fast._files import check_regular

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".bmp", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

# Pillow would otherwise look at the content and happily start Ghostscript for a PostScript file called photo.jpg.
_FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")

# Up to this many bytes of image files every file is decoded once when a folder is opened (a few seconds on one core);
# beyond it only headers are read, and a file that fails later is replaced by its neighbour (see folders.py).
FULL_CHECK_BYTES = 256 * 2**20


class UnreadableImageError(ValueError):
    """A file that is no image, is damaged, or is too large to decode. ``path`` and ``reason`` say which and why."""

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(f"cannot read image {printable(path)}: {reason}")
        self.path = Path(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[Path, str]]:
        return type(self), (self.path, self.reason)  # so that it survives the way out of a loader worker


def printable(path: str | os.PathLike[str]) -> str:
    """The path as text that any log can take: file names need not be valid Unicode."""
    return os.fsdecode(path).encode("utf-8", "backslashreplace").decode("utf-8")


# ---- decoding


def read_image(path: str | os.PathLike[str], *, at_least: tuple[int, int] | None = None) -> Image.Image:
    """Decode an image file to a PIL image of mode RGB, turned upright as its EXIF orientation says.

    Grayscale, palette, CMYK and 16-bit images are converted; 16 bits are scaled to 8, not clipped. Transparency is
    dropped and the colours stored beneath it are returned, as published code does; :func:`read_image_and_alpha` keeps
    it.

    Args:
        path: a JPEG, PNG, WebP, BMP or TIFF file (the first frame, if there are several).
        at_least: (height, width) that the caller will scale the image down to. A JPEG that is more than twice as large
            may then be decoded at a half, a quarter or an eighth of its size, which is several times faster.

    Raises:
        UnreadableImageError: the file is missing, no image, damaged, truncated or too large to decode.
    """
    return read_image_and_alpha(path, at_least=at_least)[0]


def read_image_and_alpha(
    path: str | os.PathLike[str], *, at_least: tuple[int, int] | None = None
) -> tuple[Image.Image, Image.Image | None]:
    """:func:`read_image`, and the transparency: (RGB image, image of mode L or None if the file has no transparency).

    Raises:
        UnreadableImageError: as :func:`read_image`.
    """
    stored, alpha = _decode(path, at_least)
    return stored.image, alpha


class StoredImage(NamedTuple):
    """An image, and how it is stored in its file, which is what boxes of its objects refer to.

    Attributes:
        image: mode RGB, upright.
        size: (width, height) in the file, before it is turned upright and before ``at_least`` makes it smaller.
        orientation: how it has been turned, the number of EXIF's tag Orientation, 1 to 8.
    """

    image: Image.Image
    size: tuple[int, int]
    orientation: int


def read_stored(path: str | os.PathLike[str], *, at_least: tuple[int, int] | None = None) -> StoredImage:
    """:func:`read_image`, and how the image is stored.

    Raises:
        UnreadableImageError: as :func:`read_image`.
    """
    return _decode(path, at_least)[0]


def _decode(path: str | os.PathLike[str], at_least: tuple[int, int] | None) -> tuple[StoredImage, Image.Image | None]:
    try:
        with _open(path) as image:
            size = image.size
            if at_least is not None:
                # Twice the size wanted, so that the resampling that follows still sees more detail than it keeps. The
                # longer side goes both ways, since the image may yet be turned by its orientation.
                longest = 2 * max(at_least)
                image.draft(None, (longest, longest))
            stated = _orientation(image) if image.format == "TIFF" else 1
            image.load()
            upright, orientation = _upright(image)
            if image.format == "TIFF" and orientation == 1:  # Pillow has turned it as it loaded it
                orientation = stated
                size = size[::-1] if stated >= 5 and size == upright.size else size
            rgb, alpha = _split_alpha(upright)
            return StoredImage(rgb, size, orientation), alpha
    except UnreadableImageError:
        raise
    except MemoryError as error:
        raise UnreadableImageError(path, "not enough memory to decode it") from error
    except Exception as error:  # damaged files make Pillow raise nearly anything: OSError, SyntaxError, struct.error...
        raise UnreadableImageError(path, _reason(error)) from error


def _open(path: str | os.PathLike[str]) -> Image.Image:
    check_regular(path)
    image = Image.open(path, formats=_FORMATS)
    if min(image.size) < 1:
        image.close()
        raise UnreadableImageError(path, f"its size is {image.size[0]}x{image.size[1]}")
    return image


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "not a JPEG, PNG, WebP, BMP or TIFF image"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).splitlines()
    return lines[0] if lines and lines[0] else type(error).__name__


def _orientation(image: Image.Image) -> int:
    """EXIF's tag Orientation, 1 (upright) where there is none that means anything."""
    try:
        stated = image.getexif().get(ExifTags.Base.Orientation, 1)
        return stated if stated in range(2, 9) else 1
    except Exception:  # damaged EXIF data
        return 1


def _upright(image: Image.Image) -> tuple[Image.Image, int]:
    try:
        return ImageOps.exif_transpose(image), _orientation(image)
    except Exception as error:  # damaged EXIF data does not make the picture unreadable
        logger.debug("ignoring the EXIF data of %s: %s", getattr(image, "filename", "an image"), error)
        return image, 1


def _split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    if image.mode.startswith("I") or image.mode == "F":
        return _wide_gray(image).convert("RGB"), None
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return rgba.convert("RGB"), rgba.getchannel("A")
    return (image.copy() if image.mode == "RGB" else image.convert("RGB")), None


def _wide_gray(image: Image.Image) -> Image.Image:
    """Grayscale of 16 or 32 bits or floating point to 8 bits. Pillow's own conversion would clip at 255."""
    values = np.asarray(image)
    if image.mode == "F":
        values = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        top = float(values.max())
        full = 1.0 if top <= 1.0 else 255.0 if top <= 255.0 else 65535.0 if top <= 65535.0 else top
    else:
        values = values.astype(np.float64)
        full = 65535.0 if values.max() <= 65535 else float(2**31 - 1)
    return Image.fromarray((values.clip(0.0, full) * (255.0 / full) + 0.5).astype(np.uint8))


def to_tensor(image: Image.Image | np.ndarray) -> Tensor:
    """An 8-bit RGB image (PIL, or uint8 array (H,W,3)) as float32 (3,H,W) in [-1,1]."""
    # In NumPy: torch would start all its threads for work of a fraction of a millisecond, in every loader worker.
    planes = np.ascontiguousarray(np.asarray(image, dtype=np.uint8).transpose(2, 0, 1)).astype(np.float32)
    planes /= np.float32(127.5)
    planes -= np.float32(1.0)
    return torch.from_numpy(planes)


def to_image(tensor: Tensor) -> Image.Image:
    """Float (3,H,W) in [-1,1] (values beyond are clipped) as a PIL image: the inverse of :func:`to_tensor`.

    Raises:
        ValueError: the tensor is not (3,H,W).
    """
    if tensor.dim() != 3 or tensor.shape[0] != 3:
        raise ValueError(f"tensor must be (3,H,W), got {tuple(tensor.shape)}")
    values = tensor.detach().to("cpu", torch.float32).add(1.0).mul(127.5).round_().clamp_(0.0, 255.0)
    return Image.fromarray(values.to(torch.uint8).permute(1, 2, 0).contiguous().numpy())


# ---- finding


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """The image files in a folder and its subfolders, by suffix in any case, sorted by their path inside the folder.

    Hidden files and folders (``.ipynb_checkpoints``, ``._photo.jpg``) are left out; links to folders are followed.

    Raises:
        ValueError: the folder does not exist or is no folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"{printable(root)} is {'not a folder' if root.exists() else 'missing'}")
    return sorted(_walk(root), key=lambda path: path.relative_to(root).as_posix())


def _walk(root: Path) -> Iterator[Path]:
    seen = set()
    for place, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link back to a folder above, or to one met before
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES):
                yield Path(place, name)


def find_images(
    folder: str | os.PathLike[str], *, limit: int | None = None, keep: Callable[[Path], bool] | None = None
) -> list[Path]:
    """The readable image files of a folder (:func:`list_images` order), checked on several threads.

    Files that cannot be read are counted and named in the log. Up to ``FULL_CHECK_BYTES`` of files each one is decoded
    (JPEGs at an eighth of their size), beyond that only the headers are read.

    Args:
        folder: searched with its subfolders.
        limit: look at no more than the first ``limit`` files.
        keep: look only at these files.

    Raises:
        ValueError: the folder is missing, or holds no image that can be read.
    """
    paths = [path for path in list_images(folder) if keep is None or keep(path)][:limit]
    if not paths:
        raise ValueError(f"no images ({' '.join(IMAGE_SUFFIXES)}) in {printable(folder)}; it holds {_content(folder)}")
    decode = sum(_size(path) for path in paths) <= FULL_CHECK_BYTES
    reasons = _check_all(paths, decode=decode)
    readable = []
    for path, reason in zip(paths, reasons, strict=True):
        if reason is None:
            readable.append(path)
        else:
            logger.warning("skipped %s: %s", printable(path), reason)
    if not readable:
        raise ValueError(
            f"none of the {len(paths)} image files in {printable(folder)} can be read; the first is "
            f"{printable(paths[0].relative_to(folder))}: {reasons[0]}"
        )
    if len(readable) < len(paths):
        skipped = len(paths) - len(readable)
        logger.warning("skipped %d of %d image files in %s: unreadable", skipped, len(paths), printable(folder))
    return readable


def _check_all(paths: Iterable[Path], *, decode: bool) -> list[str | None]:
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(lambda path: _why_unreadable(path, decode=decode), paths))


def _why_unreadable(path: Path, *, decode: bool) -> str | None:
    try:
        with _open(path) as image:
            if decode:
                image.draft(None, (1, 1))
                image.load()
    except UnreadableImageError as error:
        return error.reason
    except MemoryError:
        return "not enough memory to decode it"
    except Exception as error:
        return _reason(error)
    return None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _content(folder: str | os.PathLike[str]) -> str:
    """What a folder holds, in a few words, for error messages."""
    names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in os.scandir(folder))
    if not names:
        return "nothing"
    shown = ", ".join(printable(name) for name in names[:8])
    return shown if len(names) <= 8 else f"{shown} and {len(names) - 8} more"
