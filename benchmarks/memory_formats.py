"""Convolutions of CUT's networks at 256x256, forward and their gradients, in contiguous maps and in channels_last.

    python -m benchmarks.memory_formats [--output FILE.json]

What `cgcl_fast.networks.memory_format` decides by the processor rests on these times.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from . import machine
from .run import default_output, rounded

#: Channels in and out, side of the padded map, kernel.
CONVOLUTIONS = ((256, 256, 66, 3), (64, 128, 258, 3), (128, 64, 258, 3), (128, 256, 130, 3), (256, 128, 130, 3))
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def measure(c_in: int, c_out: int, side: int, kernel: int, budget: float = 0.5) -> dict[str, Any]:
    """Seconds by format of the forward pass, of the input's gradient and of the weight's."""
    found: dict[str, Any] = {"channels": [c_in, c_out], "side": side, "kernel": kernel}
    for name, layout in FORMATS.items():
        x = torch.randn(1, c_in, side, side).contiguous(memory_format=layout)
        weight = torch.randn(c_out, c_in, kernel, kernel).contiguous(memory_format=layout)
        grad = torch.randn_like(torch.conv2d(x, weight))

        def gradient(of_input: bool, grad=grad, x=x, weight=weight) -> Any:
            options = (None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [of_input, not of_input, False])
            return torch.ops.aten.convolution_backward(grad, x, weight, *options)

        found[name] = {
            "forward": rounded(machine.best_seconds(lambda x=x, weight=weight: torch.conv2d(x, weight), budget)),
            "input_gradient": rounded(machine.best_seconds(lambda gradient=gradient: gradient(True), budget)),
            "weight_gradient": rounded(machine.best_seconds(lambda gradient=gradient: gradient(False), budget)),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/memory-formats-cpu-...json")
    arguments = parser.parse_args()
    info = machine.describe()
    document = {
        "machine_info": {**info, "capability": torch.backends.cpu.get_cpu_capability()},
        "threads": torch.get_num_threads(),
        "convolutions": [measure(*sizes) for sizes in CONVOLUTIONS],
    }
    default = default_output(info)
    output = arguments.output or default.with_name(f"memory-formats-{default.name}")
    output.write_text(json.dumps(document, indent=1) + "\n")
    for row in document["convolutions"]:
        ratios = {what: round(row["channels_last"][what] / row["contiguous"][what], 2) for what in row["contiguous"]}
        print(row["channels"], row["side"], "channels_last over contiguous:", ratios)


if __name__ == "__main__":
    main()
