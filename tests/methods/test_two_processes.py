"""Every method trains in several processes, which have the same weights, memories and penalties at all times."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cgcl_fast.methods import METHODS

from .tiny import TINY, TINY_OF

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from engine_checks import last_state, log_of  # noqa: E402


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_keep_the_same_weights(method: str, tmp_path: Path) -> None:
    """As ``torchrun`` starts them, and with no word of the device: on a machine without GPUs it is the CPU."""
    output = tmp_path / "run"
    run = [method, *TINY, *TINY_OF.get(method, []), "--device", "auto", "--eval-images", "2", "--save-every", "2"]
    in_two_processes(*run, "--steps", "3", "--output", str(output))
    if method == "mguit":
        in_two_processes("--resume", "--steps", "4", "--output", str(output))
    held = [json.loads((tmp_path / f"run.{rank}.json").read_text()) for rank in range(2)]
    assert held[0] and held[0] == held[1]
    state = last_state(output)
    assert state["processes"] == 2 and state["step"] == (4 if method == "mguit" else 3)
    assert len(log_of(output)) == state["step"]  # not once for each process


def in_two_processes(*arguments: str) -> None:
    launch = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(Path(__file__).with_name("two_processes.py")),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *launch, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
