"""``python -m cgcl_fast.translate --checkpoint RUN_OR_FILE --input FILE_OR_DIR --output DIR``: translate images.

Images keep name, size and transparency. One that cannot be read, translated or written does not end the work: it is
named with the reason when it fails, and again at the end. Exit status: 0 when every image was translated, 1 when some
were not, 2 for wrong options or data.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from cgcl_fast._command import Parser, UsageError, as_usage_error, run, underscored
from cgcl_fast._files import check_regular
from cgcl_fast._generator import find_generator
from cgcl_fast.data import UnreadableImageError, list_images, read_image, read_image_and_alpha, to_image, to_tensor
from cgcl_fast.data.images import printable, reason_of
from cgcl_fast.engine import make_accelerator, translate_tiled
from cgcl_fast.engine.files import write_atomically
from cgcl_fast.methods.base import pad_to_multiple, translate_any_size
from cgcl_fast.methods.options import Count, CountOrZero, Within, check
from cgcl_fast.networks import StyledGenerator

MOST_OF_STYLE = 512  # pixels of the longer side of an image that a style is taken from

ENDS_THE_WORK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # no other image could be written either

SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"quality": 95},
    "TIFF": {"compression": "tiff_deflate"},
}


@dataclass
class TranslateOptions:
    """Translation.

    Attributes:
        checkpoint: A run folder, one of its checkpoints, a .safetensors generator, or a published latest_net_G.pth.
        input: An image, or a folder of images with its subfolders.
        output: Folder for the translated images, under their own names.
        tile: Translate in tiles of this side, for images that do not fit into memory.
        overlap: Pixels that neighbouring tiles share and blend; if not given, an eighth of the tile, or what makes
            the tiles give the same as the whole where the generator has no norm (SinCUT).
        batch_size: Images of equal size, or tiles, at a time.
        domain: Name of the domain to translate to, for a generator of several; of two the second if not given.
        direction: AtoB or BtoA, for a method with a generator of each way (cyclegan) or, in place of domain, for one of
            two named domains; if not given, that of the training.
        style: Style of the translations, for a generator with styles: an image of that domain to take it from, random
            (another one for each image), or a number that stands for a random one. The generator's own if not given.
        device: auto, cpu or cuda.
        precision: fp32, bf16 or fp16.
    """

    checkpoint: Path
    input: Path
    output: Path
    tile: Annotated[int, Within(16, 10**9)] | None = None
    overlap: CountOrZero | None = None
    batch_size: Count = 1
    domain: str | None = None
    direction: Literal["AtoB", "BtoA"] | None = None
    style: str | None = None
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
    """One image to read and where its translation goes."""

    source: Path
    target: Path


@dataclass(frozen=True)
class Loaded:
    """An image that was read: (3, H, W) in [-1, 1], and its alpha channel if it has one."""

    job: Job
    pixels: Tensor
    alpha: Image.Image | None


class Stopped(Exception):
    """What went wrong with one image would go wrong with every other one."""


class Failures:
    """Images, and folders of them, that were not translated, and why."""

    def __init__(self) -> None:
        self.reasons: dict[Path, str] = {}

    def add(self, path: Path, reason: str) -> None:
        self.reasons[path] = reason
        tqdm.write(f"failed: {printable(path)}: {reason}", file=sys.stderr)

    def add_folder(self, path: Path, error: OSError) -> None:
        self.add(path, f"cannot be listed: {reason_of(error)}")


def plan(options: TranslateOptions, overwrite: bool, failures: Failures) -> list[Job]:
    """What there is to do, images of equal size beside each other.

    Args:
        failures: gets the folders in the input that cannot be listed.

    Raises:
        UsageError: no image, a file type that cannot be written, or a file that would be overwritten.
    """
    source, output = printable(options.input), printable(options.output)
    # os.path throughout: a path that is too long, or leads in a circle, is an image that fails and no error here.
    if os.path.isdir(options.input):
        inside = os.path.join(os.path.realpath(options.output), "")
        found = list_images(options.input, unreadable=failures.add_folder)
        found = [path for path in found if not os.path.realpath(path).startswith(inside)]
        jobs = [Job(path, options.output / path.relative_to(options.input)) for path in found]
        if not jobs:
            raise UsageError(f"--input: {source} holds no image")
    elif os.path.isfile(options.input):
        if options.input.suffix.lower() not in Image.registered_extensions():
            raise UsageError(f"--input: {source} has no suffix of an image type")
        jobs = [Job(options.input, options.output / options.input.name)]
    else:
        check_regular(options.input, missing_ok=True)
        raise UsageError(f"--input: {source} does not exist")
    if os.path.exists(options.output) and not os.path.isdir(options.output):
        raise UsageError(f"--output: {output} is not a folder")
    there = [job.target for job in jobs if os.path.exists(job.target)]
    if any(os.path.realpath(job.target) == os.path.realpath(job.source) for job in jobs):
        raise UsageError(f"--output: {output} is the folder of the input, which is never overwritten")
    if there and not overwrite:
        more = f" and {len(there) - 1} more" if there[1:] else ""
        raise UsageError(f"--output: {printable(there[0])}{more} would be overwritten (--overwrite allows it)")
    return sorted(jobs, key=lambda job: header_size(job.source))


def header_size(path: Path) -> tuple[int, int]:
    try:
        check_regular(path)
        with Image.open(path) as image:
            return image.size
    except Exception:  # whatever is wrong is said when the image is read
        return (0, 0)


class Translator:
    """A generator on a device, in a precision.

    Args:
        generator: maps (B, C, H, W) in [-1, 1] to (B, C', H, W); C and C' are read from its ``config``.
        domain, style: as of ``TranslateOptions``, for a ``StyledGenerator``.

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
    ) -> None:
        self.generator = generator.to(device).eval()
        self.device = device
        self.dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        self.channels = int(generator.config["input_nc"])  # type: ignore[index]
        if self.channels not in (1, 3):
            raise ValueError(f"checkpoint must take images of 1 or 3 channels, got {self.channels}")
        self.drawn: torch.Generator | None = None
        if style == "random":
            self.drawn = torch.Generator()
            self.drawn.seed()  # PyTorch's own generator begins with the same seed in every process
        if isinstance(generator, StyledGenerator):
            self.domain = generator.domain_index(domain)
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
        image = to_tensor(read_image(style))[None]
        shrink = MOST_OF_STYLE / max(image.shape[-2:])
        if shrink < 1:
            size = [max(1, round(side * shrink)) for side in image.shape[-2:]]
            image = F.interpolate(image, size, mode="bilinear", antialias=True)
        return generator.style_of(self._channels(image), self.domain)

    def _channels(self, images: Tensor) -> Tensor:
        return (images.mean(1, keepdim=True) if self.channels == 1 else images).to(self.device)

    def for_batch(self, size: int) -> Callable[[Tensor], Tensor]:
        """``translate`` for a batch of ``size`` images, or for the tiles of one, with one style for each image."""
        generator = self.generator
        if not isinstance(generator, StyledGenerator):
            return lambda images: self.translate(images, generator)
        style = generator.random_style(size, self.drawn) if self.drawn else self.style
        return lambda images: self.translate(images, lambda x: generator(x, self.domain, style))

    @torch.no_grad()
    def translate(self, images: Tensor, generate: Callable[[Tensor], Tensor]) -> Tensor:
        """(B, 3, H, W) in [-1, 1], any size, to (B, 3, H, W) on the CPU."""
        with torch.autocast(self.device.type, self.dtype) if self.dtype else nullcontext():
            result = translate_any_size(generate, self._channels(images), getattr(self.generator, "multiple", 4))
        return result.float().cpu().expand(-1, 3, -1, -1)


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


def read_batches(jobs: Sequence[Job], batch_size: int, failures: Failures) -> Iterator[list[Loaded]]:
    """Neighbours of equal size together, ``batch_size`` at most."""
    batch: list[Loaded] = []
    for job in jobs:
        try:
            image, alpha = read_image_and_alpha(job.source)
            pixels = to_tensor(image)
        except (UnreadableImageError, MemoryError) as error:
            failures.add(job.source, f"cannot be read: {getattr(error, 'reason', 'not enough memory')}")
            continue
        if batch and (len(batch) == batch_size or batch[0].pixels.shape != pixels.shape):
            yield batch
            batch = []
        batch.append(Loaded(job, pixels, alpha))
    if batch:
        yield batch


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
        jobs = plan(options, overwrite, failures)
        device = make_accelerator(device=options.device, precision=options.precision).device
        generator, file = find_generator(options.checkpoint, options.direction)
        domain = domain_by(options.direction, generator) or options.domain
        translator = Translator(generator, device, options.precision, domain, options.style)
        options.output.mkdir(parents=True, exist_ok=True)

    folders = len(failures.reasons)
    bar = tqdm(total=len(jobs), unit="image", mininterval=0.2 if sys.stderr.isatty() else 10, dynamic_ncols=True)
    done, stopped = 0, ""
    try:
        with bar:
            for batch in read_batches(jobs, options.batch_size, failures):
                for image, result in zip(batch, attempt(batch, translator, options), strict=True):
                    reason = result if isinstance(result, str) else write_image(image, result)
                    if reason:
                        failures.add(image.job.source, reason)
                    else:
                        done += 1
                    bar.update(done + len(failures.reasons) - folders - bar.n)
    except Stopped as error:
        stopped = f"error: {error}; {len(jobs) - done - len(failures.reasons) + folders} images are left"
    finally:
        failed = f"; {len(failures.reasons)} failed:" if failures.reasons else ""
        print(f"translated {done} images to {printable(options.output)} with {printable(file)}{failed}")
        for path, reason in failures.reasons.items():
            print(f"  {printable(path)}: {reason}")
    if stopped:
        print(stopped, file=sys.stderr)
    return 1 if failures.reasons or stopped else 0


def attempt(batch: Sequence[Loaded], translator: Translator, options: TranslateOptions) -> list[Tensor | str]:
    """The images of a batch translated, (3, H, W) each, or why one could not be. Those of a batch that fails are tried
    one by one.

    Raises:
        Stopped: the device does not work any more.
    """
    try:
        results = translated([image.pixels for image in batch], translator, options)
        return [each if bool(each.isfinite().all()) else "its translation has NaN or infinity" for each in results]
    except torch.AcceleratorError as error:
        raise Stopped(reason_of(error)) from error
    except (RuntimeError, ValueError, MemoryError) as error:
        reason = reason_of(error)
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in str(error):
            height, width = batch[0].pixels.shape[-2:]
            less = "a smaller --tile" if options.tile else "--tile"
            reason = f"not enough memory for {width}x{height} pixels; {less} takes less"
    if len(batch) == 1:
        return [f"cannot be translated: {reason}"]
    return [result for image in batch for result in attempt([image], translator, options)]


def write_image(image: Loaded, result: Tensor) -> str:
    """Write a translated image with the transparency of the one that was read; why it could not be, "" if it could.

    Raises:
        Stopped: no file can be written, as on a full disk.
    """
    path = image.job.target
    try:
        picture = to_image(result)
        if image.alpha is not None:
            picture.putalpha(image.alpha)
        kind = Image.registered_extensions()[path.suffix.lower()]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: picture.save(file, format=kind, **SAVE_OPTIONS.get(kind, {})))
        return ""
    except Exception as error:  # Pillow's encoders raise nearly anything
        if isinstance(error, OSError) and error.errno in ENDS_THE_WORK:
            raise Stopped(f"{printable(path)}: {reason_of(error)}") from error
        reason = "a file is in the place of its folder" if isinstance(error, FileExistsError) else reason_of(error)
        return f"cannot be written to {printable(path)}: {reason}"


def translated(images: Sequence[Tensor], translator: Translator, options: TranslateOptions) -> list[Tensor]:
    """Images of one size, (3, H, W) each, translated."""
    tile = options.tile
    if tile is None or max(images[0].shape[-2:]) <= tile:
        return list(translator.for_batch(len(images))(torch.stack(list(images))))
    return [translated_in_tiles(image, translator, tile, options.overlap, options.batch_size) for image in images]


def translated_in_tiles(
    image: Tensor, translator: Translator, tile: int, overlap: int | None, batch_size: int
) -> Tensor:
    """(3, H, W) translated in tiles.

    They begin at multiples of 4, where the strides of the generators do. A generator that says how far its pixels look
    around (``margin``) needs overlaps of twice that, and then gives the result of the whole image.
    """
    tile -= tile % 4
    margin = getattr(translator.generator, "margin", 0)
    if overlap is None:
        overlap = min(max(tile // 8, 2 * margin), tile // 2)
    overlap = min(overlap, tile - 4)
    height, width = image.shape[-2:]
    return translate_tiled(
        translator.for_batch(1),
        pad_to_multiple(image[None])[0],
        tile=tile,
        overlap=overlap,
        batch_size=batch_size,
        margin=min(margin, overlap // 2),
        multiple=4,
    )[:, :height, :width]


def main(arguments: Sequence[str] | None = None) -> int:
    return run(translate, arguments)


if __name__ == "__main__":
    sys.exit(main())
