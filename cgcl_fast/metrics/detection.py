"""Object detection scores: AP per class and mAP, of detections against annotations.

As in MGUIT's Tables 2 and 3, a detector is trained on translated images and evaluated on real ones of the target
domain. The detector is the user's own. This module compares its detections, in COCO's results format, with annotations
in any format that :mod:`cgcl_fast.data.annotations` reads. torchmetrics (extra ``metrics``) computes the scores, with
faster-coco-eval.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cgcl_fast._extras import require
from cgcl_fast.data import list_images
from cgcl_fast.data.annotations import Annotation, AnnotationIndex
from cgcl_fast.data.annotations.annotation import bytes_of, corners_of, dicts, json_of, text
from cgcl_fast.data.annotations.coco import is_coco, parse_coco
from cgcl_fast.data.decoding import read_size
from cgcl_fast.data.formats import printable, reason_of


@dataclass(frozen=True)
class DetectionScores:
    """Average precisions, each from 0 to 1, of the annotated classes.

    Attributes:
        ap: per class, COCO's: mean over the IoU thresholds 0.5, 0.55, ..., 0.95, with 101 recalls.
        ap50: the same at threshold 0.5 only.
        voc: Pascal VOC 2007's: threshold 0.5, 11 recalls.
        images: number of images compared.
    """

    ap: dict[str, float]
    ap50: dict[str, float]
    voc: dict[str, float]
    images: int

    def figures(self) -> dict[str, float]:
        """As a flat dict: "mAP", "mAP50", "VOC_mAP50", and per class "AP/NAME", "AP50/NAME", "VOC_AP50/NAME"."""
        figures: dict[str, float] = {}
        for name, values in (("AP", self.ap), ("AP50", self.ap50), ("VOC_AP50", self.voc)):
            figures[name.replace("AP", "mAP")] = sum(values.values()) / len(values)
            figures.update({f"{name}/{label}": value for label, value in values.items()})
        return figures


@dataclass(frozen=True)
class Objects:
    """Boxes of one image.

    Attributes:
        boxes: float (N, 4), corners x0 y0 x1 y1 in pixels.
        names: class of each box.
        scores: float (N,), for detections.
        crowd: bool (N,), for annotations: a region with any number of objects, in which detections are ignored.
    """

    boxes: Tensor = field(default_factory=lambda: torch.zeros(0, 4))
    names: tuple[str, ...] = ()
    scores: Tensor = field(default_factory=lambda: torch.zeros(0))
    crowd: Tensor | None = None


def average_precisions(
    detected: Iterable[Objects], annotated: Iterable[Objects], classes: Sequence[str] | None = None
) -> DetectionScores:
    """APs of detections against annotations.

    Args:
        detected, annotated: for each image, in the same order.
        classes: which classes to score; by default all annotated ones.

        Raises:
            ValueError: the numbers of images differ, or nothing is annotated.
        MissingExtraError: torchmetrics or faster-coco-eval is not installed.
    """
    require("faster_coco_eval", "metrics")
    kind = require("torchmetrics.detection", "metrics").MeanAveragePrecision
    pairs = list(zip(detected, annotated, strict=True))
    names = sorted({name for _, true in pairs for name in true.names} if classes is None else set(classes))
    numbers = {name: number for number, name in enumerate(names)}
    metric = kind(
        box_format="xyxy",
        iou_type="bbox",
        iou_thresholds=np.linspace(0.5, 0.95, 10).tolist(),  # as COCO's; torchmetrics' own are float32, whose 0.6 is
        rec_thresholds=np.linspace(0, 1, 101).tolist(),  # larger than 3/5
        extended_summary=True,
        backend="faster_coco_eval",
    )
    metric.warn_on_many_detections = False  # it uses the 100 best per image, as COCO's own program does
    for detections, true in pairs:
        metric.update([_judged(detections, numbers, scored=True)], [_judged(true, numbers, scored=False)])
    there = {name for _, true in pairs for name in true.names} & numbers.keys()
    if not there:
        wanted = f"boxes of {', '.join(names)}" if names else "boxes"
        raise ValueError(f"annotations: expected {wanted}, got none in {len(pairs)} images")
    # Axes: IoU thresholds, recalls, classes, areas (first: all), maximum detections per image (last: 100). -1 for
    # classes without annotations.
    precision = metric.compute()["precision"][..., 0, -1].double()
    seen = {name for pair in pairs for each in pair for name in each.names}  # the classes with a column
    columns = dict(zip((name for name in names if name in seen), precision.unbind(2), strict=True))
    by_class = {name: values for name, values in columns.items() if bool((values > -1).all())}
    return DetectionScores(
        {name: float(values.mean()) for name, values in by_class.items()},
        {name: float(values[0].mean()) for name, values in by_class.items()},
        {name: float(values[0, ::10].mean()) for name, values in by_class.items()},
        len(pairs),
    )


def _judged(objects: Objects, numbers: Mapping[str, int], *, scored: bool) -> dict[str, Tensor]:
    """The boxes of the scored classes, in torchmetrics' form."""
    kept = [row for row, name in enumerate(objects.names) if name in numbers]
    entry = {
        "boxes": objects.boxes[kept].float(),
        "labels": torch.tensor([numbers[objects.names[row]] for row in kept], dtype=torch.int64),
    }
    if scored:
        entry["scores"] = objects.scores[kept].float()
    elif objects.crowd is not None:
        entry["iscrowd"] = objects.crowd[kept].long()
    return entry


def detection_scores(
    detections: str | Path,
    annotations: str | Path,
    *,
    classes: Sequence[str] | None = None,
    categories: Mapping[int, str] | None = None,
) -> DetectionScores:
    """APs of a file of detections.

    Args:
        detections: JSON in COCO's results format: a list of ``{"image_id", "category_id", "bbox": [x, y, width,
            height], "score"}``.
        annotations: a COCO file, with the same ids of images and categories as the detections; or a folder of images
            with annotations in any format for training. For a folder, ``image_id`` is the file name, with or without
            suffix, and ``category_id`` the class name.
        classes: which classes to score; by default all annotated ones.
        categories: class names of the numbers in ``category_id``, if no COCO file has them.

        Raises:
            ValueError: an invalid file, a detection with an unknown image or category, or nothing is annotated; one
                line that names it.
        MissingExtraError: torchmetrics or faster-coco-eval is not installed.
    """
    where = Path(annotations)
    if where.is_dir():
        truth, keys, known = _of_folder(where), {}, dict(categories or {})
        for name in truth:
            keys.update({name: name, Path(name).name: name, Path(name).stem: name})
    else:
        truth, keys, known = _of_coco(where)
        known = {**known, **(categories or {})}
    by_image = read_detections(Path(detections), keys, known)
    return average_precisions([by_image.get(name, Objects()) for name in truth], truth.values(), classes)


def _of_coco(path: Path) -> tuple[dict[str, Objects], dict[str, str], dict[int, str]]:
    """The annotations of each image by its id, the ids, and the names of the categories."""
    try:
        content = json_of(bytes_of(path, None))
    except (OSError, ValueError) as error:
        raise ValueError(f"annotations: {printable(path)}: {reason_of(error)}") from error
    if not is_coco(content):
        raise ValueError(
            f"annotations: {printable(path)}: expected a COCO file, or a folder of images with annotations"
        )
    # By id instead of name, because two images may have the same name.
    images = [{**image, "file_name": str(image.get("id"))} for image in dicts(content["images"])]
    annotations = parse_coco({**content, "images": images})
    names = {category["id"]: text(category.get("name")) for category in dicts(content.get("categories"))}
    crowds: dict[str, list[tuple[str, list[float]]]] = {}
    for entry in dicts(content["annotations"]):
        box = entry.get("bbox")
        if entry.get("iscrowd") in (1, True) and isinstance(box, list) and len(box) == 4:
            label = names.get(entry.get("category_id"), str(entry.get("category_id")))
            crowds.setdefault(str(entry.get("image_id")), []).append((label, list(corners_of(*box))))
    truth = {name: _objects(each, crowds.get(name, [])) for name, each in annotations.items()}
    return truth, {name: name for name in truth}, names


def _of_folder(folder: Path) -> dict[str, Objects]:
    """The annotations of each annotated image, by its path in the folder."""
    images = list_images(folder)
    index = AnnotationIndex(folder, folder.parent, images)
    truth = {}
    for path in images:
        if path not in index.sources:
            continue
        annotation = index[path]
        if annotation.relative or (annotation.size is not None and annotation.size != read_size(path)):
            annotation = _in_pixels(annotation, read_size(path))
        truth[path.relative_to(folder).as_posix()] = _objects(annotation)
    if not truth:
        raise ValueError(f"annotations: {printable(folder)} holds no images with annotations")
    return truth


def _in_pixels(annotation: Annotation, size: tuple[int, int]) -> Annotation:
    """The annotation with corners in pixels of the image's file."""
    whole = (1, 1) if annotation.relative else annotation.size or size
    scale = [size[0] / whole[0], size[1] / whole[1]] * 2
    return Annotation(annotation.boxes * scale, annotation.names, size)


def _objects(annotation: Annotation, crowds: Sequence[tuple[str, list[float]]] = ()) -> Objects:
    boxes = torch.cat([torch.from_numpy(annotation.boxes), torch.tensor([box for _, box in crowds]).view(-1, 4)])
    crowd = torch.tensor([False] * len(annotation.names) + [True] * len(crowds), dtype=torch.bool)
    return Objects(boxes.float(), (*annotation.names, *(name for name, _ in crowds)), crowd=crowd)


def read_detections(path: Path, images: Mapping[str, str], categories: Mapping[int, str]) -> dict[str, Objects]:
    """The detections of each image, from a file of COCO's results.

    Args:
        images: the image for each valid ``image_id``.
        categories: class names of the numbers in ``category_id``.

    Raises:
        ValueError: as :func:`detection_scores`.
    """
    try:
        content = json_of(bytes_of(path, None))
    except (OSError, ValueError) as error:
        raise ValueError(f"detections: {printable(path)}: {reason_of(error)}") from error
    if not isinstance(content, list):
        raise ValueError(f"detections: {printable(path)}: expected a list of detections, got {type(content).__name__}")
    rows: dict[str, list[tuple[Any, str, float]]] = {}
    for number, entry in enumerate(content):

        def wrong(what: str, number: int = number) -> ValueError:
            return ValueError(f"detections: {printable(path)}: number {number}: {what}")

        if not isinstance(entry, dict):
            raise wrong(f"expected an object, got {type(entry).__name__}")
        image = images.get(str(entry.get("image_id")))
        if image is None:
            raise wrong(f"image_id: expected an annotated image, got {entry.get('image_id')!r}")
        category = entry.get("category_id")
        name = category if isinstance(category, str) else categories.get(category)  # type: ignore[arg-type]
        if name is None:
            raise wrong(f"category_id: expected the name of a class, or a number that stands for one, got {category!r}")
        box = entry.get("bbox")
        corners = corners_of(*box) if isinstance(box, list) and len(box) == 4 else (None,)
        if None in corners:
            raise wrong(f"bbox: expected [x, y, width, height], got {str(box)[:60]}")
        score = entry.get("score")
        if not isinstance(score, (int, float)):
            raise wrong(f"score: expected a number, got {score!r}")
        rows.setdefault(image, []).append((corners, name, float(score)))
    return {
        image: Objects(
            torch.tensor([corners for corners, _, _ in detections], dtype=torch.float32).view(-1, 4),
            tuple(name for _, name, _ in detections),
            torch.tensor([score for _, _, score in detections]),
        )
        for image, detections in rows.items()
    }
