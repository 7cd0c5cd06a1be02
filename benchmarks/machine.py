"""The machine's best rates: copy bandwidth and matmul rate, measured in the same run as the results they are floors
for."""

from __future__ import annotations

import datetime
import functools
import os
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
LARGE_BYTES = 256 << 20
MATMUL_SIZE = 2048


def best_seconds(function: Callable[[], Any], budget: float) -> float:
    """The minimum time of one call, over as many as fit the budget (at least three)."""
    function()
    best, calls, start = float("inf"), 0, time.perf_counter()
    while calls < 3 or time.perf_counter() - start < budget:
        begin = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - begin)
        calls += 1
    return best


def copy_rate(size: int, device: str = "cpu", budget: float = 0.3) -> float:
    """Bytes per second, reads and writes both counted, of copying a float32 tensor of `size` bytes."""
    source = torch.zeros(max(1, size // 4), device=device)
    target = torch.zeros_like(source)

    def copy() -> None:
        target.copy_(source)
        synchronize(device)

    return 2 * source.numel() * 4 / best_seconds(copy, budget)


@functools.cache
def copy_rate_of(size: int, device: str) -> float:
    """`copy_rate`, cached by size: a tensor that fits the cache is copied faster than a large one."""
    return copy_rate(size, device)


def matmul_rate(device: str = "cpu", budget: float = 1.0) -> float:
    """FLOPs per second of a float32 product of 2048 x 2048 matrices, with the current matmul precision."""
    a = torch.rand(MATMUL_SIZE, MATMUL_SIZE, device=device)
    b = torch.rand(MATMUL_SIZE, MATMUL_SIZE, device=device)

    def multiply() -> None:
        torch.mm(a, b)
        synchronize(device)

    return 2 * MATMUL_SIZE**3 / best_seconds(multiply, budget)


def synchronize(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def commit() -> tuple[str, bool | None]:
    """The project's commit, and whether tracked files other than results have changed since.

    A copy without its history may lie inside another repository, whose commit would be meaningless. Then the commit is
    the value of CGCL_FAST_COMMIT, or "", and changes are unknown.
    """
    top = git("rev-parse", "--show-toplevel")
    if top and Path(top).resolve() == ROOT:
        others = git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)benchmarks/results")
        return git("rev-parse", "HEAD"), bool(others)
    return os.environ.get("CGCL_FAST_COMMIT", ""), None


def cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cpu_variant() -> str:
    """The instruction set of the package's CPU kernels on this machine."""
    try:
        from cgcl_fast import _native
    except ImportError:
        return "reference (no native library)"
    return str(_native.cpu_variant())


def describe(device: str = "cpu", rates: dict[str, float] | None = None) -> dict[str, Any]:
    """The conditions of a run, and the machine's rates during it (measured here unless given)."""
    if rates is None:
        rates = {
            "copy_bytes_per_second": copy_rate(LARGE_BYTES, device, 1.0),
            "matmul_flops_per_second": matmul_rate(device),
        }
    name, changed = commit()
    info: dict[str, Any] = {
        "device": device,
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpu_variant": cpu_variant(),
        "commit": name,
        "changed": changed,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        **rates,
    }
    if torch.device(device).type == "cuda":
        info["gpu"] = torch.cuda.get_device_name(device)
    return info
