"""How the images of each domain are read, from settings that are stored under the folders' names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cgcl_fast.data.formats import Reading
from cgcl_fast.data.values import Values, values_from_dict


def by_folder(values: Mapping[str, Values], direction: str) -> dict[str, Values]:
    """Convert values by domain of a data set opened with ``direction`` to values by folder name, or back."""
    if direction == "AtoB":
        return dict(values)
    return {domain: values[other] for domain, other in (("A", "B"), ("B", "A")) if other in values}


def readings_of(
    ranges: Mapping[str, Any] | None,
    domains: Sequence[str],
    channels: tuple[int, int],
    direction: str,
    max_megapixels: int,
) -> dict[str, Reading]:
    """A reading of each domain.

    Args:
        ranges: as in a run's config, by folder name; missing ones are taken from the images.
        domains: A and B after ``direction`` has exchanged them, or domain names.
        channels: of the first domain, and of the others.
        direction: AtoB or BtoA.
        max_megapixels: larger images are rejected.

    Raises:
        ValueError: an unknown domain, or an invalid range.
    """
    stated = values_from_dict(ranges or {})
    if unknown := stated.keys() - set(domains):
        raise ValueError(f"ranges: expected domains among {', '.join(domains)}, got {', '.join(sorted(unknown))}")
    stated = by_folder(stated, direction)
    most = max_megapixels * 10**6
    return {name: Reading(channels[number > 0], stated.get(name), most) for number, name in enumerate(domains)}
