"""``train --ema-decay``: the commands take the average of the generator's weights, and ``--init`` what goes with D."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from cgcl_fast import compat
from cgcl_fast._generator import find_generator
from cgcl_fast._initial import take_weights
from cgcl_fast._networks import empty_method
from cgcl_fast._run import open_run
from cgcl_fast.compat.__main__ import main as to_published
from cgcl_fast.engine import read_checkpoint
from cgcl_fast.methods import METHODS
from cgcl_fast.train import main as train

TINY = ["--ngf", "2", "--ndf", "2", "--n-blocks", "1", "--size", "32", "--limit", "4", "--eval-images", "0"]
PLACE = ["--device", "cpu", "--workers", "0"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "averaged"
    more = ["--steps", "3", "--lr", "0.01", "--ema-decay", "0.5", "--direction", "BtoA", "--output", str(folder)]
    assert train(["cyclegan", *TINY, *PLACE, *more]) == 0
    return folder


def weights(state: dict, kind: str, name: str) -> dict:
    return {k.removeprefix(f"{name}."): t for k, t in state[kind].items() if k.startswith(f"{name}.")}


def assert_weights(network: nn.Module, expected: dict) -> None:
    found = network.state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[k], expected[k]) for k in found)


def test_generators_of_a_run_are_the_averages(run: Path, tmp_path: Path) -> None:
    state = read_checkpoint(run / "checkpoints" / "step_00000003.pt")
    of_average, of_weights = weights(state, "ema", "G"), weights(state, "method", "G")
    assert not torch.equal(of_average["stem.weight"], of_weights["stem.weight"])
    for path in (run, run / "checkpoints" / "step_00000003.pt"):
        assert_weights(find_generator(path)[0], of_average)
        assert_weights(find_generator(path, "AtoB")[0], weights(state, "ema", "F"))
    shutil.copytree(run, tmp_path / "run")
    for file in (tmp_path / "run" / "checkpoints").glob("*.safetensors"):
        file.unlink()
    assert_weights(find_generator(tmp_path / "run", "AtoB")[0], weights(state, "ema", "F"))
    whole = open_run(run).method
    assert_weights(whole.G, of_average)
    assert_weights(whole.D_Y, weights(state, "method", "D_Y"))
    assert to_published([str(run), "--output", str(tmp_path / "published")]) == 0
    assert_weights(compat.load_generator(tmp_path / "published" / "latest_net_G_A.pth"), of_average)


def test_a_new_training_begins_with_the_weights_that_belong_together(run: Path) -> None:
    state = read_checkpoint(run / "checkpoints" / "step_00000003.pt")
    empty = empty_method(state)
    method = METHODS["cyclegan"](empty.config)
    take_weights(method, run)
    for name in ("G", "F", "D_X", "D_Y"):
        assert_weights(getattr(method, name), weights(state, "method", name))


def test_it_is_said_and_kept_with_the_options(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another decay, or none, leaves the steps what they are: no new phase begins."""
    assert "ema_decay: 0.5" in (run / "config.yaml").read_text()
    shutil.copytree(run, tmp_path / "run")
    resume = ["--resume", "--output", str(tmp_path / "run"), *PLACE, "--steps"]
    assert train([*resume, "4"]) == 0
    shown = capsys.readouterr()
    assert "sample grids, figures and saved generators: of the average of the weights, decay 0.5" in shown.out
    assert train([*resume, "5", "--ema-decay", "0"]) == 0
    shown = capsys.readouterr()
    assert "average" not in shown.out and "new phase" not in shown.err
    assert "ema" not in read_checkpoint(tmp_path / "run" / "checkpoints" / "step_00000005.pt")


@pytest.mark.parametrize("decay", ["1", "-0.1", "nan", "most"])
def test_a_decay_out_of_range_is_one_line(decay: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(["cut", *TINY, *PLACE, "--output", str(tmp_path / "run"), "--ema-decay", decay]) == 2
    error = capsys.readouterr().err
    assert "ema" in error and error.count("\n") == 1 and not (tmp_path / "run").exists()
