"""What a long work has done, image by image, so that it can be interrupted and goes on where it stopped.

The manifest is a file of JSON lines in the folder of the results: for each work a line that says what decides its
results, and a line for each image. Where processes share a work the first one writes to the manifest, each other one to
a journal of its own. The first one puts those into the manifest at the end, or at the next start if there was no end.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cgcl_fast._files import check_regular
from cgcl_fast.data.formats import printable
from cgcl_fast.engine.files import write_atomically

NAME = "translated.jsonl"

Entry = dict[str, Any]
"""The line of an image. ``input``: its name in the input. ``output``: the name of the file that it was written to;
``member``: in which it is the file of this name, if it is a tar. ``status``: done; failed, and ``error`` says why;
begun, which is done as soon as the file is there; or replaced, where a file was there before, so that nobody knows
which of the two it is. ``size``: width and height; ``bytes``: of the result; ``seconds``:
from when it was read until it was written; ``source``: size and time of change of the file that was read."""


class _Work(NamedTuple):
    """What decides the results and whether files may be replaced, and the lines of its images by their inputs."""

    first: dict[str, Any]
    entries: dict[str, Entry]

    def take(self, entry: Any) -> None:
        if isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in ("input", "output", "status")):
            self.entries[entry["input"]] = entry


class Journal:
    """Lines that are added to a file, each at once, by any thread."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, entries: Iterable[Mapping[str, Any]]) -> None:
        text = "".join(json.dumps(entry) + "\n" for entry in entries)
        with open(self.path, "ab") as file:  # buffered: on a disk that is nearly full a plain write leaves out the rest
            file.write(text.encode())


class Manifest:
    """All that has been done in a folder, read for a work that begins or goes on in it.

    What another work wrote counts for nothing in this one, and is listed no more when this one has replaced it. Files
    appear whole or not at all, so one that is listed and there is done.

    Args:
        folder: of the results.
        work: what decides the results, as JSON holds it.
        overwrite: begin anew, and replace what is there.

    Attributes:
        overwrite: whether files that are there and not listed may be replaced, as this call or the continued work asks.
        goes_on: whether this is a work that was begun before.
        first: whether none has been begun in this folder.

    Raises:
        ValueError: a file of the manifest's name is something else, and not to be replaced.
        OSError: it cannot be read.
    """

    def __init__(self, folder: Path, work: Mapping[str, Any], overwrite: bool = False) -> None:
        self.folder, self.path = folder, folder / NAME
        try:
            self._works = self._read()
        except ValueError:
            if not overwrite:
                raise
            self._works = []
        self.first = not self._works
        plain = json.loads(json.dumps(work))
        own = next((each for each in self._works if each.first["work"] == plain), None)
        self.goes_on = own is not None and not overwrite
        self.overwrite = overwrite or (own is not None and own.first.get("overwrite") is True)
        entries = own.entries if own is not None and self.goes_on else {}
        entries = {name: entry for name, entry in entries.items() if entry["output"]}  # folders are listed again
        self._before = own
        self._own = _Work({"work": plain, "overwrite": self.overwrite}, entries)

    def done(self, name: str, source: list[int] | None) -> Entry | None:
        """The line of an input, if the result of this very file is there. ``source``: its :func:`stamp`."""
        entry = self._own.entries.get(name)
        if entry is None or entry["status"] != "done" or source is None or entry.get("source") != source:
            return None
        there = stamp(self.folder / entry["output"])
        if there is None or ("member" not in entry and entry.get("bytes", there[0]) != there[0]):  # another file by now
            return None
        return entry

    def begin(self) -> None:
        """Put the work into the manifest, as its last one; from now on lines may be added by :meth:`journal_in`."""
        self._write()  # so that what journals have is of the last work in it until they are gone
        self._remove_journals()
        self._works = [each for each in self._works if each is not self._before] + [self._own]
        self._write()

    @staticmethod
    def journal_in(folder: Path, process: int) -> Journal:
        """Where a process writes its lines."""
        return Journal(folder / (NAME if process == 0 else f".translated.{process}.jsonl"))

    def end(self, complete: bool) -> None:
        """Put all lines of all processes into the manifest, in the order of the inputs. After a complete work nothing
        may be replaced any more because it was allowed for this one."""
        self._works = self._read()
        last = self._works[-1]
        if complete:
            last.first["overwrite"] = False
        self._works[-1] = _Work(last.first, dict(sorted(last.entries.items())))
        self._write()
        self._remove_journals()

    def _read(self) -> list[_Work]:
        """All works, each without what a later one has replaced."""
        works: list[_Work] = []
        for number, line in enumerate(_lines(self.path)):
            if isinstance(line, dict) and isinstance(line.get("work"), dict):
                works.append(_Work(line, {}))
            elif works:
                works[-1].take(line)
            elif number == 0:
                raise ValueError(f"{printable(self.path)}: not the manifest of a translation (--overwrite replaces it)")
        for journal in self._journals() if works else []:
            for line in _lines(journal):
                works[-1].take(line)
        replaced: set[str] = set()  # files, and tars with all that is in them
        for work in reversed(works):
            own: set[str] = set()
            for name, entry in list(work.entries.items()):
                status = entry["status"]
                if status == "begun" and self._now_done(entry):
                    status = "done"
                if status in ("done", "replaced"):
                    own.add(entry["output"])
                if status in ("begun", "replaced") or (status == "done" and entry["output"] in replaced):
                    del work.entries[name]
            replaced |= own
        return works

    def _now_done(self, entry: Entry) -> bool:
        path = self.folder / entry["output"]
        if not os.path.exists(path):
            return False
        entry["status"] = "done"
        entry.setdefault("bytes", os.path.getsize(path))
        return True

    def _write(self) -> None:
        if not self._works:
            return
        lines = (line for work in self._works for line in (work.first, *work.entries.values()))

        def fill(file: Any) -> None:
            for line in lines:
                file.write((json.dumps(line) + "\n").encode())

        check_regular(self.path, missing_ok=True)
        write_atomically(self.path, fill)

    def _journals(self) -> list[Path]:
        return sorted(self.folder.glob(".translated.*.jsonl"))

    def _remove_journals(self) -> None:
        for journal in self._journals():
            journal.unlink(missing_ok=True)


def _lines(path: Path) -> Iterator[Any]:
    """What the lines of a file hold; None for one that is cut short, as the last of a process that was killed."""
    try:
        check_regular(path)
    except FileNotFoundError:
        return
    with open(path, "rb") as file:
        for line in file:
            try:
                yield json.loads(line)
            except (ValueError, RecursionError):
                yield None


def stamp(source: str | os.PathLike[str]) -> list[int] | None:
    """Size and time of change of a file, by which it is known again; None where it cannot be looked at."""
    try:
        found = os.stat(source)
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]
