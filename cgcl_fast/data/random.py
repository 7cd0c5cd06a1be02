"""Random numbers that depend only on their purpose."""

from __future__ import annotations

import random


def item_random(seed: int, *where: int | str) -> random.Random:
    """A source of random numbers that is a pure function of its arguments, the same on every machine.

    Python guarantees the sequence of ``random.Random.random`` for a string seed across versions, but not that of its
    other methods; so draw integers as ``int(r.random() * n)``.
    """
    return random.Random(":".join(str(part) for part in (seed, *where)))
