"""How the images of each domain of a data set are read, where what is known of them goes by the folders' names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cgcl_fast.data.formats import Reading
from cgcl_fast.data.values import Values, values_from_dict


def by_folder(values: Mapping[str, Values], direction: str) -> dict[str, Values]:
    """What is of the domains of a data set that was opened with ``direction`` as of the folders' names, or the other
    way round."""
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
        ranges: as a run's config has them, by the folders' names; what is missing is what the images tell.
        domains: A and B as they are after ``direction`` has exchanged them, or names.
        channels: of the first domain, and of the others.
        direction: AtoB or BtoA.
        max_megapixels: of larger images none is read.

    Raises:
        ValueError: there is no such domain, or what is given is no range.
    """
    stated = values_from_dict(ranges or {})
    if unknown := stated.keys() - set(domains):
        raise ValueError(f"ranges: expected domains among {', '.join(domains)}, got {', '.join(sorted(unknown))}")
    stated = by_folder(stated, direction)
    most = max_megapixels * 10**6
    return {name: Reading(channels[number > 0], stated.get(name), most) for number, name in enumerate(domains)}
