"""Tables and a plot from the results of `python -m benchmarks.run` (or from pytest-benchmark's own JSON).

    python -m benchmarks.report FILE.json [--cuda FILE.json] [--markdown OUT.md] [--plot OUT.png] [--readme PAGE.md]

Prints the tables of all cases. `--readme` replaces the text between the two comments that name this program in a
Markdown file by the cases that have a target, with a GPU's from `--cuda` ("not measured" without it). Results of
`benchmarks.gpu_step` have two comments of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cgcl_fast.info import method_parameters

from . import targets
from .case import BOTH
from .markdown import NOT_MEASURED, Number, mebibytes, milliseconds, percent, table, times
from .step_table import NOTES as STEP_NOTES
from .step_table import step_table
from .targets import TARGETS, Target

BEGIN, END = "<!-- python -m benchmarks.report: begin -->", "<!-- python -m benchmarks.report: end -->"
STEPS_BEGIN, STEPS_END = "<!-- python -m benchmarks.gpu_step: begin -->", "<!-- python -m benchmarks.gpu_step: end -->"
Key = tuple[str, str, str]
#: Names of memory measurements; further names are subtracted from the first.
EXTRA_MEMORY = ("peak_extra_bytes",)
RESIDENT_MEMORY = ("peak_rss_bytes",)
OWN_MEMORY = ("peak_rss_bytes", "start_rss_bytes")
CUT_STEP: Key = ("cut step", "(1, 3, 256, 256)", BOTH)
#: sec/iter on one GPU from Tables 1 of CUT and EnCo; EnCo's covers a whole training.
PAPER_SECONDS = {
    ("cyclegan", ""): "0.40",
    ("cut", ""): "0.24",
    ("fastcut", ""): "0.15",
    ("enco", "first half"): "0.14",
    ("enco", "second half"): "0.14",
}
#: Times on a GPU beside the one that counts, and whose.
GPU_TIMES = {"host": "host", "in a row": "in_a_row"}
WHOSE = ("eager", "cgcl_fast")
STEP_PRECISIONS = {"float32_convolutions": "convolutions", "float32_products": "products"}
MEMORY_ROWS = {
    EXTRA_MEMORY: "peak extra",
    RESIDENT_MEMORY: "peak resident",
    OWN_MEMORY: "peak beyond libraries, networks and images",
}


@dataclass
class Result:
    """The measurements of one case, by implementation."""

    op: str
    shape: str
    direction: str
    medians: dict[str, list[float]] = field(default_factory=dict)
    minima: dict[str, float] = field(default_factory=dict)
    info: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        return self.op, self.shape, self.direction

    def seconds(self, implementation: str) -> Number:
        medians = self.medians.get(implementation)
        return statistics.median(medians) if medians else None

    def speedup(self, base: str) -> Number:
        """Median over the repeats of the ratio of the two medians within a repeat."""
        if base not in self.medians or "cgcl_fast" not in self.medians:
            return None
        pairs = zip(self.medians[base], self.medians["cgcl_fast"], strict=False)
        return statistics.median(slow / fast for slow, fast in pairs)

    def speedup_of_minima(self, base: str) -> Number:
        if base not in self.minima or "cgcl_fast" not in self.minima:
            return None
        return self.minima[base] / self.minima["cgcl_fast"]

    def speedup_of(self, time: str, base: str) -> Number:
        """Ratio of another of the measured times, "host" or "in_a_row", where both have it."""
        theirs, ours = (self.info.get(name, {}).get(time) for name in (base, "cgcl_fast"))
        return theirs / ours if theirs and ours else None

    def floor(self, machine: dict[str, Any], own_size: bool = False) -> Number:
        """Seconds: bytes over the copy rate (of a large copy, or of one of the op's largest tensor), or FLOPs."""
        info = self.info.get("cgcl_fast", {})
        if "bytes" not in info:
            return None
        rate = info.get("copy_bytes_per_second") if own_size else machine[info.get("rate", "copy_bytes_per_second")]
        if rate is None:
            return None
        matmul = "bf16_flops_per_second" if self.shape.endswith(" bf16") else "matmul_flops_per_second"
        return max(info["bytes"] / rate, info["flops"] / machine[matmul])

    def share(self, machine: dict[str, Any], own_size: bool = False) -> Number:
        """The floor over the time: 1 is as fast as the machine moves the bytes or multiplies."""
        floor, seconds = self.floor(machine, own_size), self.seconds("cgcl_fast")
        return floor / seconds if floor is not None and seconds else None

    def memory(self, names: tuple[str, ...], implementation: str) -> Number:
        """Bytes: the first of the measured numbers minus the others."""
        info = self.info.get(implementation, {})
        if any(name not in info for name in names):
            return None
        return info[names[0]] - sum(info[name] for name in names[1:])

    def value(self, quantity: str, machine: dict[str, Any]) -> Number:
        """The number that a target refers to."""
        if quantity == targets.SPEEDUP:
            return self.speedup("eager")
        if quantity == targets.COMPILE:
            return self.speedup("compile")
        if quantity == targets.FLOOR:
            return self.share(machine)
        if quantity == targets.MEMORY:
            return self.memory(EXTRA_MEMORY, "cgcl_fast")
        if quantity == targets.STEP_TIME:
            speedup = self.speedup("eager")
            return 1 / speedup if speedup else None
        names = OWN_MEMORY if quantity == targets.STEP_OWN_MEMORY else RESIDENT_MEMORY
        ours, eager = self.memory(names, "cgcl_fast"), self.memory(names, "eager")
        return ours / eager if ours and eager else None


def read(path: Path) -> tuple[dict[str, Any], list[Result]]:
    data = json.loads(path.read_text())
    results: dict[Key, Result] = {}
    for entry in data["benchmarks"]:
        info = entry["extra_info"]
        if "op" not in info:
            continue  # of another suite that runs along, as the host's time of a call
        key = info["op"], info["shape"], info["pass"]
        result = results.setdefault(key, Result(*key))
        result.medians[info["impl"]] = entry.get("medians", [entry["stats"]["median"]])
        result.minima[info["impl"]] = entry["stats"]["min"]
        result.info[info["impl"]] = info
    return data["machine_info"], list(results.values())


def quantity_text(quantity: str, value: float) -> str:
    if quantity in (targets.SPEEDUP, targets.COMPILE):
        return times(value)
    return f"{mebibytes(value)} MiB" if quantity == targets.MEMORY else percent(value)


def case_text(result: Result) -> str:
    return f"`{result.op}` {result.shape}, {result.direction}"


def time_table(machine: dict[str, Any], results: list[Result]) -> str:
    header = ["case", "eager ms", "compile ms", "cgcl_fast ms", "over eager", "of minima", "over compile"]
    header += ["other eager", "floor ms", "of floor"]
    on_gpu = suite(machine) == "cuda"
    header += [f"{kind} ms, {whose}" for kind in GPU_TIMES for whose in WHOSE] if on_gpu else ["of floor, own size"]
    rows = []
    for result in results:
        if on_gpu:
            more = [
                milliseconds(result.info.get(name, {}).get(GPU_TIMES[kind])) for kind in GPU_TIMES for name in WHOSE
            ]
        else:
            more = [percent(result.share(machine, own_size=True))]
        others = [f"{name.removeprefix('eager_')} {times(result.speedup(name))}" for name in eager_variants(result)]
        missing = NOT_MEASURED if on_gpu else ""
        rows.append(
            [
                case_text(result),
                *(milliseconds(result.seconds(name)) or missing for name in ("eager", "compile", "cgcl_fast")),
                times(result.speedup("eager")) or missing,
                times(result.speedup_of_minima("eager")),
                times(result.speedup("compile")) or missing,
                ", ".join(others),
                milliseconds(result.floor(machine)),
                percent(result.share(machine)),
                *more,
            ]
        )
    return table(header, rows)


def eager_variants(result: Result) -> list[str]:
    return [name for name in result.medians if name.startswith("eager_")]


def memory_table(results: list[Result]) -> str:
    header = ["case", "eager MiB", "compile MiB", "cgcl_fast MiB", "cgcl_fast / eager"]
    rows = []
    for result in results:
        for names, text in MEMORY_ROWS.items():
            sizes = [result.memory(names, implementation) for implementation in ("eager", "compile", "cgcl_fast")]
            if sizes[2] is not None:
                ratio = sizes[2] / sizes[0] if sizes[0] else None
                rows.append([f"{case_text(result)}, {text}", *map(mebibytes, sizes), percent(ratio)])
    return table(header, rows)


def target_table(machine: dict[str, Any], results: list[Result], only_missed: bool = False) -> str:
    known = {result.key: result for result in results}
    rows = []
    for target in targets.of_suite(suite(machine)):
        value = value_of(target, known, machine)
        if only_missed and (value is None or target.met(value)):
            continue
        word = "at most" if target.quantity in targets.AT_MOST else "at least"
        rows.append(
            [
                f"`{target.op}` {target.shape}, {target.direction}: {target.quantity}",
                f"{word} {quantity_text(target.quantity, target.bound)}",
                NOT_MEASURED if value is None else quantity_text(target.quantity, value),
                "" if value is None else "met" if target.met(value) else "**missed**",
            ]
        )
    return table(["target", "aimed at", "measured", ""], rows) if rows else ""


def value_of(target: Target, known: dict[Key, Result], machine: dict[str, Any]) -> Number:
    result = known.get((target.op, target.shape, target.direction))
    if result is None:
        return None
    if target.quantity == targets.CUT_TIME:
        return relative(result, known.get(CUT_STEP))
    return result.value(target.quantity, machine)


def steps_in(result: Result) -> int:
    return 2 if result.shape.endswith("two steps, one flipped") else 1


def relative(result: Result, base: Result | None) -> Number:
    """Time of a step relative to the base's: median over the repeats of the ratio within a repeat."""
    ours = result.medians.get("cgcl_fast")
    theirs = base.medians.get("cgcl_fast") if base is not None else None
    if not ours or not theirs:
        return None
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=False)) / steps_in(result)


def cost_table(results: list[Result]) -> str:
    """One row for each method's training step at 256x256; empty if fewer than two were measured."""
    steps = [r for r in results if r.op.endswith(" step") and r.shape.startswith("(1, 3, 256, 256)")]
    steps = [result for result in steps if result.seconds("cgcl_fast") is not None]
    if len(steps) < 2:
        return ""
    parameters = method_parameters()
    cut = next((result for result in steps if result.key == CUT_STEP), None)
    rows = []
    for result in steps:
        method = result.op.removesuffix(" step")
        note = result.shape.removeprefix("(1, 3, 256, 256)").removesuffix("two steps, one flipped").strip()
        seconds = result.seconds("cgcl_fast")
        total = parameters[method]["total"] if method in parameters else None
        rows.append(
            [
                f"`{method}`{f', {note}' if note else ''}",
                "" if total is None else f"{total / 1e6:.3f}",
                "" if seconds is None else f"{seconds / steps_in(result):.2f}",
                times(relative(result, cut)),
                mebibytes(result.memory(RESIDENT_MEMORY, "cgcl_fast")) or "not measured",
                mebibytes(result.memory(OWN_MEMORY, "cgcl_fast")) or "not measured",
                PAPER_SECONDS.get((method, note), ""),
            ]
        )
    header = ["method", "parameters, M", "s/step", "of CUT's", "peak MiB", "beyond start MiB", "papers' GPU, s"]
    return table(header, rows)


def images_table(results: list[Result]) -> str:
    """One row for each case that makes images; empty if there is none."""
    rows = []
    for result in results:
        images = result.info.get("cgcl_fast", {}).get("images")
        if images is not None:
            rates = [images / s if (s := result.seconds(name)) else None for name in ("eager", "cgcl_fast")]
            cells = ["" if rate is None else f"{rate:.1f}" for rate in rates]
            rows.append([f"`{result.op}` {result.shape}", *cells, times(result.speedup("eager"))])
    return table(["case", "eager images/s", "cgcl_fast images/s", "over eager"], rows) if rows else ""


def suite(machine: dict[str, Any]) -> str:
    """ "cuda" for results of `benchmarks.cuda`, which has other cases and targets, "gpu_step" for those of
    `benchmarks.gpu_step`, "cpu" for `benchmarks.run`."""
    return str(machine.get("suite", "cpu"))


def machine_text(machine: dict[str, Any]) -> str:
    copy, matmul = machine["copy_bytes_per_second"] / 1e9, machine["matmul_flops_per_second"] / 1e9
    return ", ".join(
        [
            str(machine.get("gpu", machine["cpu"])),
            f"{machine['cores']} cores",
            f"{machine['threads']} threads",
            f"kernels {machine['cpu_variant']}",
            f"torch {machine['torch']}",
            f"Python {machine['python']}",
            machine["date"][:10],
            f"commit {machine['commit'][:10] or 'unknown'}{' with local changes' if machine['changed'] else ''}",
            f"copy {copy:.1f} GB/s (read and written bytes counted both)",
            *gpu_rates(machine),
            f"float32 product of 2048×2048 {matmul:.0f} GFLOP/s."
            if suite(machine) == "cpu"
            else f"products in tf32 {matmul / 1e3:.0f} TFLOP/s.",
        ]
    )


def gpu_rates(machine: dict[str, Any]) -> list[str]:
    if suite(machine) == "cpu":
        return []
    return [
        f"driver {machine['driver']}",
        f"CUDA {machine['cuda']}",
        f"Triton {machine['triton']}",
        f"fill {machine['fill_bytes_per_second'] / 1e9:.1f} GB/s",
        f"products in float32 {machine['float32_flops_per_second'] / 1e12:.3g} TFLOP/s",
        f"in bfloat16 {machine['bf16_flops_per_second'] / 1e12:.3g} TFLOP/s",
        *(f"{what} of a step in {machine[name]}" for name, what in STEP_PRECISIONS.items() if name in machine),
    ]


NOTES = """\
Times are medians, ratios medians of the ratios of the repeats (*of minima*: of the least times). The floor of an op is
the larger of its bytes (each input read once, each output written once) over the copy rate of a large copy, and its
FLOPs over the matmul rate, both measured in the same run; *own size* takes the rate of copying a tensor of the op's
size, which stays in the cache where it fits. Peak extra memory is what an op needs beyond its inputs and outputs, peak
resident memory that of a process after two calls; both are the operating system's count, so they see what native code
allocates too."""


COST_NOTES = """\
A training step of each method with its paper's networks, 256×256, batch 1 (SinCUT: 16 crops of 128×128; CGL and CGCL:
two images and two instances), all measured in one run. Peak MiB is the resident memory of the process; *beyond start*
leaves out what libraries, networks and images took before the first step. The last column is what CUT's and EnCo's
Tables 1 print, of one GPU."""


CUDA_NOTES = """\
Times are medians of the device's time for a single call, between CUDA events, after the L2 cache was overwritten and
with the whole call issued before it began. *Host*: the wall clock until a call returns, with the device idle before.
*In a row*: each of many calls, as a program that does nothing else would see them. Results without host times are
older: their times are those of calls as the host issued them. The floor of an op is the larger of its bytes (each input
read once, each output written once) over the rate of a large copy (of a fill, for the backward of a gather alone), and
its FLOPs over the rate of products in tf32 (in bfloat16 for bf16), all measured in the same run."""


def report(machine: dict[str, Any], results: list[Result]) -> str:
    if suite(machine) == "gpu_step":
        return "\n\n".join(["# Training steps", machine_text(machine), STEP_NOTES, step_table(results)]) + "\n"
    notes = CUDA_NOTES if suite(machine) == "cuda" else NOTES
    parts = ["# Benchmarks", machine_text(machine), notes]
    parts += ["## Time", time_table(machine, results)]
    if any("peak_extra_bytes" in info or "peak_rss_bytes" in info for r in results for info in r.info.values()):
        parts += ["## Memory", memory_table(results)]
    if cost := cost_table(results):
        parts += ["## Cost of the methods", COST_NOTES, cost]
    if images := images_table(results):
        parts += ["## Images from files", images]
    parts += ["## Targets", target_table(machine, results)]
    return "\n\n".join(parts) + "\n"


def headline(results: list[Result]) -> list[Result]:
    """The cases with a target, in the order of the targets, with those of an op together."""
    known = {result.key: result for result in results}
    of_ops = [target for target in TARGETS if target.quantity != targets.CUT_TIME]  # those are in the cost table
    keys = list(dict.fromkeys((target.op, target.shape, target.direction) for target in of_ops))
    ops = list(dict.fromkeys(op for op, _, _ in keys))
    return [known[key] for key in sorted(keys, key=lambda key: ops.index(key[0])) if key in known]


def readme_section(
    machine: dict[str, Any],
    results: list[Result],
    cuda: list[Result],
    source: str,
    plot: str | None,
    cuda_text: str = "",
) -> str:
    """`cuda_text` gives the source of the CUDA results."""
    on_gpu = {result.key: result for result in cuda}
    header = ["case", "eager ms", "compile ms", "cgcl_fast ms", "over eager", "over compile", "of floor"]
    header += ["CUDA, over eager", "CUDA, in a row"]
    rows = []
    for result in headline(results):
        gpu = on_gpu.get(result.key)
        rows.append(
            [
                case_text(result),
                *(milliseconds(result.seconds(name)) for name in ("eager", "compile", "cgcl_fast")),
                times(result.speedup("eager")),
                times(result.speedup("compile")),
                percent(result.share(machine)),
                times(gpu.speedup("eager")) if gpu else NOT_MEASURED,
                times(gpu.speedup_of("in_a_row", "eager")) if gpu else NOT_MEASURED,
            ]
        )
    parts = [f"CPU: {machine_text(machine)}", cuda_text]
    if plot:
        parts.append(f"![Speed-up of each op over eager PyTorch and over torch.compile]({plot})")
    parts += [table(header, rows), memory_table(headline(results)), NOTES]
    missed = target_table(machine, results, only_missed=True)
    parts.append(
        "What misses its target:\n\n" + missed if missed else "All targets of `benchmarks/targets.py` are met."
    )
    parts.append(f"From `{source}`; `python -m benchmarks.report {source}` prints all cases.")
    return "\n\n".join(part for part in parts if part)


def steps_section(machine: dict[str, Any], results: list[Result], source: str) -> str:
    """The README's section on the results of `benchmarks.gpu_step`."""
    return "\n\n".join([machine_text(machine), step_table(results), STEP_NOTES, f"From `{source}`."])


def rewrite(path: Path, section: str, begin: str = BEGIN, end: str = END) -> None:
    text = path.read_text()
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise SystemExit(f"benchmarks.report: {path} needs the line {begin} and after it the line {end}, once each")
    before, rest = text.split(begin)
    path.write_text(f"{before}{begin}\n\n{section}\n\n{end}{rest.split(end)[1]}")


def draw(path: Path, machine: dict[str, Any], results: list[Result]) -> None:
    """Bars of the speed-up over eager and over compile, on a logarithmic axis, with the target speed-up."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter, NullFormatter

    shown = [result for result in headline(results) if result.speedup("eager") is not None]
    least = {(t.op, t.shape, t.direction): t.bound for t in TARGETS if t.quantity == targets.SPEEDUP}
    least |= {(t.op, t.shape, t.direction): 1 / t.bound for t in TARGETS if t.quantity == targets.STEP_TIME}
    figure, axes = plt.subplots(figsize=(9, 1.4 + 0.52 * len(shown)), layout="constrained")
    height = 0.36
    series = (("eager", "over eager PyTorch", "#2a6f97", -1), ("compile", "over torch.compile", "#e09f3e", 1))
    for base, label, colour, side in series:
        points = [(i, ratio) for i, result in enumerate(shown) if (ratio := result.speedup(base)) is not None]
        if not points:
            continue
        rows, ratios = zip(*points, strict=True)
        places = [row + side * height / 2 for row in rows]
        axes.barh(places, [ratio - 1 for ratio in ratios], height, left=1, color=colour, label=label)
        for place, ratio in zip(places, ratios, strict=True):
            slower = ratio < 1
            axes.annotate(
                times(ratio),
                (ratio, place),
                xytext=(-4 if slower else 4, 0),
                textcoords="offset points",
                ha="right" if slower else "left",
                va="center",
                fontsize=8,
                color="#333333",
            )
    marks = [(least[result.key], i) for i, result in enumerate(shown) if result.key in least]
    for number, (bound, row) in enumerate(marks):
        label = "aimed at, over eager" if number == 0 else None
        axes.plot([bound, bound], [row - height, row], color="#9b2226", linewidth=2, label=label)
    axes.axvline(1, color="#333333", linewidth=1)
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    low, high = low / (1.35 if low < 1 else 1), high * 1.35
    axes.set_xlim(low, high)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks([tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if low <= tick <= high])
    axes.set_yticks(range(len(shown)), [f"{r.op}\n{r.shape}, {r.direction}" for r in shown], fontsize=8)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.grid(axis="x", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("how many times as fast cgcl_fast is")
    name = machine.get("gpu", machine["cpu"])
    axes.set_title(f"{name}, {machine['threads']} threads, float32, torch {machine['torch']}", fontsize=10, loc="left")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.report", description="Tables and a plot of benchmark results.")
    parser.add_argument("file", type=Path, help="JSON of benchmarks.run, cuda or gpu_step, or of pytest-benchmark")
    parser.add_argument("--cuda", type=Path, help="JSON of the same suite on a GPU")
    parser.add_argument("--markdown", type=Path, help="write the tables here instead of printing them")
    parser.add_argument("--plot", type=Path, help="write a picture of the speed-ups here")
    parser.add_argument("--readme", type=Path, help="rewrite the section between the marks of this Markdown file")
    arguments = parser.parse_args()
    machine, results = read(arguments.file)
    if not results:
        parser.error(f"{arguments.file}: no benchmark results in it")
    on_cuda, cuda = read(arguments.cuda) if arguments.cuda else ({}, [])
    text = report(machine, results)
    if arguments.markdown:
        arguments.markdown.write_text(text)
    else:
        sys.stdout.write(text)
    if arguments.plot:
        draw(arguments.plot, machine, results)
    if arguments.readme:
        # A picture is linked from the page; results are named as in the commands on it, from the folder of this one.
        plot = os.path.relpath(arguments.plot.resolve(), arguments.readme.resolve().parent) if arguments.plot else None
        source, cuda_source = (os.path.relpath(path) if path else None for path in (arguments.file, arguments.cuda))
        if suite(machine) == "gpu_step":
            section = steps_section(machine, results, str(source))
            rewrite(arguments.readme, section, STEPS_BEGIN, STEPS_END)
        else:
            cuda_text = f"CUDA: {machine_text(on_cuda)} From `{cuda_source}`." if on_cuda else ""
            rewrite(arguments.readme, readme_section(machine, results, cuda, str(source), plot, cuda_text))


if __name__ == "__main__":
    main()
