"""Settings of each method as files for ``--config``: METHOD.yaml is its paper's full setting, METHOD-small.yaml one
that shows something on a laptop's CPU in minutes. ``--preset paper`` and ``--preset small`` take them from here.

The length in epochs at the full learning rate is the method's own; ``decay_epochs`` of decay follow.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cgcl_fast._yaml import read_yaml

PRESETS = ("paper", "small")


def path_of(method: str, preset: str) -> Path:
    """The file of a preset of a method.

    Raises:
        ValueError: no such preset.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset: expected one of {', '.join(PRESETS)}, got {preset!r}")
    return Path(__file__).with_name(f"{method}.yaml" if preset == "paper" else f"{method}-small.yaml")


def read(method: str, preset: str) -> dict[str, Any]:
    """Its options by their names, without the method's own."""
    options: dict[str, Any] = read_yaml(path_of(method, preset))
    return {name: value for name, value in options.items() if name != "method"}
