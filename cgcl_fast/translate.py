"""``python -m cgcl_fast.translate --checkpoint RUN_OR_FILE --input FILE_OR_DIR --output DIR``: translate images.

Images keep name, size, transparency, format, channels and the type and range of their numbers; where the format of the
file does not hold its translation another suffix is added to the name. One that cannot be read, translated or written
does not end the work: it is named with the reason when it fails, and again at the end. The same command again goes on
with what is left, if the work was interrupted or images failed. Exit status: 0 when every image was translated, 1 when
some were not, 2 for wrong options or data.
"""

from __future__ import annotations

import errno
import math
import os
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from cgcl_fast._command import Parser, UsageError, as_usage_error, run, underscored
from cgcl_fast._files import check_regular
from cgcl_fast._generator import find_generator
from cgcl_fast._pipeline import Pipeline
from cgcl_fast._progress import Progress
from cgcl_fast.data import Reading, UnreadableImageError, Values, list_images
from cgcl_fast.data.decoding import FileImage, look_at, read_file, read_stored, to_tensor
from cgcl_fast.data.formats import LARGE, MOST_PIXELS, FileFormat, printable, reason_of
from cgcl_fast.data.values import from_unit, to_unit, values_from_dict, values_read, values_written
from cgcl_fast.data.writing import format_for, write_numbers
from cgcl_fast.engine import device_for, translate_bands
from cgcl_fast.engine.files import write_atomically
from cgcl_fast.methods.base import translate_any_size
from cgcl_fast.methods.options import Count, CountOrZero, Level, Within, check
from cgcl_fast.networks import StyledGenerator

MOST_OF_STYLE = 512  # pixels of the longer side of an image that a style is taken from

ROOM = 2**28  # bytes of images that are read ahead of the generator, and of those that are written behind it

ENDS_THE_WORK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # no other image could be written either


@dataclass
class TranslateOptions:
    """Translation.

    Attributes:
        checkpoint: A run folder, one of its checkpoints, a .safetensors generator, a published latest_net_G.pth, or a
            folder of cgcl_fast.hub or its name on the Hugging Face Hub.
        input: An image, or a folder of images with its subfolders.
        output: Folder for the translated images, under their own names.
        tile: Translate in tiles of this side, for images that do not fit into memory.
        overlap: Pixels that neighbouring tiles share and blend; if not given, an eighth of the tile, or what makes
            the tiles give the same as the whole where the generator has no norm (SinCUT).
        batch_size: Images of equal size, or tiles of a row, at a time.
        range: LOW HIGH, the numbers in the images that become -1 and 1. If not given, 0 to 255 for images of 8 bits;
            for others what the generator was trained with, or if it does not say all numbers of their type.
        max_megapixels: Larger images are refused.
        domain: Name of the domain to translate to, for a generator of several; of two the second if not given.
        direction: AtoB or BtoA, for a method with a generator of each way (cyclegan) or, in place of domain, for one of
            two named domains; if not given, that of the training.
        style: Style of the translations, for a generator with styles: an image of that domain to take it from, random
            (another one for each image), or a number that stands for a random one. The generator's own if not given.
        workers: Threads that read images ahead of the generator and write translations behind it; 0: none, one thing
            after the other. If not given 8 beside a GPU, on a CPU 1 where PyTorch has several threads.
        device: auto, cpu or cuda.
        precision: fp32, bf16 or fp16.
    """

    checkpoint: Path
    input: Path
    output: Path
    tile: Annotated[int, Within(16, 10**9)] | None = None
    overlap: CountOrZero | None = None
    batch_size: Count = 1
    range: tuple[Level, Level] | None = None
    max_megapixels: Count = 179
    domain: str | None = None
    direction: Literal["AtoB", "BtoA"] | None = None
    style: str | None = None
    workers: Annotated[int, Within(0, 1024)] | None = None
    device: str = "auto"
    precision: str = "fp32"

    def __post_init__(self) -> None:
        check(self)
        if self.overlap is not None and (self.tile is None or self.overlap >= self.tile):
            raise ValueError(f"overlap: expected less than tile {self.tile}, got {self.overlap}")
        if self.direction is not None and self.domain is not None:
            raise ValueError("direction: leave it out where --domain names where to translate to")


@dataclass(frozen=True)
class Job:
    """One image to read and where its translation goes, in which format.

    Attributes:
        size: (width, height) by the header of the file; zeros where it cannot be read.
    """

    source: Path
    target: Path
    form: FileFormat
    size: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Loaded:
    """An image that was read.

    Attributes:
        whole: all of it, (C, H, W) in [-1, 1], where that is made ahead.
    """

    job: Job
    image: FileImage
    whole: Tensor | None = None

    def window(self, top: int, left: int, height: int, width: int) -> Tensor:
        """A part of it, (C, height, width) in [-1, 1]. Beyond its bottom and its right edge it is padded as by
        :func:`pad_to_multiple`, which would take several times the memory that the numbers take."""
        numbers = self.image.numbers
        reflects = all(padded(side) - side < side for side in numbers.shape[:2])
        rows, columns = (
            _within(start, count, side, reflects)
            for start, count, side in zip((top, left), (height, width), numbers.shape[:2], strict=True)
        )
        return to_unit(numbers[rows][:, columns], self.image.values)


def padded(side: int) -> int:
    """The side that a generator takes, of one that it need not take."""
    return max(8, -(-side // 4) * 4)


def _within(start: int, count: int, side: int, reflects: bool) -> slice | np.ndarray:
    if start + count <= side:
        return slice(start, start + count)
    places = np.arange(start, start + count)
    beyond = 2 * (side - 1) - places if reflects else np.full_like(places, side - 1)
    return np.where(places < side, places, beyond)


class Stopped(Exception):
    """What went wrong with one image would go wrong with every other one."""


class NotFinite(Exception):
    """A translation has NaN or infinity."""


class Translation(NamedTuple):
    """What a generator gave for an image.

    Attributes:
        numbers: gives the numbers (H, W, C'); any thread may call it, once ``copied`` has happened.
        copied: the device has done its work; None where it had when this was made.
    """

    numbers: Callable[[], np.ndarray]
    copied: torch.cuda.Event | None = None


FAILURES = (RuntimeError, ValueError, MemoryError, OSError, NotFinite)  # in translating


class Failures:
    """Images, and folders of them, that were not translated, and why."""

    def __init__(self) -> None:
        self.reasons: dict[Path, str] = {}

    def add(self, path: Path, reason: str) -> None:
        self.reasons[path] = reason
        tqdm.write(f"failed: {printable(path)}: {reason}", file=sys.stderr)

    def add_folder(self, path: Path, error: OSError) -> None:
        self.add(path, f"cannot be listed: {reason_of(error)}")


def plan(options: TranslateOptions, progress: Progress, translator: Translator, failures: Failures) -> list[Job]:
    """What there is to do, images of equal size beside each other. Says on stderr what is left out of it.

    Args:
        progress: what is done already, and whether other files may be overwritten.
        translator: says what the translations are, which not every format of files holds.
        failures: gets the folders in the input that cannot be listed.

    Raises:
        UsageError: no image, or a file that would be overwritten.
    """
    source, output = printable(options.input), printable(options.output)
    # os.path throughout: a path that is too long, or leads in a circle, is an image that fails and no error here.
    if os.path.isdir(options.input):
        inside = os.path.join(os.path.realpath(options.output), "")
        found = list_images(options.input, unreadable=failures.add_folder, left_out=partial(_say, source))
        found = [path for path in found if not os.path.realpath(path).startswith(inside)]
        names = [path.relative_to(options.input) for path in found]
        if not found:
            raise UsageError(f"--input: {source} holds no image")
    elif os.path.isfile(options.input):
        found, names = [options.input], [Path(options.input.name)]
    else:
        check_regular(options.input, missing_ok=True)
        raise UsageError(f"--input: {source} does not exist")
    if os.path.exists(options.output) and not os.path.isdir(options.output):
        raise UsageError(f"--output: {output} is not a folder")
    jobs = [job_of(path, options.output / name, translator) for path, name in zip(found, names, strict=True)]
    jobs.sort(key=lambda job: job.size)
    if any(os.path.realpath(job.target) == os.path.realpath(job.source) for job in jobs):
        raise UsageError(f"--output: {output} is the folder of the input, which is never overwritten")
    if before := len(jobs) - len(jobs := [job for job in jobs if not progress.done(job.source, job.target)]):
        _say(output, f"{before} of {before + len(jobs)} images are there from before")
    if several := [job for job in jobs if job.form.frames > 1]:
        _say(source, f"of {len(several)} images the first of several frames, as of {printable(several[0].source.name)}")
    there = [job.target for job in jobs if os.path.exists(job.target)]
    if there and not progress.overwrite:
        more = f" and {len(there) - 1} more" if there[1:] else ""
        raise UsageError(f"--output: {printable(there[0])}{more} would be overwritten (--overwrite allows it)")
    return jobs


def _say(where: str, what: str) -> None:
    print(f"{where}: {what}", file=sys.stderr)


def job_of(source: Path, target: Path, translator: Translator) -> Job:
    """What there is to do with a file, by its header."""
    try:
        form, size = look_at(source, translator.reading)
    except UnreadableImageError:  # it is said when the image is read
        return Job(source, target, FileFormat("PNG"))
    written = values_written(
        values_read(form.type, translator.reading.values), translator.reading.values, translator.target
    )
    form, suffix = format_for(form, written.type, translator.channels)
    return Job(source, target.with_name(target.name + suffix), form, size)


class Translator:
    """A generator on a device, in a precision.

    Args:
        generator: maps (B, C, H, W) in [-1, 1] to (B, C', H, W); C and C' are read from its ``config``, and from its
            ``ranges`` and ``direction`` what numbers the images that it reads and writes have.
        domain, style: as of ``TranslateOptions``, for a ``StyledGenerator``.
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
        if self.on_gpu:  # cuDNN would turn the weights round at each convolution
            self.generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
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
        """One row: that of a seed, or of an image, which is shrunk where it is larger than what one trains with."""
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

    def bytes_of(self, job: Job) -> int:
        """What an image takes, as numbers of its type and as float32, before it is translated or after."""
        channels = max(self.reading.channels, self.channels)
        return math.prod(job.size) * channels * (np.dtype(job.form.type).itemsize + 4)

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

    def start(self, batch: Sequence[Loaded], folder: Path) -> list[Translation]:
        """Begin to translate images of equal size; a GPU works on after that. ``folder`` is that of :meth:`numbers`."""
        images = [self.staged(each.image) if each.whole is None else each.whole for each in batch]
        there = [image.to(self.device, non_blocking=True)[None] for image in images]
        stacked = there[0] if len(there) == 1 else torch.cat(there)
        results = self._translate(stacked, self._generate(len(batch))).to("cpu", non_blocking=True)
        copied = torch.cuda.current_stream(self.device).record_event() if self.on_gpu else None
        return [
            Translation(partial(self.numbers, each.image, [result], folder), copied)
            for each, result in zip(batch, results, strict=True)
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


def load(job: Job, translator: Translator, options: TranslateOptions) -> Loaded | str:
    """An image of a file, or why there is none."""
    try:
        loaded = Loaded(job, read_file(job.source, translator.reading))
    except (UnreadableImageError, MemoryError) as error:
        return f"cannot be read: {getattr(error, 'reason', 'not enough memory')}"
    if not in_parts(loaded, options):
        with suppress(MemoryError, RuntimeError):  # which is said when it is translated
            return replace(loaded, whole=translator.staged(loaded.image))
    return loaded


def in_parts(image: Loaded, options: TranslateOptions) -> bool:
    """Whether it is translated in tiles."""
    return options.tile is not None and max(image.image.numbers.shape[:2]) > options.tile


def batches_of(
    found: Iterable[tuple[Job, Loaded | str]], batch_size: int, failed: Callable[[Job, str], None]
) -> Iterator[list[Loaded]]:
    """Neighbours of equal size together, ``batch_size`` at most; what could not be read is told ``failed``."""
    batch: list[Loaded] = []
    for job, loaded in found:
        if isinstance(loaded, str):
            failed(job, loaded)
            continue
        if batch and (len(batch) == batch_size or batch[0].image.numbers.shape != loaded.image.numbers.shape):
            yield batch
            batch = []
        batch.append(loaded)
    if batch:
        yield batch


def translated(
    batches: Iterable[list[Loaded]], translator: Translator, options: TranslateOptions
) -> Iterator[tuple[Loaded, Translation | str]]:
    """Each image with its translation, or why there is none. A GPU gets its next batch before the last is waited for.

    Raises:
        Stopped: the device does not work any more.
    """
    begun: deque[list[tuple[Loaded, Translation | str]]] = deque()
    stopped = None
    try:
        for batch in batches:
            begun.append(list(zip(batch, attempt(batch, translator, options), strict=True)))
            if len(begun) > int(translator.on_gpu):
                yield from waited(begun.popleft(), options)
    except Stopped as error:
        stopped = error
    for pairs in begun:
        yield from waited(pairs, options)
    if stopped is not None:
        raise stopped


def waited(
    pairs: Iterable[tuple[Loaded, Translation | str]], options: TranslateOptions
) -> Iterator[tuple[Loaded, Translation | str]]:
    """The same when the device has done its work."""
    for image, result in pairs:
        try:
            if isinstance(result, Translation) and result.copied is not None:
                result.copied.synchronize()
        except FAILURES as error:
            result = why_not(error, image, options)
        yield image, result


def default_workers(device: torch.device) -> int:
    """Encoding takes longer than a GPU does; on a CPU, whose threads are busy with the generator, one helps already."""
    return 8 if device.type == "cuda" else int(torch.get_num_threads() > 1)


def translate(arguments: Sequence[str]) -> int:
    """The command; see the module."""
    parser = Parser(prog="python -m cgcl_fast.translate", description=__doc__)
    parser.add_class_arguments(TranslateOptions, None)
    parser.add_argument("--overwrite", action="store_true", help="Replace files that are there already.")
    parsed = parser.parse_args(underscored(arguments)).as_dict()
    overwrite = parsed.pop("overwrite")
    failures = Failures()
    with as_usage_error():
        options = TranslateOptions(**parsed)
        device = device_for(options.device, options.precision)
        generator, file = find_generator(options.checkpoint, options.direction)
        domain = domain_by(options.direction, generator) or options.domain
        translator = Translator(
            generator,
            device,
            options.precision,
            domain,
            options.style,
            options.range,
            options.max_megapixels * 10**6,
        )
        progress = Progress(options.output, work_of(options, file), overwrite)
        jobs = plan(options, progress, translator, failures)
        options.output.mkdir(parents=True, exist_ok=True)
        progress.begin()

    folders = len(failures.reasons)
    bar = tqdm(total=len(jobs), unit="image", mininterval=0.2 if sys.stderr.isatty() else 10, dynamic_ncols=True)
    done, stopped = 0, ""

    def settled(job: Job, reason: str) -> None:
        nonlocal done
        if reason:
            failures.add(job.source, reason)
        else:
            done += 1
        bar.update(done + len(failures.reasons) - folders - bar.n)

    workers = default_workers(device) if options.workers is None else options.workers
    most = 2 * (workers + options.batch_size)
    try:
        with bar, Pipeline(workers, settled, size=translator.bytes_of, room=ROOM, most=most) as pipeline:
            found = pipeline.ahead(jobs, partial(load, translator=translator, options=options))
            batches = batches_of(found, options.batch_size, lambda job, reason: pipeline.behind(job, lambda: reason))
            for image, result in translated(batches, translator, options):
                pipeline.behind(image.job, partial(finished, replace(image, whole=None), result, progress, options))
    except Stopped as error:
        stopped = f"error: {error}; {len(jobs) - done - len(failures.reasons) + folders} images are left"
    finally:
        failed = f"; {len(failures.reasons)} failed:" if failures.reasons else ""
        print(f"translated {done} images to {printable(options.output)} with {printable(file)}{failed}")
        for path, reason in failures.reasons.items():
            print(f"  {printable(path)}: {reason}")
    if stopped:
        print(stopped, file=sys.stderr)
    if not failures.reasons and not stopped:
        progress.end()
    return 1 if failures.reasons or stopped else 0


CHANGES_NOTHING = ("output", "batch_size", "workers", "device")


def work_of(options: TranslateOptions, file: Path) -> dict[str, Any]:
    """What decides the translations: the generator's file and the options."""
    found = os.stat(file)
    deciding = {name: value for name, value in vars(options).items() if name not in CHANGES_NOTHING}
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in deciding.items()}
    return {**plain, "checkpoint": [str(file.resolve()), found.st_size, found.st_mtime_ns]}


def attempt(batch: Sequence[Loaded], translator: Translator, options: TranslateOptions) -> list[Translation | str]:
    """The images of a batch translated, or why one could not be. Those of a batch that fails are tried one by one.

    Raises:
        Stopped: the device does not work any more.
    """
    try:
        if options.tile is None or not in_parts(batch[0], options):
            return [*translator.start(batch, options.output)]
        done: list[Translation | str] = []
        for image in batch:
            bands = in_tiles(image, translator, options.tile, options.overlap, options.batch_size)
            numbers = translator.numbers(image.image, bands, options.output)
            done.append(Translation(lambda numbers=numbers: numbers))  # type: ignore[misc]
        return done
    except FAILURES as error:
        reason = why_not(error, batch[0], options)
    if len(batch) == 1:
        return [reason]
    return [result for image in batch for result in attempt([image], translator, options)]


def why_not(error: Exception, image: Loaded, options: TranslateOptions) -> str:
    """Why an image could not be translated.

    Raises:
        Stopped: no other one could be.
    """
    if isinstance(error, torch.AcceleratorError):
        raise Stopped(reason_of(error)) from error
    if isinstance(error, OSError):  # no room for a large one
        raise Stopped(f"{printable(options.output)}: {reason_of(error)}") from error
    if isinstance(error, NotFinite):
        return str(error)
    if lacks_memory(error):
        height, width = image.image.numbers.shape[:2]
        less = "a smaller --tile" if options.tile else "--tile"
        return f"cannot be translated: not enough memory for {width}x{height} pixels; {less} takes less"
    return f"cannot be translated: {reason_of(error)}"


def finished(image: Loaded, result: Translation | str, progress: Progress, options: TranslateOptions) -> str:
    """Write a translation; why it could not be, "" if it could.

    Raises:
        Stopped: as :func:`attempt` and :func:`write_image`.
    """
    if isinstance(result, str):
        return result
    try:
        numbers = result.numbers()
    except FAILURES as error:
        return why_not(error, image, options)
    return write_image(image, numbers, progress)


def in_tiles(
    image: Loaded, translator: Translator, tile: int, overlap: int | None, batch_size: int
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
    height, width = image.image.numbers.shape[:2]
    return translate_bands(
        translator.for_batch(1),
        image.window,
        (padded(height), padded(width)),
        tile=tile,
        overlap=overlap,
        batch_size=batch_size,
        margin=min(margin, overlap // 2),
        multiple=4,
    )


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


def lacks_memory(error: BaseException) -> bool:
    """PyTorch's allocator of CPUs raises a RuntimeError, oneDNN one of its own and C++ std::bad_alloc."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    signs = ("DefaultCPUAllocator", "could not create a memory", "bad_alloc", "allocate memory")
    return any(words in str(error) for words in signs)


def write_image(image: Loaded, numbers: np.ndarray, progress: Progress) -> str:
    """Write a translated image with the transparency of the one that was read; why it could not be, "" if it could.

    Raises:
        Stopped: no file can be written, as on a full disk.
    """
    path = image.job.target
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        form = image.job.form._replace(srgb=image.image.form.srgb)
        replaces = os.path.exists(path)
        if not replaces:  # from now on a file of this name is this one
            progress.add(image.job.source, path)
        write_atomically(path, lambda file: write_numbers(file, numbers, form, image.image.alpha))
        if replaces:
            progress.add(image.job.source, path)
        return ""
    except Exception as error:  # Pillow's encoders raise nearly anything
        if isinstance(error, OSError) and error.errno in ENDS_THE_WORK:
            raise Stopped(f"{printable(path)}: {reason_of(error)}") from error
        reason = "a file is in the place of its folder" if isinstance(error, FileExistsError) else reason_of(error)
        return f"cannot be written to {printable(path)}: {reason}"


def main(arguments: Sequence[str] | None = None) -> int:
    return run(translate, arguments)


if __name__ == "__main__":
    sys.exit(main())
