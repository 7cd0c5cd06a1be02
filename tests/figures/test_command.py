"""``python -m cgcl_fast.figures`` on tiny runs: the figures of each method, and what it rejects."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

from cgcl_fast.figures.__main__ import main
from cgcl_fast.train import main as train

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")
pytest.importorskip("captum")

TINY = ["--size", "32", "--ngf", "4", "--ndf", "4", "--steps", "2", "--log-every", "1", "--device", "cpu"]
TINY += ["--workers", "0", "--eval-images", "0", "--save-every", "2", "--preset", "small"]
OF_METHOD = {
    "cgcl": ["--object-size", "16", "--d-layers", "3", "--n-blocks", "1", "--domains", "[sunny,night]"],
    "enco": ["--n-blocks", "5", "--nce-dim", "8", "--num-patches", "8"],
    "mguit": ["--n-blocks", "1", "--style-nc", "6", "--d-layers", "3", "--n-scales", "2", "--content-layers", "1"],
}
DRAWN = {
    "cgcl": ["losses", "similarity", "components", "style_codes", "grad_cam", "styles_sunny", "styles_night"]
    + ["interpolation", "instances"],
    "enco": ["losses", "similarity", "components", "attention"],
    "mguit": ["losses", "components", "memory", "styles_B", "interpolation"],
}
LEFT_OUT = {
    "cgcl": "not of this cgcl: attention (no sampling by the discriminator's attention); memory (no memory)",
    "enco": "not of this enco: style_codes (no style codes); memory (no memory); grad_cam (no domain classifier); "
    "styles, interpolation (no styles); instances (no generator of instances)",
    "mguit": "not of this mguit: similarity (no PatchNCE loss); "
    "attention (no sampling by the discriminator's attention); style_codes (no style codes); "
    "grad_cam (no domain classifier); instances (no generator of instances)",
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    for method, options in OF_METHOD.items():
        assert train([method, *TINY, *options, "--output", str(folder / method)]) == 0
    return {method: folder / method for method in OF_METHOD}


@pytest.mark.parametrize("method", OF_METHOD)
def test_all_that_fit_are_drawn(method: str, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    small = ["--images", "2", "--codes", "4", "--dpi", "40", "--output", str(tmp_path / "drawn")]
    assert main([str(runs[method]), *small]) == 0
    said = capsys.readouterr()
    expected = [tmp_path / "drawn" / f"{name}.png" for name in DRAWN[method]]
    assert said.out.splitlines() == [str(path) for path in expected]
    assert sorted((tmp_path / "drawn").iterdir()) == sorted(expected)
    assert said.err.splitlines()[-1] == LEFT_OUT[method]
    for path in (tmp_path / "drawn").iterdir():
        with Image.open(path) as image:
            assert len(image.convert("L").getcolors(256) or range(256)) > 10, path  # something is on it


def test_some_of_them_in_another_format(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]):
    arguments = ["--figures", "similarity,curves", "--format", "svg", "--point", "0.5", "0.25"]
    assert main([str(runs["enco"]), str(runs["mguit"]), *arguments]) == 0
    folder = runs["enco"] / "figures"
    assert sorted(path.name for path in folder.iterdir()) == ["losses.svg", "similarity.svg"]
    assert (folder / "losses.svg").read_text().lstrip().startswith("<?xml")
    capsys.readouterr()
    assert main([str(runs["enco"]), "--figures", "memory"]) == 2
    assert capsys.readouterr().err == "not of this enco: memory (no memory)\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: expected the folder of a run"),
        (["."], "holds no run (no checkpoints/step_*.pt)"),
        (["RUN", "nowhere"], "RUN: nowhere holds no run (no log.jsonl)"),
        (["RUN", "--figures", "fid"], "figures: expected some of curves, similarity"),
        (["RUN", "--data", "nowhere", "--figures", "styles"], "nowhere"),
        (["RUN", "--point", "2", "0"], "point"),
        (["RUN", "--images", "0"], "images: expected"),
        ([], "the following arguments are required: runs"),
    ],
)
def test_wrong_arguments_are_one_line(
    arguments: list[str],
    message: str,
    runs: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(tmp_path)
    assert main([str(runs["cgcl"]) if each == "RUN" else each for each in arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_without_the_extra_it_is_named(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    assert main([str(runs["cgcl"]), "--figures", "grad_cam", "--output", str(tmp_path)]) == 2
    assert capsys.readouterr().err == 'error: captum is not installed; pip install "cgcl_fast[figures]"\n'
