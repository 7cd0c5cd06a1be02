"""Scores of ``evaluate`` that depend on users' own models: segmentation, detection, domain classifiers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from cgcl_fast.metrics.classifier import DomainClassifier
from cgcl_fast.metrics.detection import detection_scores
from cgcl_fast.metrics.image_sets import Images
from cgcl_fast.metrics.inception_score import InceptionScores
from cgcl_fast.metrics.segmentation import Labels, segmentation_scores

Translate = Callable[[Tensor, Sequence[str]], Tensor]
"""Maps (B, C, H, W) and a seed name of each image's style to (B, C', H, W)."""


def of_predictions(
    predictions: Path | None, labels: Path | None, labels_are: Labels, detections: Path | None, annotations: Path | None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Results and protocol of given label maps and detections.

    Raises:
        ValueError: files are missing or wrong; one line.
        MissingExtraError: a package of the extra ``metrics`` is not installed.
    """
    results: list[dict[str, Any]] = []
    protocol: dict[str, Any] = {}
    if predictions is not None and labels is not None:
        segmented = segmentation_scores(predictions, labels, labels=labels_are)
        results.append({"of": "segmentation", "figures": segmented.figures(), "pixels": segmented.pixels})
        protocol |= {"predictions": str(predictions), "labels": str(labels), "labels_are": labels_are}
    if detections is not None and annotations is not None:
        detected = detection_scores(detections, annotations)
        results.append({"of": "detection", "figures": detected.figures(), "images": detected.images})
        protocol |= {"detections": str(detections), "annotations": str(annotations)}
    return results, protocol


@torch.no_grad()
def inception_scores(
    classifier: DomainClassifier,
    images: Images,
    translate: Translate,
    accelerator: Accelerator,
    *,
    inputs: int,
    styles: int,
    batch_size: int,
) -> dict[str, float]:
    """IS and CIS of translations, each input in several random styles; processes share the inputs.

    Args:
        classifier: on the device.
        images: the inputs.
        translate: see ``Translate``.
        inputs: how many to use.
        styles: per input; with a single one, CIS is meaningless and left out.
        batch_size: translations at a time.
    """
    scores = InceptionScores(len(classifier.domains))
    for number in range(accelerator.process_index, min(inputs, len(images)), accelerator.num_processes):
        image = images[number][None]
        parts = []
        for start in range(0, styles, batch_size):
            names = [f"{number} {style}" for style in range(start, min(styles, start + batch_size))]
            translated = translate(image.expand(len(names), -1, -1, -1), names)
            parts.append(classifier.probabilities(translated.to(accelerator.device)))
        scores.update(torch.cat(parts))
    scores.sums = accelerator.reduce(scores.sums.to(accelerator.device), "sum").cpu()
    figures = scores.figures()
    return {"is_classifier": figures["IS"], **({"cis": figures["CIS"]} if styles > 1 else {})}
