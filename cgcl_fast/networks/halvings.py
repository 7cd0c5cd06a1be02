"""Limit on how often discriminators halve an image."""

from __future__ import annotations

MOST_HALVINGS = 16
"""More than any image's sides allow; 2 to the power of an arbitrary number from a file could fill the memory."""


def check_halvings(name: str, value: int) -> None:
    """Raise a ValueError that names the argument if an image cannot be halved ``value`` times."""
    if value < 1:
        raise ValueError(f"{name}: expected at least 1, got {value}")
    if value > MOST_HALVINGS:
        raise ValueError(f"{name}: expected at most {MOST_HALVINGS}, got {value}")
