"""Segmentation scores of translations: mean IoU, pixel and class accuracy on Cityscapes' classes.

As in CUT's Table 1 (there with a DRN-D-22 on 256x128 pixels, after pix2pix): label maps are translated to photographs,
a model trained on real photographs predicts labels for them, and these are compared with the original labels. The model
is the user's own; this module compares label maps.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cgcl_fast._files import check_regular
from cgcl_fast.data import list_images
from cgcl_fast.data.formats import printable, reason_of

CITYSCAPES = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"),
    *("terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
)
"""The evaluated classes, by train id."""

CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Each one's id in ``*_labelIds.png``; all other ids are ignored."""

IGNORED = 255

Labels = Literal["trainids", "ids"]

_TRUTH = re.compile(r"_gt(?:Fine|Coarse)_(?P<kind>labelIds|labelTrainIds|instanceIds|color)$")
_ENDING = re.compile(r"_(?:leftImg8bit|gt(?:Fine|Coarse)|label(?:Train)?Ids|pred(?:iction)?s?|fake(?:_B)?)$")


@dataclass(frozen=True)
class SegmentationScores:
    """Scores of a confusion matrix, each from 0 to 1.

    Attributes:
        mean_iou: mean over the classes of TP / (TP + FP + FN); CUT's mAP.
        pixel_accuracy: share of correctly labelled pixels; pixAcc.
        class_accuracy: mean over the classes of the share of their pixels with the correct label; classAcc.
        iou: TP / (TP + FP + FN) of each class that occurs, by name.
        pixels: number of pixels that count.
    """

    mean_iou: float
    pixel_accuracy: float
    class_accuracy: float
    iou: dict[str, float]
    pixels: int

    def figures(self) -> dict[str, float]:
        """As a flat dict: "mean_iou", "pixel_accuracy", "class_accuracy" and "iou/NAME"."""
        whole = {name: getattr(self, name) for name in ("mean_iou", "pixel_accuracy", "class_accuracy")}
        return {**whole, **{f"iou/{name}": value for name, value in self.iou.items()}}


class ConfusionMatrix:
    """Counts pixels by true and predicted class, over any number of images.

    A predicted label that is not a class is an error wherever the truth is a class: it counts as missed by that class.

    Args:
        classes: names of the classes; a label is an index into them.
        ignored: label of pixels that do not count.

    Attributes:
        counts: int64 (N, N + 1): true class, predicted class, with a last column for labels that are no class. Several
            processes can add theirs up (``torch.distributed.all_reduce``).
    """

    def __init__(self, classes: Sequence[str] = CITYSCAPES, ignored: int = IGNORED) -> None:
        if not classes:
            raise ValueError("classes: expected at least one, got none")
        self.classes = tuple(classes)
        self.ignored = ignored
        self.counts = torch.zeros(len(classes), len(classes) + 1, dtype=torch.int64)

    def update(self, predicted: Tensor, truth: Tensor) -> None:
        """Count the pixels of one image, or of several.

        Args:
            predicted, truth: integers of one shape.

        Raises:
            ValueError: they differ in shape, or the truth has a label that is neither a class nor ``ignored``.
        """
        if predicted.shape != truth.shape:
            raise ValueError(
                f"predicted: expected the shape of truth, {tuple(truth.shape)}, got {tuple(predicted.shape)}"
            )
        n = len(self.classes)
        counted = truth != self.ignored
        wanted, predictions = truth[counted].long(), predicted[counted].long()
        if wanted.numel() and not 0 <= int(wanted.min()) <= int(wanted.max()) < n:
            raise ValueError(
                f"truth: expected labels from 0 to {n - 1} or {self.ignored}, got {int(wanted.min())} to "
                f"{int(wanted.max())}"
            )
        predictions = torch.where((predictions >= 0) & (predictions < n), predictions, n)
        self.counts += torch.bincount(wanted * (n + 1) + predictions, minlength=n * (n + 1)).view(n, n + 1).cpu()

    def scores(self) -> SegmentationScores:
        """Means are over the classes that occur: for accuracies in the truth, for IoU in the truth or in a prediction.

        Raises:
            ValueError: no pixel counts.
        """
        counts = self.counts.double()
        right, true, labelled = counts.diagonal(), counts.sum(1), counts[:, :-1].sum(0)
        pixels = int(self.counts.sum())
        if not pixels:
            raise ValueError("truth: expected pixels of the classes, got none")
        union = true + labelled - right
        iou = (right / union)[union > 0]
        names = [name for name, occurs in zip(self.classes, union > 0, strict=True) if occurs]
        return SegmentationScores(
            mean_iou=float(iou.mean()),
            pixel_accuracy=float(right.sum() / pixels),
            class_accuracy=float((right / true)[true > 0].mean()),
            iou=dict(zip(names, iou.tolist(), strict=True)),
            pixels=pixels,
        )


def to_train_ids(labels: Tensor) -> Tensor:
    """Cityscapes' ids as train ids; ids that are not evaluated become ``IGNORED``."""
    table = torch.full((256,), IGNORED, dtype=torch.int64)
    table[list(CITYSCAPES_IDS)] = torch.arange(len(CITYSCAPES))
    inside = (labels >= 0) & (labels < 256)  # -1 is the licence plate
    return torch.where(inside, table[labels.long().clamp(0, 255)], IGNORED)


def read_labels(path: str | Path, size: tuple[int, int] | None = None) -> Tensor:
    """A label map as stored, int64 (H, W): the numbers of a grey image, or the indices of one with a palette.

    Args:
        size: (width, height) to resize it to, by nearest neighbour.

    Raises:
        ValueError: it cannot be read, or has colours; one line that names it.
    """
    try:
        check_regular(path)
        with Image.open(path) as image:
            if image.mode not in ("1", "L", "P", "I", "I;16"):
                raise ValueError(f"expected a map of labels with one channel, got mode {image.mode}")
            if size is not None and image.size != size:
                # By pixel centres, as F.interpolate's "nearest-exact" and Pillow's NEAREST do.
                image = image.resize(size, Image.Resampling.NEAREST)  # type: ignore[assignment]
            return torch.from_numpy(np.asarray(image).astype(np.int64))
    except Exception as error:  # for damaged files Pillow raises nearly anything
        raise ValueError(f"{printable(path)}: {reason_of(error)}") from error


def match_labels(predictions: Path, truth: Path, labels: Labels) -> list[tuple[Path, Path]]:
    """Predicted and true label maps of two folders, matched by file name.

    Cityscapes' suffixes of images and labels are ignored: ``a_000000_000019_leftImg8bit.png`` and
    ``a_000000_000019.png`` match ``a_000000_000019_gtFine_labelTrainIds.png``. Subfolders are searched, too; from a
    ``gtFine`` folder the files of ``labels`` are used.

    Raises:
        ValueError: a folder has no label maps or two with the same name, or a true one has no prediction.
    """
    wanted = "labelTrainIds" if labels == "trainids" else "labelIds"

    def of(folder: Path, option: str) -> dict[str, Path]:
        if not folder.is_dir():
            raise ValueError(f"{option}: expected a folder of label maps, got {printable(folder)}")
        maps: dict[str, Path] = {}
        for path in list_images(folder):
            kind = _TRUTH.search(path.stem)
            if kind is not None and kind["kind"] != wanted:
                continue
            key = name_of(path)
            if key in maps:
                raise ValueError(f"{option}: {printable(maps[key])} and {printable(path)} are of one image")
            maps[key] = path
        if not maps:
            raise ValueError(f"{option}: {printable(folder)} holds no label maps (of {labels})")
        return maps

    there, true = of(predictions, "predictions"), of(truth, "truth")
    missing = sorted(true.keys() - there.keys())
    if missing:
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        raise ValueError(f"predictions: {printable(predictions)} lacks {missing[0]}{more}")
    return [(there[key], true[key]) for key in sorted(true)]


def name_of(path: Path) -> str:
    """The name of an image without the suffixes of its labels and translations."""
    name, before = _TRUTH.sub("", path.stem), None
    while name != before:
        name, before = _ENDING.sub("", name), name
    return name


def segmentation_scores(
    predictions: str | Path,
    truth: str | Path,
    *,
    labels: Labels = "trainids",
    predicted_labels: Labels | None = None,
) -> SegmentationScores:
    """Cityscapes' scores of a folder of predicted label maps against one of true ones (see :func:`match_labels`).

    If sizes differ, the truth is resized to the prediction, by nearest neighbour: CUT predicts and compares at 256x128.

    Args:
        predictions: label maps that a model predicted for the translations.
        truth: label maps that were translated.
        labels: the kind of numbers in the truth: train ids (0 to 18, 255) or Cityscapes' ids.
        predicted_labels: the same for the predictions; by default as in the truth.

    Raises:
        ValueError: no label maps, one without counterpart, or one that cannot be read; one line that names it.
    """
    for name, value in (("labels", labels), ("predicted_labels", predicted_labels or labels)):
        if value not in ("trainids", "ids"):
            raise ValueError(f"{name}: expected trainids or ids, got {value!r}")
    matrix = ConfusionMatrix()
    for predicted_path, true_path in match_labels(Path(predictions), Path(truth), labels):
        labels_found = read_labels(predicted_path)
        true = read_labels(true_path, size=(labels_found.shape[1], labels_found.shape[0]))
        if (predicted_labels or labels) == "ids":
            labels_found = to_train_ids(labels_found)
        if labels == "ids":
            true = to_train_ids(true)
        try:
            matrix.update(labels_found, true)
        except ValueError as error:
            raise ValueError(f"{printable(true_path)}: {error} (are these {labels}?)") from error
    return matrix.scores()
