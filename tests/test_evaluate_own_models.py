"""Scores of the evaluate command that depend on users' own models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from cgcl_fast import evaluate as command
from cgcl_fast.evaluate import main
from cgcl_fast.metrics.inception_score import conditional_inception_score, inception_score
from cgcl_fast.networks import DisentangledGenerator
from cgcl_fast.networks.files import generator_bytes


def results_of(*arguments: object) -> dict[str, Any]:
    output = Path(arguments[-1])  # type: ignore[arg-type]
    assert main([*map(str, arguments[:-1]), "--output", str(output)]) == 0
    return json.loads(output.read_text())


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)


def test_labels_that_a_model_predicted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = np.array([[0, 0, 1, 1], [0, 0, 255, 1]])
    predicted = np.array([[0, 1, 1, 1], [0, 0, 5, 1]])
    save(tmp_path / "truth" / "a.png", truth)
    save(tmp_path / "predicted" / "a.png", predicted)
    options = ["--predictions", tmp_path / "predicted", "--labels", tmp_path / "truth"]
    found = results_of(*options, tmp_path / "found.json")
    (result,) = found["results"]
    assert result["of"] == "segmentation" and result["pixels"] == 7
    assert result["figures"]["mean_iou"] == pytest.approx((3 / 4 + 3 / 4) / 2)
    assert result["figures"]["pixel_accuracy"] == pytest.approx(6 / 7)
    assert result["figures"]["class_accuracy"] == pytest.approx((3 / 4 + 1) / 2)
    assert found["protocol"]["labels_are"] == "trainids" and "versions" in found["protocol"]
    assert "mean IoU of the predicted labels" in capsys.readouterr().out


def test_objects_that_a_detector_found(tmp_path: Path) -> None:
    pytest.importorskip("faster_coco_eval")
    boxes = [[0, 0, 10, 10], [20, 20, 10, 10]]
    truth = {
        "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 64}],
        "categories": [{"id": 7, "name": "car"}],
        "annotations": [
            {"id": n + 1, "image_id": 1, "category_id": 7, "bbox": box, "area": 100, "iscrowd": 0}
            for n, box in enumerate(boxes)
        ],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    detections = [{"image_id": 1, "category_id": 7, "bbox": boxes[0], "score": 0.9}]
    (tmp_path / "found.json").write_text(json.dumps(detections))
    options = ["--detections", tmp_path / "found.json", "--annotations", tmp_path / "truth.json"]
    figures = results_of(*options, tmp_path / "out.json")["results"][0]["figures"]
    # One of two objects, found exactly: the precision is 1 up to a recall of a half.
    assert figures["mAP"] == figures["mAP50"] == pytest.approx(51 / 101)
    assert figures["VOC_AP50/car"] == pytest.approx(6 / 11)


class ByBrightness(nn.Module):
    """Two classes, the darker and the brighter images."""

    domains = ("dark", "bright")
    size = 8

    def probabilities(self, images: Tensor) -> Tensor:
        bright = torch.sigmoid(4 * images.mean((1, 2, 3)))
        return torch.stack([1 - bright, bright], dim=1)


@pytest.fixture
def classifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "classifier.safetensors"
    path.touch()
    monkeypatch.setattr(command, "load_classifier", lambda _: (ByBrightness(), "abc"))
    return path


def test_a_folder_by_a_classifier(tmp_path: Path, classifier: Path) -> None:
    shades = [0, 40, 200, 255]
    for number, shade in enumerate(shades):
        save(tmp_path / "images" / f"{number}.png", np.full((16, 16, 3), shade))
    options = ["--images", tmp_path / "images", "--truth", tmp_path / "images", "--metrics", "truth"]
    found = results_of(*options, "--classifier", classifier, tmp_path / "out.json")
    images = torch.stack([torch.full((3, 2, 2), shade / 127.5 - 1) for shade in shades])
    expected = inception_score(ByBrightness().probabilities(images))
    (result,) = found["results"]
    assert expected > 1.3
    assert result["figures"] == {"is_classifier": pytest.approx(expected, rel=1e-5)}
    assert found["protocol"]["classifier"]["sha256"] == "abc"


@torch.no_grad()
def test_a_run_by_a_classifier(tmp_path: Path, classifier: Path) -> None:
    torch.manual_seed(0)
    generator = DisentangledGenerator(domains=("sunny", "night"), ngf=4, n_blocks=1).eval()
    file = tmp_path / "generator.safetensors"
    file.write_bytes(generator_bytes(generator))
    for name in ("sunny", "night"):
        for number in range(2):
            noise = np.random.RandomState(number).randint(0, 256, (16, 16, 3))
            save(tmp_path / "data" / f"test{name}" / f"{number}.png", noise)
    seen: list[Tensor] = []

    class Remembers(ByBrightness):
        def probabilities(self, images: Tensor) -> Tensor:
            seen.append(super().probabilities(images))
            return seen[-1]

    command.load_classifier = lambda _: (Remembers(), "abc")  # type: ignore[assignment]  # the fixture puts it back
    options = ["--checkpoint", file, "--data", tmp_path / "data", "--size", "16", "--preprocess", "resize"]
    options += ["--metrics", "cost", "--classifier", classifier, "--classifier-styles", "3", "--batch-size", "2"]
    found = results_of(*options, tmp_path / "out.json")
    assert [result["of"] for result in found["results"]] == ["sunny to night", "night to sunny"]
    assert [len(part) for part in seen] == [2, 1] * 4  # two ways, two inputs each, in three styles each
    for way, result in enumerate(found["results"]):
        p = torch.cat(seen[4 * way : 4 * way + 4])
        assert result["figures"]["is_classifier"] == pytest.approx(inception_score(p))
        assert result["figures"]["cis"] == pytest.approx(conditional_inception_score(p.reshape(2, 3, 2)))
    assert found["mean"].keys() == {"is_classifier", "cis"}
    assert found["protocol"]["classifier_styles"] == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--predictions", "."], "predictions: goes with labels"),
        (["--detections", "none.json", "--annotations", "."], "detections: none.json does not exist"),
        ([], "expected a run (or its file) to translate with"),
        (["--checkpoint", ".", "--images", "."], "images: is in place of a run"),
    ],
)
def test_what_does_not_go_together_is_said(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(options) == 2
    assert said in capsys.readouterr().err
