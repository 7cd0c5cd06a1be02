"""Host time of the ops: the cost of a call with almost nothing to compute.

    python -m benchmarks.bench_host [--also NAME=CHECKOUT ...] [--output FILE.json] [--rounds 5]

Tensors of about 16 elements, one thread: each op beside the composition of PyTorch functions in published code, forward
without gradients and forward plus backward. The Triton path is measured without a GPU, on CPU tensors: everything but
the launch itself runs. With --also, the ops of other checkouts of the project (with their native libraries) are
measured in the same run, in processes that take turns. On a GPU (`--device cuda`) the host time of asynchronous calls
is measured; the clock does not include waiting for the device.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cgcl_fast import ops

from . import machine
from .bench_adain import eager_instance_norm
from .bench_blur import eager_down, eager_up
from .bench_layer_norm import eager_layer_norm, fast_layer_norm
from .bench_memory import eager_contrast, eager_read, eager_update, fast_contrast, fast_update
from .bench_patch_nce import eager_published
from .bench_sampling import eager_gather

ROOT = Path(__file__).resolve().parent.parent
CALLS = 25  # between two clock readings: short, so that some are not interrupted
LAYERS = 5


@dataclass(frozen=True)
class HostCase:
    """An op, its composition, the shapes of their arguments, and which arguments take a gradient."""

    op: str
    fast: Callable[..., Any]
    eager: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]
    wrt: tuple[int, ...] = ()


def eager_adain(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return scale[:, :, None, None] * F.instance_norm(x) + shift[:, :, None, None]


def eager_layers(*tensors: Tensor) -> Tensor:
    pairs = zip(tensors[:LAYERS], tensors[LAYERS:], strict=True)
    return torch.stack([eager_published(query, key) for query, key in pairs]).mean()


def fast_layers(*tensors: Tensor) -> Tensor:
    return torch.stack(ops.patch_nce_layers(list(tensors[:LAYERS]), list(tensors[LAYERS:]))).mean()


def eager_dag(score: Tensor) -> Tensor:
    scores = F.interpolate(score, (4, 4), mode="bilinear").flatten(1)[0]
    drawn = torch.randperm(16, device=score.device)[:8]
    order = drawn[scores[drawn].sort().indices]
    return torch.cat([order[:2], order[-2:]])


MAP, ROWS, ITEMS = (1, 4, 2, 2), (1, 4, 4), (3, 4)
OPS = [  # the blurs looked up when called, since another checkout may lack them
    HostCase("instance_norm", ops.instance_norm, F.instance_norm, (MAP,), (0,)),
    HostCase(
        "instance_norm relu", lambda x: ops.instance_norm(x, activation="relu"), eager_instance_norm, (MAP,), (0,)
    ),
    HostCase("adain", ops.adain, eager_adain, (MAP, (1, 4), (1, 4)), (0, 1, 2)),
    HostCase(
        "layer_norm",
        lambda x, w, b: fast_layer_norm(_channels_last(x), w, b, 0),
        lambda x, w, b: eager_layer_norm(_channels_last(x), w, b, 0),
        ((1, 2, 2, 4), (4,), (4,)),
        (0, 1, 2),
    ),
    HostCase(
        "gather_patches", lambda x: ops.gather_patches(x, _ids(x)), lambda x: eager_gather(x, _ids(x)), (MAP,), (0,)
    ),
    HostCase("blur_down", lambda x: ops.blur_down(x), eager_down, (MAP,), (0,)),
    HostCase("blur_up", lambda x: ops.blur_up(x), eager_up, (MAP,), (0,)),
    HostCase("patch_nce", ops.patch_nce, eager_published, (ROWS, ROWS), (0,)),
    HostCase("patch_nce dQ dK", ops.patch_nce, eager_published, (ROWS, ROWS), (0, 1)),
    HostCase("patch_nce_layers", fast_layers, eager_layers, (ROWS,) * 2 * LAYERS, tuple(range(LAYERS))),
    HostCase(
        "sample_patch_ids",
        lambda x: ops.sample_patch_ids(16, 4, device=x.device),
        lambda x: torch.randperm(16, device=x.device)[:4],
        (MAP,),
    ),
    HostCase("dag_select", lambda s: ops.dag_select(s, (4, 4), 4, oversample=2), eager_dag, ((1, 1, 2, 2),)),
    HostCase("memory_read", ops.memory_read, eager_read, (MAP, ITEMS, ITEMS), (0, 1, 2)),
    HostCase("memory_update", fast_update, eager_update, (ITEMS, (2, *ITEMS), MAP, MAP, MAP, MAP)),
    HostCase("memory_contrast", fast_contrast, eager_contrast, (MAP, ITEMS), (0, 1)),
]  # fmt: skip

_IDS: dict[torch.device, Tensor] = {}


def _channels_last(pixels: Tensor) -> Tensor:
    """(B, H, W, C) as a map (B, C, H, W)."""
    return pixels.permute(0, 3, 1, 2)


def _ids(x: Tensor) -> Tensor:
    if x.device not in _IDS:
        _IDS[x.device] = torch.tensor([0, 3], device=x.device)
    return _IDS[x.device]


def tensors_of(case: HostCase, device: str) -> list[Tensor]:
    generator = torch.Generator(device).manual_seed(0)
    return [torch.randn(shape, generator=generator, device=device) for shape in case.shapes]


def microseconds(call: Callable[[], Any], device: str, budget: float) -> float:
    """The minimum time of a call, over as many as fit into the budget (seconds)."""
    for _ in range(CALLS):  # compiles
        call()
    machine.synchronize(device)
    best, end = float("inf"), time.perf_counter() + budget
    while time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(CALLS):
            call()
        best = min(best, (time.perf_counter() - start) / CALLS)
        machine.synchronize(device)
    return best * 1e6


def measure(function: Callable[..., Any], case: HostCase, device: str, budget: float) -> dict[str, float]:
    """Microseconds per call: "forward" without gradients, and "both" if the op has a gradient. On a GPU PyTorch takes
    gradients in a thread of the device, which wakes up for each call; "both in one thread" is without it."""
    tensors = tensors_of(case, device)
    with torch.no_grad():
        times = {"forward": microseconds(lambda: function(*tensors), device, budget)}
    if case.wrt:
        leaves = [tensors[index].requires_grad_() for index in case.wrt]
        upstream = torch.ones_like(function(*tensors))
        # Called directly: the checks of torch.autograd.grad would add 30 microseconds to every measurement.
        engine = torch.autograd.Variable._execution_engine

        def both() -> None:
            engine.run_backward((function(*tensors),), (upstream,), False, False, tuple(leaves), True, True)

        times["both"] = microseconds(both, device, budget)
        if torch.device(device).type != "cpu":
            with torch.autograd.set_multithreading_enabled(False):
                times["both in one thread"] = microseconds(both, device, budget)
    return times


def work(path: str, device: str, budget: float) -> dict[str, Any]:
    """All cases of one path: "eager", "cgcl_fast" or "triton"."""
    torch.set_num_threads(1)
    with ExitStack() as entered:
        if path == "triton" and device == "cpu":
            from cgcl_fast.kernels import _launch
            from cgcl_fast.ops import _check

            entered.enter_context(_launch.launching_nothing())
            _check.readable = lambda value: False  # as for GPU tensors, whose values are not checked
        times: dict[str, Any] = {}
        for case in OPS:
            if hasattr(ops, case.op.split()[0]):  # another checkout may lack it
                times[case.op] = measure(case.eager if path == "eager" else case.fast, case, device, budget)
        return times


#: Runs this checkout's benchmarks with the package of another one.
START = "import sys; sys.path.insert(0, sys.argv[1]); import cgcl_fast; sys.path[0] = sys.argv[2]; "
START += "from benchmarks.bench_host import main; main(sys.argv[3:])"


def in_process(path: str, checkout: Path, device: str, budget: float) -> dict[str, Any]:
    environment = dict(os.environ)
    if path == "triton" and device == "cpu":
        environment |= {"TRITON_INTERPRET": "1", "CGCL_FAST_BACKEND": "triton"}
    options = ["--work", path, "--device", device, "--budget", str(budget)]
    command = [sys.executable, "-c", START, str(checkout), str(ROOT), *options]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise SystemExit(f"{path} of {checkout}: {run.stderr.strip().splitlines()[-1]}")
    return json.loads(run.stdout.splitlines()[-1])


def least(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    return {op: {name: min(value, b[op][name]) for name, value in times.items()} for op, times in a.items()}


def table(results: dict[str, Any]) -> str:
    others = [name for name in results if name != "eager"]
    lines = [f"{'microseconds of a call (times eager)':38}" + "".join(f"{name:>20}" for name in ("eager", *others))]
    for op, times in results["eager"].items():
        for direction, eager in times.items():
            cells = [f"{eager:20.1f}"]
            for name in others:
                value = results[name].get(op, {}).get(direction)
                cells.append(("-" if value is None else f"{value:11.1f} ({value / eager:5.2f})").rjust(20))
            lines.append(f"{op + ' ' + direction:38}" + "".join(cells))
    return "\n".join(lines)


@pytest.mark.parametrize("path", ["eager", "cgcl_fast"])
@pytest.mark.parametrize("case", OPS, ids=lambda case: case.op)
def test_host(case: HostCase, path: str, benchmark: Any) -> None:
    benchmark.group = f"host time of {case.op}"
    tensors = tensors_of(case, "cpu")
    with torch.no_grad():
        benchmark(case.eager if path == "eager" else case.fast, *tensors)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--also", action="append", default=[], metavar="NAME=CHECKOUT", help="another checkout's ops")
    parser.add_argument("--output", type=Path, help="JSON with all figures")
    parser.add_argument("--rounds", type=int, default=5, help="processes of each path, which take turns")
    parser.add_argument("--budget", type=float, default=0.2, help="seconds for each figure in a round")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--work", choices=("eager", "cgcl_fast", "triton"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.work:
        print(json.dumps(work(options.work, options.device, options.budget)))
        return
    paths = {"eager": ("eager", ROOT), "cgcl_fast": ("cgcl_fast", ROOT)}
    if options.device == "cpu":
        paths["triton, no launch"] = ("triton", ROOT)
    for also in options.also:
        name, _, checkout = also.partition("=")
        paths[name] = ("cgcl_fast", Path(checkout).resolve())
    results: dict[str, Any] = {}
    here = options.device == "cuda" and not options.also  # starting a process would take longer than measuring
    for _ in range(options.rounds):
        for name, (path, checkout) in paths.items():
            measured = partial(work, path) if here else partial(in_process, path, checkout)
            latest = measured(options.device, options.budget)
            results[name] = least(results[name], latest) if name in results else latest
    print(table(results))
    if options.output:
        document = {"machine": machine.describe(options.device), "microseconds": results}
        options.output.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
