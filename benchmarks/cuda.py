"""Time the ops on a GPU with CUDA events, and write the results in the format of `benchmarks.run`; needs no pytest.

    python -m benchmarks.cuda [--minutes 3] [--select TEXT] [--no-compile] [--output FILE.json]
    python -m benchmarks.cuda --rehearse          small shapes on the CPU, by the wall clock: a dry run

Each implementation is timed in three ways:

- device: the GPU's time of a single call, between two events, after the L2 cache was overwritten, because in a training
  step other layers run in between. Before it the device sleeps until the host has issued the whole call. This time
  counts.
- host: the wall clock until a call returns, with the device idle before.
- in a row: one of many calls between two events; the longer of the two others, with the arguments in the cache.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import machine, targets
from .case import Case
from .cuda_cases import cases
from .run import default_output, rounded

LARGE_BYTES = 1 << 30
#: Seconds: a call that takes longer to issue waits for the device itself.
LONGEST_SLEEP = 0.2
#: Seconds that building and compiling a case may take.
COMPILATION = 25.0
#: Maximum relative error of results and gradients against eager PyTorch's, by the norm.
TOLERANCE = {"": 1e-3, " bf16": 0.1}


class Clock:
    """Times calls on a device, in seconds."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.cuda = torch.device(device).type == "cuda"
        if self.cuda:
            size = 2 * max(torch.cuda.get_device_properties(device).L2_cache_size, 32 << 20)
            self.other = torch.empty(size, dtype=torch.uint8, device=device)
            self.cycles = 10_000_000 / min(self.between(partial(torch.cuda._sleep, 10_000_000), 1) for _ in range(3))

    def between(self, function: Callable[[], Any], calls: int) -> float:
        """Time of one call, from `calls` calls in a row."""
        if not self.cuda:
            start = time.perf_counter()
            for _ in range(calls):
                function()
            return (time.perf_counter() - start) / calls
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(calls):
            function()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / calls

    def in_a_row(self, function: Callable[[], Any], seconds: float = 0.005) -> list[float]:
        """Five times of one call, each the mean of as many calls as take about `seconds`."""
        once = max(min(self.between(function, 3) for _ in range(2)), 1e-6)
        calls = max(1, min(200, int(seconds / once)))
        return [self.between(function, calls) for _ in range(5)]

    def on_host(self, function: Callable[[], Any], calls: int = 9) -> list[float]:
        """Times until a call returns, with the device idle before."""
        times = []
        for _ in range(calls):
            machine.synchronize(self.device)
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
        machine.synchronize(self.device)
        return times

    def on_device(self, function: Callable[[], Any], host: float, calls: int = 15) -> tuple[list[float], bool]:
        """Times of the device for single calls with an empty L2 cache.

        Args:
            function: of one call.
            host: about the seconds in which the host issues it.
            calls: the number of times.

        Returns:
            The times, and whether the device had not begun any of the calls before the host had issued it whole. If
            not, because the function waits for the device, they contain the host's time.
        """
        if not self.cuda:
            return [self.between(function, 1) for _ in range(3)], True
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        times: list[float] = []
        sleep = 2 * host + 1e-4
        while len(times) < calls:
            self.other.zero_()
            torch.cuda._sleep(int(sleep * self.cycles))
            start.record()
            function()
            end.record()
            ahead = not start.query()
            end.synchronize()
            if ahead or sleep > LONGEST_SLEEP:
                times.append(start.elapsed_time(end) / 1e3)
            else:
                sleep *= 2
        return times, sleep <= LONGEST_SLEEP


def rates(clock: Clock) -> dict[str, float]:
    """The machine's best rates per second: bytes (reads and writes both counted) and FLOPs."""
    device, size = clock.device, LARGE_BYTES if clock.cuda else 8 << 20
    tensors = torch.zeros(2, size // 4, device=device)
    rates = {
        "copy_bytes_per_second": 2 * size / min(clock.in_a_row(partial(tensors[0].copy_, tensors[1]))),
        "fill_bytes_per_second": size / min(clock.in_a_row(tensors[0].zero_)),
    }
    del tensors
    n = 8192 if clock.cuda else 256
    precision = torch.get_float32_matmul_precision()
    for name, dtype, wanted in (
        ("float32", torch.float32, "highest"),
        ("tf32", torch.float32, "high"),
        ("bf16", torch.bfloat16, "highest"),
    ):
        torch.set_float32_matmul_precision(wanted)
        a, b = torch.randn(2, n, n, device=device).to(dtype)
        rates[f"{name}_flops_per_second"] = 2 * n**3 / min(clock.in_a_row(partial(torch.mm, a, b)))
    torch.set_float32_matmul_precision(precision)
    rates["matmul_flops_per_second"] = rates["tf32_flops_per_second"]
    return rates


def driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.split("\n")[0]
    except (OSError, subprocess.SubprocessError):
        return ""


def describe(clock: Clock) -> dict[str, Any]:
    info = machine.describe(clock.device, rates(clock))
    info |= {"suite": "cuda", "driver": driver() if clock.cuda else "none", "cuda": torch.version.cuda}
    try:
        import triton

        info["triton"] = triton.__version__
    except ImportError:
        info["triton"] = ""
    if clock.cuda:
        info["capability"] = "{}.{}".format(*torch.cuda.get_device_capability(clock.device))
        info["memory_bytes"] = torch.cuda.get_device_properties(clock.device).total_memory
        info["l2_bytes"] = torch.cuda.get_device_properties(clock.device).L2_cache_size
    return info


def disagreement(case: Case, results: list[Tensor], expected: list[Tensor]) -> str:
    """What is wrong with the results of an implementation; "" if nothing."""
    if [r.shape for r in results] != [e.shape for e in expected]:
        return f"shapes {[tuple(r.shape) for r in results]}, eager's {[tuple(e.shape) for e in expected]}"
    if case.agree:
        tolerance = TOLERANCE[" bf16" if case.shape.endswith("bf16") else ""]
        for index, (result, truth) in enumerate(zip(results, expected, strict=True)):
            error, size = float((result.double() - truth.double()).norm()), float(truth.double().norm())
            if not error <= tolerance * size:
                return f"result {index} is {error / max(size, 1e-30):.2g} of its norm away from eager's"
    return ""


def measure(case: Case, implementation: str, clock: Clock) -> dict[str, Any]:
    run = case.build(implementation, "inductor" if clock.cuda else "aot_eager", clock.device)
    results = run()
    if implementation != "eager":
        problem = disagreement(case, results, case.build("eager", "", clock.device)())
        if problem:
            raise RuntimeError(problem)
    del results
    run()
    host = statistics.median(clock.on_host(run))
    times, ahead = clock.on_device(run, host)
    counted = "device" if ahead else "after_flush"
    return {
        "fullname": f"benchmarks.cuda::{case.name} {implementation}",
        "extra_info": {
            **case.info(implementation),
            counted: rounded(statistics.median(times)),
            "host": rounded(host),
            "in_a_row": rounded(statistics.median(clock.in_a_row(run))),
            "counted": counted,
        },
        "medians": [rounded(statistics.median(times))],
        "minima": [rounded(min(times))],
        "stats": {"min": rounded(min(times)), "median": rounded(statistics.median(times)), "rounds": len(times)},
    }


def plan(select: str, compiled: bool, small: bool) -> list[tuple[Case, str]]:
    """Everything except torch.compile first, which takes seconds per case; within both, cases with targets come
    first."""
    chosen = [case for case in cases(small) if select in case.name]
    first = [(case, name) for case in chosen for name in case.implementations if name != "compile"]
    aimed = {(target.op, target.shape, target.direction) for target in targets.CUDA_TARGETS}
    ordered = sorted(chosen, key=lambda case: (case.op, case.shape, case.direction) not in aimed)
    return first + ([(case, "compile") for case in ordered] if compiled else [])


def still_usable(device: str) -> bool:
    """False after a kernel with an invalid access: then all later calls on the device fail, too."""
    try:
        machine.synchronize(device)
    except RuntimeError:
        return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.cuda", description="Time the ops on a GPU.")
    parser.add_argument("--minutes", type=float, default=3.0, help="what does not fit is left unmeasured (default: 3)")
    parser.add_argument("--select", default="", help="only cases whose name contains this")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--rehearse", action="store_true", help="small shapes on the CPU")
    parser.add_argument("--list", action="store_true", help="print what would be timed, and stop")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/cuda-GPU-DATE.json")
    arguments = parser.parse_args()
    work = plan(arguments.select, not arguments.no_compile, arguments.rehearse)
    if not work:
        parser.error(f"--select: no case contains {arguments.select!r}")
    if arguments.list:
        for case in dict.fromkeys(case for case, _ in work):
            print(f"{case.name}: {', '.join(name for c, name in work if c is case)}")
        return 0
    if not arguments.rehearse and not torch.cuda.is_available():
        parser.error("no CUDA device here; --rehearse runs small shapes on the CPU")
    end = time.monotonic() + 60 * arguments.minutes
    clock = Clock("cpu" if arguments.rehearse else "cuda")
    info = describe(clock)
    output = arguments.output or default_output(info)
    output.parent.mkdir(parents=True, exist_ok=True)
    entries: list[dict[str, Any]] = []
    failures: list[str] = []
    usable = True
    gc.freeze()  # what is imported stays: collecting it after each case would take longer than the cases
    for case, implementation in work:
        needed = COMPILATION if implementation == "compile" else 0
        if time.monotonic() + needed > end or not usable:
            break
        try:
            torch.manual_seed(0)
            entries.append(measure(case, implementation, clock))
            print(f"{case.name} {implementation}: {entries[-1]['stats']['median'] * 1e6:.1f} us", flush=True)
        except Exception as error:  # a failing case must not stop the others
            failures.append(f"{case.name} {implementation}: {' '.join(str(error).split())[:300]}")
            print(f"FAILED {failures[-1]}\n{traceback.format_exc(limit=-3)}", flush=True)
            usable = still_usable(clock.device)
        if clock.cuda and usable:
            gc.collect()
            torch.cuda.empty_cache()
        # After each case, because a kernel that hangs would lose all earlier results.
        left = len(work) - len(entries) - len(failures)
        result = {"machine_info": info, "repeats": 1, "failures": failures, "not_measured": left, "benchmarks": entries}
        output.write_text(json.dumps(result, indent=1) + "\n")
    why = "for lack of time" if usable else "since the device is unusable after the last failure"
    print(f"{len(entries)} timed, {len(failures)} failed, {left} not measured {why}; results: {output}")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
