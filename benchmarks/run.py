"""Run the whole suite on this machine and write the results, without the times of single rounds, as one small JSON.

    python -m benchmarks.run [--repeats 3] [--seconds 0.6] [--select EXPRESSION] [--no-memory] [--output FILE.json]

Other processes perturb timings, so the suite repeats and takes ratios within a repeat, where the implementations of a
case run within seconds of each other. The report gives the median of these ratios.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NO_TESTS_COLLECTED = 5  # pytest.ExitCode; benchmarks.cuda imports this module without pytest


def run_once(arguments: argparse.Namespace, folder: Path, memory: bool) -> dict[str, Any]:
    """The suite, each file in a separate process: memory freed by one op's benchmarks would save the next op page
    faults that it has in real programs.
    """
    runs = [run_file(arguments, path, folder / f"{path.stem}.json", memory) for path in sorted(HERE.glob("bench_*.py"))]
    results = [run for run in runs if run is not None]
    if not results:
        raise SystemExit(f"benchmarks.run: no benchmark matches {arguments.select!r}")
    machine = results[0]["machine_info"]
    for rate in ("copy_bytes_per_second", "matmul_flops_per_second"):
        machine[rate] = max(run["machine_info"][rate] for run in results)
    return {"machine_info": machine, "benchmarks": [entry for run in results for entry in run["benchmarks"]]}


def run_file(arguments: argparse.Namespace, path: Path, target: Path, memory: bool) -> dict[str, Any] | None:
    """One file's results; None if --select excludes all of it."""
    command = [sys.executable, "-m", "pytest", str(path), "-q", "-p", "no:cacheprovider", "--benchmark-only"]
    command += [f"--benchmark-json={target}", f"--benchmark-max-time={arguments.seconds}", "--benchmark-min-rounds=9"]
    command += ["--benchmark-min-time=0.0005", "--benchmark-columns=min,median,iqr,rounds", "--benchmark-disable-gc"]
    command += [f"--bench-device={arguments.device}"]
    if memory:
        command.append("--peak-memory")
    if arguments.select:
        command += ["-k", arguments.select]
    status = subprocess.run(command, cwd=HERE.parent, check=False).returncode
    if status == NO_TESTS_COLLECTED:
        return None
    if not target.exists():
        raise SystemExit(f"benchmarks.run: pytest ended with status {status} and wrote no results")
    if status:
        print(f"benchmarks.run: some benchmarks failed (pytest status {status}); the results are without them")
    return json.loads(target.read_text())


def merge(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Merge several runs of pytest-benchmark: medians and minima of each run, and what they have in common."""
    merged: dict[str, dict[str, Any]] = {}
    for run in runs:
        for entry in run["benchmarks"]:
            stats, info = entry["stats"], entry["extra_info"]
            kept = merged.setdefault(entry["fullname"], {"extra_info": {}, "medians": [], "minima": [], "rounds": 0})
            rate = "copy_bytes_per_second"
            if rate in info:  # noise only makes a copy slower
                info[rate] = max(info[rate], kept["extra_info"].get(rate, 0))
            kept["extra_info"].update(info)
            kept["medians"].append(rounded(stats["median"]))
            kept["minima"].append(rounded(stats["min"]))
            kept["rounds"] += stats["rounds"]
    machine = dict(runs[0]["machine_info"])
    for rate in ("copy_bytes_per_second", "matmul_flops_per_second"):
        machine[rate] = max(run["machine_info"][rate] for run in runs)
    benchmarks = []
    for fullname, kept in merged.items():
        kept["extra_info"] = {k: rounded(v) if isinstance(v, float) else v for k, v in kept["extra_info"].items()}
        stats = {"min": min(kept["minima"]), "median": statistics.median(kept["medians"]), "rounds": kept.pop("rounds")}
        benchmarks.append({"fullname": fullname, **kept, "stats": stats})
    return {"machine_info": machine, "repeats": len(runs), "benchmarks": benchmarks}


def take_memory(result: dict[str, Any], earlier: dict[str, Any]) -> None:
    """Copy the peak memory from an earlier run: unlike times, it does not depend on what else runs."""
    known = {entry["fullname"]: entry["extra_info"] for entry in earlier["benchmarks"]}
    for entry in result["benchmarks"]:
        for name, value in known.get(entry["fullname"], {}).items():
            if name.endswith("_bytes"):
                entry["extra_info"].setdefault(name, value)


def rounded(value: float) -> float:
    return float(f"{value:.5g}")


def default_output(machine: dict[str, Any]) -> Path:
    chip = machine.get("gpu", machine["cpu"] if machine["device"] == "cpu" else machine["device"])
    name = re.sub(r"[^a-z0-9]+", "-", chip.lower()).strip("-")
    if machine["device"] == "cpu":
        name += f"-{machine['cores']}-cores"
    return HERE / "results" / f"{machine['device'].split(':')[0]}-{name}-{machine['date'][:10]}.json"


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.run", description="Run the whole suite and write its results.")
    parser.add_argument("--repeats", type=int, default=3, help="how often the suite runs (default: 3)")
    parser.add_argument("--seconds", type=float, default=0.6, help="timed for each benchmark and repeat (default: 0.6)")
    parser.add_argument("--select", default="", help="only benchmarks that match, as pytest -k")
    parser.add_argument("--no-memory", action="store_true", help="leave the measurement of peak memory out")
    parser.add_argument("--memory-from", type=Path, help="take the peak memory from this earlier result")
    parser.add_argument("--device", default="cpu", help="device of the tensors (default: cpu)")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/DEVICE-MACHINE-DATE.json")
    arguments = parser.parse_args()
    if arguments.repeats < 1:
        parser.error(f"--repeats: expected at least 1, got {arguments.repeats}")
    memory = not (arguments.no_memory or arguments.memory_from)
    with tempfile.TemporaryDirectory() as folder:
        runs = []
        for i in range(arguments.repeats):
            Path(folder, str(i)).mkdir()
            runs.append(run_once(arguments, Path(folder, str(i)), memory and i == 0))
    result = merge(runs)
    if arguments.memory_from:
        take_memory(result, json.loads(arguments.memory_from.read_text()))
    output = arguments.output or default_output(result["machine_info"])
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=1) + "\n")
    print(f"results: {output}")


if __name__ == "__main__":
    main()
