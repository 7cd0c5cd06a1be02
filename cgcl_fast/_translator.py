"""A generator on a device, for images of any size: whole, in batches, or in tiles."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgcl_fast.data import Reading, Values
from cgcl_fast.data.decoding import FileImage, read_stored, to_tensor
from cgcl_fast.data.formats import LARGE, MOST_PIXELS
from cgcl_fast.data.values import from_unit, to_unit, values_from_dict, values_written
from cgcl_fast.engine import translate_bands
from cgcl_fast.methods.base import translate_any_size
from cgcl_fast.networks import StyledGenerator
from cgcl_fast.networks.memory_format import weights_in_fast_format

MOST_OF_STYLE = 512  # pixels of the longer side of an image that a style is taken from


class NotFinite(Exception):
    """A translation has NaN or infinity."""


class Translation(NamedTuple):
    """The translation of an image.

    Attributes:
        numbers: gives the numbers (H, W, C'); any thread may call it, once ``copied`` has happened.
        copied: happens when the device has finished; None if it already had.
    """

    numbers: Callable[[], np.ndarray]
    copied: torch.cuda.Event | None = None


class Translator:
    """A generator on a device, in a precision.

    Args:
        generator: maps (B, C, H, W) in [-1, 1] to (B, C', H, W); C and C' are read from its ``config``, and from its
            ``ranges`` and ``direction`` what numbers the images that it reads and writes have.
        domain, style: as in ``TranslateOptions``, for a ``StyledGenerator``.
        span: the numbers that become -1 and 1, in place of those of ``ranges``.
        most_pixels: larger images are refused.

    Raises:
        ValueError: the generator knows no such domain or style, or has none at all.
        UnreadableImageError: the image of the style cannot be read.
    """

    def __init__(
        self,
        generator: nn.Module,
        device: torch.device,
        precision: str = "fp32",
        domain: str | None = None,
        style: str | None = None,
        span: tuple[float, float] | None = None,
        most_pixels: int = MOST_PIXELS,
    ) -> None:
        self.generator = generator.to(device).eval()
        self.device = device
        self.on_gpu = device.type == "cuda"
        weights_in_fast_format(self.generator, device)
        self.dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        config: dict[str, Any] = generator.config  # type: ignore[assignment]
        taken = int(config["input_nc"])
        self.channels = int(config.get("output_nc", taken))
        self.drawn: torch.Generator | None = None
        if style == "random":
            self.drawn = torch.Generator()
            self.drawn.seed()  # PyTorch's own generator begins with the same seed in every process
        values = values_from_dict(getattr(generator, "ranges", None) or {})
        if span is not None:  # of a generator that knows no types, for all but photographs
            known = values or {"A": Values("float32"), "B": Values("float32")}
            values = {name: Values(each.type, *span) for name, each in known.items()}
        names = list(values)  # of a generator of one way the first is what it reads
        if getattr(generator, "direction", "AtoB") == "BtoA":
            names.reverse()
        to = names[-1] if names else None
        if isinstance(generator, StyledGenerator):
            self.domain = generator.domain_index(domain)
            to = generator.domains[self.domain]
        source = next((values[name] for name in names if name != to), None)
        self.target = values.get(to or "")
        self.reading = Reading(taken, source, most_pixels)
        self.style_reading = Reading(taken, self.target, most_pixels)
        if isinstance(generator, StyledGenerator):
            self.style = None if style is None or self.drawn else self._read_style(generator, style)
        else:
            for name, value in (("domain", domain), ("style", style)):
                if value is not None:
                    raise ValueError(f"{name}: the checkpoint's {type(generator).__name__} has none, got {value!r}")

    @torch.no_grad()
    def _read_style(self, generator: StyledGenerator, style: str) -> Tensor:
        """One style row, from a seed or from an image shrunk to training size."""
        if style.isdecimal():
            return generator.random_style(1, torch.Generator().manual_seed(int(style) % 2**64))
        if not Path(style).is_file():
            raise ValueError(f"style: expected an image file, random or a number, got {style!r}")
        image = to_tensor(read_stored(style, reading=self.style_reading).image)[None]
        shrink = MOST_OF_STYLE / max(image.shape[-2:])
        if shrink < 1:
            size = [max(1, round(side * shrink)) for side in image.shape[-2:]]
            image = F.interpolate(image, size, mode="bilinear", antialias=True)
        return generator.style_of(image.to(self.device), self.domain)

    def for_batch(self, size: int) -> Callable[[Tensor], Tensor]:
        """``translate`` for a batch of ``size`` images, or for the tiles of one, with one style for each image."""
        return partial(self.translate, generate=self._generate(size))

    def bytes_of(self, size: tuple[int, int], type: str) -> int:
        """What an image of (width, height) takes, as numbers of its type and as float32, before it is translated or
        after."""
        channels = max(self.reading.channels, self.channels)
        return math.prod(size) * channels * (np.dtype(type).itemsize + 4)

    def _generate(self, size: int) -> Callable[[Tensor], Tensor]:
        generator = self.generator
        if not isinstance(generator, StyledGenerator):
            return generator
        style = generator.random_style(size, self.drawn) if self.drawn else self.style
        return lambda images: generator(images, self.domain, style)

    def staged(self, image: FileImage) -> Tensor:
        """All of an image, (C, H, W) in [-1, 1]; for a GPU in memory that it copies from by itself."""
        whole = to_unit(image.numbers, image.values)
        if not self.on_gpu:
            return whole
        pinned = torch.empty(whole.shape, pin_memory=True)
        np.copyto(pinned.numpy(), whole.numpy())  # torch would start all its threads, in every thread that reads
        return pinned

    def start(self, batch: Sequence[tuple[FileImage, Tensor | None]], folder: Path) -> list[Translation]:
        """Begin to translate images of equal size, each given with what :meth:`staged` made of it, if that was done; a
        GPU works on after that. ``folder`` is that of :meth:`numbers`."""
        images = [self.staged(image) if whole is None else whole for image, whole in batch]
        there = [image.to(self.device, non_blocking=True)[None] for image in images]
        stacked = there[0] if len(there) == 1 else torch.cat(there)
        results = self._translate(stacked, self._generate(len(batch))).to("cpu", non_blocking=True)
        copied = torch.cuda.current_stream(self.device).record_event() if self.on_gpu else None
        return [
            Translation(partial(self.numbers, image, [result], folder), copied)
            for (image, _), result in zip(batch, results, strict=True)
        ]

    def numbers(self, image: FileImage, bands: Iterable[Tensor], folder: Path) -> np.ndarray:
        """A translation that comes from top to bottom, (C', h, W') in [-1, 1], as numbers (H, W, C') like those of the
        image that it is of; large ones in a file in ``folder``.

        Raises:
            NotFinite: it has NaN or infinity.
        """
        height, width = image.numbers.shape[:2]
        values = values_written(image.values, self.reading.values, self.target)
        result = room_for((height, width, self.channels), values.type, folder)
        top = 0
        for band in bands:
            if not np.isfinite(band.numpy()).all():
                raise NotFinite("its translation has NaN or infinity")
            rows = min(band.shape[1], height - top)
            result[top : top + rows] = from_unit(band[:, :rows, :width], values)
            top += rows
        return result

    def translate(self, images: Tensor, generate: Callable[[Tensor], Tensor]) -> Tensor:
        """(B, C, H, W) in [-1, 1], any size, to (B, C', H, W) on the CPU."""
        return self._translate(images.to(self.device), generate).cpu()

    @torch.no_grad()
    def _translate(self, images: Tensor, generate: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.autocast(self.device.type, self.dtype) if self.dtype else nullcontext():
            result = translate_any_size(generate, images, getattr(self.generator, "multiple", 4))
        return result.float()


def domain_by(direction: str | None, generator: nn.Module) -> str | None:
    """The name of the domain that ``direction`` leads to, of a generator that has two; None if none was asked for, or
    if the generator was chosen by it.

    Raises:
        ValueError: the generator has other domains than two.
    """
    if direction is None or not isinstance(generator, StyledGenerator):
        return None
    if len(generator.domains) != 2:
        raise ValueError(f"direction: the checkpoint has {len(generator.domains)} domains; name one with --domain")
    return generator.domains[direction == "AtoB"]


def in_tiles(
    image: FileImage, translator: Translator, tile: int, overlap: int | None, batch_size: int
) -> Iterator[Tensor]:
    """An image translated in tiles, (C', h, W) from top to bottom.

    They begin at multiples of 4, where the strides of the generators do. A generator that says how far its pixels look
    around (``margin``) needs overlaps of twice that, and then gives the result of the whole image.
    """
    tile -= tile % 4
    margin = getattr(translator.generator, "margin", 0)
    if overlap is None:
        overlap = min(max(tile // 8, 2 * margin), tile // 2)
    overlap = min(overlap, tile - 4)
    height, width = image.numbers.shape[:2]
    return translate_bands(
        translator.for_batch(1),
        partial(window_of, image),
        (padded(height), padded(width)),
        tile=tile,
        overlap=overlap,
        batch_size=batch_size,
        margin=min(margin, overlap // 2),
        multiple=4,
    )


def window_of(image: FileImage, top: int, left: int, height: int, width: int) -> Tensor:
    """A part of an image, (C, height, width) in [-1, 1]. Beyond its bottom and its right edge it is padded as by
    :func:`pad_to_multiple`, which would take several times the memory that the numbers take."""
    numbers = image.numbers
    reflects = all(padded(side) - side < side for side in numbers.shape[:2])
    rows, columns = (
        _within(start, count, side, reflects)
        for start, count, side in zip((top, left), (height, width), numbers.shape[:2], strict=True)
    )
    return to_unit(numbers[rows][:, columns], image.values)


def padded(side: int) -> int:
    """The side rounded up to one that every generator accepts."""
    return max(8, -(-side // 4) * 4)


def _within(start: int, count: int, side: int, reflects: bool) -> slice | np.ndarray:
    if start + count <= side:
        return slice(start, start + count)
    places = np.arange(start, start + count)
    beyond = 2 * (side - 1) - places if reflects else np.full_like(places, side - 1)
    return np.where(places < side, places, beyond)


def room_for(shape: tuple[int, ...], kind: str, folder: Path) -> np.ndarray:
    """An array of these numbers, in a file without a name where it is large.

    Raises:
        OSError: the disk has no room for it.
    """
    size = math.prod(shape) * np.dtype(kind).itemsize
    if size < LARGE:
        return np.empty(shape, kind)
    with tempfile.TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):  # else a full disk would end the process when the array is filled
            os.posix_fallocate(file.fileno(), 0, size)
        return np.memmap(file, kind, mode="w+", shape=shape)  # type: ignore[call-overload]
