"""The table of `benchmarks.gpu_step`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .markdown import NOT_MEASURED, mebibytes, milliseconds, table, times

if TYPE_CHECKING:
    from .report import Result

NOTES = """\
A training step by the engine, with the paper's networks and images of 256×256 pixels; in float32, with TF32 where the
line above says so, unless bf16 is named. *Alone*: the wall clock from the call to the end of the device's work; *host*:
until the call returns. *In a row*: each of 20 without a wait in between. *Busy*: how long kernels, copies and fills run
on the device. *Plain eager* has PyTorch's own operations in the place of this project's, *published* is CUT's published
code, with PyTorch's own settings (TF32 in convolutions alone); *graph* and *compile* replay a step as one CUDA graph.
Peaks are those of PyTorch's allocator: of the tensors, and of all that it holds."""


def step_table(results: list[Result]) -> str:
    """One row per step and variant, those of a step together."""
    header = ["step", "in", "alone ms", "in a row ms", "host ms", "busy ms", "in a row / busy", "kernels"]
    header += ["peak MiB", "reserved MiB"]
    rows = []
    for result in results:
        note = result.shape.split(")", 1)[1]
        for variant, info in result.info.items():
            busy, in_a_row = info.get("busy"), info["in_a_row"]
            rows.append(
                [
                    f"`{result.op.removesuffix(' step')}`{note}{f', batch {n}' if (n := info['batch']) > 1 else ''}",
                    variant,
                    milliseconds(result.seconds(variant)),
                    milliseconds(in_a_row),
                    milliseconds(info["host"]),
                    milliseconds(busy) or NOT_MEASURED,
                    times(in_a_row / busy) if busy else NOT_MEASURED,
                    str(info.get("kernels", NOT_MEASURED)),
                    mebibytes(info.get("peak_allocated_bytes")) or NOT_MEASURED,
                    mebibytes(info.get("peak_reserved_bytes")) or NOT_MEASURED,
                ]
            )
    return table(header, rows)
