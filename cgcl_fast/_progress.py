"""Which files of a long work are done, so that it can be interrupted and goes on where it stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from cgcl_fast._files import check_regular

NAME = ".translated.jsonl"


class Progress:
    """A list in the folder of the results: a first line that says what the work is, and a line for each file.

    A list of another work, or one that cannot be read, counts for nothing. Files appear whole or not at all, so one
    that is listed and there is done.

    Args:
        folder: of the results.
        work: what decides the results, as JSON holds it.
        overwrite: begin anew, and replace what is there.

    Attributes:
        overwrite: whether what is there and not listed may be replaced: asked for now, or by the work that goes on.
    """

    def __init__(self, folder: Path, work: Mapping[str, Any], overwrite: bool = False) -> None:
        self.path = folder / NAME
        self.work = json.loads(json.dumps(work))
        self.overwrite = overwrite
        self._listed: dict[str, Any] = {}
        self.goes_on = False
        if overwrite:
            return
        try:
            check_regular(self.path)
            lines = self.path.read_text(encoding="utf-8").splitlines()
            first = json.loads(lines[0]) if lines else {}
            self.goes_on = isinstance(first, dict) and first.get("work") == self.work
        except (OSError, ValueError):
            return
        self.overwrite = self.goes_on and first.get("overwrite") is True
        for line in lines[1:] if self.goes_on else []:
            with suppress(ValueError, KeyError, TypeError):  # the last may be cut short
                entry = json.loads(line)
                self._listed[entry["target"]] = entry["source"]

    def done(self, source: Path, target: Path) -> bool:
        """Whether the result of this very file is there."""
        stamp = _stamp(source)
        return stamp is not None and self._listed.get(self._name(target)) == stamp and os.path.exists(target)

    def begin(self) -> None:
        """Forget what is listed, unless this is the same work."""
        if not self.goes_on:
            self._listed = {}
            check_regular(self.path, missing_ok=True)
            first = {"work": self.work, "overwrite": self.overwrite}
            self.path.write_text(json.dumps(first) + "\n", encoding="utf-8")

    def add(self, source: Path, target: Path) -> None:
        """List a file, before it is written if there is nothing in its place yet, else after."""
        entry = {"target": self._name(target), "source": _stamp(source)}
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def end(self) -> None:
        """All is done: the list is removed."""
        self.path.unlink(missing_ok=True)

    def _name(self, target: Path) -> str:
        return os.path.relpath(target, self.path.parent)


def _stamp(source: Path) -> list[int] | None:
    try:
        found = os.stat(source)
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]
