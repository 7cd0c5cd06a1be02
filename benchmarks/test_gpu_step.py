"""The step benchmark without a GPU: what it plans, writes and reads from a trace; and a checkout that is none."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu_step, published_cut, report
from cgcl_fast.methods import METHODS


def run(monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    monkeypatch.setattr("sys.argv", ["gpu_step", *options])
    return gpu_step.main()


def test_every_method_in_every_variant_and_graphs_of_cut_first() -> None:
    rows = gpu_step.plan(list(METHODS), "cuda", published=True, compiled=True)
    assert len(set(rows)) == len(rows)
    assert [row.variant for row in rows[:4]] == ["graph", "eager", "bf16 graph", "published"]
    assert all(row.method == "cut" for row in rows[:4])
    own = set(gpu_step.VARIANTS) - {"published", "compile"}
    assert {(row.method, row.variant) for row in rows} >= {(m, v) for m in METHODS for v in own}
    names = [row.variant for row in rows if row.method == "mguit"]
    assert names == ["graph", "bf16 graph", "eager", "plain eager", "bf16 eager"]
    assert {row.method for row in rows[4:13] if row.variant == "graph"} == set(METHODS) - {"cut"}
    assert rows[-1].variant == "compile"
    assert {row.note for row in rows if row.method == "enco"} == {" first half", " second half"}
    assert {row.flipped for row in rows if row.method == "fastcut"} == {False, True}


def test_graphs_are_left_out_without_a_gpu() -> None:
    rows = gpu_step.plan(["cut", "cgl"], "cpu", published=False, compiled=True)
    assert {row.variant for row in rows} == {"eager", "bf16 eager", "plain eager"}


def test_rehearsal_writes_what_the_report_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "steps.json"
    options = ["--methods", "cut", "--variants", "eager,plain eager", "--output", str(path)]
    assert run(monkeypatch, "--rehearse", *options) == 0
    data = json.loads(path.read_text())
    assert data["failures"] == [] and data["not_measured"] == []
    assert {"torch", "commit", "date", "float32_convolutions", "float32_products"} <= set(data["machine_info"])
    for entry in data["benchmarks"]:
        samples = entry["samples"]
        assert len(samples["wall"]) == gpu_step.SMALL.alone and min(samples["in_a_row"]) > 0
        assert all(host <= wall for host, wall in zip(samples["host"], samples["wall"], strict=True))
    machine, results = report.read(path)
    text = report.report(machine, results)
    assert text in capsys.readouterr().out
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    assert [line.split(" | ")[:2] for line in lines] == [
        ["| `cut`", "eager"],
        ["| `cut`", "plain eager"],
        ["| `cut`, batch 8", "eager"],
    ]
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.STEPS_BEGIN}\nnot measured\n{report.STEPS_END}\nafter\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["report", str(path), "--readme", str(readme)])
    report.main()
    written = readme.read_text()
    assert written.startswith("before\n") and written.endswith("\nafter\n") and "From `steps.json`." in written
    assert all(line in written for line in lines) and "\nnot measured\n" not in written


def test_time_that_is_up_leaves_rows_unmeasured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "steps.json"
    options = ["--methods", "cut", "--variants", "eager", "--minutes", "0", "--output", str(path)]
    assert run(monkeypatch, "--rehearse", *options) == 0
    assert json.loads(path.read_text())["not_measured"] == ["cut step eager", "cut step eager batch 8"]


def test_a_row_that_fails_does_not_cost_the_others(tmp_path: Path) -> None:
    good, bad = gpu_step.rows_of("enco", "eager")
    results = gpu_step.Results({}, [good, bad], tmp_path / "steps.json", "cpu")

    def work(row: gpu_step.Row) -> str:
        if row is bad:
            raise RuntimeError("no such\nkernel")
        results.entries[row] = {"row": row.name}
        return ""

    results.attempt(bad, work)
    assert json.loads((tmp_path / "steps.json").read_text())["not_measured"] == [good.name, bad.name]
    results.attempt(good, work)
    written = json.loads((tmp_path / "steps.json").read_text())
    assert written["failures"] == [f"{bad.name}: no such kernel"]
    assert written["not_measured"] == [bad.name] and written["benchmarks"] == [{"row": good.name}]


def test_device_work_counts_overlapping_kernels_once_and_no_annotation() -> None:
    def event(kind: str, start: float, duration: float) -> dict[str, Any]:
        return {"cat": kind, "ts": start, "dur": duration}

    events = [event("kernel", 0, 10), event("kernel", 5, 10), event("gpu_memcpy", 20, 5), event("kernel", 21, 2)]
    others = [event("gpu_user_annotation", 0, 1000), event("cuda_runtime", 100, 5), {"ph": "M", "name": "process"}]
    busy, kernels = gpu_step.device_work(events + others)
    assert busy == pytest.approx(20e-6) and kernels == 3


def test_longest_adds_up_the_kernels_of_a_name() -> None:
    events = [{"cat": "kernel", "name": name, "ts": 0, "dur": us} for name, us in (("a", 3), ("b", 8), ("a", 3))]
    found = gpu_step.longest([*events, {"cat": "cuda_runtime", "name": "c", "dur": 99}], steps=2)
    assert found == {"b": [0.5, pytest.approx(4e-6)], "a": [1.0, pytest.approx(3e-6)]}
    assert list(found) == ["b", "a"] and list(gpu_step.longest(events, 1, most=1)) == ["b"]


def test_flips_are_those_that_a_row_names() -> None:
    drawn = []
    for flipped in (False, True):
        torch.default_generator.manual_seed(gpu_step.seed_of_draw(above_half=not flipped))
        drawn.append(bool(torch.rand(()) < 0.5))
    assert drawn == [False, True]


def test_a_folder_that_is_no_checkout_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, "--rehearse", "--published", str(tmp_path))
    assert "--published" in capsys.readouterr().err


OPTIONS = """
import sys
class TrainOptions:
    def parse(self):
        print("chatter")
        return sys.argv
"""
MODELS = """
import numpy as np
class Model:
    def __init__(self, options):
        self.options, self.calls, self.draws = options, [], []
    def data_dependent_initialize(self, data):
        self.calls.append(("initialize", sorted(data)))
    def setup(self, options):
        assert options is self.options
        self.calls.append("setup")
    def parallelize(self):
        self.calls.append("parallelize")
    def set_input(self, data):
        self.calls.append("set_input")
    def optimize_parameters(self):
        self.draws.append(np.random.random())
        self.calls.append("optimize_parameters")
created = []
def create_model(options):
    created.append(Model(options))
    return created[-1]
"""


@pytest.mark.parametrize("flipped", [False, True])
def test_published_step_calls_a_checkout_as_its_own_training_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flipped: bool
) -> None:
    for name, text in {"options/train_options.py": OPTIONS, "models/__init__.py": MODELS}.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    (tmp_path / "models" / "cut_model.py").touch()
    assert published_cut.is_checkout(tmp_path)
    for name in ("options", "options.train_options", "models"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    path, command = sys.path[:], sys.argv
    batch = {"A": torch.zeros(2, 3, 8, 8), "B": torch.ones(2, 3, 8, 8)}
    step = published_cut.published_step(tmp_path, "fastcut", batch, "cpu", tmp_path, flipped=flipped)
    assert (sys.path, sys.argv) == (path, command) and capsys.readouterr().out == ""
    models: Any = sys.modules["models"]
    assert isinstance(models, types.ModuleType)
    (model,) = models.created
    given = dict(zip(model.options[1::2], model.options[2::2], strict=True))
    assert given["--CUT_mode"] == "FastCUT" and given["--gpu_ids"] == "-1"
    assert (given["--batch_size"], given["--crop_size"]) == ("2", "8")
    step(), step()
    assert model.calls == [
        ("initialize", ["A", "A_paths", "B", "B_paths"]),
        "setup",
        "parallelize",
        *["set_input", "optimize_parameters"] * 2,
    ]
    assert all((draw < 0.5) == flipped for draw in model.draws)
    for name in ("options", "options.train_options", "models"):
        monkeypatch.delitem(sys.modules, name, raising=False)
