"""Distance of runs to the truth over the steps: one picture, and the numbers as JSON.

    python -m benchmarks.curves RUN... --plot OUT.png [--json OUT.json] [--distances psnr,delta_e]

A RUN is a run's folder with metrics.jsonl. Each run is a column and each distance a row: the translations of the test
scenes by training step, beside the untouched scenes and a classical colour transfer.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import yaml

from cgcl_fast.metrics import DISTANCES, table
from cgcl_fast.metrics.evaluation import AFTER, BEFORE, TRANSFER

LINES = {
    BEFORE: ("untouched", "#888888", "--"),
    TRANSFER: ("colour transfer (Reinhard)", "#e09f3e", "-."),
    AFTER: ("translated", "#2a6f97", "-"),
}


def read(folder: Path) -> dict[str, Any]:
    """A run: its description, its curve, and the last and best values of each distance.

    Raises:
        ValueError: not a run, or one without metrics.
    """
    try:
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        config = yaml.safe_load((folder / "config.yaml").read_text())
    except OSError as error:
        raise ValueError(f"{folder}: expected a run with the truth known, but {error.filename} is missing") from error
    curve = [json.loads(line) for line in lines if line]
    if not curve:
        raise ValueError(f"{folder}: metrics.jsonl holds no figures yet")
    best = {}
    for name, distance in DISTANCES.items():
        points = [(line[f"{name}/{AFTER}"], line["step"]) for line in curve if f"{name}/{AFTER}" in line]
        if points:
            value, step = max(points) if distance.higher_is_better else min(points)
            best[name] = {"step": step, "value": value}
    return {
        "run": folder.name,
        "method": config["method"],
        "size": config["size"],
        "scenes": config["eval_images"],
        "steps": curve[-1]["step"],
        "last": {name: value for name, value in curve[-1].items() if name != "step"},
        "best": best,
        "curve": curve,
    }


def title(run: dict[str, Any]) -> str:
    name = run["method"] if run["run"].startswith(run["method"]) else f"{run['run']} ({run['method']})"
    return f"{name}, {run['size']}²"


def draw(path: Path, runs: list[dict[str, Any]], distances: list[str]) -> None:
    """One panel per run and distance."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shape = (len(distances), len(runs))
    size = (0.7 + 2.1 * len(runs), 0.7 + 1.5 * len(distances))
    figure, panels = plt.subplots(*shape, figsize=size, squeeze=False, sharex="col", layout="constrained")
    for row, name in zip(panels, distances, strict=True):
        for column, (axes, run) in enumerate(zip(row, runs, strict=True)):
            for what, (label, colour, style) in LINES.items():
                points = [(p["step"], p[f"{name}/{what}"]) for p in run["curve"] if f"{name}/{what}" in p]
                if points:
                    axes.plot(*zip(*points, strict=True), style, color=colour, label=label, linewidth=1.4)
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(labelsize=7)
            axes.locator_params(axis="x", nbins=4)
            if column == 0:
                better = "higher" if DISTANCES[name].higher_is_better else "lower"
                axes.set_ylabel(f"{DISTANCES[name].title}\n({better} is closer)", fontsize=7)
    for axes, run in zip(panels[0], runs, strict=True):
        axes.set_title(title(run), fontsize=8)
    for axes in panels[-1]:
        axes.set_xlabel("step", fontsize=7)
    lines = {label: line for axes in panels.flat for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(lines.values()), list(lines), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.curves", description="Plot the distance to the truth of runs.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("--plot", type=Path, help="write the picture here")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--distances", default=",".join(DISTANCES), help=f"which (default: {','.join(DISTANCES)})")
    arguments = parser.parse_args()
    distances = arguments.distances.split(",")
    for name in distances:
        if name not in DISTANCES:
            parser.error(f"--distances: expected some of {', '.join(DISTANCES)}, got {name!r}")
    try:
        runs = [read(folder) for folder in arguments.runs]
    except ValueError as error:
        parser.error(str(error))
    if arguments.json:
        arguments.json.write_text(json.dumps(runs, indent=1) + "\n")
    if arguments.plot:
        draw(arguments.plot, runs, distances)
    for run in runs:
        print(f"{title(run)}, step {run['steps']}")
        print(table(run["last"], run["scenes"]))


if __name__ == "__main__":
    main()
