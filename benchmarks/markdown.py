"""Markdown tables, and the formats of numbers in them."""

from __future__ import annotations

NOT_MEASURED = "not measured"
#: A number in a cell, or None for an empty cell.
Number = float | None


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; columns after the first are right-aligned."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *rows])


def milliseconds(seconds: Number) -> str:
    return "" if seconds is None else f"{seconds * 1e3:.3g}" if seconds < 1 else f"{seconds * 1e3:.0f}"


def times(ratio: Number) -> str:
    return "" if ratio is None else f"{ratio:.2f}×" if ratio < 9.95 else f"{ratio:.0f}×"


def percent(share: Number) -> str:
    return "" if share is None else f"{share:.0%}" if share >= 0.095 else f"{share:.1%}"


def mebibytes(size: Number) -> str:
    return "" if size is None else f"{size / 2**20:.1f}"
