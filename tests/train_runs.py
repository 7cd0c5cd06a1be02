"""Trainings one after the other, as one of several processes, which note what they have when they go on and at the end:
``python train_runs.py FOLDER.json`` reads a list of runs, and writes FOLDER.RANK.pt after each of them.

A run is {"arguments": those of ``train``, "trouble": [what, step], optional}: at that step the last process is asked to
stop ("term"), is killed ("kill") or finds that its data are gone ("data").
"""

from __future__ import annotations

import copy
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from cgcl_fast import train
from cgcl_fast._command import run
from cgcl_fast.data import DataError
from cgcl_fast.engine import Trainer
from cgcl_fast.engine.fitting import full_state
from cgcl_fast.nn.per_process import per_process_modules


def held_by(trainer: Trainer) -> dict[str, Any]:
    """All that a process has of a training, its random numbers apart."""
    own = tuple(f"{name}." for name in per_process_modules(trainer.method))
    state = trainer.method.state_dict()
    held = {
        "step": trainer.step,
        "steps": trainer.options.steps,
        "loader": trainer.loader.state_dict(),
        "own": {name: value for name, value in state.items() if name.startswith(own)},
        "shared": {name: value for name, value in state.items() if not name.startswith(own)},
        "optimizers": {running.phase.name: full_state(running.optimizer) for running in trainer.phases},
        "average": {} if trainer.average is None else trainer.average.networks.state_dict(),
    }
    return copy.deepcopy(held)  # what goes on changing


@contextmanager
def noted(trouble: Sequence[Any] = (), file: Path | None = None) -> Iterator[list[dict[str, Any]]]:
    """A list that gets what a training has when it goes on, and at its end; both go to ``file``, too."""
    what, at = trouble or ("", -1)
    fit, resume, train_step = Trainer.fit, Trainer._resume, Trainer.train_step
    notes: list[dict[str, Any]] = []

    def note(trainer: Trainer) -> None:
        notes.append(held_by(trainer))
        if file is not None:
            torch.save(notes, file)

    def resumed(trainer: Trainer) -> None:
        resume(trainer)
        note(trainer)

    def fitted(trainer: Trainer, **options: Any) -> Any:
        outcome = fit(trainer, **options)
        note(trainer)
        return outcome

    def gone(*_: object) -> None:
        raise DataError("the data are gone")

    def stepped(trainer: Trainer, parts: list[Any]) -> Any:
        last = trainer.accelerator.process_index == trainer.accelerator.num_processes - 1
        if trainer.step == at and last:
            if what == "data":
                type(trainer.loader.dataset).__getitem__ = gone  # type: ignore[attr-defined]
            else:
                os.kill(os.getpid(), signal.SIGTERM if what == "term" else signal.SIGKILL)
        return train_step(trainer, parts)

    Trainer.fit, Trainer._resume, Trainer.train_step = fitted, resumed, stepped  # type: ignore[assignment,method-assign]
    try:
        yield notes
    finally:
        Trainer.fit, Trainer._resume, Trainer.train_step = fit, resume, train_step  # type: ignore[method-assign]


def main() -> int:
    """The status of the last run: the group of processes ends with it."""
    torch.set_num_threads(1)
    runs = json.loads(Path(sys.argv[1]).read_text())

    def all_of_them(_: Sequence[str]) -> int:
        status = 0
        for number, each in enumerate(runs):
            file = Path(sys.argv[1]).with_suffix(f".{number}.{os.environ['RANK']}.pt")
            with noted(each.get("trouble", ()), file):
                status = train.train(each["arguments"])
        return status

    return run(all_of_them, [])


if __name__ == "__main__":
    sys.exit(main())
