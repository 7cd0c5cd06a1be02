"""How often discriminators may halve an image."""

from __future__ import annotations

MOST_HALVINGS = 16
"""More than images have sides for; and 2 to the power of a number that a file names might fill the memory."""


def check_halvings(name: str, value: int) -> None:
    """Raise a ValueError that names the argument unless an image can be halved ``value`` times."""
    if value < 1:
        raise ValueError(f"{name}: expected at least 1, got {value}")
    if value > MOST_HALVINGS:
        raise ValueError(f"{name}: expected at most {MOST_HALVINGS}, got {value}")
