"""The cost of a training step on a GPU for every method: the user's waiting time, the GPU's work, and the memory.

    python -m benchmarks.gpu_step [--minutes 4] [--methods cut,enco] [--published DIR] [--output FILE.json]
    python -m benchmarks.gpu_step --rehearse        tiny networks and images on the CPU: a dry run

A step is that of the engine's Trainer, with the paper's networks on 256x256 pixels of the built-in streets, and its
batch in pinned memory. Each step is measured

- alone, waiting for the device before and after: the wall clock, and the host's share until the call returns;
- in a row: twenty steps without waiting in between, as in training;
- traced, after all rows have their times (tracing may slow down later work): how long the device is busy, and with
  which kernels.

"plain eager" is the same step with PyTorch's own operations instead of cgcl_fast's; "published" is the published code
in a checkout. The most important rows come first; rows that exceed the minutes remain unmeasured.
"""

from __future__ import annotations

import argparse
import functools
import gc
import itertools
import json
import os
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

import cgcl_fast
from cgcl_fast import _train_options
from cgcl_fast.engine import Options, Trainer, make_accelerator, set_tf32
from cgcl_fast.methods import METHODS

from . import cuda, machine, report
from .bench_step import HALVES, batch_of, seed_of_draw
from .case import BOTH
from .published_cut import MODES, is_checkout, published_step
from .run import default_output, rounded

Step = Callable[[], object]
WORK = ("kernel", "gpu_memcpy", "gpu_memset")  # categories of a trace's events: what the device does
STEPS = 1000  # length of the training that the step is from


@dataclass(frozen=True)
class Variant:
    """How a step is run. Without a precision it is the published code's."""

    precision: str = "fp32"
    graphs: str = "off"
    compile: bool = False
    backend: str = "auto"
    published: bool = False

    @property
    def needs_gpu(self) -> bool:
        return self.graphs == "on"


VARIANTS = {
    "published": Variant(published=True),
    "plain eager": Variant(backend="reference"),
    "eager": Variant(),
    "graph": Variant(graphs="on"),
    "bf16 eager": Variant(precision="bf16"),
    "bf16 graph": Variant(precision="bf16", graphs="on"),
    "compile": Variant(compile=True, graphs="on"),
}
LARGE_BATCH = 8


@dataclass(frozen=True)
class Row:
    """A step to measure.

    Args:
        method: its name.
        variant: a name of VARIANTS.
        note: which of the method's different steps.
        progress: the share of the training that is done.
        flipped: FastCUT's flip, which is random with probability 1/2.
        batch: images per domain.
    """

    method: str
    variant: str
    note: str = ""
    progress: float = 0.0
    flipped: bool | None = None
    batch: int = 1

    @property
    def name(self) -> str:
        return f"{self.method} step {self.variant}{self.note}{f' batch {self.batch}' if self.batch > 1 else ''}"


@dataclass(frozen=True)
class Scale:
    """Sizes and repetitions of the benchmark."""

    size: int = 256
    small: bool = False
    warm_up: int = 6
    """Enough steps for the engine to capture its graph."""
    alone: int = 8
    in_a_row: int = 20
    runs: int = 2
    traced: int = 3


#: Smaller scenes have no instance that is large enough for CGL.
SMALL = Scale(size=128, small=True, warm_up=2, alone=2, in_a_row=2, runs=1)


@dataclass
class Fixed:
    """A loader that repeats one batch."""

    batch: dict[str, Any]
    epoch: int = field(default=0, init=False)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return itertools.repeat(self.batch)

    def state_dict(self) -> dict[str, int]:
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        pass

    def close(self) -> None:
        pass


def rows_of(method: str, variant: str, batch: int = 1) -> list[Row]:
    if method == "fastcut":
        return [
            Row(method, variant, f" {'flipped' if flipped else 'not flipped'}", flipped=flipped, batch=batch)
            for flipped in (False, True)
        ]
    halves = HALVES.get(method, (("", 0.0),))
    return [Row(method, variant, note, progress, batch=batch) for note, progress in halves]


def plan(methods: Sequence[str], device: str, *, published: bool, compiled: bool) -> list[Row]:
    """All rows, the most important first. Graphs only on a GPU."""
    chosen = [("cut", variant, 1) for variant in ("graph", "eager", "bf16 graph")]
    chosen += [("cut", "published", 1)] if published else []
    for variant in ("graph", "bf16 graph", "eager"):
        chosen += [(method, variant, 1) for method in METHODS]
    chosen += [("cut", variant, LARGE_BATCH) for variant in ("graph", "bf16 graph", "eager")]
    chosen += [(method, "published", 1) for method in MODES if published]
    for variant in ("plain eager", "bf16 eager"):
        chosen += [(method, variant, 1) for method in METHODS]
    chosen += [("cut", "compile", 1)] if compiled else []
    rows = [row for method, variant, batch in chosen for row in rows_of(method, variant, batch)]
    runs_here = [row for row in rows if device == "cuda" or not VARIANTS[row.variant].needs_gpu]
    return [row for row in dict.fromkeys(runs_here) if row.method in methods]


def config_of(method: str, small: bool) -> Any:
    if not small:
        return METHODS[method].Config()
    from tests.methods.tiny import TINY, TINY_OF

    options = _train_options.resolve([method, "--preset", "paper", *TINY, *TINY_OF.get(method, [])])
    return _train_options.config_of(options)


@functools.cache
def batch_for(method: str, size: int, small: bool, batch: int, device: str) -> dict[str, Any]:
    """Drawn once for all variants of a step, in pinned memory for a GPU."""
    drawn = batch_of(method, size, "cpu", config_of(method, small), batch)
    if device != "cuda":
        return drawn
    return {name: value.pin_memory() if isinstance(value, Tensor) else value for name, value in drawn.items()}


def choose_precision(row: Row, tf32: bool) -> None:
    """Set float32's precision as a training does; the published code keeps PyTorch's default."""
    if VARIANTS[row.variant].published:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = True
    else:
        set_tf32(tf32)


def build(row: Row, scale: Scale, device: str, folder: Path, published: Path | None) -> Step:
    """A function that makes one step without waiting for the device."""
    variant = VARIANTS[row.variant]
    config = config_of(row.method, scale.small)
    batch = batch_for(row.method, scale.size, scale.small, row.batch, device)
    if variant.published:
        assert published is not None
        return published_step(published, row.method, batch, device, folder, flipped=row.flipped, small=scale.small)
    torch.manual_seed(0)
    trainer = Trainer(
        METHODS[row.method](config),
        Fixed(batch),
        folder,
        Options(steps=STEPS, precision=variant.precision, compile=variant.compile, graphs=variant.graphs),
        schedule=lambda step: 1.0,
        sample_batch=batch,
        config={},
        generator_file=lambda module: b"",
        accelerator=make_accelerator(device=device, precision=variant.precision),
    )
    trainer.method.train()
    trainer.step = round(row.progress * STEPS)
    seed = None if row.flipped is None else seed_of_draw(above_half=not row.flipped)

    def step() -> None:
        if seed is not None:
            torch.default_generator.manual_seed(seed)  # a step's first draw is the flip
        with cgcl_fast.backend(variant.backend):
            trainer.train_step([batch])

    return step


def warm_up(step: Step, scale: Scale, device: str) -> float:
    """Run the first steps; returns the seconds of the first. Resets peak memory after cuDNN has tried its
    algorithms."""
    start = time.perf_counter()
    step()
    machine.synchronize(device)
    first = time.perf_counter() - start
    step()
    machine.synchronize(device)
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    for _ in range(scale.warm_up - 2):
        step()
    machine.synchronize(device)
    return first


def times(step: Step, scale: Scale, device: str) -> dict[str, list[float]]:
    """Seconds per step: "wall" and "host" of single steps, "in_a_row" of steps in a row."""
    samples: dict[str, list[float]] = {"wall": [], "host": [], "in_a_row": []}
    for _ in range(scale.alone):
        start = time.perf_counter()
        step()
        samples["host"].append(time.perf_counter() - start)
        machine.synchronize(device)
        samples["wall"].append(time.perf_counter() - start)
    for _ in range(scale.runs):
        start = time.perf_counter()
        for _ in range(scale.in_a_row):
            step()
        machine.synchronize(device)
        samples["in_a_row"].append((time.perf_counter() - start) / scale.in_a_row)
    return {name: [rounded(value) for value in values] for name, values in samples.items()}


def measure(row: Row, step: Step, scale: Scale, device: str) -> dict[str, Any]:
    """An entry of the results, in the format of `benchmarks.run`; "samples" are single times in seconds."""
    first = warm_up(step, scale, device)
    samples = times(step, scale, device)
    variant = VARIANTS[row.variant]
    info: dict[str, Any] = {
        "op": f"{row.method} step",
        "shape": f"({row.batch}, 3, {scale.size}, {scale.size}){row.note}",
        "impl": row.variant,
        "pass": BOTH,
        "precision": variant.precision,
        "graphs": variant.graphs,
        "compile": variant.compile,
        "batch": row.batch,
        "host": statistics.median(samples["host"]),
        "in_a_row": statistics.median(samples["in_a_row"]),
        "first_step": rounded(first),
    }
    if device == "cuda":
        info["peak_allocated_bytes"] = torch.cuda.max_memory_allocated()
        info["peak_reserved_bytes"] = torch.cuda.max_memory_reserved()
    wall = samples["wall"]
    return {
        "fullname": f"benchmarks.gpu_step::{row.name}",
        "extra_info": info,
        "samples": samples,
        "medians": [statistics.median(wall)],
        "minima": [min(wall)],
        "stats": {"min": min(wall), "median": statistics.median(wall), "rounds": len(wall)},
    }


def trace(step: Step, scale: Scale, device: str, file: Path) -> dict[str, Any]:
    """ "busy" seconds of the device per step, the number of "kernels", and the "longest" of them by name."""
    warm_up(step, scale, device)
    steps = scale.traced
    activities = [torch.profiler.ProfilerActivity.CUDA]
    # The first trace starts CUPTI; it takes a while, in which kernels are missed.
    for count in (1, steps):
        with torch.profiler.profile(activities=activities) as profiler:
            for _ in range(count):
                step()
            machine.synchronize(device)
    profiler.export_chrome_trace(str(file))
    events = json.loads(file.read_text())["traceEvents"]
    busy, kernels = device_work(events)
    return {"busy": rounded(busy / steps), "kernels": round(kernels / steps), "longest": longest(events, steps)}


def device_work(events: list[dict[str, Any]]) -> tuple[float, int]:
    """The seconds in which kernels, copies or fills run (overlaps counted once), and the number of kernels, in a trace
    in Chrome's format."""
    work = [event for event in events if event.get("cat") in WORK]
    busy, until = 0.0, float("-inf")
    for start, end in sorted((event["ts"], event["ts"] + event["dur"]) for event in work):
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    return busy / 1e6, sum(event["cat"] == "kernel" for event in work)


def longest(events: list[dict[str, Any]], steps: int, most: int = 40) -> dict[str, list[float]]:
    """Of the kernels, copies and fills that take the longest per step, by name: how many, and seconds together."""
    total: dict[str, list[float]] = {}
    for event in events:
        if event.get("cat") in WORK:
            each = total.setdefault(event["name"][:160], [0, 0.0])
            each[0] += 1 / steps
            each[1] += event["dur"] / 1e6 / steps
    ordered = sorted(total.items(), key=lambda entry: -entry[1][1])[:most]
    return {name: [round(count, 2), rounded(seconds)] for name, (count, seconds) in ordered}


def describe(device: str) -> dict[str, Any]:
    info = cuda.describe(cuda.Clock(device))
    backends = torch.backends
    return info | {
        "suite": "gpu_step",
        "cudnn": backends.cudnn.version(),
        "cudnn_benchmark": backends.cudnn.benchmark,
        "float32_convolutions": backends.cudnn.conv.fp32_precision,
        "float32_products": backends.cuda.matmul.fp32_precision,
    }


class Named(Protocol):
    @property
    def name(self) -> str: ...


Measured = TypeVar("Measured", bound=Named)


class Results(Generic[Measured]):
    """The measurements, written after each row, because a kernel that hangs would lose all earlier ones."""

    def __init__(self, info: dict[str, Any], rows: Sequence[Measured], output: Path, device: str) -> None:
        self.info = info
        self.rows = rows
        self.output = output
        self.device = device
        self.entries: dict[Measured, dict[str, Any]] = {}
        self.failures: list[str] = []
        self.usable = True
        self.write()

    def attempt(self, row: Measured, work: Callable[[Measured], str]) -> None:
        """Measure a row; its failure does not affect the others."""
        try:
            print(f"{row.name}: {work(row)}", flush=True)
        except Exception as error:
            self.failures.append(f"{row.name}: {' '.join(str(error).split())[:300]}")
            print(f"FAILED {self.failures[-1]}\n{traceback.format_exc(limit=-4)}", flush=True)
            self.usable = cuda.still_usable(self.device)
        gc.collect()
        if self.device == "cuda" and self.usable:
            torch.cuda.empty_cache()
        self.write()

    def write(self) -> None:
        missing = [row.name for row in self.rows if row not in self.entries]
        data = {"machine_info": self.info, "repeats": 1, "failures": self.failures, "not_measured": missing}
        self.output.write_text(json.dumps({**data, "benchmarks": list(self.entries.values())}, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.gpu_step", description="Time training steps on a GPU.")
    parser.add_argument("--minutes", type=float, default=4.0, help="what does not fit is left unmeasured (default: 4)")
    parser.add_argument("--methods", default=",".join(METHODS), help="some of: %(default)s")
    parser.add_argument("--variants", default=",".join(VARIANTS), help="some of: %(default)s")
    parser.add_argument("--published", type=Path, help="a checkout of taesungp/contrastive-unpaired-translation")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out, which takes a minute")
    parser.add_argument("--tf32", choices=("true", "false"), default="true", help="as of a training (default: true)")
    parser.add_argument("--rehearse", action="store_true", help="tiny networks and images")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda; for a rehearsal cpu")
    parser.add_argument("--list", action="store_true", help="print what would be timed, and stop")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/step-cuda-GPU-DATE.json")
    arguments = parser.parse_args()
    device = arguments.device or ("cpu" if arguments.rehearse else "cuda")
    scale = SMALL if arguments.rehearse else Scale()
    methods, variants = arguments.methods.split(","), arguments.variants.split(",")
    for option, given, known in (("methods", methods, METHODS), ("variants", variants, VARIANTS)):
        if unknown := set(given) - set(known):
            parser.error(f"--{option}: expected some of {', '.join(known)}, got {', '.join(sorted(unknown))}")
    if arguments.published and not is_checkout(arguments.published):
        parser.error(f"--published: {arguments.published} holds no models/cut_model.py and options/train_options.py")
    compiled = not (arguments.no_compile or arguments.rehearse)
    rows = plan(methods, device, published=bool(arguments.published), compiled=compiled)
    rows = [row for row in rows if row.variant in variants]
    if arguments.list:
        print("\n".join(row.name for row in rows))
        return 0
    if not rows:
        parser.error("none of these variants can be run with these methods here")
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device here; --rehearse runs tiny networks on the CPU")
    # A profiler that tears down CUPTI breaks existing CUDA graphs.
    os.environ.update(TEARDOWN_CUPTI="0", DISABLE_CUPTI_LAZY_REINIT="1")
    begin = time.monotonic()
    end = begin + 60 * arguments.minutes
    end_of_times = begin + (0.8 if device == "cuda" else 1.0) * 60 * arguments.minutes
    torch.backends.cudnn.benchmark = device == "cuda"  # as in a training
    if device == "cuda":
        set_tf32(arguments.tf32 == "true")
    info = describe(device)
    gc.freeze()  # what is imported stays, and need not be looked at after each row
    output = arguments.output
    if output is None:
        output = default_output(info)
        output = output.with_name(f"step-{output.name}")
    output.parent.mkdir(parents=True, exist_ok=True)
    results = Results(info, rows, output, device)
    with tempfile.TemporaryDirectory() as folder:

        def made(row: Row) -> Step:
            if device == "cuda":
                choose_precision(row, arguments.tf32 == "true")
            return build(row, scale, device, Path(folder), arguments.published)

        def timed(row: Row) -> str:
            step = made(row)
            entry = results.entries[row] = measure(row, step, scale, device)
            alone, in_a_row = entry["stats"]["median"], entry["extra_info"]["in_a_row"]
            return f"{alone * 1e3:.2f} ms alone, {in_a_row * 1e3:.2f} in a row"

        def traced(row: Row) -> str:
            step = made(row)
            totals = trace(step, scale, device, Path(folder, "trace.json"))
            results.entries[row]["extra_info"].update(totals)
            return f"{totals['busy'] * 1e3:.2f} ms busy with {totals['kernels']} kernels"

        for row in rows:
            if time.monotonic() < end_of_times and results.usable:
                results.attempt(row, timed)
        for row in list(results.entries) if device == "cuda" else []:
            if time.monotonic() < end and results.usable:
                results.attempt(row, traced)
    print(report.report(*report.read(output)))
    why = "for lack of time" if results.usable else "since the device is unusable after the last failure"
    left = len(rows) - len(results.entries)
    print(f"{len(results.entries)} timed, {left} not ({why}, or failed); results: {output}")
    return 1 if results.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
