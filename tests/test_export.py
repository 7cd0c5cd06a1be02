"""The export command: what it takes, what it prints, and that nothing stays where it fails."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from methods.tiny import TINY, TINY_OF
from torch import nn

from cgcl_fast import compat, networks
from cgcl_fast import export as export_module
from cgcl_fast._generator import find_generator
from cgcl_fast.export import main
from cgcl_fast.exporting import FORMATS, ExportError
from cgcl_fast.train import main as train


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both generators of CycleGAN in the published layout."""
    folder = tmp_path_factory.mktemp("published")
    for seed, name in enumerate("AB"):
        torch.manual_seed(seed)
        generator = networks.ResnetGenerator(ngf=4, n_blocks=1, antialias=False)
        torch.save(compat.published_state_dict(generator), folder / f"latest_net_G_{name}.pth")
    return folder


def run(checkpoint: Path, output: Path, *more: str, kind: str = "torchscript") -> int:
    return main(["--checkpoint", str(checkpoint), "--format", kind, "--output", str(output), *more])


def test_either_direction(published: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    for direction in ("AtoB", "BtoA"):
        file = tmp_path / f"{direction}.pt"
        assert run(published, file, "--direction", direction) == 0
        generator, _ = find_generator(published, direction)
        with torch.no_grad():
            found, expected = torch.jit.load(str(file))(x), generator.eval()(x)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        assert json.loads(FORMATS["torchscript"].describe(file))["direction"] == direction
        lines = capsys.readouterr().out.splitlines()
        assert [line.split(":")[0] for line in lines[:3]] == ["1 x 64x64", "2 x 64x96", "3 x 128x64"]
        assert lines[3].startswith(f"{file}: torchscript of ") and "largest difference" in lines[3]


def compared_domains(printed: str) -> list[str]:
    return [line.split(":")[0].partition(" to ")[2] for line in printed.splitlines()[:-1]]


@pytest.mark.slow
def test_a_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    options = ["mguit", *TINY, *TINY_OF["mguit"], "--steps", "1", "--output", str(tmp_path / "run")]
    assert train(options) == 0
    capsys.readouterr()
    assert run(tmp_path / "run", tmp_path / "g.pt") == 0
    assert compared_domains(capsys.readouterr().out) == ["A", "B", "A"]


def test_every_domain_is_compared(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    domains = ["sunny", "night", "cloudy", "rainy"]
    file = tmp_path / "g.safetensors"
    networks.save_generator(file, networks.DisentangledGenerator(domains, ngf=4, n_blocks=1, mlp_dim=8))
    assert run(file, tmp_path / "g.pt") == 0
    assert compared_domains(capsys.readouterr().out) == domains


def test_nothing_stays_of_a_file_that_differs(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(generator: nn.Module, kind: str, output: Path) -> None:
        raise ExportError(f"{output}: the exported generator differs from eager by 2.0e-01, more than 1e-03")

    monkeypatch.setattr(export_module, "export_generator", fails)
    assert run(published, tmp_path / "g.pt") == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "g.pt").exists()


def test_a_file_that_is_there_stays(published: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = tmp_path / "g.pt"
    file.write_text("mine")
    assert run(published, file) == 2
    assert "--overwrite" in capsys.readouterr().err and file.read_text() == "mine"
    assert run(published, file, "--overwrite") == 0
    assert torch.jit.load(str(file)).multiple == 4


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (lambda folder: ["--checkpoint", folder / "none", "--format", "onnx", "--output", folder / "g"], "not exist"),
        (lambda folder: ["--checkpoint", folder, "--format", "caffe", "--output", folder / "g"], "torchscript"),
        (lambda folder: ["--checkpoint", folder, "--format", "onnx", "--output", folder], "is a folder"),
        (lambda folder: ["--checkpoint", folder, "--format", "onnx"], "output"),
    ],
)
def test_wrong_options(
    options: Callable[[Path], list[object]], complaint: str, published: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main([str(option) for option in options(published)]) == 2
    printed = capsys.readouterr().err
    assert complaint in printed and printed.count("\n") == 1


def test_the_checkpoint_is_not_overwritten(published: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file, link = tmp_path / "latest_net_G_A.pth", tmp_path / "link.pth"
    file.write_bytes((published / "latest_net_G_A.pth").read_bytes())
    link.symlink_to(file)
    before = file.read_bytes()
    for checkpoint, output in ((file, file), (link, file), (tmp_path, file)):
        assert run(checkpoint, output, "--overwrite") == 2
        assert "is the checkpoint itself" in capsys.readouterr().err
        assert file.read_bytes() == before


def test_only_regular_files_are_replaced(published: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert run(published, tmp_path / "pipe", "--overwrite") == 2
    assert "a named pipe, not a regular file" in capsys.readouterr().err
    assert (tmp_path / "pipe").is_fifo()


def test_a_missing_extra_is_named(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert run(published, tmp_path / "g.onnx", kind="onnx") == 2
    assert 'pip install "cgcl_fast[export]"' in capsys.readouterr().err
    assert not (tmp_path / "g.onnx").exists()
