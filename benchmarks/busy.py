"""Images per second of the default training, on an idle machine and beside other programs: pure computing loops.

    python -m benchmarks.busy [--output FILE.json] [--seconds 15] [--repeats 2]

A loop either runs before the training starts, which can then choose how OpenMP's threads wait, or joins later, after
that choice. Each setting is a row; `before` is PyTorch's default behaviour, with the data prepared within the step.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import machine
from cgcl_fast import _openmp

#: setting -> (environment, options)
SETTINGS: dict[str, tuple[dict[str, str], list[str]]] = {
    "before": ({"GOMP_SPINCOUNT": "300000"}, ["--workers", "0"]),  # GNU OpenMP's own count
    "cgcl_fast": ({}, []),
    "spin of 5000": ({"GOMP_SPINCOUNT": "5000"}, []),
    "asleep": ({"OMP_WAIT_POLICY": "passive"}, []),
    "one thread": ({"OMP_NUM_THREADS": "1"}, ["--workers", "1"]),
}
#: name -> number of loops, and whether they run from the start
LOADS = {"quiet": (0, True), "1 joins": (1, False), "2 join": (2, False), "1 there": (1, True), "2 there": (2, True)}
FIRST = 5  # steps that do not count
PATIENCE = 120  # seconds to wait for them


@contextmanager
def busy(loops: int) -> Iterator[None]:
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def images_per_second(setting: str, load: str, seconds: float) -> float:
    """Each step has two images, one per domain."""
    environment, options = SETTINGS[setting]
    clean = {name: value for name, value in os.environ.items() if name not in _openmp.VARIABLES}
    loops, from_the_start = LOADS[load]
    with tempfile.TemporaryDirectory() as folder, busy(loops if from_the_start else 0):
        log = Path(folder, "run", "log.jsonl")
        steps = ["--steps", "1000000", "--save-every", "1000000", "--log-every", "1", "--eval-images", "0"]
        command = [sys.executable, "-m", "cgcl_fast.train", "--output", str(log.parent), *steps, *options]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        training = subprocess.Popen(command, env={**clean, **environment}, **quiet)  # type: ignore[call-overload]
        try:
            patience = time.monotonic() + PATIENCE
            while logged(log) < FIRST and time.monotonic() < patience and training.poll() is None:
                time.sleep(0.1)
            with busy(0 if from_the_start else loops):
                before, start = logged(log), time.monotonic()
                time.sleep(seconds)
                done, passed = logged(log) - before, time.monotonic() - start
            if training.poll() is not None:
                raise RuntimeError(f"the training ended with status {training.returncode}: {' '.join(command)}")
        finally:
            training.kill()
            training.wait()
    return 2 * done / passed


def logged(log: Path) -> int:
    return log.read_bytes().count(b"\n") if log.exists() else 0


def measure(settings: list[str], loads: list[str], seconds: float, repeats: int) -> list[dict[str, Any]]:
    """Settings take turns within a repeat, so that drifts affect all alike."""
    rates: dict[tuple[str, str], list[float]] = {}
    for _ in range(repeats):
        for load in loads:
            for setting in settings:
                value = images_per_second(setting, load, seconds)
                rates.setdefault((setting, load), []).append(value)
                print(f"{setting:14} {load:8} {value:6.2f} images/s", flush=True)
    return [{"setting": s, "load": load, "images_per_second": values} for (s, load), values in rates.items()]


def table(rows: list[dict[str, Any]]) -> str:
    """Medians as Markdown: one row per setting, one column per load."""
    value = {(row["setting"], row["load"]): statistics.median(row["images_per_second"]) for row in rows}
    loads = list(dict.fromkeys(row["load"] for row in rows))
    lines = [f"| images/s | {' | '.join(loads)} |", f"| --- |{' ---: |' * len(loads)}"]
    for setting in dict.fromkeys(row["setting"] for row in rows):
        cells = [f"{value[setting, load]:.2f}" if (setting, load) in value else "not measured" for load in loads]
        lines.append(f"| {setting} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.busy", description="Training beside other programs.")
    parser.add_argument("--output", type=Path, help="write the figures here, as JSON")
    parser.add_argument("--seconds", type=float, default=15, help="of each measurement (default: 15)")
    parser.add_argument("--repeats", type=int, default=2, help="default: 2")
    parser.add_argument("--settings", default=",".join(SETTINGS), help="some of: %(default)s")
    parser.add_argument("--loads", default=",".join(LOADS), help="some of: %(default)s")
    arguments = parser.parse_args()
    rows = measure(arguments.settings.split(","), arguments.loads.split(","), arguments.seconds, arguments.repeats)
    if arguments.output:
        result = {"machine": machine.describe(), "spin": _openmp.SPIN, "seconds": arguments.seconds, "rows": rows}
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
