"""Where epochs change their length: a run that is resumed with other data, another batch size or accumulation begins a
new stage, with the next epoch; one in another number of processes, at the same place of the data.
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
        position: batches of a process that the epoch it begins with already had, had there always been so many
            processes.
    """

    accumulate: int = 1
    step: int = 0
    epoch: int = 0
    position: int = 0

    def ahead(self, batches: int) -> int:
        """Steps that a run would have made more until the beginning (less, if negative), had its epochs always had
        so many batches."""
        return (self.epoch * batches + self.position) // self.accumulate - self.step


def next_stage(state: Mapping[str, Any], loader: Mapping[str, int], accumulate: int) -> Stage:
    """The stage that a checkpoint goes on with: its own, where the order of the data, the batches of a step and the
    number of processes are as they were; else a new one.

    Args:
        state: the checkpoint's.
        loader: the loader's current ``state_dict()``.
        accumulate: current batches per step.

    Raises:
        ValueError, TypeError, KeyError: the checkpoint's stage is invalid.
    """
    check_numbers("loader", state["loader"], loader)
    before = state["loader"]
    if not keeps_place(state, loader, accumulate):
        return Stage(accumulate, state["step"], before["epoch"] + (before["position"] > 0))
    if before["replicas"] != loader["replicas"]:
        position = before["position"] * before["replicas"] // loader["replicas"]
        return Stage(accumulate, state["step"], before["epoch"], position)
    return stage_in(state, accumulate)


def keeps_place(state: Mapping[str, Any], loader: Mapping[str, int], accumulate: int) -> bool:
    """Whether a run goes on where it was in the data; else with the next epoch. Arguments as of :func:`next_stage`."""
    same_order = all(state["loader"][name] == loader[name] for name in ("seed", "length", "batch_size"))
    return same_order and stage_in(state, accumulate).accumulate == accumulate


def stage_in(state: Mapping[str, Any], accumulate: int) -> Stage:
    """The stage in which a checkpoint was saved. Old checkpoints without one are from a first stage.

    Raises:
        ValueError: it is invalid.
    """
    first = asdict(Stage(accumulate))
    found = state.get("stage", first)
    if isinstance(found, Mapping):
        found = {"position": 0, **found}  # which old checkpoints do not have
    check_numbers("stage", found, first)
    if found["accumulate"] < 1 or min(found["step"], found["epoch"], found["position"]) < 0:
        raise ValueError(f"stage: expected counts, got {found}")
    return Stage(**found)
