"""Old names of options, which are read for one more version."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T", bound=type)

RENAMED = {
    "least_object": "min_object",
    "gp_least": "gp_min",
    "gp_most": "gp_max",
    "least_width": "min_width",
    "most_width": "max_width",
}
"""The present name of each."""


def new_name(option: str) -> str:
    """The present name of an option; warns if ``option`` is an old one."""
    if option not in RENAMED:
        return option
    new = RENAMED[option]
    warnings.warn(f"{option} is now called {new}; the next version will not know the old name", FutureWarning, 4)
    return new


def renamed(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options under their present names.

    Raises:
        ValueError: an option is there under both of its names.
    """
    for old in options.keys() & RENAMED.keys():
        if RENAMED[old] in options:
            raise ValueError(f"{old} is the old name of {RENAMED[old]}, and both are given: leave {old} out")
    found = {}
    for name, value in options.items():  # no comprehension, which is a frame of its own in Python before 3.12
        found[new_name(name)] = value
    return found


def takes_old_names(config: T) -> T:
    """A class decorator: keyword arguments may have the old names, too. It stands above ``@dataclass``."""
    create = config.__init__  # type: ignore[misc]

    @functools.wraps(create)
    def __init__(self: Any, *values: Any, **named: Any) -> None:
        create(self, *values, **renamed(named))

    config.__init__ = __init__  # type: ignore[misc]
    return config
