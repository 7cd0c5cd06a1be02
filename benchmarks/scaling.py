"""What several processes cost a training: the reduction of gradients by their bytes, in two processes on this machine.

    python -m benchmarks.scaling --page docs/scaling.md           measure (two minutes), write results, fill the page
    python -m benchmarks.scaling --from FILE.json --page docs/scaling.md          fill the page from earlier results
    python -m benchmarks.scaling --scale quick                    each step once
    python -m benchmarks.scaling --scale tiny                     tiny networks: shows that it works

Two processes with half of the cores each, as ``torchrun`` starts them, exchange tensors of several sizes alone; then
they make training steps of methods, by the engine's Trainer at 64x64, in which DDP averages the gradients, and in turn
the same steps without that. What a batch from files takes one core is measured before. What is exact is counted: for
each method with its paper's networks the bytes of gradients, of buffers and of a batch (at 256x256).

`benchmarks.scaling_page` makes tables of it, and predictions for GPUs with the step times of `benchmarks.gpu_step`.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn

from cgcl_fast.engine import Options, Trainer, leave_group, make_accelerator
from cgcl_fast.methods import METHODS, Method

from . import bench_data, gpu_step, machine, scaling_page
from .bench_step import batch_of
from .report import rewrite
from .run import default_output, rounded

PROCESSES = 2
FLOAT32 = 4
IMAGE_SIDE = 256
"""Of the batches whose bytes are counted."""


@dataclass(frozen=True)
class Scale:
    """How large everything is, and how often it is done."""

    sizes: tuple[int, ...] = (1 << 12, 1 << 16, 1 << 20, 1 << 22, 1 << 24, 1 << 26, 1 << 28)
    """Bytes of the tensors that are exchanged alone."""
    steps: tuple[tuple[str, dict[str, Any]], ...] = (
        ("cut", {"ngf": 16, "ndf": 16}),
        ("cut", {"ngf": 32, "ndf": 32}),
        ("cut", {}),
        ("cyclegan", {}),
        ("mguit", {}),
    )
    """Methods, and what is not as in their papers."""
    side: int = 64
    rounds: int = 3
    """Of the steps, with and without exchange in turn."""
    in_a_row: int = 2
    small: bool = False


TINY = Scale(sizes=(1 << 12, 1 << 16), steps=(("cut", {}),), side=32, rounds=1, in_a_row=1, small=True)
SCALES = {"full": Scale(), "quick": Scale(rounds=1, in_a_row=1), "tiny": TINY}


# ----------------------------------------------------------------------------------------------------------- counted


def method_on_meta(name: str) -> Method:
    """With its paper's networks, which take no memory."""
    with torch.device("meta"):
        return METHODS[name](METHODS[name].Config())


def trained(method: Method) -> list[dict[int, nn.Parameter]]:
    """The parameters that each phase trains, whose gradients DDP averages once."""
    return [
        {id(p): p for name in phase.networks for p in getattr(method, name).parameters() if p.requires_grad}
        for phase in method.phases()
    ]


def gradient_bytes(method: Method) -> list[int]:
    """Of each phase; gradients are float32 in every precision."""
    return [sum(p.numel() for p in phase.values()) * FLOAT32 for phase in trained(method)]


def buffer_bytes(method: Method) -> int:
    """Of the buffers of the networks that are trained, which DDP sends out at each forward of a phase."""
    return sum(
        buffer.numel() * buffer.element_size()
        for phase in method.phases()
        for name in phase.networks
        for buffer in getattr(method, name).buffers()
    )


def input_bytes(name: str, method: Method, side: int) -> int:
    """Of the tensors of a batch, as they are copied to the device."""
    batch = method.prepare(batch_of(name, side, "cpu"))
    return sum(value.numel() * value.element_size() for value in batch.values() if isinstance(value, Tensor))


def counts() -> dict[str, dict[str, Any]]:
    found = {}
    for name in METHODS:
        method = method_on_meta(name)
        found[name] = {
            "gradient_bytes": gradient_bytes(method),
            "buffer_bytes": buffer_bytes(method),
            "input_bytes": input_bytes(name, method, IMAGE_SIDE),
        }
    return found


# ---------------------------------------------------------------------------------------------------------- measured


def data_cost(rounds: int) -> dict[str, float]:
    """Seconds that one core takes for an image of each domain, from JPEGs of a megapixel, and the bytes of a file."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run = bench_data.load(0, "cgcl_fast", "", "cpu")
        run()
        seconds = min(seconds_of(run) for _ in range(rounds)) / bench_data.BATCHES
    finally:
        torch.set_num_threads(threads)
    files = list(bench_data.photographs().rglob("*.jpg"))
    return {
        "seconds": rounded(seconds),
        "file_bytes": round(statistics.mean(file.stat().st_size for file in files)),
    }


def seconds_of(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def exchange_times(size: int) -> list[float]:
    """Seconds of single exchanges of so many bytes, each from the moment when both processes are there."""
    tensor = torch.ones(size // FLOAT32)
    distributed.all_reduce(tensor)
    found = []
    for _ in range(5 if size >= 1 << 26 else 20):
        tensor.fill_(1)
        distributed.barrier()
        found.append(seconds_of(lambda: distributed.all_reduce(tensor)))
    return [rounded(seconds) for seconds in found]


@contextmanager
def without_exchange(trainer: Trainer) -> Iterator[None]:
    """Phases as they are in a process that trains alone."""
    wrapped = [running.module for running in trainer.phases]
    for running in trainer.phases:
        running.module = running.module.module  # type: ignore[assignment]
    try:
        yield
    finally:
        for running, module in zip(trainer.phases, wrapped, strict=True):
            running.module = module


def step_times(name: str, options: dict[str, Any], scale: Scale, folder: Path) -> dict[str, Any]:
    """Seconds of a step in both processes at once, with and without the exchange of gradients."""
    config = gpu_step.config_of(name, True) if scale.small else METHODS[name].Config(**options)
    batch = batch_of(name, scale.side, "cpu", config)
    torch.manual_seed(0)
    trainer = Trainer(
        METHODS[name](config),
        gpu_step.Fixed(batch),
        folder,
        Options(steps=gpu_step.STEPS, graphs="off"),
        schedule=lambda step: 1.0,
        sample_batch=batch,
        config={},
        generator_file=lambda module: b"",
        accelerator=make_accelerator(device="cpu"),
    )
    trainer.method.train()

    def steps() -> float:
        """Both begin together, and the slower one counts."""
        distributed.barrier()
        start = time.perf_counter()
        for _ in range(scale.in_a_row):
            trainer.train_step([batch])
        distributed.barrier()
        return rounded((time.perf_counter() - start) / scale.in_a_row)

    found: dict[str, list[float]] = {"with": [], "without": []}
    trainer.train_step([batch])
    for _ in range(scale.rounds):
        found["with"].append(steps())
        with without_exchange(trainer):
            found["without"].append(steps())
    phases = gradient_bytes(trainer.method)
    return {"method": name, "options": options, "side": scale.side, "gradient_bytes": phases, **found}


def worker(output: Path, scale: Scale) -> None:
    """One of the processes; the first one writes what was measured."""
    accelerator = make_accelerator(device="cpu")
    exchanged = [{"bytes": size, "seconds": exchange_times(size)} for size in scale.sizes]
    steps = []
    for name, options in scale.steps:
        steps.append(step_times(name, options, scale, output.parent))
        gc.collect()  # DDP and its buckets, before there are the next ones
    if accelerator.is_main_process:
        output.write_text(json.dumps({"exchanged": exchanged, "steps": steps, "threads": torch.get_num_threads()}))


def in_processes(scale: str) -> dict[str, Any]:
    """What `worker` has measured in two processes."""
    threads = max(1, (machine.describe(rates={})["cores"] or 1) // PROCESSES)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(PROCESSES)]
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "measured.json")
        command = [sys.executable, *launch, "-m", "benchmarks.scaling", "--worker", str(output)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""}
        subprocess.run([*command, "--scale", scale], cwd=machine.ROOT, env=environment, check=True)
        return json.loads(output.read_text())


def measure(scale: str, note: str) -> dict[str, Any]:
    """All results as one document."""
    info = machine.describe(rates={}) | {"suite": "scaling", "processes": PROCESSES, "scale": scale}
    return {
        **({"note": note} if note else {}),
        "machine_info": info,
        "data": data_cost(SCALES[scale].rounds),
        **in_processes(scale),
        "counts": counts(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.scaling", description="What several processes cost a training.")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/scaling-cpu-MACHINE-DATE.json")
    parser.add_argument("--from", type=Path, dest="source", help="results of an earlier run: measure nothing")
    parser.add_argument("--gpu", type=Path, help="results of benchmarks.gpu_step (default: the newest of an H100)")
    parser.add_argument("--page", type=Path, help="rewrite the section between the marks of this Markdown file")
    parser.add_argument("--note", default="", help="what is to be said of the run, for the results and the page")
    parser.add_argument("--scale", choices=SCALES, default="full", help="how much is measured (default: full)")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        try:
            worker(options.worker, SCALES[options.scale])
        finally:
            leave_group()
        return 0
    gpu = options.gpu or max((machine.ROOT / "benchmarks" / "results").glob("step-cuda-h100-*.json"), default=None)
    if gpu is None:
        parser.error("--gpu: there are no results of benchmarks.gpu_step on an H100")
    source = options.source
    if source is None:
        document = measure(options.scale, options.note)
        source = options.output
        if source is None:
            source = default_output(document["machine_info"])
            source = source.with_name(f"scaling-{source.name}")
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text(json.dumps(document, indent=1) + "\n")
    section = scaling_page.section(source, gpu)
    if options.page:
        rewrite(options.page, section, scaling_page.BEGIN, scaling_page.END)
    print(section)
    return 0


if __name__ == "__main__":
    sys.exit(main())
