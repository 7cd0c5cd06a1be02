"""``train --eval-every``: the metrics of ``evaluate`` during a training, and the best checkpoint by one of them."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent / "metrics"))
pytest.importorskip("torch_fidelity")
from random_networks import Few  # noqa: E402

from cgcl_fast.data.streets.dataset import COUNTS  # noqa: E402
from cgcl_fast.engine import Checkpoints, read_checkpoint  # noqa: E402
from cgcl_fast.evaluate import main as evaluate  # noqa: E402
from cgcl_fast.metrics import features as features_module  # noqa: E402
from cgcl_fast.train import main as train  # noqa: E402


def prepare(patched: pytest.MonkeyPatch) -> None:
    patched.setitem(features_module.NETWORKS, "lite0", Few)
    patched.setitem(COUNTS, "test", 6)


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(monkeypatch)


TINY = ["--size", "32", "--ngf", "4", "--limit", "6", "--eval-images", "0", "--workers", "0", "--device", "cpu"]


def figures_of(run: Path) -> dict[int, dict[str, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line for line in lines}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "cut"
    with pytest.MonkeyPatch.context() as patched:
        prepare(patched)
        every = ["--save-every", "1", "--eval-every", "2", "--best-by", "frechet_lite0", "--keep", "9"]
        assert train(["cut", *TINY, "--steps", "3", *every, "--output", str(run)]) == 0
    return run


def test_figures_are_there_every_so_many_steps_and_at_the_end(run: Path) -> None:
    found = figures_of(run)
    assert [step for step, figures in found.items() if "frechet_lite0" in figures] == [0, 2, 3]
    assert found[3]["frechet_lite0"] == found[3]["frechet_lite0/A to B"]
    least = min((0, 2, 3), key=lambda step: found[step]["frechet_lite0"])
    note = Checkpoints(run / "checkpoints").best()
    assert note == {"step": least, "metric": "frechet_lite0", "value": found[least]["frechet_lite0"]}


def test_evaluate_finds_the_same_of_the_run(run: Path, tmp_path: Path) -> None:
    output = tmp_path / "found.json"
    assert evaluate([str(run), "--metrics", "lite0", "--output", str(output), "--device", "cpu"]) == 0
    ((result),) = json.loads(output.read_text())["results"]
    expected = {n: v for n, v in figures_of(run)[3].items() if n in result["figures"]}
    assert expected.keys() == result["figures"].keys()
    assert result["figures"] == pytest.approx(expected, rel=1e-6)


def test_the_training_is_the_same_without(run: Path, tmp_path: Path) -> None:
    assert train(["cut", *TINY, "--steps", "3", "--output", str(tmp_path / "run")]) == 0
    states = [read_checkpoint(of / "checkpoints" / "step_00000003.pt") for of in (run, tmp_path / "run")]
    first, second = (state["method"] for state in states)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_goes_on_with_another_figure_as_the_best(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    more = ["--steps", "4", "--best-by", "recall_lite0", "--eval-every", "1"]
    assert train(["cut", "--resume", "--output", str(copy), *more]) == 0
    note = Checkpoints(copy / "checkpoints").best()
    assert note["step"] == 4 and note["metric"] == "recall_lite0"


def test_styles_and_several_domains(tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ["--steps", "1", "--eval-every", "1", "--domains", "sunny,night", "--output", str(run)]
    assert train(["cgcl", *TINY, *options]) == 0
    found = figures_of(run)[1]
    pairs = [found[f"kernel_lite0/{way}"] for way in ("sunny to night", "night to sunny")]
    assert found["kernel_lite0"] == pytest.approx(sum(pairs) / 2)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--eval-every", "3", "--save-every", "2"], "eval_every: expected a multiple of save_every, 2, got 3"),
        (["--best-by", "beauty"], "best_by: expected one of psnr/after, "),
        (["--best-by", "fid"], "best_by: fid is there with eval_every"),
        (["--eval-every", "1", "--eval-metrics", "beauty"], "beauty"),
        (["--eval-every", "1", "--eval-metrics", "lite0,fid"], "eval_metrics: fid: "),
    ],
)
def test_wrong_options_are_one_line(
    options: list[str],
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fails)
    assert train(["cut", *TINY, "--steps", "1", *options, "--output", str(tmp_path / "run")]) == 2
    error = [each for each in capsys.readouterr().err.splitlines() if each.startswith("error: ")]
    assert len(error) == 1 and line in error[0]


def test_a_missing_extra_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    assert train(["cut", *TINY, "--steps", "1", "--eval-every", "1", "--output", str(tmp_path / "run")]) == 2
    assert "pip install 'cgcl_fast[metrics]'" in capsys.readouterr().err
