"""Curves of runs: reading their logs, and drawing."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from cgcl_fast.figures import losses_figure, metrics_figure, read_curves
from cgcl_fast.figures.curves import smoothed


def log(path: Path, *lines: dict | str) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_what_a_log_holds(tmp_path: Path):
    path = log(
        tmp_path / "log.jsonl",
        {"step": 1, "loss": 4, "only": 1.5},
        {"step": 3, "loss": math.nan},
        {"step": 2, "loss": 3.0, "name": "text", "flag": True},
        {"step": 1, "loss": 5.0},
        "[1]",
        "null",
        '{"step": 4, "lo',
    )
    curves = read_curves(path)
    assert set(curves) == {"loss", "only"}
    assert curves["loss"].steps.tolist() == [1, 2, 3]
    assert curves["loss"].values[:2].tolist() == [5, 3] and math.isnan(curves["loss"].values[2])
    assert curves["only"].steps.tolist() == [1]
    with pytest.raises(OSError):
        read_curves(tmp_path)


def test_a_moving_average():
    found = smoothed(np.array([1.0, 3, 5, np.nan, 9]), 3)
    assert found.tolist() == [1, 2, 3, 4, 7]
    assert np.isnan(smoothed(np.array([np.nan, 2.0]), 2))[0]


def test_each_loss_has_a_panel_and_each_run_a_line(tmp_path: Path):
    first = [{"step": n, "d/loss": n / 2, "g/loss": 1.0, "lr/g": 0.1, "images_per_second": 3} for n in range(100)]
    second = [{"step": n, "g/loss": 2.0, "g/nothing": math.nan} for n in range(5)]
    runs = {
        "a": read_curves(log(tmp_path / "a.jsonl", *first)),
        "b": read_curves(log(tmp_path / "b.jsonl", *second)),
    }
    figure = losses_figure(runs)
    panels = [axes for axes in figure.axes if axes.lines]
    assert [axes.get_title() for axes in panels] == ["d/loss", "g/loss"]
    assert [len(axes.lines) for axes in panels] == [2, 3]  # points and average, and the short run's points
    average = panels[0].lines[1].get_ydata()
    assert average[-1] == pytest.approx(np.mean([n / 2 for n in range(95, 100)]))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    assert losses_figure({"c": {}}) is None


def test_metrics_stand_beside_the_untouched(tmp_path: Path):
    lines = [
        {"step": n, "psnr/before": 16.0, "psnr/after": 10.0 + n, "style/share": n / 4, "style/share/night": 1.0}
        | {"style/transfer_right": 12.0}
        for n in range(3)
    ]
    figure = metrics_figure({"a": read_curves(log(tmp_path / "a.jsonl", *lines))})
    panels = [axes for axes in figure.axes if axes.lines]
    assert [axes.get_title() for axes in panels] == ["PSNR, dB (higher is closer)", "style/share"]
    after, before = panels[0].lines
    assert list(after.get_ydata()) == [10, 11, 12] and set(before.get_ydata()) == {16}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "untouched"]
    assert metrics_figure({"c": {}}) is None
