"""The length of a training, and where a resumed one continues."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cgcl_fast import _resume
from cgcl_fast._command import UsageError
from cgcl_fast._train_options import RunOptions
from cgcl_fast.engine import Checkpoints, Course, Stage, next_stage
from cgcl_fast.engine.checkpoint import does_not_fit
from cgcl_fast.engine.stages import keeps_place, stage_in


def newest_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The checkpoint from which ``--resume`` continues, and its file.

    Raises:
        UsageError: there is no checkpoint.
        CheckpointError: none can be read.
    """
    try:
        return Checkpoints(folder).newest()
    except FileNotFoundError as error:
        raise UsageError(f"--resume: {error}; start without --resume") from error


def stage_to_go_on(
    found: tuple[Path, dict[str, Any]],
    loader: dict[str, int],
    accumulate: int,
    changed: Mapping[str, tuple[Any, Any]],
) -> tuple[Stage, str]:
    """The stage in which a resumed run continues, and a message if this starts a new phase of the training.

    Args:
        found: from :func:`newest_checkpoint`.
        loader: the loader's ``state_dict()``.
        accumulate: batches per step.
        changed: options that start a new phase, with old and new values.

    Raises:
        CheckpointError: the checkpoint is of something else.
    """
    path, state = found
    try:
        stage = next_stage(state, loader, accumulate)
        left_out = stage != stage_in(state, accumulate) and not keeps_place(state, loader, accumulate)
    except Exception as error:  # what is in a file of another program, or a changed one, fails in many ways
        raise does_not_fit(path, error) from error
    return stage, _resume.said(changed, state["step"], left_out)


def course_of(run: RunOptions, config: Any, batches: int, stage: Stage) -> Course:
    """How the steps of a training are divided, for epochs of ``batches`` batches.

    Raises:
        ValueError: more warm-up epochs than epochs at the full rate.
    """
    decay_epochs = getattr(config, "decay_epochs", 0)
    steps = run.steps or max(1, (config.epochs + decay_epochs) * batches // run.accumulate)
    ahead = 0 if run.steps else stage.ahead(batches)
    return Course(steps, config.epochs, decay_epochs, getattr(config, "warmup_epochs", 0), ahead)
