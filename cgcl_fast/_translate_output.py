"""Translations into files, or into tars, each with its line in the manifest."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import IO, Any

import numpy as np

from cgcl_fast._manifest import Entry, Journal
from cgcl_fast._shards import TarWriter, key_of
from cgcl_fast._translate_input import Job, Loaded, Part
from cgcl_fast.data.formats import printable, reason_of
from cgcl_fast.data.tars import members, open_file, open_member
from cgcl_fast.data.writing import write_numbers
from cgcl_fast.engine.files import write_atomically

ENDS_THE_WORK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # no other image could be written either


class Stopped(Exception):
    """The work ends: every other image would fail for the same reason."""


class NothingToWriteError(Exception):
    """All images that a tar still lacks have failed."""


@dataclass(frozen=True)
class Encoded:
    """A translation as the content of a file.

    Attributes:
        entry: its line in the manifest.
        others: the other files of its sample, names and contents.
    """

    job: Job
    content: bytes
    entry: Entry
    others: Sequence[tuple[str, bytes]] = ()


@dataclass(frozen=True)
class Output:
    """Where translations go.

    Attributes:
        folder: of the results.
        journal: gets a line for each image.
        overwrite: whether files that are there may be replaced.
    """

    folder: Path
    journal: Journal
    overwrite: bool

    def entry(self, job: Job, status: str, **more: Any) -> Entry:
        """The line of an image."""
        inside = {} if job.member is None else {"member": job.member}
        where = os.path.relpath(job.target, self.folder)
        return {"input": job.name, "output": where, **inside, "status": status, **more}

    def failed(self, job: Job, reason: str) -> None:
        """Note that an image could not be translated."""
        self.journal.add([self.entry(job, "failed", error=reason)])

    def write(self, image: Loaded, numbers: np.ndarray) -> str:
        """Write a translated image with the transparency of the one that was read; why it could not be, "" if it could.

        Raises:
            Stopped: no file can be written, as on a full disk.
        """
        path = image.job.target
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replaces = self._may_write(path)
            entry = self._done(image, numbers)
            self.journal.add([_begun(entry, replaces)])
            write_atomically(path, lambda file: _write_numbers(file, image, numbers))
            self.journal.add([{**entry, "bytes": os.path.getsize(path), "seconds": _seconds_of(image)}])
            return ""
        except Exception as error:  # Pillow's encoders raise nearly anything
            return _why_not(error, path)

    def encode(self, image: Loaded, numbers: np.ndarray) -> Encoded | str:
        """A translated image as the content of a file in a tar, or why there is none.

        Raises:
            Stopped: as :meth:`write`.
        """
        content = io.BytesIO()
        try:
            others = _beside(image.job)
        except (OSError, ValueError) as error:
            return f"the other files of its sample cannot be read: {reason_of(error)}"
        try:
            _write_numbers(content, image, numbers)
        except Exception as error:
            return _why_not(error, image.job.target)
        entry = {**self._done(image, numbers), "bytes": content.getbuffer().nbytes}
        return Encoded(image.job, content.getvalue(), entry, others)

    def write_tar(self, part: Part, translate: Callable[[Callable[[Encoded], None]], None]) -> str:
        """Write a tar, with what is in it from before; why it could not be, "" if it could.

        Args:
            part: what goes into it.
            translate: translates what is left of it and gives each translation, in the order of the part, to the
                function that it gets.

        Raises:
            Stopped: as :meth:`write`, and what ``translate`` raises.
        """
        added: list[Entry] = []
        try:
            part.target.parent.mkdir(parents=True, exist_ok=True)
            replaces = os.path.exists(part.target) if part.before else self._may_write(part.target)

            def fill(file: IO[bytes]) -> None:
                tar = _PartWriter(file, part)

                def add(each: Encoded) -> None:
                    tar.add(each)
                    added.append(each.entry)

                translate(add)
                if not added:
                    raise NothingToWriteError
                tar.end()
                self.journal.add(_begun(entry, replaces) for entry in added)

            write_atomically(part.target, fill)
            self.journal.add(added)
        except NothingToWriteError:
            pass
        except (OSError, ValueError) as error:  # of the disk, or of a tar that is read
            return _why_not(error, part.target)
        return ""

    def _may_write(self, path: Path) -> bool:
        """Whether there is a file that will be replaced."""
        there = os.path.exists(path)
        if there and not self.overwrite:
            raise OSError("there is a file of that name (--overwrite replaces it)")
        return there

    def _done(self, image: Loaded, numbers: np.ndarray) -> Entry:
        size = [numbers.shape[1], numbers.shape[0]]
        return self.entry(image.job, "done", size=size, seconds=_seconds_of(image), source=image.source)


class _PartWriter:
    """The tar of a part, from its images in their order."""

    def __init__(self, file: IO[bytes], part: Part) -> None:
        self._tar = TarWriter(file)
        self._part = part
        self._jobs = iter(part.jobs)
        self._old = {member.name: member for member in members(part.target)} if part.before else {}
        self._sample: str | None = None

    def add(self, each: Encoded) -> None:
        """Add a translation, and before it those that are there and precede it."""
        for job in self._jobs:
            if job.name == each.job.name:
                self._put(each.job, each.content, each.others)
                return
            self._keep(job)

    def end(self) -> None:
        for job in self._jobs:
            self._keep(job)
        self._tar.end()

    def _keep(self, job: Job) -> None:
        if job.name not in self._part.before:  # it has failed
            return
        name = self._part.before[job.name]["member"]
        if name not in self._old:
            raise OSError(f"it has lost {printable(name)}, which the manifest lists")
        _, offset, size = self._old[name]
        with open_member(self._part.target, offset, size) as file:
            self._put(replace(job, member=name), file.read(), _beside(job))

    def _put(self, job: Job, content: bytes, others: Sequence[tuple[str, bytes]]) -> None:
        assert job.member is not None
        sample = None if job.tar is None else key_of(job.name)
        if sample is None or sample != self._sample:  # else they are there
            for name, other in others:
                self._tar.add(name, other)
        self._sample = sample
        self._tar.add(job.member, content)


def _begun(entry: Entry, replaces: bool) -> Entry:
    """The line before a result is written: from now on a file of its name is this one; or, if there is a file already,
    may be this one."""
    return {**entry, "status": "replaced" if replaces else "begun"}


def _beside(job: Job) -> list[tuple[str, bytes]]:
    """Names and contents of the other files of a sample."""
    found = []
    for name in job.beside:
        assert job.tar is not None
        with open_file(job.tar / name) as file:
            found.append((name, file.read()))
    return found


def _write_numbers(file: IO[bytes], image: Loaded, numbers: np.ndarray) -> None:
    assert image.job.form is not None
    write_numbers(file, numbers, image.job.form._replace(srgb=image.image.form.srgb), image.image.alpha)


def _seconds_of(image: Loaded) -> float:
    return round(perf_counter() - image.begun, 3)


def _why_not(error: Exception, path: Path) -> str:
    """Why a file could not be written.

    Raises:
        Stopped: no other one could be.
    """
    if isinstance(error, OSError) and error.errno in ENDS_THE_WORK:
        raise Stopped(f"{printable(path)}: {reason_of(error)}") from error
    reason = "a file is in the place of its folder" if isinstance(error, FileExistsError) else reason_of(error)
    return f"cannot be written to {printable(path)}: {reason}"
