"""Profile of a training step on a CPU: time by kind of work, beside the machine's floor.

    python -m benchmarks.step METHOD [--size 256] [--precision fp32|bf16] [--threads N] [--output FILE.json]
    python -m benchmarks.step METHOD --return-freed      where the C library returns freed memory, unlike in a training
    python -m benchmarks.step METHOD --rehearse          tiny networks: a dry run

A step is that of the engine's Trainer with the paper's networks on the built-in streets, at batch 1. First its time is
measured without profiling. Then every operator that PyTorch dispatches in it is timed and its tensors counted: bytes
are those of its arguments and results, FLOPs those of convolutions and matrix products. The floor is the larger of the
bytes over the rate of a large copy and the FLOPs over the rate of a large product in the step's precision, both
measured in the same run. "data" is making a batch, which in a training runs beside the step.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import optimizer
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from cgcl_fast._heap import keep_freed_memory
from cgcl_fast.data import build_loader
from cgcl_fast.engine.device import peak_memory
from cgcl_fast.methods import METHODS

from . import gpu_step, machine
from .bench_step import dataset_of
from .markdown import mebibytes, milliseconds, percent, table
from .run import default_output, rounded

BETWEEN = "between operators"
"""The rest of a step's time: Python, autograd and the dispatcher."""

#: Prefixes of operators' names, without leading "_", by kind; the first match counts.
KINDS = {
    "convolutions": ("convolution", "conv2d", "mkldnn_convolution", "slow_conv"),
    "norms": (
        *("adain", "instance_norm", "layer_norm", "native_group_norm"),
        *("batch_norm", "native_batch_norm", "cudnn_batch_norm", "var_mean", "rsqrt"),
    ),
    "padding": ("reflection_pad", "replication_pad", "constant_pad", "pad"),
    "resampling": ("upsample", "blur", "avg_pool", "adaptive_avg_pool", "pixel_shuffle", "pixel_unshuffle"),
    "loss": (
        *("patch_nce", "gather_patches", "sample_patch_ids", "dag_select", "memory"),
        *("mse_loss", "l1_loss", "smooth_l1_loss", "binary_cross_entropy", "softplus", "log_softmax", "nll_loss"),
    ),
    "products": ("mm", "addmm", "bmm", "baddbmm", "mv", "linear", "addmv", "dot"),
    "copies": ("clone", "copy", "to_copy", "contiguous", "cat", "stack"),
    "optimiser": ("foreach", "fused"),
}
ORDER = (*KINDS, "other", BETWEEN, "data")


@dataclass
class Cost:
    """The cost of a kind, or of an operator, in one step."""

    calls: int = 0
    seconds: float = 0.0
    bytes: int = 0
    flops: int = 0

    def add(self, other: Cost) -> None:
        self.calls += other.calls
        self.seconds += other.seconds
        self.bytes += other.bytes
        self.flops += other.flops

    def floor(self, rates: dict[str, float]) -> float:
        """Seconds."""
        return max(self.bytes / rates["copy_bytes_per_second"], self.flops / rates["matmul_flops_per_second"])


class Operators(TorchDispatchMode):
    """Records the cost of each dispatched operator, by (kind, name)."""

    def __init__(self) -> None:
        super().__init__()
        self.costs: dict[tuple[str, str], Cost] = {}
        self.optimising = False

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        start = time.perf_counter()
        result = func(*args, **kwargs)
        cost = Cost(1, time.perf_counter() - start)
        given, got = (pytree.tree_leaves(each) for each in ((args, kwargs), result))
        if not is_view(func):
            cost.bytes = bytes_of(given) + bytes_of(got)
        if (formula := flop_registry.get(func.overloadpacket)) is not None:
            cost.flops = int(formula(*args, **kwargs, out_val=result))
        name = func.overloadpacket.__name__
        kind = "optimiser" if self.optimising else kind_of(name, args)
        self.costs.setdefault((kind, name), Cost()).add(cost)
        return result

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Record, and recognise when an optimiser is running."""

        def begin(*_: object) -> None:
            self.optimising = True

        def end(*_: object) -> None:
            self.optimising = False

        hooks = (
            optimizer.register_optimizer_step_pre_hook(begin),
            optimizer.register_optimizer_step_post_hook(end),
        )
        try:
            with self:
                yield
        finally:
            for hook in hooks:
                hook.remove()


def is_view(func: Any) -> bool:
    """Whether it moves no data: its result aliases an argument that it does not write."""
    returns = func._schema.returns
    return bool(returns) and all(each.alias_info is not None and not each.alias_info.is_write for each in returns)


def bytes_of(values: Sequence[Any]) -> int:
    """Bytes of all tensors in the values; repeated ones count once, expanded ones by what is stored."""
    sizes = {}
    for value in values:
        if isinstance(value, Tensor):
            sides = zip(value.shape, value.stride(), strict=True)
            numbers = torch.Size(side for side, stride in sides if stride or side == 0).numel()
            sizes[value.data_ptr(), numbers] = numbers * value.element_size()
    return sum(sizes.values())


def kind_of(name: str, args: Sequence[Any] = ()) -> str:
    """The kind of an operator. A convolution of each channel separately is a blur."""
    plain = name.lstrip("_")
    kind = next((kind for kind, names in KINDS.items() if plain.startswith(names)), "other")
    if kind == "convolutions":
        groups = next((value for value in reversed(args) if isinstance(value, int) and not isinstance(value, bool)), 1)
        return "resampling" if groups > 1 else kind
    return kind


def kinds_of(costs: dict[tuple[str, str], Cost]) -> dict[str, Cost]:
    by_kind: dict[str, Cost] = {}
    for (kind, _), cost in costs.items():
        by_kind.setdefault(kind, Cost()).add(cost)
    return by_kind


def product_rate(dtype: torch.dtype, size: int, budget: float) -> float:
    """FLOPs per second of a product of size x size matrices."""
    a, b = torch.rand(2, size, size).to(dtype)
    return 2 * size**3 / machine.best_seconds(lambda: torch.mm(a, b), budget)


def rates_here(precision: str, small: bool) -> dict[str, float]:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    budget = 0.01 if small else 1.0
    return {
        "copy_bytes_per_second": machine.copy_rate(1 << 20 if small else machine.LARGE_BYTES, budget=budget),
        "matmul_flops_per_second": product_rate(dtype, 128 if small else machine.MATMUL_SIZE, budget),
    }


def data_cost(method: str, size: int, config: Any) -> Cost:
    """Making a batch with the loader in this process: the minimum time of a few."""
    batches = iter(build_loader(dataset_of(method, size, config), num_workers=0))
    next(batches)
    costs = []
    for _ in range(3):
        start = time.perf_counter()
        batch = next(batches)
        costs.append(Cost(1, time.perf_counter() - start, bytes_of(list(batch.values()))))
    return min(costs, key=lambda cost: cost.seconds)


def page_faults() -> int:
    """Of this process so far, those that read nothing from a disk."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def profile(method: str, scale: gpu_step.Scale, precision: str, progress: float) -> dict[str, Any]:
    """ "seconds" and "page_faults" of single steps, the process's "peak_bytes" after them, and "kinds" and "operators"
    with their costs in the step with the fastest operators."""
    variant = "bf16 eager" if precision == "bf16" else "eager"
    row = gpu_step.Row(method, variant, progress=progress)
    config = gpu_step.config_of(method, scale.small)
    with tempfile.TemporaryDirectory() as folder:
        step = gpu_step.build(row, scale, "cpu", Path(folder), None)
        gpu_step.warm_up(step, scale, "cpu")
        before = page_faults()
        seconds = gpu_step.times(step, scale, "cpu")["wall"]
        faults = (page_faults() - before) / (scale.alone + scale.runs * scale.in_a_row)
        peak = peak_memory(torch.device("cpu"))
        seen = []
        for _ in range(scale.traced):
            operators = Operators()
            with operators.watching():
                step()
            seen.append(operators.costs)
    costs = min(seen, key=lambda each: sum(cost.seconds for cost in each.values()))
    kinds = kinds_of(costs)
    kinds[BETWEEN] = Cost(0, max(0.0, min(seconds) - sum(cost.seconds for cost in costs.values())))
    kinds["data"] = data_cost(method, scale.size, config)
    return {
        "seconds": seconds,
        "page_faults": round(faults),
        "peak_bytes": None if peak is None else round(peak * 1e6),
        "kinds": {kind: asdict(kinds[kind]) for kind in ORDER if kind in kinds},
        "operators": [
            {"kind": kind, "name": name, **asdict(cost)}
            for (kind, name), cost in sorted(costs.items(), key=lambda item: -item[1].seconds)
        ],
    }


def text(document: dict[str, Any], most: int = 20) -> str:
    """Two tables: kinds, and the most expensive operators."""
    info, profiled = document["machine_info"], document["profile"]
    step = min(profiled["seconds"])

    def cells(cost: Cost) -> list[str]:
        floor = cost.floor(info)
        share = floor / cost.seconds if cost.seconds and floor else None
        return [
            str(cost.calls or ""),
            milliseconds(cost.seconds),
            percent(cost.seconds / step),
            mebibytes(cost.bytes) if cost.bytes else "",
            f"{cost.flops / 1e9:.2f}" if cost.flops else "",
            milliseconds(floor) if floor else "",
            percent(share),
        ]

    head = ["calls", "ms", "of the step", "MiB", "GFLOP", "floor ms", "of floor"]
    kinds = [[kind, *cells(Cost(**cost))] for kind, cost in profiled["kinds"].items()]
    whole = Cost()
    for kind, cost in profiled["kinds"].items():
        if kind != "data":
            whole.add(Cost(**cost))
    whole.seconds = step
    floors = sum(Cost(**cost).floor(info) for kind, cost in profiled["kinds"].items() if kind != "data")
    total = ["**step**", *cells(whole)[:5], milliseconds(floors), percent(floors / step)]
    operators = []
    for entry in profiled["operators"][:most]:
        cost = Cost(**{name: value for name, value in entry.items() if name not in ("kind", "name")})
        operators.append([f"`{entry['name']}`", entry["kind"], *cells(cost)])
    copy, product = info["copy_bytes_per_second"] / 1e9, info["matmul_flops_per_second"] / 1e9
    where = f"{info['precision']}, {info['cpu']}, {info['threads']} threads, torch {info['torch']}"
    memory = f"{profiled['page_faults']} page faults a step, freed memory {info['freed']}"
    return "\n\n".join(
        [
            f"{document['method']} step, {where}, copy {copy:.1f} GB/s, products {product:.0f} GFLOP/s; {memory}",
            table(["kind", *head], [*kinds, total]),
            table(["operator", "kind", *head], operators),
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.step", description="Where the time of a step on a CPU goes.")
    parser.add_argument("method", choices=sorted(METHODS))
    parser.add_argument("--size", type=int, help="side of the images (default: 256)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="default: fp32")
    parser.add_argument("--threads", type=int, help="of PyTorch (default: as it chooses)")
    parser.add_argument("--steps", type=int, default=3, help="timed, and as many looked into (default: 3)")
    parser.add_argument("--progress", type=float, default=0.0, help="how much of the training is done (default: 0)")
    parser.add_argument(
        "--return-freed", action="store_true", help="let the C library return freed memory, unlike train"
    )
    parser.add_argument("--rehearse", action="store_true", help="tiny networks and short measurements")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/profile-METHOD-PRECISION-cpu-...json")
    options = parser.parse_args(arguments)
    for name, least in (("size", 1), ("threads", 1), ("steps", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            parser.error(f"--{name}: expected at least {least}, got {value}")
    if not 0 <= options.progress < 1:
        parser.error(f"--progress: expected from 0 to below 1, got {options.progress}")
    freed = "kept" if not options.return_freed and keep_freed_memory() else "returned"
    if options.threads:
        torch.set_num_threads(options.threads)
    scale = gpu_step.Scale(
        size=options.size or (gpu_step.SMALL.size if options.rehearse else 256),
        small=options.rehearse,
        warm_up=2,
        alone=options.steps,
        in_a_row=1,
        runs=0,
        traced=options.steps,
    )
    rates = rates_here(options.precision, options.rehearse)
    info = machine.describe("cpu", rates) | {"suite": "step", "precision": options.precision, "size": scale.size}
    info |= {"freed": freed}
    profiled = profile(options.method, scale, options.precision, options.progress)
    again = rates_here(options.precision, options.rehearse)  # noise only makes the machine slower
    info |= {name: rounded(max(rate, again[name])) for name, rate in rates.items()}
    document = {"machine_info": info, "method": options.method, "profile": profiled}
    output = options.output
    if output is None:
        output = default_output(info)
        name = f"profile-{options.method}-{options.precision}{'-returned' if options.return_freed else ''}"
        output = output.with_name(f"{name}-{output.name}")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(document, indent=1) + "\n")
    print(text(document))
    print(f"step: {statistics.median(profiled['seconds']):.3g} s (median); results: {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
