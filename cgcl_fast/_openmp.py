"""How OpenMP's threads wait for each other, which must be said before PyTorch loads them.

GNU OpenMP's threads spin for milliseconds while they wait, at every one of the thousand and more parallel regions of a
small training step. On a quiet machine that costs nothing. Where another program has one of the cores, each wait is for
a thread that has none, and the spinning takes the very core that it would need: training nearly stops. A short spin is
as fast on a quiet machine, and hands its core over on a busy one; where others are busy already at the start, the
threads sleep at once.

`_start` chooses, for the commands of this package only.
"""

from __future__ import annotations

import os
import time
from collections.abc import MutableMapping
from typing import NamedTuple

SPIN = "2500"
"""Rounds of GNU OpenMP's waiting loop, some 50 to 150 µs: a little longer than a small region takes."""

VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
"""The user's own choice, which is never overridden."""


class Waiting(NamedTuple):
    """How the threads wait: the setting of the environment, and why it is so."""

    setting: str
    reason: str
    busy: bool = False  # other programs have the cores


def choose(environment: MutableMapping[str, str], busy: float | None, cores: int) -> Waiting:
    """Set in `environment` how the threads wait, unless it says so itself.

    Args:
        environment: that of this process, before PyTorch is loaded.
        busy: how many cores other programs use, None where nothing tells.
        cores: how many there are.
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
    """How many cores others use over the next `seconds`, in which this process sleeps; None where it cannot be told."""
    before = _idle_seconds()
    started = time.monotonic()
    if before is None:
        return None
    time.sleep(seconds)
    after, passed = _idle_seconds(), time.monotonic() - started
    return None if after is None else max(0.0, (os.cpu_count() or 1) - (after - before) / passed)


def _idle_seconds() -> float | None:
    """Seconds that all cores together have been idle."""
    try:
        with open("/proc/stat", encoding="ascii") as file:
            fields = file.readline().split()
        return (int(fields[4]) + int(fields[5])) / os.sysconf("SC_CLK_TCK")  # idle, and idle while a disk works
    except (OSError, ValueError, IndexError):  # no Linux
        return None
