"""What becomes of memory that a training on a CPU frees: it stays with the process.

The GNU C library gives each freed block of a feature map's size back to the system at once. The next map of that size
gets new pages, which the system clears one by one: over 200,000 page faults in a step of CUT at 256x256, a tenth of its
time or more. Kept, the same memory serves the next step: a few page faults, for a peak that is a tenth higher.

``cgcl_fast.train`` asks for it, only where it was started as a command and computes on a CPU.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping
from typing import NamedTuple

VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_")
"""Environment variables with the user's own choice, which is never overridden; so is GLIBC_TUNABLES."""

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # parameters of mallopt, in malloc.h


class Heap(NamedTuple):
    """What a training on a CPU does with freed memory: whether it keeps it, and the reason."""

    kept: bool
    reason: str


def decide(environment: Mapping[str, str]) -> Heap:
    """Whether a training should keep what it frees."""
    given = [f"{name}={environment[name]}" for name in VARIABLES if name in environment]
    if "glibc.malloc." in (tunables := environment.get("GLIBC_TUNABLES", "")):
        given.append(f"GLIBC_TUNABLES={tunables}")
    if given:
        return Heap(False, f"as the environment says: {' '.join(given)}")
    if _mallopt() is None:
        return Heap(False, "as the C library does, which is not GNU's")
    return Heap(True, "a training on a CPU keeps it for its next step")


def keep_freed_memory() -> bool:
    """From now on, let this process keep freed memory, unless :func:`decide` says otherwise. Returns whether it
    does."""
    mallopt = _mallopt()
    if mallopt is None or not decide(os.environ).kept:
        return False
    # No block is a mapping of its own, which would be unmapped when freed; and the heap's end is not given back.
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, -1))


def _mallopt() -> Callable[[int, int], int] | None:
    """The function of GNU's C library; None with another one."""
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 - musl has a mallopt that does nothing
        mallopt: Callable[[int, int], int] = library.mallopt
        return mallopt
    except (OSError, TypeError, AttributeError):  # Windows has no CDLL(None)
        return None
