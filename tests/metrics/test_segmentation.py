"""Scores of label maps: against torchmetrics and against counts by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cgcl_fast.metrics.segmentation import (
    CITYSCAPES,
    CITYSCAPES_IDS,
    ConfusionMatrix,
    match_labels,
    read_labels,
    segmentation_scores,
    to_train_ids,
)


def save(path: Path, labels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels.astype(np.uint8)).save(path)


def maps(seed: int, count: int = 3, size: tuple[int, int] = (12, 20)) -> tuple[torch.Tensor, torch.Tensor]:
    """Predictions, and a truth that is the same in half of the pixels and ignored in a tenth. Class 4 is in neither."""
    draw = torch.Generator().manual_seed(seed)
    truth = torch.randint(0, 19, (count, *size), generator=draw)
    other = torch.randint(0, 19, truth.shape, generator=draw)
    predicted = torch.where(torch.rand(truth.shape, generator=draw) < 0.5, truth, other)
    truth[truth == 4], predicted[predicted == 4] = 5, 6
    truth[torch.rand(truth.shape, generator=draw) < 0.1] = 255
    return predicted, truth


def test_scores_are_those_of_torchmetrics():
    classification = pytest.importorskip("torchmetrics.classification")
    predicted, truth = maps(0)
    matrix = ConfusionMatrix()
    for one, other in zip(predicted, truth, strict=True):
        matrix.update(one, other)
    scores = matrix.scores()
    of = {"num_classes": 19, "ignore_index": 255}
    iou = classification.MulticlassJaccardIndex(average=None, **of)(predicted, truth)
    accuracy = classification.MulticlassAccuracy(average="micro", **of)(predicted, truth)
    by_class = classification.MulticlassAccuracy(average=None, **of)(predicted, truth)
    there = [k for k in range(19) if k != 4]
    assert list(scores.iou) == [CITYSCAPES[k] for k in there]
    torch.testing.assert_close(torch.tensor(list(scores.iou.values())), iou[there])
    assert scores.mean_iou == pytest.approx(float(iou[there].mean()))
    assert scores.pixel_accuracy == pytest.approx(float(accuracy))
    assert scores.class_accuracy == pytest.approx(float(by_class[there].mean()))
    assert scores.pixels == int((truth != 255).sum())


def test_a_case_by_hand():
    """Truth 0 0 1 1 and an ignored one, predictions 0 1 1 (none) and 0: IoU ½ and ⅓."""
    matrix = ConfusionMatrix(["a", "b", "c"])
    matrix.update(torch.tensor([0, 1, 1, 255, 0]), torch.tensor([0, 0, 1, 1, 255]))
    scores = matrix.scores()
    assert scores.figures() == {
        "mean_iou": pytest.approx(5 / 12),
        "pixel_accuracy": 0.5,
        "class_accuracy": 0.5,
        "iou/a": 0.5,
        "iou/b": pytest.approx(1 / 3),
    }


def test_what_cannot_be_counted_is_refused():
    matrix = ConfusionMatrix(["a", "b"])
    with pytest.raises(ValueError, match="predicted: expected the shape of truth"):
        matrix.update(torch.zeros(2, 3), torch.zeros(3, 2))
    with pytest.raises(ValueError, match="truth: expected labels from 0 to 1 or 255, got 0 to 7"):
        matrix.update(torch.tensor([0, 0]), torch.tensor([0, 7]))
    with pytest.raises(ValueError, match="expected pixels of the classes, got none"):
        matrix.scores()


def test_ids_become_train_ids():
    labels = torch.tensor([-1, 0, 4, 7, 11, 29, 33, 255, 300])
    assert to_train_ids(labels).tolist() == [255, 255, 255, 0, 2, 255, 18, 255, 255]
    assert to_train_ids(torch.tensor(CITYSCAPES_IDS)).tolist() == list(range(19))


@pytest.mark.parametrize("labels", ["trainids", "ids"])
def test_folders_are_matched_by_name(labels: str, tmp_path: Path):
    """As Cityscapes has them: ids and train ids side by side, in a folder a town; predictions in one folder."""
    predicted, truth = maps(1, count=2)
    ids = torch.tensor([*CITYSCAPES_IDS, *[0] * (256 - 19)])
    expected = ConfusionMatrix()
    for number, (one, other) in enumerate(zip(predicted, truth, strict=True)):
        town = tmp_path / "gtFine" / f"town{number}"
        name = f"town{number}_000000_00001{number}"
        save(town / f"{name}_gtFine_labelTrainIds.png", other.numpy())
        save(town / f"{name}_gtFine_labelIds.png", ids[other].numpy())
        save(town / f"{name}_gtFine_color.png", np.zeros((12, 20, 3)))
        stored = one if labels == "trainids" else ids[one]
        save(tmp_path / "predicted" / f"{name}_leftImg8bit.png", stored.numpy())
        expected.update(one, other)
    scores = segmentation_scores(tmp_path / "predicted", tmp_path / "gtFine", labels=labels)  # type: ignore[arg-type]
    assert scores == expected.scores()
    if labels == "ids":
        mixed = segmentation_scores(
            tmp_path / "predicted", tmp_path / "gtFine", labels="trainids", predicted_labels="ids"
        )
        assert mixed == expected.scores()


def test_the_truth_comes_to_the_size_of_the_prediction(tmp_path: Path):
    truth = np.repeat(np.repeat(np.arange(6).reshape(2, 3), 8, 0), 8, 1)
    save(tmp_path / "truth" / "a.png", truth)
    save(tmp_path / "predicted" / "a.png", np.arange(6).reshape(2, 3))
    assert segmentation_scores(tmp_path / "predicted", tmp_path / "truth").mean_iou == 1


def test_a_palette_holds_labels_and_colours_do_not(tmp_path: Path):
    labels = np.array([[3, 1], [255, 18]], dtype=np.uint8)
    image = Image.fromarray(labels).convert("P")
    image.putdata(labels.flatten().tolist())
    image.putpalette([7 * n % 256 for n in range(768)])
    image.save(tmp_path / "p.png")
    assert read_labels(tmp_path / "p.png").tolist() == labels.tolist()
    Image.new("RGB", (2, 2)).save(tmp_path / "rgb.png")
    with pytest.raises(ValueError, match=r"rgb\.png: expected a map of labels with one channel, got mode RGB"):
        read_labels(tmp_path / "rgb.png")


def test_what_is_missing_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match="predictions: expected a folder of label maps"):
        match_labels(tmp_path / "none", tmp_path, "ids")
    save(tmp_path / "predicted" / "a.png", np.zeros((2, 2)))
    for name in "abc":
        save(tmp_path / "truth" / f"{name}.png", np.zeros((2, 2)))
    with pytest.raises(ValueError, match="predicted lacks b and 1 more"):
        segmentation_scores(tmp_path / "predicted", tmp_path / "truth")
    save(tmp_path / "predicted" / "a_pred.png", np.zeros((2, 2)))
    with pytest.raises(ValueError, match="are of one image"):
        segmentation_scores(tmp_path / "predicted", tmp_path / "truth")
    with pytest.raises(ValueError, match="labels: expected trainids or ids, got 'colours'"):
        segmentation_scores(tmp_path, tmp_path, labels="colours")  # type: ignore[arg-type]
    save(tmp_path / "ids" / "a.png", np.full((2, 2), 26))
    with pytest.raises(ValueError, match=r"a\.png: truth: expected labels from 0 to 18 .*are these trainids\?"):
        segmentation_scores(tmp_path / "ids", tmp_path / "ids")
