"""The group of training processes: gathering values, reporting a lost peer, and leaving the group cleanly."""

from __future__ import annotations

import gc
import re
import sys
import traceback
from collections.abc import Mapping
from typing import Any

from torch import Tensor, distributed


def gathered(value: Any) -> list[Any]:
    """Gather ``value`` from all processes. Every process must call it.

    Args:
        value: plain containers and tensors; tensors are moved to the CPU.

    Returns:
        In the first process the values in the order of ranks, in the others an empty list.
    """
    if not distributed.is_available() or not distributed.is_initialized():
        return [value]
    found: list[Any] = [None] * distributed.get_world_size()
    first = distributed.get_rank() == 0
    distributed.gather_object(_on_cpu(value), found if first else None)
    return found if first else []


def _on_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, Mapping):
        return {key: _on_cpu(each) for key, each in value.items()}
    return [_on_cpu(each) for each in value] if isinstance(value, (list, tuple)) else value


def lost_peer(error: RuntimeError) -> str | None:
    """One line if ``error`` means that another process ended or did not answer in time; None for any other error."""
    if not distributed.is_available():
        return None
    text = str(error)
    if re.search(r"gloo.*timed out|pair closure", text, re.I | re.S):
        what = "another process did not answer in time (--timeout)"
    elif isinstance(error, distributed.DistError) or re.search(r"gloo.*(connect|reset|broken pipe)", text, re.I | re.S):
        what = "another process has ended"
    else:
        return None
    if not distributed.is_initialized():
        return f"{what}, before training began ({text.partition(chr(10))[0]})"
    return f"process {distributed.get_rank()} of {distributed.get_world_size()}: {what}; --resume goes on"


def leave_group() -> None:
    """Leave the group of processes, if there is one. Call it last, also after an error.

    Shortly after a collective has returned, a Gloo thread frees its tensors. If the interpreter is already shutting
    down by then, it kills that thread inside a destructor, and the process aborts. The threads must therefore have
    ended before; they are joined when the last reference to the group is gone. DDP modules hold such references, and
    so do the frames of an exception in flight.
    """
    if not distributed.is_available() or not distributed.is_initialized():
        return
    error = sys.exc_info()[1]
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__
    group = distributed.group.WORLD  # the last reference: released from here, threads are joined without Python's lock
    gc.collect()
    distributed.destroy_process_group()
    del group
