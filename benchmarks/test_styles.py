"""What references change in runs: what is read from their folders, printed and written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

from benchmarks import styles
from cgcl_fast.data.streets.dataset import StreetsDataset
from cgcl_fast.networks import DisentangledGenerator, ResnetGenerator
from cgcl_fast.networks.files import generator_bytes

DOMAINS = ("sunny", "night")


def run_folder(folder: Path, generator: torch.nn.Module, **config: object) -> Path:
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "step_00000070.safetensors").write_bytes(generator_bytes(generator))
    options = {"method": "cgl", "size": 32, "seed": 3, "data": None, **config}
    (folder / "config.yaml").write_text(yaml.safe_dump(options))
    return folder


def disentangled() -> DisentangledGenerator:
    torch.manual_seed(0)
    return DisentangledGenerator(DOMAINS, ngf=4, n_blocks=1, style_dim=3, mlp_dim=8)


def batch_of(dataset: StreetsDataset, scenes: int, references: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(dataset.seed)
    size = (3, dataset.size, dataset.size)
    batch = {"A": torch.rand(scenes, *size, generator=draw)}
    for name in dataset.domains:
        batch[f"reference_{name}"] = torch.rand(references, *size, generator=draw)
        batch[f"truth_{name}"] = torch.rand(scenes, references, *size, generator=draw)
    return batch


def test_figures_of_a_run_are_printed_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(StreetsDataset, "style_batch", batch_of)
    folder, output = run_folder(tmp_path / "cgl", disentangled()), tmp_path / "styles.json"
    options = ["--scenes", "2", "--references", "3", "--output", str(output)]
    monkeypatch.setattr("sys.argv", ["styles", str(folder), *options])
    styles.main()
    document = json.loads(output.read_text())
    assert {"cpu", "torch", "commit", "date"} <= document["machine"].keys()
    (run,) = document["runs"]
    assert {name: run[name] for name in ("run", "method", "size", "step", "scenes", "references")} == {
        "run": "cgl", "method": "cgl", "size": 32, "step": 70, "scenes": 2, "references": 3,
    }  # fmt: skip
    assert {name: len(spread) for name, spread in run["code_spread"].items()} == {"sunny": 3, "night": 3}
    spread = sum(run["code_spread"]["night"]) / 3
    assert run["figures"]["style/code_spread/night"] == pytest.approx(spread, rel=1e-5) and spread > 0
    printed = capsys.readouterr().out
    assert "cgl (cgl, 32²), step 70" in printed and "2 test scenes, 3 references" in printed


def test_what_cannot_be_measured_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="expected a run"):
        styles.measure(tmp_path)
    with pytest.raises(ValueError, match="cut has no styles of references"):
        styles.measure(run_folder(tmp_path / "cut", ResnetGenerator(ngf=4, n_blocks=1), method="cut"))
    with pytest.raises(ValueError, match="built-in streets only, got a run on photographs"):
        styles.measure(run_folder(tmp_path / "photographs", disentangled(), data="photographs"))
    monkeypatch.setattr(StreetsDataset, "style_batch", lambda self, scenes, references: None)
    with pytest.raises(ValueError, match="is not known"):
        styles.measure(run_folder(tmp_path / "unknown", disentangled()))
