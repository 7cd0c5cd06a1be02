"""APs of detections: against faster-coco-eval and torchmetrics called directly, and cases by hand."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cgcl_fast import _extras
from cgcl_fast.metrics.detection import Objects, average_precisions, detection_scores

pytest.importorskip("torchmetrics")
coco_eval = pytest.importorskip("faster_coco_eval")

NAMES = {1: "car", 3: "person", 8: "sign"}


def scene(seed: int, *, crowds: bool) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A COCO file of annotations and one of detections that find most of the objects, some of them badly, or twice."""
    rng = random.Random(seed)
    images = [{"id": 10 * n, "file_name": f"{n}.png", "width": 200, "height": 100} for n in range(6)]
    annotations: list[dict[str, Any]] = []
    detections: list[dict[str, Any]] = []
    for image in images[:-1]:  # the last has no objects
        for _ in range(5):
            category = rng.choice(list(NAMES))
            x, y, w, h = rng.uniform(0, 150), rng.uniform(0, 60), rng.uniform(10, 50), rng.uniform(10, 40)
            entry = {"image_id": image["id"], "category_id": category, "bbox": [x, y, w, h]}
            crowd = crowds and rng.random() < 0.2
            annotations.append({**entry, "id": len(annotations) + 1, "area": w * h, "iscrowd": int(crowd)})
            for _ in range(rng.choice((0, 1, 1, 2))):
                moved = [value + rng.gauss(0, 3) for value in (x, y, w, h)]
                detections.append({**entry, "bbox": moved, "score": rng.random()})
    detections.append({"image_id": 50, "category_id": 1, "bbox": [0, 0, 20, 20], "score": 0.9})
    categories = [{"id": number, "name": name} for number, name in NAMES.items()]
    return {"images": images, "annotations": annotations, "categories": categories}, detections


def written(folder: Path, truth: Any, detections: Any) -> tuple[Path, Path]:
    paths = folder / "detections.json", folder / "instances.json"
    for path, content in zip(paths, (detections, truth), strict=True):
        path.write_text(json.dumps(content))
    return paths


@pytest.mark.parametrize("crowds", [False, True])
def test_they_are_those_of_faster_coco_eval(crowds: bool, tmp_path: Path):
    """The library's own program, which reads the two files itself."""
    detections, truth = written(tmp_path, *scene(1, crowds=crowds))
    scores = detection_scores(detections, truth)
    coco = coco_eval.COCO(str(truth))
    direct = coco_eval.COCOeval_faster(coco, coco.loadRes(str(detections)), "bbox", print_function=lambda *_: None)
    direct.evaluate()
    direct.accumulate()
    direct.summarize()
    figures = scores.figures()
    assert figures["mAP"] == pytest.approx(direct.stats[0], abs=1e-6)
    assert figures["mAP50"] == pytest.approx(direct.stats[1], abs=1e-6)
    precision = np.asarray(direct.eval["precision"])[..., 0, -1]
    for column, name in enumerate(NAMES.values()):
        assert figures[f"AP/{name}"] == pytest.approx(precision[:, :, column].mean(), abs=1e-6)
        assert figures[f"AP50/{name}"] == pytest.approx(precision[0, :, column].mean(), abs=1e-6)
    assert 0.1 < figures["mAP"] < figures["mAP50"] < 1 and scores.images == 6


def test_they_are_those_of_torchmetrics(tmp_path: Path):
    from torchmetrics.detection import MeanAveragePrecision

    truth, detections = scene(2, crowds=False)
    figures = detection_scores(*written(tmp_path, truth, detections)).figures()

    def corners(entries: list[dict[str, Any]]) -> torch.Tensor:
        return torch.tensor([[x, y, x + w, y + h] for x, y, w, h in (e["bbox"] for e in entries)]).view(-1, 4)

    def direct(**options: Any) -> dict[str, torch.Tensor]:
        metric = MeanAveragePrecision(class_metrics=True, backend="faster_coco_eval", **options)
        for image in truth["images"]:
            true, found = ([e for e in of if e["image_id"] == image["id"]] for of in (truth["annotations"], detections))
            labels = [torch.tensor([e["category_id"] for e in of], dtype=torch.int64) for of in (true, found)]
            scores = torch.tensor([e["score"] for e in found])
            metric.update(
                [{"boxes": corners(found), "labels": labels[1], "scores": scores}],
                [{"boxes": corners(true), "labels": labels[0]}],
            )
        return metric.compute()

    recalls = {"rec_thresholds": np.linspace(0, 1, 101).tolist()}
    coco, at_half = direct(**recalls), direct(iou_thresholds=[0.5], **recalls)
    voc = direct(iou_thresholds=[0.5], rec_thresholds=np.linspace(0, 1, 11).tolist())
    assert figures["mAP"] == pytest.approx(float(coco["map"]), abs=1e-6)
    assert figures["VOC_mAP50"] == pytest.approx(float(voc["map"]), abs=1e-6)
    for column, name in enumerate(NAMES.values()):
        for key, found in (("AP", coco), ("AP50", at_half), ("VOC_AP50", voc)):
            assert figures[f"{key}/{name}"] == pytest.approx(float(found["map_per_class"][column]), abs=1e-6), key


def test_a_case_by_hand():
    """Of two cars one is found, after a false detection: precision ½ up to recall ½, 0 beyond. Of 101 recalls 51 are no
    more than ½, and of 11 six."""
    cars = Objects(torch.tensor([[0.0, 0, 10, 10], [50, 0, 60, 10]]), ("car", "car"))
    boxes = torch.tensor([[20.0, 20, 30, 30], [0, 0, 10, 10]])
    found = Objects(boxes, ("car", "car"), torch.tensor([0.9, 0.8]))
    person = Objects(torch.tensor([[0.0, 0, 5, 5]]), ("person",))
    scores = average_precisions([found, Objects()], [cars, person])
    assert scores.ap50 == {"car": pytest.approx(51 / 202), "person": 0}
    assert scores.voc == {"car": pytest.approx(3 / 11), "person": 0}
    assert average_precisions([found, Objects()], [cars, person], ["car"]).figures()["mAP50"] == pytest.approx(51 / 202)


def test_annotations_of_a_folder(tmp_path: Path):
    """YOLO's, in fractions of the images; detections name images and classes."""
    images = tmp_path / "images"
    (tmp_path / "labels").mkdir()
    images.mkdir()
    for name, lines in (("a", "0 0.25 0.5 0.5 1.0\n"), ("b", "1 0.5 0.5 0.5 0.5\n")):
        Image.new("RGB", (40, 20)).save(images / f"{name}.png")
        (tmp_path / "labels" / f"{name}.txt").write_text(lines)
    (tmp_path / "labels" / "classes.txt").write_text("car\nperson\n")
    Image.new("RGB", (40, 20)).save(images / "without.png")
    found = [
        {"image_id": "a", "category_id": "car", "bbox": [0, 0, 20, 20], "score": 1.0},
        {"image_id": "b.png", "category_id": 7, "bbox": [0, 0, 40, 20], "score": 1.0},
    ]
    (tmp_path / "found.json").write_text(json.dumps(found))
    scores = detection_scores(tmp_path / "found.json", images, categories={7: "person"})
    assert scores.ap == {"car": 1, "person": 0} and scores.images == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 11}, "number 1: image_id: expected an annotated image, got 11"),
        ({"category_id": 2}, "number 1: category_id: expected the name of a class"),
        ({"category_id": None}, "number 1: category_id: expected the name of a class"),
        ({"bbox": [1, 2, 3]}, "number 1: bbox: expected"),
        ({"bbox": [1, 2, "x", 3]}, "number 1: bbox: expected"),
        ({"score": None}, "number 1: score: expected a number, got None"),
    ],
)
def test_a_wrong_detection_is_named(change: dict[str, Any], message: str, tmp_path: Path):
    truth, detections = scene(3, crowds=False)
    detections[1] = {**detections[1], **change}
    with pytest.raises(ValueError, match=message):
        detection_scores(*written(tmp_path, truth, detections))


def test_wrong_files_are_named(tmp_path: Path):
    truth, detections = scene(3, crowds=False)
    paths = written(tmp_path, truth, {"annotations": detections})
    with pytest.raises(ValueError, match=r"detections\.json: expected a list of detections, got dict"):
        detection_scores(*paths)
    with pytest.raises(ValueError, match="nowhere.json"):
        detection_scores(paths[0], tmp_path / "nowhere.json")
    with pytest.raises(ValueError, match=r"detections\.json: expected a COCO file"):
        detection_scores(paths[0], paths[0])
    with pytest.raises(ValueError, match="holds no images with annotations"):
        detection_scores(paths[0], tmp_path)
    with pytest.raises(ValueError, match="annotations: expected boxes of bus, got none in 6 images"):
        detection_scores(*written(tmp_path, truth, detections), classes=["bus"])


def test_without_the_extra_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def missing(name: str) -> None:
        raise ImportError(name=name)

    monkeypatch.setattr(_extras, "import_module", missing)
    with pytest.raises(_extras.MissingExtraError, match=r'pip install "cgcl_fast\[metrics\]"'):
        detection_scores(*written(tmp_path, *scene(0, crowds=False)))
