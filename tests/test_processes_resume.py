"""Trainings in two processes that are stopped, killed or lose their data, and go on in two, in one and in two again.

Each start of processes costs seconds, so that one makes many runs (train_runs.py).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from train_runs import noted

from cgcl_fast.engine import read_checkpoint
from cgcl_fast.train import main

sys.path[:0] = [str(Path(__file__).parent / name) for name in ("engine", "methods")]
from engine_checks import assert_same, last_state, log_of  # noqa: E402
from tiny import TINY, TINY_OF  # noqa: E402

RUN = ["--limit", "8", "--decay-epochs", "0", "--eval-images", "0", "--save-every", "4", "--keep", "9"]
QUEUES = ["--negatives", "both", "--queue-size", "24", "--num-patches", "8", "--nce-dim", "8"]
METHODS = {
    "cut": ["--epochs", "2", *QUEUES, "--ema-decay", "0.5"],
    "cyclegan": ["--epochs", "1", "--pool-size", "2", "--ema-decay", "0.5"],
    "mguit": ["--epochs", "1", *TINY_OF["mguit"]],
}
"""One with queues, one with pools (both with an average of the weights), and one whose memory is the same in all
processes."""


def arguments(method: str, output: Path) -> list[str]:
    return [method, *TINY, *RUN, *METHODS[method], "--output", str(output)]


class Runs:
    """Runs in two processes one after the other, by one start of torchrun.

    Attributes:
        status, stderr: of all of it.
    """

    def __init__(self, file: Path, runs: list[dict[str, Any]]) -> None:
        self.file = file
        file.write_text(json.dumps(runs))
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        command = [sys.executable, *launch, str(Path(__file__).with_name("train_runs.py")), str(file)]
        root = str(Path(__file__).parents[1])
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": root}
        # Less than the 900 s of --timeout: that a process is gone is known at once.
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        self.status, self.stderr = done.returncode, done.stderr

    def notes(self, number: int) -> list[list[dict[str, Any]]]:
        """Of each process what it had of a run when it went on, if it did, and at the end."""
        files = [self.file.with_suffix(f".{number}.{rank}.pt") for rank in range(2)]
        return [torch.load(file, weights_only=True) for file in files]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def runs(folder: Path) -> Runs:
    """Of each method a run that nothing stops, and one that a signal stops after three steps and that goes on; at last
    one of which a process loses its data after six."""
    listed: list[dict[str, Any]] = []
    for method in METHODS:
        go_on = ["--resume", "--output", str(folder / f"{method}-stopped")]
        listed += [
            {"arguments": arguments(method, folder / f"{method}-whole")},
            {"arguments": arguments(method, folder / f"{method}-stopped"), "trouble": ["term", 2]},
            {"arguments": go_on},
        ]
    listed.append({"arguments": arguments("cut", folder / "lost"), "trouble": ["data", 5]})
    return Runs(folder / "first.json", listed)


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_that_go_on_are_the_two_that_nothing_stopped_bit_for_bit(
    method: str, folder: Path, runs: Runs
) -> None:
    """Each with the queues and pools of its own."""
    first = 3 * list(METHODS).index(method)
    steps = 8 if method == "cut" else 4
    assert last_state(folder / f"{method}-whole")["step"] == steps, runs.stderr[-3000:]
    assert_same(last_state(folder / f"{method}-stopped"), last_state(folder / f"{method}-whole"))
    assert log_of(folder / f"{method}-stopped") == log_of(folder / f"{method}-whole")
    whole, stopped, after = (runs.notes(first + number) for number in range(3))
    for rank in range(2):
        (end,), (stop,), (resumed, again) = whole[rank], stopped[rank], after[rank]
        assert (stop["step"], resumed["step"], again["step"]) == (3, 3, steps)
        assert_same(resumed, stop)
        assert_same(again, end)
    (left,), (right,) = whole
    for name in ("shared", "average"):
        assert_same(left[name], right[name])
    assert bool(left["average"]) == (method != "mguit")
    assert bool(left["own"]) == (method != "mguit")
    assert [name for name in left["own"] if not differs(left["own"][name], right["own"][name])] == [
        name for name in left["own"] if name.endswith("position")
    ]


def differs(left: Any, right: Any) -> bool:
    try:
        assert_same(left, right)
    except AssertionError:
        return True
    return False


def test_data_that_one_process_loses_end_the_run_and_it_says_which(folder: Path, runs: Runs) -> None:
    assert runs.status == 1 and "trainer.py" not in runs.stderr, runs.stderr[-3000:]  # torchrun has a traceback
    path = folder / "lost" / "checkpoints" / "step_00000004.pt"
    said = re.findall(r"error: process (\d) of 2: (.*)", runs.stderr)
    lost = "step 6: the data have come to an end: the data are gone; the last good checkpoint is "
    assert ("1", f"{lost}{path}; --resume goes on from it") in said
    # The other one hears of it, if torchrun's SIGTERM leaves it the time to say so.
    assert {text for number, text in said if number == "0"} <= {"another process has ended; --resume goes on"}
    assert read_checkpoint(path)["step"] == last_state(folder / "lost")["step"] == 4


def newest_rows(states: list[dict[str, torch.Tensor]]) -> torch.Tensor:
    """Of two queues, by the rule of the documentation: the newer half of each, in turn, by age."""
    halves = [torch.roll(state["rows"], -int(state["position"]), 0)[12:] for state in states]
    return torch.stack(halves, dim=1).reshape(24, 8)


def test_two_processes_then_one_then_two_of_which_one_is_killed_then_one(folder: Path, runs: Runs) -> None:
    """Two epochs of eight images, whoever trains: three steps of two, three of one, one and a half of two, and the rest
    of one."""
    output = folder / "other"
    shutil.copytree(folder / "cut-stopped", output)
    for path in (output / "checkpoints").glob("step_*"):
        if "step_00000003" not in path.name:
            path.unlink()
    saved, go_on = last_state(output), ["--resume", "--output", str(output)]
    stopped = [notes[0] for notes in runs.notes(1)]

    with noted(["term", 5]) as notes:
        assert main(go_on) == 143
    resumed, end = notes
    for name in ("shared", "average", "optimizers", "step"):  # bit for bit
        assert_same(resumed[name], stopped[0][name])
    assert resumed["loader"] == {**saved["loader"], "replicas": 1, "position": 6}
    assert resumed["steps"] == 13
    for name in ("A.0", "B.2"):
        queues = [{key: one["own"][f"queues.{name}.{key}"] for key in ("rows", "position")} for one in stopped]
        assert torch.equal(resumed["own"][f"queues.{name}.rows"], newest_rows(queues))
    assert (end["step"], end["loader"]["epoch"], end["loader"]["position"]) == (6, 1, 1)

    two = Runs(folder / "second.json", [{"arguments": [*go_on, "--save-every", "1"], "trouble": ["kill", 7]}])
    assert two.status == 1 and "trainer.py" not in two.stderr, two.stderr[-3000:]
    assert re.search(r"rank +: 1 .*\n +exitcode +: -9 ", two.stderr)  # torchrun says who was killed, and how
    for (resumed,) in two.notes(0):
        for name in ("shared", "average", "optimizers", "own", "step"):
            assert_same(resumed[name], end[name])
        assert resumed["loader"] == {**end["loader"], "replicas": 2, "position": 0} and resumed["steps"] == 10
    state = last_state(output)
    assert (state["step"], state["processes"]) == (7, 2)
    rows = [queue["rows"] for queue in state["other_processes"]["queues.A.0"]]
    assert len(rows) == 1 and not torch.equal(rows[0], state["method"]["queues.A.0.rows"])

    assert main(go_on) == 0
    state = last_state(output)
    assert (state["step"], state["processes"], state["loader"]["epoch"], state["loader"]["position"]) == (13, 1, 1, 8)
    assert [line["step"] for line in log_of(output)] == list(range(1, 14))
