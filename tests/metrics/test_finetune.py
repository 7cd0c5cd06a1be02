"""The domain classifier: fine-tuning, its file, and what the command rejects.

Tests with many steps replace Inception-v3 by a small network; Inception-v3 takes one step at 75x75 pixels. Weights are
random: ImageNet's need a download.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from torch import nn
from torchvision.models import inception_v3

from cgcl_fast.metrics import classifier as module
from cgcl_fast.metrics.classifier import DomainClassifier, load_classifier, sha256_of
from cgcl_fast.metrics.finetune import main

SMALL = ["--size", "75", "--weights", "none", "--device", "cpu", "--domains", "[sunny,night]"]


def small_network(**_: Any) -> nn.Module:
    network = nn.Sequential(nn.Conv2d(3, 8, 7, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
    network.append(nn.Flatten())
    network.fc = nn.Linear(32, 1000)
    return network


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One step of the real network."""
    path = tmp_path_factory.mktemp("classifier") / "domains.safetensors"
    more = ["--steps", "1", "--batch-size", "2", "--limit", "2", "--test-images", "1"]
    assert main(["--output", str(path), *SMALL, *more]) == 0
    return path


def test_it_learns_to_tell_day_from_night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "inception_v3", small_network)
    path = tmp_path / "domains.safetensors"
    more = ["--steps", "20", "--batch-size", "8", "--limit", "4", "--test-images", "4", "--lr", "0.01"]
    assert main(["--output", str(path), *SMALL, *more]) == 0
    with safe_open(str(path), framework="pt") as file:
        notes = json.loads(file.metadata()["notes"])
    assert notes["accuracy"] == {"sunny": 1, "night": 1} and notes["accuracy_on"] == "test" and notes["loss"] < 0.3
    assert main(["--output", str(tmp_path / "again.safetensors"), *SMALL, *more]) == 0
    assert load_classifier(tmp_path / "again.safetensors")[1] == load_classifier(path)[1]


def test_the_file_says_what_it_is(trained: Path):
    classifier, sha256 = load_classifier(trained)
    assert classifier.domains == ("sunny", "night") and classifier.size == 75 and not classifier.training
    with safe_open(str(trained), framework="pt") as file:
        metadata = file.metadata()
    assert metadata["sha256"] == sha256 and json.loads(metadata["domains"]) == ["sunny", "night"]
    notes = json.loads(metadata["notes"])
    assert notes["steps"] == 1 and notes["weights"] == "none" and set(notes["accuracy"]) == {"sunny", "night"}


def test_probabilities_are_a_softmax_of_resized_images(trained: Path):
    classifier, _ = load_classifier(trained)
    p = classifier.probabilities(torch.rand(2, 3, 40, 90) * 2 - 1)
    assert p.shape == (2, 2) and torch.allclose(p.sum(1), torch.ones(2))
    with pytest.raises(ValueError, match=r"images: expected \(B, 3, H, W\)"):
        classifier(torch.zeros(2, 1, 75, 75))


def test_a_changed_file_is_refused(trained: Path, tmp_path: Path):
    tensors = safetensors.torch.load_file(trained)
    with safe_open(str(trained), framework="pt") as file:
        metadata = file.metadata()
    assert sha256_of(tensors) == metadata["sha256"]
    tensors["network.fc.bias"] += 1
    safetensors.torch.save_file(tensors, tmp_path / "changed.safetensors", metadata)
    with pytest.raises(ValueError, match="damaged"):
        load_classifier(tmp_path / "changed.safetensors")
    safetensors.torch.save_file(tensors, tmp_path / "other.safetensors", {"kind": "else"})
    with pytest.raises(ValueError, match="expected a classifier of domains"):
        load_classifier(tmp_path / "other.safetensors")


def test_it_begins_with_weights_of_torchvision():
    """With the auxiliary output and the thousand classes that those have."""
    theirs = inception_v3(weights=None, init_weights=False).state_dict()
    assert any(name.startswith("AuxLogits.") for name in theirs)
    classifier = DomainClassifier(("a", "b", "c"), 75)
    before = classifier.network.fc.weight.clone()
    classifier.take_imagenet(theirs)
    own = classifier.network.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in own.items() if not name.startswith("fc."))
    assert torch.equal(own["fc.weight"], before) and own["fc.weight"].shape == (3, 2048)
    del theirs["Mixed_5b.branch1x1.conv.weight"]
    with pytest.raises(ValueError, match=r"differ in Mixed_5b\.branch1x1\.conv\.weight"):
        classifier.take_imagenet(theirs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "a.pth"], "expected a file that ends with .safetensors"),
        (["--output", "a.safetensors", "--size", "74"], "size: expected"),
        (["--output", "a.safetensors", "--weights", "nowhere.pth"], "nowhere.pth"),
        (["--output", "a.safetensors", "--data", "nowhere"], "nowhere"),
    ],
)
def test_wrong_options_are_one_line(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_without_network_the_way_out_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    assert main(["--output", str(tmp_path / "a.safetensors"), "--limit", "2"]) == 2
    assert "cannot be downloaded (no network); give its file by --weights FILE" in capsys.readouterr().err
