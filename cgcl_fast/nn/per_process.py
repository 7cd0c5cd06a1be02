"""State that differs between the processes of a training: queues and pools, filled from each process's own images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

State = Mapping[str, Any]


class PerProcess(nn.Module):
    """A module whose state differs between the processes of a training; checkpoints hold the state of every process.

    All other state is the same in all processes: weights, because gradients are averaged, and memories and adaptive
    weights, whose updates are exchanged.
    """

    def merged(self, states: Sequence[State]) -> dict[str, Any]:
        """One state dict made of those of several modules like this one, for a run that goes on in fewer processes.

        Args:
            states: at least one, in the order of the processes.
        """
        raise TypeError(f"{type(self).__name__} does not define merged()")


def per_process_modules(module: nn.Module) -> dict[str, PerProcess]:
    """The submodules of ``module`` whose state differs between processes, by their names in ``named_modules``."""
    return {name: part for name, part in module.named_modules() if isinstance(part, PerProcess)}


def state_for(part: PerProcess, states: Sequence[State], rank: int, processes: int) -> State:
    """The state with which process ``rank`` of ``processes`` resumes, given the saved states of all processes.

    With the same number of processes, each gets its own back. With more, the states are dealt out in turn, so some are
    used several times. With fewer, process r gets those of r, r + ``processes``, r + 2 · ``processes``, ... merged
    (:meth:`PerProcess.merged`), which may have to drop a part of them.

    Args:
        states: at least one, in the order of the ranks that saved them.
    """
    if len(states) <= processes:
        return states[rank % len(states)]
    mine = states[rank::processes]
    return part.merged(mine) if len(mine) > 1 else mine[0]
