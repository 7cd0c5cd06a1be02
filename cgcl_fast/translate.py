"""``python -m cgcl_fast.translate --checkpoint RUN_OR_FILE --input FILE_OR_DIR --output DIR``: translate images.

A translation has the name, size, transparency, file format, channels and numeric type of its image; if the format
cannot store it, another suffix is added to the name. An image that cannot be read, translated or written is reported
with the reason, at once and again at the end, and the others go on. If the work was interrupted or images failed, the
same command continues with what is left: OUTPUT/translated.jsonl lists what was done. Input images may be in tars;
--shards writes tars. Under torchrun, the processes share the images. Exit status: 0 when every image was translated,
1 when some were not, 2 for wrong options or data.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from tqdm import tqdm

from cgcl_fast._command import Parser, UsageError, as_usage_error, run, underscored
from cgcl_fast._generator import find_generator
from cgcl_fast._manifest import Journal, Manifest, stamp
from cgcl_fast._translate_images import translate_images
from cgcl_fast._translate_input import Failed, Job, Part, digest, find_jobs, ordered, parts_of, say
from cgcl_fast._translate_output import Encoded, Output, Stopped
from cgcl_fast._translator import Translator, domain_by
from cgcl_fast.data.formats import printable
from cgcl_fast.engine import alone_in, device_for
from cgcl_fast.engine.files import remove_leftovers
from cgcl_fast.engine.peers import Peers, join_peers
from cgcl_fast.methods.options import Count, CountOrZero, Level, Within, check


@dataclass
class TranslateOptions:
    """Translation.

    Attributes:
        checkpoint: A run folder, one of its checkpoints, a .safetensors generator, a published latest_net_G.pth, or a
            folder of cgcl_fast.hub or its name on the Hugging Face Hub.
        input: An image, a folder of images with its subfolders, a tar of images (as WebDataset's), a folder of tars, or
            several by a pattern in quotes: "shards-{000..009}.tar".
        output: Folder for the translated images, under their own names; those of a tar in a folder of its name.
        shards: Write tars with this many samples each, in place of files. They also get what else the samples of a tar
            have, such as labels.
        tile: Translate in tiles of this side, for images that do not fit into memory.
        overlap: Pixels that neighbouring tiles share and blend; if not given, an eighth of the tile, or what makes
            the tiles give the same as the whole where the generator has no norm (SinCUT).
        batch_size: Images of equal size, or tiles of a row, at a time. If not given 1 on a CPU; on a GPU as many as fit
            into a megapixel (1024 x 1024), at most 16: 16 of 256x256, 4 of 512x512, 1 of 1024x1024 or more.
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
    shards: Count | None = None
    tile: Annotated[int, Within(16, 10**9)] | None = None
    overlap: CountOrZero | None = None
    batch_size: Count | None = None
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


class Failures:
    """Reasons why images or other parts of the input were not translated, by name."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    def add(self, name: str, reason: str) -> None:
        self.reasons[name] = reason
        tqdm.write(f"failed: {printable(name)}: {reason}", file=sys.stderr)


class Plan(NamedTuple):
    """The work of one process.

    Attributes:
        parts: files or tars to write.
        journal: receives a line for each image.
        overwrite: whether existing files may be replaced.
        manifest: the manifest of all processes; only the first process has it.
    """

    parts: list[Part]
    journal: Journal
    overwrite: bool
    manifest: Manifest | None


class Seen(NamedTuple):
    """What a process knows after reading the headers of its images.

    Attributes:
        work: what decides the translations.
        several: names of images of several frames.
        there: files that would be overwritten.
        own: whether one of them is the image itself.
        renamed: files whose names have got a suffix.
    """

    work: dict[str, Any]
    several: list[str]
    there: list[str]
    own: bool
    renamed: list[Path]


class Outcome(NamedTuple):
    """The result of one process.

    Attributes:
        done: number of translated images.
        left: number of images not tried because the process was stopped.
        reasons: why images failed, by name.
        stopped: why the process was stopped; "" if it was not.
    """

    done: int
    left: int
    reasons: dict[str, str]
    stopped: str


def plan(
    options: TranslateOptions,
    work: dict[str, Any],
    overwrite: bool,
    translator: Translator,
    peers: Peers,
    failures: Failures,
    stack: ExitStack,
) -> Plan:
    """Plan the work of this process; on stderr it says what is left out.

    The first process lists the images and what is already done; each process reads the headers of its share.

    Args:
        work: the generator and the options that determine the translations.
        overwrite: whether existing files may be replaced; then no image counts as done.
        translator: knows the channels and the numeric type of translations, which a file format may not store.
        failures: receives the parts of the input that cannot be read.
        stack: holds the lock on the output folder: until it closes, no other translation can begin there.

    Raises:
        UsageError: no image, or a file that would be overwritten.
    """
    manifests: list[Manifest] = []
    targets: set[Path] = set()  # before suffixes are added

    def find() -> list[tuple[Sequence[Part], bool]]:
        if os.path.exists(options.output) and not os.path.isdir(options.output):
            raise UsageError(f"--output: {printable(options.output)} is not a folder")
        _check_own(options, os.path.realpath(options.output) == os.path.realpath(options.input))
        groups = find_jobs(options.input, options.output, options.shards, Failed(failures.add))
        for target, _ in groups:
            _check_free(target, targets)
            targets.add(target)
        stack.enter_context(alone_in(options.output))
        of_input = {} if options.shards is None else {"inputs": digest(groups)}
        manifests.append(Manifest(options.output, {**work, **of_input}, overwrite))
        parts = parts_of(groups, manifests[0].done)
        if before := sum(len(part.before) for part in parts):
            say(options.output, f"{before} of {sum(len(part.jobs) for part in parts)} images are there from before")
        left = [part for part in parts if part.left]
        # A process that reads few tars needs the indexes of few.
        shares = peers.in_turn(left) if left and left[0].jobs[0].tar is None else peers.in_blocks(left)
        return [(share, manifests[0].overwrite) for share in shares]

    found, overwrite = peers.handed_out(find)
    parts = ordered(found, translator)
    left = [job for part in parts for job in part.left]
    seen = peers.gathered(
        Seen(
            work,
            [job.file.name for job in left if job.form is not None and job.form.frames > 1],
            [] if overwrite else [os.fspath(each.target) for each in parts if _would_replace(each)],
            any(os.path.realpath(job.target) == os.path.realpath(job.file) for job in left),
            [job.target for job in left if job.member is None and job.target.name != os.path.basename(job.name)],
        )
    )
    _check_own(options, any(each.own for each in seen))
    if any(each.work != work for each in seen):
        raise UsageError("--checkpoint: processes have found different generators; name a file, not a run at work")
    if peers.first and (several := [name for each in seen for name in each.several]):
        say(options.input, f"of {len(several)} images the first of several frames, as of {printable(several[0])}")
    if there := [name for each in seen for name in each.there]:
        more = f" and {len(there) - 1} more" if there[1:] else ""
        raise UsageError(f"--output: {printable(there[0])}{more} would be overwritten (--overwrite allows it)")

    def begin() -> list[None]:
        for target in (target for each in seen for target in each.renamed):
            _check_free(target, targets)
        if not manifests[0].first:
            remove_leftovers(options.output)
        manifests[0].begin()
        nowhere = {"output": "", "status": "failed"}
        lines = [{"input": name, **nowhere, "error": reason} for name, reason in failures.reasons.items()]
        Manifest.journal_in(options.output, 0).add(lines)
        return [None] * peers.count

    peers.handed_out(begin)
    return Plan(parts, Manifest.journal_in(options.output, peers.rank), overwrite, manifests[0] if manifests else None)


def _would_replace(part: Part) -> bool:
    return not part.before and os.path.exists(part.target)


def _check_free(target: Path, targets: set[Path]) -> None:
    if target in targets:
        raise UsageError(f"--output: two images of the input would be written to {printable(target)}")


def _check_own(options: TranslateOptions, own: bool) -> None:
    if own:
        output = printable(options.output)
        raise UsageError(f"--output: {output} is the folder of the input, which is never overwritten")


def default_workers(device: torch.device) -> int:
    """8 beside a GPU, since encoding takes longer than translating; 1 on a CPU, whose threads the generator uses."""
    return 8 if device.type == "cuda" else int(torch.get_num_threads() > 1)


def translate(arguments: Sequence[str]) -> int:
    """The command; see the module."""
    parser = Parser(prog="python -m cgcl_fast.translate", description=__doc__)
    parser.add_class_arguments(TranslateOptions, None)
    parser.add_argument("--overwrite", action="store_true", help="Replace files that are there already.")
    parsed = parser.parse_args(underscored(arguments)).as_dict()
    overwrite = parsed.pop("overwrite")
    failures = Failures()
    with ExitStack() as stack:
        with as_usage_error():
            options = TranslateOptions(**parsed)
            peers = join_peers()
            device = peers.device(device_for(options.device, options.precision))
            generator, file = find_generator(options.checkpoint, options.direction)
            translator = Translator(
                generator,
                device,
                options.precision,
                domain_by(options.direction, generator) or options.domain,
                options.style,
                options.range,
                options.max_megapixels * 10**6,
            )
            todo = plan(options, work_of(options, file), overwrite, translator, peers, failures, stack)
        workers = default_workers(device) if options.workers is None else options.workers
        own = Work(translator, options, workers, Output(options.output, todo.journal, todo.overwrite), failures)

        def report(results: Sequence[Outcome]) -> None:
            reasons = {name: reason for each in results for name, reason in each.reasons.items()}
            done = sum(each.done for each in results)
            failed = f"; {len(reasons)} failed:" if reasons else ""
            print(f"translated {done} images to {printable(options.output)} with {printable(file)}{failed}")
            for name, reason in reasons.items():
                print(f"  {printable(name)}: {reason}")

        try:
            own.do(todo.parts, peers)
        except BaseException:
            report([own.outcome()])
            raise
        results = peers.gathered(own.outcome())
        stopped = [each.stopped for each in results if each.stopped]
        complete = not stopped and not any(each.reasons for each in results)
        if todo.manifest is not None:
            report(results)
            if stopped:
                left = sum(each.left for each in results)
                print(f"error: {stopped[0]}; {left} images are left", file=sys.stderr)
            with suppress(OSError) if stopped else ExitStack():
                todo.manifest.end(complete)
        peers.gathered(None)  # torchrun ends all when one ends with an error
    return 0 if complete else 1


class Work:
    """Translates the images of one process and counts the results."""

    def __init__(
        self, translator: Translator, options: TranslateOptions, workers: int, output: Output, failures: Failures
    ) -> None:
        self.translator = translator
        self.options = options
        self.workers = workers
        self.output = output
        self.failures = failures
        self.images = self.done = self.failed = 0
        self.stopped = ""

    def outcome(self) -> Outcome:
        return Outcome(self.done, self.images - self.done - self.failed, self.failures.reasons, self.stopped)

    def do(self, parts: Sequence[Part], peers: Peers) -> None:
        """Translate the images; the first process shows a progress bar of its share."""
        self.images = sum(len(part.left) for part in parts)
        with tqdm(
            total=self.images,
            unit="image",
            desc=f"process 0 of {peers.count}" if peers.count > 1 else None,
            disable=not peers.first,
            mininterval=0.2 if sys.stderr.isatty() else 10,
            dynamic_ncols=True,
        ) as self.bar:
            try:
                if self.options.shards is None:
                    self.write_files([job for part in parts for job in part.left])
                else:
                    for part in parts:
                        self.write_tar(part)
            except Stopped as error:
                self.stopped = str(error)

    def write_files(self, jobs: Sequence[Job]) -> None:
        def settled(job: Job, reason: str) -> None:
            if reason:
                self.fail(job, reason)
            else:
                self.done += 1
            self.bar.update()

        translate_images(jobs, self.translator, self.options, self.workers, self.output.write, settled)

    def write_tar(self, part: Part) -> None:
        """Write one tar; its images count as done only when the whole tar is written."""
        given: list[Job] = []

        def translate_into(add: Callable[[Encoded], None]) -> None:
            def settled(job: Job, result: Encoded | str) -> None:
                if isinstance(result, str):
                    self.fail(job, result)
                else:
                    add(result)
                    given.append(job)
                self.bar.update()

            translate_images(part.left, self.translator, self.options, self.workers, self.output.encode, settled)

        reason = self.output.write_tar(part, translate_into)
        if not reason:
            self.done += len(given)
            return
        for job in given or part.left:
            self.fail(job, reason)

    def fail(self, job: Job, reason: str) -> None:
        self.failed += 1
        self.failures.add(str(job.source), reason)
        self.output.failed(job, reason)


CHANGES_NOTHING = ("output", "batch_size", "max_megapixels", "workers", "device")


def work_of(options: TranslateOptions, file: Path) -> dict[str, Any]:
    """What decides the translations: the generator's file, the image of the style, the input and the options."""
    deciding = {name: value for name, value in vars(options).items() if name not in CHANGES_NOTHING}
    found: dict[str, Any] = {
        **deciding,
        "checkpoint": [str(file.resolve()), *(stamp(file) or ())],
        "input": os.path.abspath(options.input),  # the same one, however it is spelled
    }
    if options.style is not None and (image := stamp(options.style)) is not None:
        found["style"] = [os.path.abspath(options.style), *image]
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    return run(translate, arguments)


if __name__ == "__main__":
    sys.exit(main())
