"""The group of processes that train together: what they gather, what is said when one is gone, and how to leave."""

from __future__ import annotations

import gc
import re
import sys
import traceback
from collections.abc import Mapping
from typing import Any

from torch import Tensor, distributed


def gathered(value: Any) -> list[Any]:
    """``value`` of every process, in their order, in the first one; an empty list in the others. All have to call it.

    Args:
        value: plain containers and tensors, which are gathered on the CPU.
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
    """One line where ``error`` says that other processes ended or did not answer in time; None where it is another
    error."""
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
    """Leave the group of processes, if this is one of several; to be called last, whatever has been raised.

    A moment after a collective has returned, a thread of Gloo's drops the tensors of it. One that does so while the
    interpreter ends is ended by it, within a destructor, which aborts the process. So the threads must have ended
    before; they are joined when nothing holds the group any longer. Modules wrapped in DDP do, and so do the frames of
    an exception that is on its way.
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
