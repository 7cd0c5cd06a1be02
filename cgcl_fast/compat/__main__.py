"""``python -m cgcl_fast.compat RUN --output DIR``: write a run's networks as files that the published code reads.

``latest_net_G.pth``, ``_D`` and ``_F`` of CUT, FastCUT, EnCo and SinCUT; ``latest_net_G_A.pth``, ``_G_B``, ``_D_A`` and
``_D_B`` of CycleGAN, where A and B are the run's domains (``train --direction``). Exit status: 0 if they were written,
1 if they could not be, 2 for wrong options, or a run of a method without published layouts.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cgcl_fast._command import Parser, UsageError, as_usage_error, run, underscored
from cgcl_fast._networks import empty_method, network_of, one_line_error, trained
from cgcl_fast.compat import published_state_dict
from cgcl_fast.data.formats import printable
from cgcl_fast.engine import Checkpoints, read_checkpoint
from cgcl_fast.engine.files import write_atomically
from cgcl_fast.methods import METHODS, Method


def networks_to_write(file: Path, state: dict[str, Any]) -> tuple[Method, dict[str, nn.Module]]:
    """The method of a checkpoint, and its networks by their names in it.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        ValueError: the method has no published layout.
    """
    try:
        method = empty_method(state)
        networks = {name: network_of(method, state, name) for name in trained(method)}
    except Exception as error:  # the checkpoint may be anyone's
        raise one_line_error(file, "not a checkpoint of a method", error) from error
    if not method.published:
        known = ", ".join(name for name, kind in METHODS.items() if kind.published)
        raise ValueError(f"{file}: {state['config']['method']} has no published layout; these have: {known}")
    return method, networks


def write(arguments: Sequence[str]) -> int:
    """The command; see the module."""
    parser = Parser(prog="python -m cgcl_fast.compat", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="A run folder, or one of its step_*.pt checkpoints.")
    parser.add_argument("--output", type=Path, required=True, help="Folder for the files.")
    parser.add_argument(
        "--epoch", default="latest", help="What the names of the files begin with, as --epoch of the published code."
    )
    parser.add_argument("--overwrite", action="store_true", help="Replace files that are there already.")
    options = parser.parse_args(underscored(arguments))
    with as_usage_error():
        if not options.run.exists():
            raise UsageError(f"RUN: {options.run} does not exist")
        if "/" in options.epoch:
            raise UsageError(f"--epoch: expected the beginning of a file's name, got {options.epoch!r}")
        if options.run.is_dir():
            folder = options.run if options.run.name == "checkpoints" else options.run / "checkpoints"
            file, state = Checkpoints(folder).newest()
        else:
            file, state = options.run, read_checkpoint(options.run)
        method, networks = networks_to_write(file, state)
        states, left_out = {}, []
        for name, network in networks.items():
            try:
                tensors = published_state_dict(network)
                states[options.output / f"{options.epoch}_net_{method.published[name]}.pth"] = tensors
            except KeyError:  # EnCo's K
                left_out.append(name)
        there = [path for path in states if path.exists()]
        if there and not options.overwrite:
            raise UsageError(f"--output: {there[0]} would be overwritten (--overwrite allows it)")
        options.output.mkdir(parents=True, exist_ok=True)
    for path, tensors in states.items():
        write_atomically(path, partial(torch.save, tensors))
        print(printable(path))
    if left_out:
        print(f"not written: {', '.join(left_out)}, for which there is no published layout")
    if any(getattr(network, "config", {}).get("n_down", 2) != 2 for network in networks.values()):
        print("n_down is 1: the published generators halve twice, so that only cgcl_fast reads these")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    return run(write, arguments)


if __name__ == "__main__":
    sys.exit(main())
