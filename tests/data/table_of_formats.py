"""Every format that the installed Pillow writes, in every mode and under every suffix: how it is read, and how the
translations of ``translate`` are written and read back.

``python tests/data/table_of_formats.py [FILE]`` prints the table, or writes it to FILE (docs/formats.md).
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from image_files import noise
from PIL import Image, ImageCms, __version__

from cgcl_fast.data import Reading, UnreadableImageError, list_images, read_file
from cgcl_fast.data.writing import TIFF_TYPES, format_for, write_numbers

MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I;16", "I;16B", "I",
         "F")  # fmt: skip
GREY = ("1", "L", "LA", "I;16", "I;16B", "I", "F")
WITH_ALPHA = ("LA", "PA", "RGBA")
BANDS = (1, 2, 3, 4, 5)

LOSSY = {"AVIF", "JPEG", "MPO"}
"""Formats of which the pixels come back only nearly; and of all formats those of mode LAB, of 8 bits."""

NEAR = 6.0
"""Mean difference of what comes back nearly, of 255."""

REFUSED = {"EPS", "SPIDER"}
"""Not read: Pillow would start another program for EPS, and SPIDER has neither a sign at its beginning nor a suffix."""

SLOW = {"ICNS"}
"""Takes a second a file, since it holds pictures of up to 1024 pixels a side."""

OPTIONS: dict[str, dict[str, Any]] = {
    "AVIF": {"quality": 95, "subsampling": "4:4:4"},
    "ICO": {"sizes": [(32, 24)]},
    "JPEG": {"quality": 95, "subsampling": 0},
    "MPO": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True, "exact": True},
}

EQUAL, NEARLY, CHANGED, WRONG, UNREAD = "=", "≈", "→", "wrong", "✗"


class Found(NamedTuple):
    """What became of one file.

    Attributes:
        read: ``EQUAL``, ``NEARLY``; ``CHANGED``: as Pillow reads it, which has changed what it was given; ``UNREAD``.
        alpha: whether its transparency came back.
        written: the format and the type of what ``translate`` would write.
        again: as ``read``, of that.
        renamed: whether it is the same with its suffix in upper case, and with that of another format: ``EQUAL``,
            ``WRONG`` or ``UNREAD``.
        reason: why it is not read.
    """

    read: str
    alpha: bool = False
    written: str = ""
    again: str = ""
    renamed: tuple[str, str] = (EQUAL, EQUAL)
    reason: str = ""


class Picture(NamedTuple):
    """An image in memory, and the numbers (H,W,C) and the transparency (H,W) that are to be read of its file."""

    image: Image.Image
    numbers: np.ndarray
    alpha: np.ndarray | None


def picture(mode: str) -> Picture:
    """Squares of 8 pixels, so that JPEG keeps them nearly; no more colours than a palette has."""
    blocks = np.ones((8, 8, 1), np.uint8)
    colours = Image.fromarray(np.kron(noise((3, 4, 3), "uint8", 30, 220), blocks))
    alpha = Image.fromarray(np.kron(noise((3, 4), "uint8", 40, 255, seed=1), blocks[..., 0]))
    if mode == "F" or mode.startswith("I"):
        kind = {"F": "float32", "I": "int32"}.get(mode, "uint16")
        numbers = noise((24, 32), kind, *((0, 1) if mode == "F" else (0, 65535)))
        raw = numbers.astype(">u2") if mode == "I;16B" else numbers
        return Picture(Image.frombytes(mode, (32, 24), raw.tobytes()), numbers[..., None], None)
    if mode == "LA":
        image = Image.merge("LA", [colours.convert("L"), alpha])
    elif mode == "PA":
        image = colours.quantize().convert("PA")
        image.putalpha(alpha)
    elif mode == "RGBA":
        image = Image.merge("RGBA", [*colours.split(), alpha])
    elif mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.applyTransform(colours, ImageCms.buildTransform(*profiles, "RGB", "LAB"))
    else:
        image = colours.quantize() if mode == "P" else colours.convert("RGBA").convert(mode)
    plain = colours if mode == "LAB" else image.convert("L" if mode in GREY else "RGB")
    numbers = np.asarray(plain).reshape(24, 32, -1)
    return Picture(image, numbers, np.asarray(alpha) if mode in WITH_ALPHA else None)


def formats(slow: bool = True) -> list[str]:
    """Names of what the installed Pillow writes."""
    Image.init()
    return sorted(set(Image.SAVE) - (set() if slow else SLOW))


def suffixes(name: str) -> list[str]:
    """Those of a format; one of our own where Pillow knows none."""
    return [suffix for suffix, kind in Image.registered_extensions().items() if kind == name] or [f".{name.lower()}"]


def content_of(name: str, image: Image.Image, suffix: str) -> bytes | None:
    """The file that Pillow writes; None where the format has no such mode."""
    known, content = set(Image.EXTENSION), None
    with contextlib.suppress(Exception), warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        path = Path(folder) / f"a{suffix}"  # of JPEG 2000 the suffix decides what is in the file
        image.save(path, format=name, **OPTIONS.get(name, {}))
        content = path.read_bytes()
    for added in Image.EXTENSION.keys() - known:  # by the writer of SPIDER
        del Image.EXTENSION[added]
    return content


def stored(content: bytes, mode: str) -> tuple[str, np.ndarray] | None:
    """The mode and the numbers that Pillow itself finds in a file; None if it finds none."""
    with contextlib.suppress(Exception), Image.open(io.BytesIO(content)) as image:
        plain = (
            image if image.mode == "F" or image.mode.startswith("I") else image.convert("L" if mode in GREY else "RGB")
        )
        return image.mode, np.asarray(plain).reshape(image.height, image.width, -1)
    return None


def compare(found: np.ndarray, expected: np.ndarray, lossy: bool) -> str:
    if found.ndim == 3 and expected.shape[2] == 1:  # grey that was read as colour
        expected = np.broadcast_to(expected, (*expected.shape[:2], found.shape[2]))
    if found.shape == expected.shape:
        difference = np.abs(found.astype(np.float64) - expected)
        if not difference.any():
            return EQUAL
        if lossy and difference.mean() <= NEAR:
            return NEARLY
    return WRONG


def try_file(path: Path, name: str, made: Picture, mode: str) -> Found:
    """Read a file, write what was read as ``translate`` does, and read that."""
    channels = made.numbers.shape[2]
    try:
        image = read_file(path, Reading(channels))
    except UnreadableImageError as error:
        right = name in REFUSED or error.reason.startswith("it has ") or stored(path.read_bytes(), mode) is None
        return Found(UNREAD if right else WRONG, reason=error.reason)
    read = compare(image.numbers, made.numbers, name in LOSSY or mode == "LAB")
    if read == WRONG:
        there = stored(path.read_bytes(), mode)
        changed = there is not None and (there[0] != mode or there[1].shape != made.numbers.shape)
        if there is not None and changed and compare(image.numbers, there[1], False) == EQUAL:
            read = CHANGED
    alpha = made.alpha is not None and image.alpha is not None
    alpha = alpha and compare(image.alpha, made.alpha, name in LOSSY) != WRONG  # type: ignore[arg-type]
    form, suffix = format_for(image.form, image.form.type, channels)
    target = path.with_name(f"again {path.name}{suffix}")
    with open(target, "wb") as file:
        write_numbers(file, image.numbers, form, image.alpha)
    second = read_file(target, Reading(channels))
    again = compare(second.numbers, image.numbers, form.name in {*LOSSY, "GIF", "WEBP"})
    if alpha and (second.alpha is None or compare(second.alpha, image.alpha, True) == WRONG):  # type: ignore[arg-type]
        again = WRONG
    target.unlink()
    return Found(read, alpha, f"{form.name} {second.form.type}", again, renamed(path, image.numbers))


def wrong_suffix(suffix: str) -> str:
    return ".jpg" if suffix in (".png", ".apng") else ".png"


def renamed(path: Path, numbers: np.ndarray) -> tuple[str, str]:
    """How a file is read under its suffix in upper case, and under that of another format."""
    found = []
    for suffix in (path.suffix.upper(), wrong_suffix(path.suffix)):
        path = path.rename(path.with_suffix(suffix))
        try:
            found.append(compare(read_file(path, Reading(numbers.shape[2])).numbers, numbers, False))
        except UnreadableImageError:
            found.append(UNREAD)
    return found[0], found[1]


def of_modes(folder: Path, slow: bool = True) -> Iterator[tuple[str, str, Found]]:
    """Format, mode and what became of it, for each mode that a format is written in."""
    pictures = {mode: picture(mode) for mode in MODES}
    for name in formats(slow):
        suffix = suffixes(name)[0]
        for mode in MODES if name not in SLOW else ("RGB", "RGBA"):
            content = content_of(name, pictures[mode].image, suffix)
            if content is not None:
                path = folder / f"a{suffix}"
                path.write_bytes(content)
                yield name, mode, try_file(path, name, pictures[mode], mode)


class Called(NamedTuple):
    """What becomes of a file under a name: whether it is listed as an image, and read as it is under its own name."""

    suffix: str
    listed: bool
    read: bool
    reason: str = ""


def of_suffixes(folder: Path, slow: bool = True) -> Iterator[tuple[str, list[Called]]]:
    """Each format under all its suffixes, its first one in upper case, and one of another format."""
    for name in formats(slow):
        mode = next(mode for mode in ("RGB", "P", "1", "") if not mode or content_of(name, picture(mode).image, ""))
        if not mode:
            continue
        made, known = picture(mode), suffixes(name)
        right: np.ndarray | None = None
        called = []
        for suffix in (*known, known[0].upper(), wrong_suffix(known[0])):
            content = content_of(name, made.image, suffix if suffix in known else known[0])
            assert content is not None
            path = folder / f"a{suffix}"
            path.write_bytes(content)
            try:
                numbers = read_file(path, Reading(made.numbers.shape[2])).numbers
                right = numbers if right is None else right
                called.append(Called(suffix, path in list_images(folder), np.array_equal(numbers, right)))
            except UnreadableImageError as error:
                called.append(Called(suffix, path in list_images(folder), False, error.reason))
            path.unlink()
        yield name, called


def of_bands(folder: Path) -> Iterator[tuple[str, int, Found]]:
    """Type, number of bands and what became of it, of TIFFs that tifffile writes; none without it."""
    if importlib.util.find_spec("tifffile") is None:
        return
    import tifffile

    for kind in TIFF_TYPES:
        for bands in BANDS:
            numbers = noise((24, 32, bands), kind, 0 if kind.startswith("u") else -100, 100)
            photometric = "rgb" if bands == 3 and kind in ("uint8", "uint16") else "minisblack"
            path = folder / "a.tif"
            one = numbers[..., 0] if bands == 1 else numbers
            tifffile.imwrite(path, one, photometric=photometric, planarconfig="contig" if bands > 1 else None)
            yield kind, bands, try_file(path, "TIFF", Picture(Image.new("1", (1, 1)), numbers, None), "")


# --------------------------------------------------------------------------------------------------------- the document

HEAD = """# Formats of image files

Made by `python tests/data/table_of_formats.py docs/formats.md`, which writes a picture in every format, mode and type
that the installed libraries write, reads it, and writes it again as `translate` does. What a file is its content says,
not its name.

| sign | |
|---|---|
| = | read exactly as it was |
| ≈ | nearly: the format loses something |
| → | as the format has it, which does not hold this mode (Pillow has converted it in writing or reading) |
| ✗ | not read; training and `translate` name the file and the reason |
| α | with its transparency |
| | Pillow does not write this mode in this format |
"""


WRITTEN = """## What `translate` writes

A format that cannot hold a translation gives way to PNG or TIFF, whose suffix is added to the file's name. The sign
says how it is read again; GIF holds 256 colours, more than this picture has and fewer than most photographs."""

BANDS_HEAD = """## TIFF of any type and number of bands, by tifffile

How it is read, and what `translate` writes of it."""


def cell(found: Found) -> str:
    return found.read + ("α" if found.alpha else "")


def rows_of(table: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(row)} |" for row in table]
    return [lines[0], "|" + "---|" * len(table[0]), *lines[1:]]


def reading_table(found: Sequence[tuple[str, str, Found]]) -> list[str]:
    """A row a format, a column a mode."""
    cells = {(name, mode): cell(one) for name, mode, one in found}
    names = list(dict.fromkeys(name for name, _, _ in found))
    return rows_of([["format", *MODES], *([name, *(cells.get((name, m), "") for m in MODES)] for name in names)])


def reasons_of(found: Sequence[tuple[str, str, Found]]) -> list[str]:
    """A line for each format and reason of what is not read."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for name, mode, one in found:
        if one.read == UNREAD:
            reasons.setdefault((name, one.reason), []).append(mode)
    return [f"- {name} {', '.join(modes)}: {reason}" for (name, reason), modes in reasons.items()]


def writing_table(found: Sequence[tuple[str, str, Found]]) -> list[str]:
    """A row a format, and what the translations of its files are; those that are read."""
    table = [["format", "translations are written as (format and type), of modes"]]
    for name in dict.fromkeys(name for name, _, _ in found):
        kinds: dict[str, list[str]] = {}
        for _, mode, one in (each for each in found if each[0] == name and each[2].written):
            kinds.setdefault(f"{one.written} {one.again}", []).append(mode)
        if kinds:
            table.append([name, "; ".join(f"{kind} of {', '.join(modes)}" for kind, modes in kinds.items())])
    return rows_of(table)


def suffix_table(found: Sequence[tuple[str, Sequence[Called]]]) -> list[str]:
    table = [["format", "its suffixes", "in upper case", "under another one"]]
    for name, called in found:
        own = [f"{one.suffix}{'' if one.read else ' ✗'}" for one in called[:-2]]
        others = ["=" if one.read else f"✗ {one.reason}" for one in called[-2:]]
        table.append([name, " ".join(own), *others])
    return rows_of(table)


def bands_table(found: Sequence[tuple[str, int, Found]]) -> list[str]:
    cells = {(kind, bands): f"{cell(one)}, {one.written} {one.again}" for kind, bands, one in found}
    kinds = list(dict.fromkeys(kind for kind, _, _ in found))
    head = ["type", *(f"{bands} band{'s' if bands > 1 else ''}" for bands in BANDS)]
    return rows_of([head, *([kind, *(cells[kind, bands] for bands in BANDS)] for kind in kinds)])


def document(folder: Path) -> str:
    modes, names, bands = list(of_modes(folder)), list(of_suffixes(folder)), list(of_bands(folder))
    parts = [
        HEAD + f"\nOf Pillow {__version__}:",
        "## Modes",
        "\n".join(reading_table(modes)),
        "\n".join(["Not read:", "", *reasons_of(modes)]),
        WRITTEN,
        "\n".join(writing_table(modes)),
        "## Suffixes\n\nContent decides, in every mode; what has no sign at its beginning needs its own suffix.",
        "\n".join(suffix_table(names)),
        BANDS_HEAD,
        "\n".join(bands_table(bands)),
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        text = document(Path(place))
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(text, encoding="utf-8")
    else:
        print(text)
