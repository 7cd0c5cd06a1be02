"""The pipeline of a translation: read images ahead, translate them in batches or tiles, write the results behind."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import torch

from cgcl_fast._pipeline import Pipeline
from cgcl_fast._translate_input import Job, Loaded, batches_of, in_parts, load
from cgcl_fast._translate_output import Stopped
from cgcl_fast._translator import NotFinite, Translation, Translator, in_tiles
from cgcl_fast.data.formats import printable, reason_of
from cgcl_fast.data.tars import size_of_file

ROOM = 2**28  # bytes of images that are read ahead of the generator, and of those that are written behind it

PIXELS_OF_BATCH = 2**20  # on a GPU, which works on small images more quickly than it gets its kernels one by one
MOST_OF_BATCH = 16

FAILURES = (RuntimeError, ValueError, MemoryError, OSError, NotFinite)  # in translating


class Settings(Protocol):
    """The options that the pipeline needs; see ``TranslateOptions``."""

    output: Path
    tile: int | None
    overlap: int | None
    batch_size: int | None


def translate_images(
    jobs: Sequence[Job],
    translator: Translator,
    options: Settings,
    workers: int,
    finish: Callable[[Loaded, np.ndarray], Any],
    settled: Callable[[Job, Any], None],
) -> None:
    """Translate images.

    Args:
        workers: threads that read and write beside the one that translates.
        finish: called in such a thread with each translation.
        settled: told in the order of the images what ``finish`` returned, or why an image could not be translated.

    Raises:
        Stopped: no other image could be translated; what had been is finished.
    """
    most = 2 * (workers + batch_size(1, options, translator))
    pipeline: Pipeline[Job] = Pipeline(
        workers, settled, size=partial(bytes_of, translator), room=ROOM, most=most, begin=partial(_begin, translator)
    )
    with pipeline:
        found = pipeline.ahead(jobs, partial(load, translator=translator, tile=options.tile, clock=perf_counter))
        batches = batches_of(
            found,
            partial(images_at_once, options=options, translator=translator),
            lambda job, reason: pipeline.behind(job, lambda: reason),
        )
        for image, result in translated(batches, translator, options):
            pipeline.behind(image.job, partial(finished, replace(image, whole=None), result, finish, options))


def batch_size(pixels: int, options: Settings, translator: Translator) -> int:
    """How many images or tiles of so many pixels go through the generator together."""
    if options.batch_size is not None:
        return options.batch_size
    return min(MOST_OF_BATCH, max(1, PIXELS_OF_BATCH // pixels)) if translator.on_gpu else 1


def images_at_once(image: Loaded, options: Settings, translator: Translator) -> int:
    """How many images like this one make a batch; those in tiles go alone, since only their tiles go together."""
    alone = in_parts(image, options.tile)
    return 1 if alone else batch_size(pixels_at_once(image, options), options, translator)


def pixels_at_once(image: Loaded, options: Settings) -> int:
    """The pixels of an image, or of one of its tiles."""
    height, width = image.image.numbers.shape[:2]
    return height * width if options.tile is None else min(height, options.tile) * min(width, options.tile)


def bytes_of(translator: Translator, job: Job) -> int:
    """What an image takes in memory. Of one in a tar that is not known before it is read; photographs are compressed to
    a tenth or less, and their pixels are numbers of 8 and of 32 bits."""
    if job.form is None:
        return 50 * size_of_file(job.source) if job.tar is not None else 0
    return translator.bytes_of(job.size, job.form.type)


def _begin(translator: Translator) -> None:
    """Let a thread take memory that the translator's GPU copies from; each one begins with the first GPU."""
    if translator.device.type == "cuda" and translator.device.index is not None:
        torch.cuda.set_device(translator.device)


def translated(
    batches: Iterable[list[Loaded]], translator: Translator, options: Settings
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
    pairs: Iterable[tuple[Loaded, Translation | str]], options: Settings
) -> Iterator[tuple[Loaded, Translation | str]]:
    """The same when the device has done its work."""
    for image, result in pairs:
        try:
            if isinstance(result, Translation) and result.copied is not None:
                result.copied.synchronize()
        except FAILURES as error:
            result = why_not(error, image, options)
        yield image, result


def attempt(batch: Sequence[Loaded], translator: Translator, options: Settings) -> list[Translation | str]:
    """The images of a batch translated, or why one could not be. Those of a batch that fails are tried one by one.

    Raises:
        Stopped: the device does not work any more.
    """
    try:
        if options.tile is None or not in_parts(batch[0], options.tile):
            return [*translator.start([(image.image, image.whole) for image in batch], options.output)]
        (image,) = batch
        tiles = batch_size(pixels_at_once(image, options), options, translator)
        bands = in_tiles(image.image, translator, options.tile, options.overlap, tiles)
        numbers = translator.numbers(image.image, bands, options.output)
        return [Translation(lambda: numbers)]
    except FAILURES as error:
        reason = why_not(error, batch[0], options)
    if len(batch) == 1:
        return [reason]
    return [result for image in batch for result in attempt([image], translator, options)]


def why_not(error: Exception, image: Loaded, options: Settings) -> str:
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


def finished(
    image: Loaded, result: Translation | str, finish: Callable[[Loaded, np.ndarray], Any], options: Settings
) -> Any:
    """What ``finish`` makes of a translation; why there is none, if there is none.

    Raises:
        Stopped: as :func:`attempt`, and what ``finish`` raises.
    """
    if isinstance(result, str):
        return result
    try:
        numbers = result.numbers()
    except FAILURES as error:
        return why_not(error, image, options)
    return finish(image, numbers)


def lacks_memory(error: BaseException) -> bool:
    """PyTorch's allocator of CPUs raises a RuntimeError, oneDNN one of its own and C++ std::bad_alloc."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    signs = ("DefaultCPUAllocator", "could not create a memory", "bad_alloc", "allocate memory")
    return any(words in str(error) for words in signs)
