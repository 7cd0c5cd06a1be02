"""The content of a run's folder: options, logs, metrics, warnings, sample grid and pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cgcl_fast import configs
from cgcl_fast._yaml import read_yaml
from cgcl_fast.methods import METHODS
from cgcl_fast.methods.registry import with_new_names

MOST_WARNINGS = 200


@dataclass(frozen=True)
class Option:
    """An option of a run.

    Attributes:
        default: the paper's value.
        changed: whether the value differs from the paper's.
    """

    name: str
    value: Any
    default: Any
    changed: bool


@dataclass(frozen=True)
class Contents:
    """A run.

    Attributes:
        log: steps and values by name, from ``log.jsonl``.
        figures: the same from ``metrics.jsonl``.
        evaluations: file name and content of each ``evaluation*.json``.
        environment: from ``environment.json``; empty if the run has none.
        warnings: lines of ``train.log``.
        grid: the newest sample grid; None if there is none.
        pictures: PNG files in ``figures``.
    """

    folder: Path
    method: str
    options: list[Option]
    log: dict[str, list[tuple[float, float]]]
    figures: dict[str, list[tuple[float, float]]]
    evaluations: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    grid: Path | None = None
    pictures: list[Path] = field(default_factory=list)

    @property
    def step(self) -> int:
        """The last logged step."""
        return int(max((points[-1][0] for points in self.log.values()), default=0))


def read_contents(folder: Path) -> Contents:
    """Everything in a run except its networks.

    Raises:
        ValueError: the folder is not a run; one line.
    """
    if not (folder / "config.yaml").is_file():
        raise ValueError(f"{folder}: expected the folder of a run, but it has no config.yaml")
    config = read_yaml(folder / "config.yaml")
    if not isinstance(config, dict) or config.get("method") not in METHODS:
        raise ValueError(f"{folder / 'config.yaml'}: names no method")
    grids = sorted((folder / "samples").glob("step_*.png"))
    return Contents(
        folder=folder,
        method=config["method"],
        options=_options(with_new_names(config)),
        log=series(folder / "log.jsonl"),
        figures=series(folder / "metrics.jsonl"),
        evaluations={path.name: _json(path) for path in sorted(folder.glob("evaluation*.json"))},
        environment=_json(folder / "environment.json") if (folder / "environment.json").is_file() else {},
        warnings=_lines(folder / "train.log"),
        grid=grids[-1] if grids else None,
        pictures=sorted((folder / "figures").glob("*.png")),
    )


def series(path: Path) -> dict[str, list[tuple[float, float]]]:
    """The numbers by name in a file of JSON lines with a step each; empty if there is no such file. Lines truncated by
    a kill are skipped."""
    points: dict[str, list[tuple[float, float]]] = {}
    for line in _json_lines(path):
        step = line.get("step")
        if not isinstance(step, (int, float)) or not math.isfinite(step):
            continue
        for name, value in line.items():
            if name not in ("step", "epoch") and isinstance(value, (int, float)):
                points.setdefault(name, []).append((step, value))
    return points


def _json_lines(path: Path) -> Iterator[Mapping[str, Any]]:
    if not path.is_file():
        return
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict):
                yield entry


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: is not JSON ({error})") from error


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    if len(lines) > MOST_WARNINGS:
        lines = [f"({len(lines) - MOST_WARNINGS} earlier lines are in {path.name})", *lines[-MOST_WARNINGS:]]
    return lines


def _options(config: Mapping[str, Any]) -> list[Option]:
    paper = configs.read(config["method"], "paper")
    kind = METHODS[config["method"]].Config
    options = []
    for name, value in sorted(config.items()):
        default = paper.get(name, getattr(kind, name, None))
        known = name in paper or hasattr(kind, name)
        options.append(Option(name, value, default, known and _plain(value) != _plain(default)))
    return options


def _plain(value: Any) -> Any:
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value
