"""What `benchmarks.scaling` has measured, as tables, and what follows for GPUs by a model of a step.

The model, all of it in `Links` and `Step`: a step takes as long as the slowest of P GPUs computes, and then, as far as
it was not hidden behind the backward pass, the averaging of G bytes of gradients, which is a reduce-scatter in each
machine, an all-reduce between machines of what each GPU then holds, and an all-gather in each machine.
"""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cgcl_fast.methods import METHODS

from .machine import ROOT
from .markdown import milliseconds, percent, table

BEGIN, END = "<!-- python -m benchmarks.scaling: begin -->", "<!-- python -m benchmarks.scaling: end -->"
GPUS = (8, 1000)
FIRST_BUCKET, BUCKET = 1 << 20, 25 << 20
"""Bytes of gradients that DDP sends in one message; its defaults."""


@dataclass(frozen=True)
class Links:
    """What connects the GPUs. None of it was measured here: nominal rates of a machine as DGX H100, and of what large
    messages reach of them and small ones wait a guess.

    Attributes:
        in_machine: GPUs a machine.
        nvlink: bytes a second from a GPU to the others of its machine, in one direction (NVLink 4: 900 GB/s in both).
        network: bytes a second from a GPU to other machines, in one direction (one InfiniBand NDR adapter of 400 Gb/s
            a GPU).
        reached: the share of both that large messages get.
        hop: seconds that a message takes from one GPU to another whatever its size.
    """

    in_machine: int = 8
    nvlink: float = 450e9
    network: float = 50e9
    reached: float = 0.7
    hop: float = 10e-6

    def reduction(self, size: int, messages: int, gpus: int) -> float:
        """Seconds to average ``size`` bytes, in so many messages, over ``gpus``."""
        if gpus == 1:
            return 0.0
        local = min(gpus, self.in_machine)
        machines = -(-gpus // self.in_machine)
        inside = 2 * (local - 1) / local * size / (self.reached * self.nvlink)
        between = 2 * (machines - 1) / machines * size / local / (self.reached * self.network)
        return inside + between + messages * 2 * math.log2(gpus) * self.hop


LINKS = Links()


@dataclass(frozen=True)
class Step:
    """A step on one GPU, measured, and what it has to exchange, counted.

    Attributes:
        name: of method and step.
        seconds: each of many in a row.
        spread: standard deviation of single steps, in seconds.
        images: of each domain.
        gradients: bytes of each phase.
        inputs: bytes of a batch.
        reads: whether each step has other files.
    """

    name: str
    seconds: float
    spread: float
    images: int
    gradients: tuple[int, ...]
    inputs: int
    reads: bool = True

    @property
    def messages(self) -> int:
        """Of a phase the first has 1 MiB at most and others 25; one more says which parameters had a gradient."""
        return sum(2 + -(-max(0, size - FIRST_BUCKET) // BUCKET) for size in self.gradients)

    def computing(self, gpus: int) -> float:
        """Seconds of the slowest of so many GPUs: of P normal numbers the greatest is about √(2 ln P) deviations above
        the mean."""
        return self.seconds + self.spread * math.sqrt(2 * math.log(gpus))

    def reduction(self, gpus: int, links: Links) -> float:
        return links.reduction(sum(self.gradients), self.messages, gpus)

    def efficiency(self, gpus: int, links: Links, hidden: float) -> float:
        """Images a second and GPU, of those of one alone, if the share ``hidden`` of the reduction costs no time."""
        return self.seconds / (self.computing(gpus) + (1 - hidden) * self.reduction(gpus, links))


def fitted(exchanged: list[dict[str, Any]]) -> tuple[float, float]:
    """Latency (seconds, at least 0) and rate (bytes a second) of the line that is least off the medians, each by its
    share."""
    sizes = np.array([row["bytes"] for row in exchanged], dtype=float)
    seconds = np.array([statistics.median(row["seconds"]) for row in exchanged])
    (latency, per_byte), *_ = np.linalg.lstsq(
        np.stack([1 / seconds, sizes / seconds], axis=1), np.ones_like(sizes), rcond=None
    )
    if latency < 0:  # the best line that is none of these begins at 0
        latency, per_byte = 0.0, np.sum(sizes / seconds) / np.sum((sizes / seconds) ** 2)
    return float(latency), 1 / float(per_byte)


def megabytes(size: float) -> str:
    return f"{size / 1e6:.3g}"


def exchange_table(exchanged: list[dict[str, Any]]) -> str:
    latency, rate = fitted(exchanged)
    rows = []
    for row in exchanged:
        seconds, line = statistics.median(row["seconds"]), latency + row["bytes"] / rate
        bounds = (milliseconds(min(row["seconds"])), milliseconds(max(row["seconds"])))
        each = row["bytes"] / seconds / 1e9
        rows.append(
            [megabytes(row["bytes"]), milliseconds(seconds), " to ".join(bounds), f"{each:.2f}", milliseconds(line)]
        )
    return table(["MB", "ms, median", "ms, least to most", "GB/s", "ms by the line"], rows)


def steps_table(document: dict[str, Any]) -> str:
    latency, rate = fitted(document["exchanged"])
    rows = []
    for step in document["steps"]:
        size = sum(step["gradient_bytes"])
        alone, together = statistics.median(step["without"]), statistics.median(step["with"])
        extra = [a - b for a, b in zip(step["with"], step["without"], strict=True)]
        middle, low, high = (f"{each * 1e3:.3g}" for each in (statistics.median(extra), min(extra), max(extra)))
        messages = Step("", 0, 0, 1, tuple(step["gradient_bytes"]), 0).messages
        changed = "".join(f", {name} {value}" for name, value in step["options"].items())
        rows.append(
            [
                f"`{step['method']}`{changed}",
                megabytes(size),
                milliseconds(alone),
                milliseconds(together),
                f"{middle} ({low} to {high})",
                milliseconds(messages * latency + size / rate),
            ]
        )
    return table(["step", "gradients, MB", "without, ms", "with, ms", "more, ms", "exchange alone, ms"], rows)


def counts_table(counts: dict[str, Any]) -> str:
    rows = [
        [
            f"`{name}`",
            " + ".join(megabytes(size) for size in found["gradient_bytes"]),
            megabytes(sum(found["gradient_bytes"])),
            f"{sum(found['gradient_bytes']):,}",
            f"{found['buffer_bytes']:,}",
            f"{found['input_bytes']:,}",
        ]
        for name, found in counts.items()
    ]
    return table(["method", "gradients by phase, MB", "MB", "bytes", "buffers, bytes", "batch, bytes"], rows)


def gpu_steps(gpu: dict[str, Any], counts: dict[str, Any]) -> list[Step]:
    """The measured steps of one GPU; the published code is another one."""
    found = []
    for entry in gpu["benchmarks"]:
        info = entry["extra_info"]
        if info["impl"] == "published":
            continue
        name, note = info["op"].removesuffix(" step"), info["shape"].split(")", 1)[1]
        of_method = counts[name]
        found.append(
            Step(
                f"`{name}`{note}, {info['impl']}",
                info["in_a_row"],
                statistics.stdev(entry["samples"]["wall"]),
                info["batch"],
                tuple(of_method["gradient_bytes"]),
                of_method["input_bytes"] * info["batch"],
                METHODS[name].needs(METHODS[name].Config()).crops is None,
            )
        )
    return found


def prediction_table(steps: list[Step], links: Links) -> str:
    header = ["step", "one GPU, ms", "spread, ms", "messages"]
    for gpus in GPUS:
        header += [f"{gpus:,}: reduction, ms", f"{gpus:,}: efficiency"]
    rows = []
    for step in steps:
        row = [step.name, milliseconds(step.seconds), milliseconds(step.spread), str(step.messages)]
        for gpus in GPUS:
            bounds = (percent(step.efficiency(gpus, links, hidden)) for hidden in (0.0, 1.0))
            row += [milliseconds(step.reduction(gpus, links)), " to ".join(bounds)]
        rows.append(row)
    return table(header, rows)


def input_table(steps: list[Step], data: dict[str, float]) -> str:
    """What the steps of `prediction_table` read, if no step takes longer than on one GPU: an upper bound."""
    header = ["step", "cores a GPU", "to the GPU, MB/s"]
    header += [f"{gpus:,}: images/s of a domain" for gpus in GPUS] + [f"{gpus:,}: files, GB/s" for gpus in GPUS]
    rows = []
    for step in steps:
        if not step.reads:
            continue
        rate = step.images / step.seconds  # of each domain
        row = [step.name, f"{rate * data['seconds']:.1f}", megabytes(step.inputs / step.seconds)]
        row += [f"{gpus * rate:,.0f}" for gpus in GPUS]
        row += [f"{gpus * rate * 2 * data['file_bytes'] / 1e9:.3g}" for gpus in GPUS]
        rows.append(row)
    return table(header, rows)


def machine_text(document: dict[str, Any]) -> str:
    info = document["machine_info"]
    changed = " with local changes" if info["changed"] else ""
    return (
        f"{info['cpu']}, {info['cores']} cores, {info['processes']} processes each with "
        f"{document['threads']} thread{'s' if document['threads'] > 1 else ''}, "
        f"Gloo, torch {info['torch']}, Python {info['python']}, {info['date'][:10]}, "
        f"commit {info['commit'][:10] or 'unknown'}{changed}."
    )


def shown(path: Path) -> str:
    """A path as from the project's root."""
    path = path.resolve()
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def section(source: Path, gpu_source: Path, links: Links = LINKS) -> str:
    """What the page shows of both files of results."""
    document, gpu = (json.loads(path.read_text()) for path in (source, gpu_source))
    latency, rate = fitted(document["exchanged"])
    data, counts = document["data"], document["counts"]
    steps = gpu_steps(gpu, counts)
    parts = [
        f"**{document['note']}**" if "note" in document else "",
        "### Measured: two processes on CPUs",
        machine_text(document),
        exchange_table(document["exchanged"]),
        f"The line is {milliseconds(latency)} ms + bytes / {rate / 1e9:.2f} GB/s.",
        steps_table(document),
        "Both processes make the steps at once, with and without the exchange in turn; medians. *More* is the median "
        "of the differences, with the least and the most of them; *exchange alone* is what the line gives for the "
        "messages that DDP sends. Where that lies between them, the steps themselves vary by as much as the exchange "
        "takes.",
        f"One core makes an image of each domain, from JPEGs of a megapixel and {data['file_bytes'] / 1e3:.0f} kB, in "
        f"{milliseconds(data['seconds'])} ms.",
        "### Counted: what a step exchanges and reads",
        counts_table(counts),
        f"### Predicted: {' and '.join(f'{gpus:,}' for gpus in GPUS)} GPUs",
        f"One GPU: {gpu['machine_info']['gpu']}, measured. The rest of this table is the formula with the assumptions "
        f"{links.nvlink / 1e9:.0f} GB/s in a machine of {links.in_machine}, {links.network / 1e9:.0f} GB/s "
        f"a GPU between machines, {links.reached:.0%} of both reached, {links.hop * 1e6:.0f} µs a hop.",
        prediction_table(steps, links),
        "What so many GPUs make and read if every step takes as long as on one of them, an efficiency of 100%: upper "
        "bounds. Cores are those of the machine above, which make the images from JPEGs.",
        input_table(steps, data),
        f"From `{shown(source)}` and `{shown(gpu_source)}`.",
    ]
    return "\n\n".join(part for part in parts if part)
