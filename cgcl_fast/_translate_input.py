"""The input of a translation: image files or images in tars, and the target of each."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from cgcl_fast._command import UsageError
from cgcl_fast._files import check_regular
from cgcl_fast._manifest import Entry, stamp
from cgcl_fast._shards import expanded, is_pattern, samples_in
from cgcl_fast._translator import Translator
from cgcl_fast.data import UnreadableImageError, list_images
from cgcl_fast.data.decoding import FileImage, look_at, read_file
from cgcl_fast.data.formats import FileFormat, printable, reason_of
from cgcl_fast.data.images import walk
from cgcl_fast.data.tars import left_out, stem_of
from cgcl_fast.data.values import values_read, values_written
from cgcl_fast.data.writing import format_for


@dataclass(frozen=True)
class Job:
    """One image to read and where its translation goes, in which format.

    Attributes:
        source: the file; for an image in a tar, the path of the tar followed by the image's name in it.
        target: the file that it is written to, or the tar.
        form: its file format; None until the header has been read.
        size: (width, height) by the header; zeros where it cannot be read.
        name: what the manifest calls it.
        member: its name in the tar ``target``, if that is one.
        tar: which it is in, if it is in one.
        beside: in that, the other files of its sample, which a tar of translations gets too.
    """

    source: Path
    target: Path
    form: FileFormat | None = None
    size: tuple[int, int] = (0, 0)
    name: str = ""
    member: str | None = None
    tar: Path | None = None
    beside: tuple[str, ...] = ()

    @property
    def file(self) -> Path:
        """The file that holds the image, or is it."""
        return self.tar or self.source

    def looked_at(self, translator: Translator) -> Job:
        """With what the header of the image says.

        Raises:
            UnreadableImageError: it cannot be read.
        """
        form, size = look_at(self.source, translator.reading)
        source = translator.reading.values
        written = values_written(values_read(form.type, source), source, translator.target)
        form, suffix = format_for(form, written.type, translator.channels)
        if self.member is not None:
            return replace(self, form=form, size=size, member=self.member + suffix)
        return replace(self, form=form, size=size, target=self.target.with_name(self.target.name + suffix))


@dataclass(frozen=True)
class Part:
    """What one process does at a time: one file, or one tar of translations.

    Attributes:
        jobs: all images of it.
        before: of those whose translations are there, the lines of the manifest, by the names of the images.
    """

    target: Path
    jobs: tuple[Job, ...]
    before: dict[str, Entry]

    @property
    def left(self) -> list[Job]:
        return [job for job in self.jobs if job.name not in self.before]


@dataclass(frozen=True)
class Loaded:
    """An image that was read.

    Attributes:
        whole: all of it, (C, H, W) in [-1, 1], where that is made ahead.
        begun: when reading began, by ``time.perf_counter``.
        source: the :func:`stamp` of its file, from before it was read.
    """

    job: Job
    image: FileImage
    whole: Tensor | None = None
    begun: float = 0.0
    source: list[int] | None = None


class Failed:
    """Called with a part of the input that cannot be read, and the reason."""

    def __init__(self, tell: Callable[[str, str], None]) -> None:
        self.tell = tell

    def folder(self, path: Path, error: OSError) -> None:
        self.tell(os.fspath(path), f"cannot be listed: {reason_of(error)}")


def find_jobs(source: Path, output: Path, shard: int | None, failed: Failed) -> list[tuple[Path, list[Job]]]:
    """The files that will be written, each with the images that go into it.

    Args:
        source: an image, a folder of them, a tar, a folder of tars, or a pattern of tars.
        output: folder of the results.
        shard: samples in a tar of translations; None: they are files.

    Raises:
        UsageError: there is no image.
    """
    # os.path throughout: a path that is too long, or leads in a circle, is an image that fails and no error here.
    if os.path.isdir(source):
        inside = os.path.join(os.path.realpath(output), "")
        others: list[str] = []
        images = list_images(source, unreadable=failed.folder, left_out=others.append)
        images = [path for path in images if not os.path.realpath(path).startswith(inside)]
        if images:
            for what in others:
                say(source, what)
            return _of_files([(path, path.relative_to(source).as_posix()) for path in images], output, shard)
        places = walk(source, lambda *_: None)  # of which list_images has told
        tars = [place / name for place, names in places for name in names if stem_of(name) is not None]
        tars = sorted(path for path in tars if not os.path.realpath(path).startswith(inside))
        if not tars:
            for what in others:
                say(source, what)
            raise UsageError(f"--input: {printable(source)} holds no image, and no tar")
    elif not os.path.lexists(source) and is_pattern(os.fspath(source)):
        tars = []
        for name in expanded(os.fspath(source)):
            check_regular(name, missing_ok=True)
            if not os.path.exists(name):
                raise UsageError(f"--input: {printable(name)}, of {printable(source)}, does not exist")
            tars.append(Path(name))
    elif os.path.isfile(source):
        if stem_of(source.name) is None:
            return _of_files([(source, source.name)], output, shard)
        tars = [source]
    else:
        check_regular(source, missing_ok=True)
        raise UsageError(f"--input: {printable(source)} does not exist")
    root = source if os.path.isdir(source) else Path(os.path.commonpath([path.parent for path in tars]))
    found = [group for tar in tars for group in _of_tar(tar, tar.relative_to(root), output, shard, failed)]
    if not found:
        raise UsageError(f"--input: {printable(source)} holds no tar with an image")
    return found


def _of_files(found: Sequence[tuple[Path, str]], output: Path, shard: int | None) -> list[tuple[Path, list[Job]]]:
    if shard is None:
        jobs = [Job(path, output / name, name=name) for path, name in found]
        return [(job.target, [job]) for job in jobs]
    return [
        (target, [Job(path, target, name=name, member=name) for path, name in group])
        for target, group in _shards(found, output, "", shard)
    ]


def _of_tar(tar: Path, name: Path, output: Path, shard: int | None, failed: Failed) -> Iterator[tuple[Path, list[Job]]]:
    """Translations of a tar go to files in a folder of its name, or to tars that have its name and a number: the files
    of different tars may have the same names, or keys."""
    try:
        samples = samples_in(tar)
    except ValueError as error:
        failed.tell(os.fspath(tar), reason_of(error).removeprefix(f"{printable(tar)} "))
        return
    for kind, count in left_out(tar).items():
        say(tar, f"{count} left out: {kind}")
    if shard is None:
        for sample in samples:
            for image in sample.images:
                target = output / name.with_suffix("") / image
                yield target, [Job(tar / image, target, name=(name / image).as_posix(), tar=tar)]
        return
    for target, group in _shards(samples, output / name.parent, f"{name.stem}-", shard):
        yield (
            target,
            [
                Job(
                    tar / image,
                    target,
                    name=(name / image).as_posix(),
                    member=image,
                    tar=tar,
                    beside=sample.others,
                )
                for sample in group
                for image in sample.images
            ],
        )


def _shards(found: Sequence, folder: Path, begin: str, count: int) -> Iterator[tuple[Path, Sequence]]:
    for number, start in enumerate(range(0, len(found), count)):
        yield folder / f"{begin}{number:06d}.tar", found[start : start + count]


def digest(groups: Iterable[tuple[Path, Sequence[Job]]]) -> str:
    """Of which images of one input the tars of translations are made: with others, each image may go to another tar."""
    found = hashlib.sha256()
    for _, jobs in groups:
        for job in jobs:
            found.update(os.fsencode(job.name) + b"\0")
        found.update(b"\n")
    return found.hexdigest()


def parts_of(
    groups: Iterable[tuple[Path, Sequence[Job]]], done: Callable[[str, list[int] | None], Entry | None]
) -> list[Part]:
    """What has to be written, with what of it is there from before, as ``done`` knows by names and stamps."""
    parts = []
    last: Path | None = None
    known: list[int] | None = None
    for target, jobs in groups:
        before: dict[str, Entry] = {}
        for job in jobs:
            if job.file != last:
                last, known = job.file, stamp(job.file)
            entry = done(job.name, known)
            if entry is not None:
                before[job.name] = entry
        parts.append(Part(target, tuple(jobs), before))
    return parts


def ordered(parts: Sequence[Part], translator: Translator) -> list[Part]:
    """Parts with what the headers of their image files say, and images of equal size beside each other. Those in tars
    are looked at when they are read, in the order that the tars have."""
    found = []
    for part in parts:
        if part.jobs[0].tar is not None:
            found.append(part)
            continue
        jobs = []
        for job in part.jobs:
            with suppress(UnreadableImageError):  # it is said when the image is read
                job = job.looked_at(translator)
            jobs.append(job)
        jobs.sort(key=lambda job: job.size)
        found.append(Part(part.target if jobs[0].member is not None else jobs[0].target, tuple(jobs), part.before))
    return sorted(found, key=lambda part: part.jobs[0].size if part.jobs[0].member is None else (0, 0))


def load(job: Job, translator: Translator, tile: int | None, clock: Callable[[], float]) -> Loaded | str:
    """An image that is read, or why there is none.

    Args:
        tile: whole images are made ready for the generator only where they are not translated in tiles of this side.
    """
    begun, source = clock(), stamp(job.file)
    try:
        if job.form is None:
            job = job.looked_at(translator)
        loaded = Loaded(job, read_file(job.source, translator.reading), begun=begun, source=source)
    except (UnreadableImageError, MemoryError) as error:
        return f"cannot be read: {getattr(error, 'reason', 'not enough memory')}"
    if not in_parts(loaded, tile):
        with suppress(MemoryError, RuntimeError):  # which is said when it is translated
            return replace(loaded, whole=translator.staged(loaded.image))
    return loaded


def in_parts(loaded: Loaded, tile: int | None) -> bool:
    """Whether an image is translated in tiles."""
    return tile is not None and max(loaded.image.numbers.shape[:2]) > tile


def batches_of(
    found: Iterable[tuple[Job, Loaded | str]], most: Callable[[Loaded], int], failed: Callable[[Job, str], None]
) -> Iterator[list[Loaded]]:
    """Neighbours of equal size together, ``most`` of such an image; what could not be read is told ``failed``."""
    batch: list[Loaded] = []
    for job, loaded in found:
        if isinstance(loaded, str):
            failed(job, loaded)
            continue
        if batch and (len(batch) == most(loaded) or batch[0].image.numbers.shape != loaded.image.numbers.shape):
            yield batch
            batch = []
        batch.append(loaded)
    if batch:
        yield batch


def say(where: str | os.PathLike[str], what: str) -> None:
    print(f"{printable(where)}: {what}", file=sys.stderr)
