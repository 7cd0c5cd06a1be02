"""The loader's and translate's benchmark without a GPU: what it plans and writes, and what it goes on after."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from benchmarks import bench_data, report


def run(monkeypatch: pytest.MonkeyPatch, path: Path, *options: str) -> int:
    monkeypatch.setattr("sys.argv", ["bench_data", "--rehearse", "--output", str(path), *options])
    monkeypatch.setattr(bench_data, "keep_to", lambda cores: None)  # which would go on in this process
    return bench_data.main()


def test_a_rehearsal_goes_on_after_a_case_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_data.Plain, "__getitem__", lambda self, index: 1 / 0)
    path = tmp_path / "data.json"
    assert run(monkeypatch, path, "--seconds", "600") == 1
    data = json.loads(path.read_text())
    assert {"cores", "date", "commit", "torch", "fsync_seconds"} <= set(data["machine_info"])
    (failed,) = data["failures"]
    assert failed.startswith("loader") and " eager: " in failed and "ZeroDivisionError" in failed
    rows = bench_data.rows_for(bench_data.SMALL, "cpu")
    assert data["not_measured"] == [row.name for row in rows if row.implementation == "eager"]
    said = capsys.readouterr().out
    machine, results = report.read(path)
    assert len(results) == len(data["benchmarks"]) and "images" in report.report(machine, results)
    for entry, row in zip(data["benchmarks"], [row for row in rows if row.implementation != "eager"], strict=True):
        info, samples = entry["extra_info"], entry["samples"]
        assert (info["op"], info["precision"], info["images"]) == (row.op, row.precision, row.images)
        assert len(samples) == row.runs
        if row.op == "translate":
            assert entry["medians"] == samples[1:]
        assert info["images_per_second"] == pytest.approx(row.images / entry["medians"][0], rel=1e-3)
        assert f"{row.name}: " in said


def test_files_of_480_images_in_both_formats_and_precisions() -> None:
    rows = bench_data.rows_for(bench_data.Scale(), "cuda")
    assert len({row.name for row in rows}) == len(rows)
    assert [row.implementation for row in rows if row.op == "loader"] == ["cgcl_fast", "eager"]
    assert [(row.shape, row.precision) for row in rows if row.images == 480] == [
        (f"256x256 {suffix}, paper's generator, 8 workers{end}", end.strip() or "fp32")
        for suffix in ("jpg", "png")
        for end in ("", " bf16")
    ]


def test_time_that_is_up_leaves_cases_unmeasured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, tmp_path / "data.json", "--seconds", "0") == 0
    data = json.loads((tmp_path / "data.json").read_text())
    assert len(data["not_measured"]) == len(bench_data.rows_for(bench_data.SMALL, "cpu")) and not data["benchmarks"]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_no_more_processors_than_asked_for() -> None:
    processors, threads = os.sched_getaffinity(0), torch.get_num_threads()
    try:
        bench_data.keep_to(1)
        assert len(os.sched_getaffinity(0)) == 1 == torch.get_num_threads()
    finally:
        os.sched_setaffinity(0, processors)
        torch.set_num_threads(threads)
