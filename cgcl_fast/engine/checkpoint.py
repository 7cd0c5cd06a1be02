"""Checkpoints of a run: written atomically, the last few and the best kept, read without executing anything in them.

Accelerate's ``save_state`` offers neither: it writes several files one by one, some of them pickles.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from cgcl_fast._files import check_regular
from cgcl_fast._weights import read_torch_file

from .files import write_atomically

T = TypeVar("T")

FORMAT = "cgcl_fast.checkpoint"
_NAME = re.compile(r"step_(\d+)\.pt")


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read or written; the message is one line that names the file."""


def safe_load(path: Path) -> Any:
    """Read a ``torch.save`` file of this or another program to the CPU.

    Only tensors and plain containers are read (``weights_only=True``), so a hostile file cannot run code; it cannot
    claim more memory than it has data for either, and its checksums are verified first.

    Raises:
        CheckpointError: the file is missing, truncated, damaged, hostile or of another kind.
    """
    try:
        return read_torch_file(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise CheckpointError(str(error)) from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read one checkpoint of a run to the CPU; see :func:`safe_load`.

    Raises:
        CheckpointError: as :func:`safe_load`, or the file is no checkpoint of this program.
    """
    state = safe_load(path)
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a checkpoint of cgcl_fast")
    step, name = state.get("step"), _NAME.fullmatch(path.name)
    if type(step) is not int or step < 0 or (name and int(name[1]) != step):
        expected = f"{int(name[1])}, as its name says" if name else "a whole number from 0"
        raise CheckpointError(f"{path}: step: expected {expected}, got {str(step)[:50]}")
    return state


def does_not_fit(path: Path, error: Exception) -> CheckpointError:
    """The error, in one line, for a checkpoint that a run cannot continue from."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    reason = f"lacks {reason}" if isinstance(error, KeyError) else reason
    return CheckpointError(f"{path}: does not fit this run ({reason})")


def first_readable(paths: Sequence[Path], read: Callable[[Path], T]) -> tuple[Path, T]:
    """The first of ``paths`` that ``read`` can read, and the result; those before it are named in warnings.

    Raises:
        CheckpointError: none can be read; says what was wrong with the first.
    """
    problems: list[str] = []
    for path in paths:
        try:
            found = read(path)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            warnings.warn(f"{problem}; {path.name} is used instead", stacklevel=2)
        return path, found
    more = f", and none of the {len(paths) - 1} older ones can be read" if paths[1:] else ""
    raise CheckpointError(f"{problems[0]}{more}")


def backward_path(path: Path) -> Path:
    """The file of the backward generator that belongs to ``step_00000300.pt`` (or ``.safetensors``)."""
    return path.with_name(f"generator_B_{path.stem.removeprefix('step_')}.safetensors")


class Checkpoints:
    """The folder ``checkpoints/`` of a run: ``step_00000300.pt`` with everything needed to resume, beside it
    ``step_00000300.safetensors`` with the generator alone, and ``generator_B_00000300.safetensors`` with the backward
    generator if there is one.

    Args:
        folder: the folder; created on the first save.
        keep: number of newest checkpoints to keep, at least 1.
    """

    def __init__(self, folder: Path, keep: int = 3) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        self.folder = folder
        self.keep = keep

    def paths(self) -> list[Path]:
        """Checkpoint files, oldest first."""
        matches = ((_NAME.fullmatch(path.name), path) for path in self.folder.glob("step_*.pt"))
        return [path for _, path in sorted((int(match[1]), path) for match, path in matches if match)]

    def save(
        self,
        state: Mapping[str, Any],
        *,
        step: int,
        generator: bytes,
        backward: bytes | None = None,
        metric: tuple[str, float] | None = None,
        least: bool = False,
    ) -> Path:
        """Write the checkpoint of ``step``, record whether it is the best, and only then remove old ones.

        Args:
            state: tensors and plain containers.
            generator: content of the generator's safetensors file.
            backward: content of the backward generator's file.
            metric: name and value of the figure that decides. If the recorded best is of another figure, this is the
                new best.
            least: whether lower is better.

        Raises:
            CheckpointError: it could not be written; earlier checkpoints are untouched.
        """
        path = self.folder / f"step_{step:08d}.pt"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path.with_suffix(".safetensors"), lambda file: file.write(generator))
            if backward is not None:
                write_atomically(backward_path(path), lambda file: file.write(backward))
            write_atomically(path, lambda file: torch.save({"format": FORMAT, **state}, file))
            if metric is not None and self._is_best(*metric, least):
                note = {"step": step, "metric": metric[0], "value": metric[1]}
                write_atomically(self.folder / "best.json", lambda file: file.write(json.dumps(note).encode()))
        except OSError as error:
            kept = self.paths()
            last = f"; the last good checkpoint is {kept[-1]}" if kept else ""
            raise CheckpointError(f"{path}: could not be written ({error.strerror or error}){last}") from error
        best = self.best().get("step")
        for old in self.paths()[: -self.keep]:
            if old != path and (best is None or old.name != f"step_{best:08d}.pt"):
                old.unlink(missing_ok=True)
                old.with_suffix(".safetensors").unlink(missing_ok=True)
                backward_path(old).unlink(missing_ok=True)
        return path

    def _is_best(self, name: str, value: float, least: bool) -> bool:
        note = self.best()
        return note.get("metric") != name or (value < note["value"] if least else value > note["value"])

    def best(self) -> dict[str, Any]:
        """``{"step", "metric", "value"}`` of the best checkpoint; empty if there was no metric yet.

        Raises:
            CheckpointError: ``best.json`` cannot be read; the best checkpoint would then be removed as an old one.
        """
        path = self.folder / "best.json"
        try:
            check_regular(path)
            note = json.loads(path.read_bytes())
            step, value = note["step"], note["value"]
            if type(step) is int and step >= 0 and isinstance(note["metric"], str) and math.isfinite(value):
                return note
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise CheckpointError(f"{path}: does not say which checkpoint is the best ({reason})") from error
        raise CheckpointError(f"{path}: does not say which checkpoint is the best (step or value is no number)")

    def newest(self) -> tuple[Path, dict[str, Any]]:
        """The newest checkpoint that loads; a newer one that does not is named in a warning.

        Raises:
            FileNotFoundError: there is no checkpoint at all.
            CheckpointError: none of them loads.
        """
        paths = self.paths()
        if not paths:
            raise FileNotFoundError(f"{self.folder}: no checkpoint to resume from")
        return first_readable(paths[::-1], read_checkpoint)
