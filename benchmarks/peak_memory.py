"""Peak memory of an op or of a training step on Linux, each measured in a separate process.

PyTorch's memory profiler only sees PyTorch's tensors, not the allocations of C++ kernels and libraries. So this reads
the kernel's count of resident bytes. Its high-water mark (VmHWM) is reset through /proc/self/clear_refs after a first,
untimed call and after returning freed memory, and read after the second call.

  extra   high-water mark - resident bytes before the call - bytes of the results: an op's temporary memory
  step    high-water mark of the process after two steps: interpreter, PyTorch, weights, optimisers and the step

glibc is told to map allocations from 64 KiB on directly, so that freed memory leaves the count immediately and no
reused heap hides allocations. The kernel counts pages in batches: `extra` is accurate to about 0.25 MiB per thread.

    python -m benchmarks.peak_memory MODULE CASE IMPLEMENTATION      prints JSON (what `measure` reads)
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from .case import Case

MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_TOP_PAD_": "0"}
ROOT = Path(__file__).parent.parent


def available() -> bool:
    return os.access("/proc/self/clear_refs", os.W_OK)


def status(field: str) -> int:
    """VmRSS or VmHWM of this process, in bytes."""
    match = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    if match is None:
        raise RuntimeError(f"/proc/self/status has no {field}")
    return int(match[1]) * 1024


def extra_bytes(run: Callable[[], list[Tensor]], repeats: int = 5) -> int:
    """Median of the peak resident bytes during run(), beyond those before it and those of its results."""
    run()
    peaks = []
    for _ in range(repeats):
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = status("VmRSS")
        results = run()
        peaks.append(status("VmHWM") - before - distinct_bytes(results))
        del results
    return max(0, int(statistics.median(peaks)))


def distinct_bytes(tensors: list[Tensor]) -> int:
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def measure(module: str, case: str, implementation: str) -> dict[str, Any]:
    """Run `python -m benchmarks.peak_memory` with these arguments and return its measurement."""
    output = in_own_process(["-m", "benchmarks.peak_memory", module, case, implementation])
    return json.loads(output.splitlines()[-1])


def in_own_process(arguments: list[str], timeout: float = 1200) -> str:
    """The output of a Python process in which freed memory leaves the count of resident bytes."""
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **MALLOC}, capture_output=True, text=True, timeout=timeout
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def cases_of(module: str) -> list[Case]:
    return getattr(importlib.import_module(module), "CASES", [])


def find(module: str, name: str) -> Case:
    cases = {case.name: case for case in cases_of(module)}
    if name not in cases:
        raise ValueError(f"case: expected one of {', '.join(cases)}, got {name!r}")
    return cases[name]


def main(module: str, name: str, implementation: str) -> None:
    case = find(module, name)
    run = case.build(implementation, "inductor", "cpu")
    if case.memory == "step":
        start = status("VmRSS")
        run()
        run()
        result = {"peak_rss_bytes": status("VmHWM"), "start_rss_bytes": start}
    else:
        result = {"peak_extra_bytes": extra_bytes(run)}
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
