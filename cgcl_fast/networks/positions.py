"""Positions in feature layers, as the generators' ``encode`` takes them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def check_positions(feature_layers: Sequence[int], ids: Sequence[Tensor] | None) -> None:
    """Raise a ValueError if there is no layer, or if ``ids`` are not one for each."""
    if not feature_layers:
        raise ValueError("feature_layers: expected at least one layer, got none")
    if ids is not None and len(ids) != len(feature_layers):
        raise ValueError(f"ids: expected one for each of {len(feature_layers)} layers, got {len(ids)}")
