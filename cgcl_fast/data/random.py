"""Random numbers that depend on nothing but what they are for."""

from __future__ import annotations

import random


def item_random(seed: int, *where: int | str) -> random.Random:
    """A source of random numbers that is a pure function of its arguments, the same on every machine.

    ``random.Random.random`` seeded with a string is guaranteed to give the same sequence in every Python version; other
    methods of it are not, so draw integers as ``int(r.random() * n)``.
    """
    return random.Random(":".join(str(part) for part in (seed, *where)))
