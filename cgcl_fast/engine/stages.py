"""Stages of a run with different lengths of epochs: a run that is resumed with other data, another batch size or
accumulation starts a new stage with the next epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .fitting import check_numbers


@dataclass(frozen=True)
class Stage:
    """A part of a run in which all epochs have the same number of steps.

    Attributes:
        accumulate: batches per step.
        step, epoch: where it starts; 0 for a run that never changed.
    """

    accumulate: int = 1
    step: int = 0
    epoch: int = 0

    def ahead(self, batches: int) -> int:
        """How many more steps the run would have made before this stage, if its epochs had always had ``batches``
        batches (fewer, if negative)."""
        return self.epoch * batches // self.accumulate - self.step


def next_stage(state: Mapping[str, Any], loader: Mapping[str, int], accumulate: int) -> Stage:
    """The stage in which to continue from a checkpoint: the same one, if order of the data and batches per step are
    unchanged; otherwise a new one.

    Args:
        state: the checkpoint's.
        loader: the loader's current ``state_dict()``.
        accumulate: current batches per step.

    Raises:
        ValueError, TypeError, KeyError: the checkpoint's stage is invalid.
    """
    check_numbers("loader", state["loader"], loader)
    saved = stage_in(state, accumulate)
    before = state["loader"]
    same_order = all(before[name] == loader[name] for name in ("seed", "length", "batch_size"))
    if same_order and saved.accumulate == accumulate:
        return saved
    return Stage(accumulate, state["step"], before["epoch"] + (before["position"] > 0))


def stage_in(state: Mapping[str, Any], accumulate: int) -> Stage:
    """The stage in which a checkpoint was saved. Old checkpoints without one are from a first stage.

    Raises:
        ValueError: it is invalid.
    """
    first = asdict(Stage(accumulate))
    found = state.get("stage", first)
    check_numbers("stage", found, first)
    if found["accumulate"] < 1 or found["step"] < 0 or found["epoch"] < 0:
        raise ValueError(f"stage: expected counts, got {found}")
    return Stage(**found)
