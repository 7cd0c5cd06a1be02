"""What each process of a training has for itself: queues and pools, which fill from the images of that process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

State = Mapping[str, Any]


class PerProcess(nn.Module):
    """A module whose state is another one in each process of a training: checkpoints hold that of every process.

    All else that a method has is the same in all processes: weights, since their gradients are averaged, and memories
    and adaptive weights, which exchange what they are updated with.
    """

    def merged(self, states: Sequence[State]) -> dict[str, Any]:
        """One state dict made of those of several modules like this one, for a run that goes on in fewer processes.

        Args:
            states: at least one, in the order of the processes.
        """
        raise TypeError(f"{type(self).__name__} does not define merged()")


def per_process_modules(module: nn.Module) -> dict[str, PerProcess]:
    """The parts of ``module`` that each process has for itself, by the names of ``named_modules``."""
    return {name: part for name, part in module.named_modules() if isinstance(part, PerProcess)}


def state_for(part: PerProcess, states: Sequence[State], rank: int, processes: int) -> State:
    """What process ``rank`` of ``processes`` goes on with, of the states that a run was saved with.

    In as many processes each has its own again. In more, the states are dealt out in turn, so that some are there
    several times. In fewer, process r has those of the processes r, r + ``processes``, r + 2 · ``processes``, ...
    merged into one (:meth:`PerProcess.merged`), which may have to leave a part of them out.

    Args:
        states: at least one, in the order of the processes that the run was saved by.
    """
    if len(states) <= processes:
        return states[rank % len(states)]
    mine = states[rank::processes]
    return part.merged(mine) if len(mine) > 1 else mine[0]
