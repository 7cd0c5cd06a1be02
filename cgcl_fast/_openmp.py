"""How OpenMP's threads wait for each other, which must be set before PyTorch loads them.

GNU OpenMP's threads spin for milliseconds while they wait, in each of the thousand or more parallel regions of a small
training step. On an idle machine this costs nothing. But if another program occupies one of the cores, every wait is
for a thread without a core, and spinning occupies the very core it needs: training nearly stops. With a short spin,
training is as fast on an idle machine and yields its core on a busy one. If other programs are busy at the start,
threads sleep immediately.

`_start` makes the choice, only for this package's commands.
"""

from __future__ import annotations

import os
import time
from collections.abc import MutableMapping
from typing import NamedTuple

SPIN = "2500"
"""Iterations of GNU OpenMP's waiting loop, about 50 to 150 µs: slightly longer than a small region takes."""

VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
"""Environment variables with the user's own choice, which is never overridden."""


class Waiting(NamedTuple):
    """How threads wait: the environment's setting, and the reason."""

    setting: str
    reason: str
    busy: bool = False  # other programs occupy cores


def choose(environment: MutableMapping[str, str], busy: float | None, cores: int) -> Waiting:
    """Set in `environment` how threads wait, unless it already says so.

    Args:
        environment: of this process, before PyTorch is loaded.
        busy: number of cores used by other programs; None if unknown.
        cores: number of cores.
    """
    given = [f"{name}={environment[name]}" for name in VARIABLES if name in environment]
    if given:
        return Waiting(" ".join(given), "given by the environment")
    if busy is not None and busy > max(0.5, cores - _threads(environment, cores) + 0.5):
        environment["OMP_WAIT_POLICY"] = "passive"
        return Waiting("OMP_WAIT_POLICY=passive", f"other programs use {busy:.1f} of {cores} cores", True)
    environment["GOMP_SPINCOUNT"] = SPIN
    return Waiting(f"GOMP_SPINCOUNT={SPIN}", "a short spin, for a machine that is shared")


def _threads(environment: MutableMapping[str, str], cores: int) -> int:
    stated = environment.get("OMP_NUM_THREADS", "").partition(",")[0]
    return int(stated) if stated.isdecimal() and int(stated) > 0 else cores


def busy_cores(seconds: float = 0.1) -> float | None:
    """Number of cores used by others over the next `seconds`, while this process sleeps; None if unknown."""
    before = _idle_seconds()
    started = time.monotonic()
    if before is None:
        return None
    time.sleep(seconds)
    after, passed = _idle_seconds(), time.monotonic() - started
    return None if after is None else max(0.0, (os.cpu_count() or 1) - (after - before) / passed)


def _idle_seconds() -> float | None:
    """Total idle time of all cores in seconds."""
    try:
        with open("/proc/stat", encoding="ascii") as file:
            fields = file.readline().split()
        return (int(fields[4]) + int(fields[5])) / os.sysconf("SC_CLK_TCK")  # idle, and idle while waiting for a disk
    except (OSError, ValueError, IndexError):  # not Linux
        return None
