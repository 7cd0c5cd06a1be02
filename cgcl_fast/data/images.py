"""Image files: finding them in a folder and decoding them to 8-bit RGB.

A file that cannot be decoded, or a folder in it that cannot be listed, never stops a training run: :func:`find_images`
leaves it out and names it in the log of this module, and whoever reads a file later gets an
:class:`UnreadableImageError` that names the file and the reason.
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

Unreadable = Callable[[Path, OSError], None]
"""What is told of a folder that cannot be listed, and why."""


class DataError(ValueError):
    """No item or batch can be made of the data: the images that were there are gone, or differ in size."""


class UnreadableImageError(ValueError):
    """A file that is no image, is damaged, or is too large to decode. ``path`` and ``reason`` say which and why."""

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(f"cannot read image {printable(path)}: {reason}")
        self.path = Path(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[Path, str]]:
        return type(self), (self.path, self.reason)  # so that it survives the way out of a loader worker


def printable(path: str | os.PathLike[str]) -> str:
    """A path, or any text, on one line that every log and terminal shows as it is.

    File names may hold line breaks, after which a log would seem to say something else, sequences that terminals obey,
    and bytes that are no valid Unicode. All that is not printable comes as an escape of Python: ``\\n``, ``\\x1b``.
    """
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
        for letter in os.fsdecode(path)
    )


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
        raise UnreadableImageError(path, reason_of(error)) from error


def read_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(width, height) of what :func:`read_image` gives, from the file's header where that tells.

    Raises:
        UnreadableImageError: the file is missing, no image or damaged.
    """
    try:
        with _open(path) as image:
            turned = _orientation(image) >= 5
            if not (turned and image.format == "TIFF"):  # which Pillow may have turned already
                return image.size[::-1] if turned else image.size
    except UnreadableImageError:
        raise
    except Exception as error:
        raise UnreadableImageError(path, reason_of(error)) from error
    return read_image(path).size


def _open(path: str | os.PathLike[str]) -> Image.Image:
    check_regular(path)
    image = Image.open(path, formats=_FORMATS)
    if min(image.size) < 1:
        image.close()
        raise UnreadableImageError(path, f"its size is {image.size[0]}x{image.size[1]}")
    return image


def reason_of(error: BaseException) -> str:
    """An error in a few words, on one line."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "not a JPEG, PNG, WebP, BMP or TIFF image"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).splitlines()
    return printable(lines[0]) if lines and lines[0] else type(error).__name__


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
        name = getattr(image, "filename", "an image")
        logger.debug("ignoring the EXIF data of %s: %s", printable(name), reason_of(error))
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


def list_images(folder: str | os.PathLike[str], *, unreadable: Unreadable | None = None) -> list[Path]:
    """The image files in a folder and its subfolders, by suffix in any case, sorted by their path inside the folder.

    Hidden files and folders (``.ipynb_checkpoints``, ``._photo.jpg``) are left out; links to folders are followed.

    Args:
        folder: searched with its subfolders.
        unreadable: told of each subfolder that cannot be listed. If not given, they are named and counted in the log.

    Raises:
        ValueError: the folder does not exist, is no folder, or cannot be listed.
    """
    root, left_out = Path(folder), 0

    def named(place: Path, error: OSError) -> None:
        nonlocal left_out
        left_out += 1
        logger.warning("skipped folder %s: %s", printable(place), reason_of(error))

    found = sorted(walk_images(root, unreadable or named), key=lambda path: path.relative_to(root).as_posix())
    if left_out:
        logger.warning("skipped %d of the folders in %s: unreadable", left_out, printable(root))
    return found


def walk_images(root: Path, unreadable: Unreadable) -> Iterator[Path]:
    """:func:`list_images` as they are met."""
    for place, names in walk(root, unreadable):
        yield from (place / name for name in names if name.lower().endswith(IMAGE_SUFFIXES))


def walk(
    root: Path, unreadable: Unreadable, *, enter: Callable[[str], bool] | None = None
) -> Iterator[tuple[Path, list[str]]]:
    """A folder and those below it, each with the names of its files, in an order that does not depend on the disk.

    Hidden files and folders are left out. Links to folders are followed, but no folder is met twice.

    Args:
        root: where to begin.
        unreadable: told of each folder below that cannot be listed.
        enter: whether to look into folders of that name; all if not given.

    Raises:
        ValueError: ``root`` itself cannot be listed.
    """
    seen: set[str] = set()
    waiting = [root]
    while waiting:
        place = waiting.pop()
        real = os.path.realpath(place)
        if real in seen:  # a link back to a folder above, or to one met before
            continue
        seen.add(real)
        try:
            entries = [entry for entry in entries_of(place) if not entry.name.startswith(".")]
        except OSError as error:
            if place is root:
                raise ValueError(f"{printable(root)} {_why_not_listed(error)}") from error
            unreadable(place, error)
            continue
        folders = {entry.name for entry in entries if is_folder(entry)}
        yield place, [entry.name for entry in entries if entry.name not in folders]
        waiting.extend(place / name for name in sorted(folders, reverse=True) if enter is None or enter(name))


def entries_of(folder: str | os.PathLike[str]) -> list[os.DirEntry[str]]:
    """What a folder holds, sorted by name.

    Raises:
        OSError: it cannot be listed.
    """
    with os.scandir(folder) as found:
        return sorted(found, key=lambda entry: entry.name)


def folders_of(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted.

    Raises:
        ValueError: it cannot be listed.
    """
    try:
        return [entry.name for entry in entries_of(folder) if is_folder(entry)]
    except OSError as error:
        raise ValueError(f"{printable(folder)} {_why_not_listed(error)}") from error


def is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads in a circle, or where one may not look
        return False


def _why_not_listed(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "is missing"
    return "is not a folder" if isinstance(error, NotADirectoryError) else f"cannot be read: {reason_of(error)}"


def find_images(
    folder: str | os.PathLike[str],
    *,
    limit: int | None = None,
    keep: Callable[[Path], bool] | None = None,
    files: Iterable[Path] | None = None,
) -> list[Path]:
    """The readable image files of a folder (:func:`list_images` order), checked on several threads.

    Files and subfolders that cannot be read are counted and named in the log. Up to ``FULL_CHECK_BYTES`` of files each
    one is decoded (JPEGs at an eighth of their size), beyond that only the headers are read.

    Args:
        folder: searched with its subfolders.
        limit: look at no more than the first ``limit`` files.
        keep: look only at these files.
        files: look at these instead of searching; they may be anywhere below the folder.

    Raises:
        ValueError: the folder is missing, cannot be listed, or holds no image that can be read.
    """
    found = list_images(folder) if files is None else files
    paths = [path for path in found if keep is None or keep(path)][:limit]
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
        return reason_of(error)
    return None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _content(folder: str | os.PathLike[str]) -> str:
    """What a folder holds, in a few words, for error messages."""
    try:
        names = [entry.name + ("/" if is_folder(entry) else "") for entry in entries_of(folder)]
    except OSError as error:
        return f"what cannot be listed ({reason_of(error)})"
    if not names:
        return "nothing"
    shown = ", ".join(printable(name) for name in names[:8])
    return shown if len(names) <= 8 else f"{shown} and {len(names) - 8} more"
