"""Curves of runs: what is read from their folders, and that the picture is drawn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import curves


def run_folder(folder: Path, afters: list[float], transfer: bool = True) -> Path:
    folder.mkdir()
    (folder / "config.yaml").write_text("method: cut\nsize: 64\neval_images: 16\n")
    lines = []
    for step, after in enumerate(afters):
        figures = {"psnr/before": 10.0, "psnr/after": after, "delta_e/before": 30.0, "delta_e/after": 40 - after}
        if transfer:
            figures |= {"psnr/colour_transfer": 12.0}
        lines.append(json.dumps({"step": 100 * step, **figures}))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_best_is_by_the_direction_of_the_distance(tmp_path: Path) -> None:
    run = curves.read(run_folder(tmp_path / "cut", [9.0, 17.0, 14.0]))
    assert run["best"] == {"psnr": {"step": 100, "value": 17.0}, "delta_e": {"step": 100, "value": 23.0}}
    assert run["steps"] == 200 and run["last"]["psnr/after"] == 14.0 and len(run["curve"]) == 3
    assert curves.title(run) == "cut, 64²"


def test_picture_and_figures_of_two_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [run_folder(tmp_path / "cut", [9.0, 14.0]), run_folder(tmp_path / "other", [8.0, 13.0], transfer=False)]
    plot, figures = tmp_path / "curves.png", tmp_path / "curves.json"
    options = ["curves", *map(str, folders), "--plot", str(plot), "--json", str(figures)]
    monkeypatch.setattr("sys.argv", [*options, "--distances", "psnr,delta_e"])
    curves.main()
    assert plot.stat().st_size > 5000
    assert [run["run"] for run in json.loads(figures.read_text())] == ["cut", "other"]


def test_a_folder_without_figures_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(ValueError, match="metrics.jsonl is missing"):
        curves.read(tmp_path)
    monkeypatch.setattr("sys.argv", ["curves", str(run_folder(tmp_path / "new", []))])
    with pytest.raises(SystemExit):
        curves.main()
    assert "holds no figures yet" in capsys.readouterr().err
