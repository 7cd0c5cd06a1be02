"""Where epochs change their length: a run that is resumed with other data, another batch size or accumulation begins a
new stage, with the next epoch.
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
        accumulate: batches a step.
        step, epoch: those it begins with; 0 of a run that has always been as it is.
    """

    accumulate: int = 1
    step: int = 0
    epoch: int = 0

    def ahead(self, batches: int) -> int:
        """Steps that a run would have made more until the beginning (less, if negative), had its epochs always had
        so many batches."""
        return self.epoch * batches // self.accumulate - self.step


def next_stage(state: Mapping[str, Any], loader: Mapping[str, int], accumulate: int) -> Stage:
    """The stage that a checkpoint goes on with: its own, where the order of the data and the batches of a step are as
    they were; else a new one.

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
