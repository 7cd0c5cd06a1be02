"""The metrics of sets of images: the network that each needs, and its name in tables.

A metric that is not available is left out, with the reason; the others are unaffected.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from cgcl_fast.metrics import feature_distances
from cgcl_fast.metrics.distances import DISTANCES
from cgcl_fast.metrics.evaluation import AFTER, aligned
from cgcl_fast.metrics.features import FeatureNetwork, FeatureSet, load_network
from cgcl_fast.metrics.perceptual import LPIPS, load_lpips
from cgcl_fast.metrics.weights import MeasureError, WeightFiles


@dataclass(frozen=True)
class Figure:
    """A metric as shown in tables.

    Attributes:
        title: its name.
        higher_is_better: None if neither direction is better.
        digits: number of decimals.
    """

    title: str
    higher_is_better: bool | None
    digits: int


SET_FIGURES = {
    "frechet_lite0": Figure("Fréchet distance, EfficientNet-Lite0 features (not FID)", False, 2),
    "kernel_lite0": Figure("kernel distance, EfficientNet-Lite0 features (not KID)", False, 4),
    "precision_lite0": Figure("precision, EfficientNet-Lite0 features", True, 3),
    "recall_lite0": Figure("recall, EfficientNet-Lite0 features", True, 3),
    "fid": Figure("FID", False, 2),
    "kid": Figure("KID", False, 4),
    "is": Figure("inception score", True, 2),
    "precision": Figure("improved precision, VGG-16", True, 3),
    "recall": Figure("improved recall, VGG-16", True, 3),
}
"""The metrics of ``compare``."""

FIGURES = {
    **SET_FIGURES,
    "lpips": Figure("LPIPS to the truth, AlexNet", False, 3),
    "diversity": Figure("LPIPS between pairs of random styles, AlexNet", True, 3),
    "real_diversity": Figure("the same between pairs of real images", None, 3),
    "is_classifier": Figure("inception score by the classifier", True, 2),
    "cis": Figure("conditional inception score by the classifier", True, 2),
    "mean_iou": Figure("mean IoU of the predicted labels", True, 3),
    "pixel_accuracy": Figure("pixel accuracy", True, 3),
    "class_accuracy": Figure("class accuracy", True, 3),
    "mAP": Figure("mAP, COCO (IoU 0.5 to 0.95)", True, 3),
    "mAP50": Figure("mAP at IoU 0.5", True, 3),
    "VOC_mAP50": Figure("mAP, Pascal VOC 2007", True, 3),
}
"""By their names in results. Some come with NAME_std, the standard deviation over subsets."""

NETWORK_OF = {"lite0": "lite0", "fid": "inception", "kid": "inception", "is": "inception", "precision": "vgg16"}
"""Metrics that compare sets, by the names for users, and the network of each."""

PERCEPTUAL = ("lpips", "diversity")
"""Metrics that need LPIPS."""

METRICS = (*NETWORK_OF, *PERCEPTUAL, "truth", "cost")
"""All metrics for users: the above, PSNR and others to the truth, and the generator's size and speed."""


MOST_COMPARED = 10_000
"""Precision and recall in EfficientNet-Lite0's features use this many images of a set, spread evenly: the time grows
with the square of the number, and would be hours for 10⁵."""


@dataclass
class Judges:
    """The networks that the chosen metrics need.

    Attributes:
        metrics: the available ones.
        networks: by name, on the device.
        lpips: None if no metric needs it.
        skipped: unavailable metrics, and why.
    """

    metrics: set[str]
    networks: dict[str, FeatureNetwork] = field(default_factory=dict)
    lpips: LPIPS | None = None
    skipped: dict[str, str] = field(default_factory=dict)

    def protocol(self) -> dict[str, Any]:
        """Everything that determines the metrics' values."""
        networks = {name: network.protocol() for name, network in self.networks.items()}
        networks |= {} if self.lpips is None else {"lpips": self.lpips.protocol()}
        draws = {
            "kernel_subsets": feature_distances.SUBSETS,
            "inception_score_splits": feature_distances.SPLITS,
            "neighbours": feature_distances.NEIGHBOURS,
            "precision_lite0_most_images": MOST_COMPARED,
            "seed_of_draws": feature_distances.SEED,
            "dtype_of_distances": "float64",
        }
        return {"networks": networks, **draws}

    def skip(self, metrics: Collection[str], reason: object) -> None:
        """Leave metrics out from now on."""
        for name in metrics:
            if name in self.metrics:
                self.metrics.discard(name)
                self.skipped[name] = str(reason)
        wanted = {NETWORK_OF[name] for name in self.metrics if name in NETWORK_OF}
        self.networks = {name: network for name, network in self.networks.items() if name in wanted}


def load_judges(metrics: Collection[str], files: WeightFiles, device: torch.device) -> Judges:
    """The networks of metrics; unavailable ones are in ``skipped``."""
    judges = Judges(set(metrics))
    for name in dict.fromkeys(NETWORK_OF.values()):
        wanted = [metric for metric in metrics if NETWORK_OF.get(metric) == name]
        if wanted:
            try:
                judges.networks[name] = load_network(name, files).to(device)
            except MeasureError as error:
                judges.skip(wanted, error)
    if wanted := [metric for metric in metrics if metric in PERCEPTUAL]:
        try:
            judges.lpips = load_lpips(files).to(device)
        except MeasureError as error:
            judges.skip(wanted, error)
    return judges


def compare(generated: FeatureSet, real: FeatureSet, judges: Judges) -> dict[str, float]:
    """The metrics of a set of generated images against real ones. Metrics that cannot be computed for these sets are
    added to ``judges.skipped``."""
    figures: dict[str, float] = {}
    for metric in NETWORK_OF:
        if metric in judges.metrics:
            try:
                figures |= _figures(metric, generated, real)
            except MeasureError as error:
                judges.skip([metric], error)
    return figures


def _figures(metric: str, generated: FeatureSet, real: FeatureSet) -> Mapping[str, float]:
    layer = (NETWORK_OF[metric], {"lite0": "pooled", "is": "logits"}.get(metric, "features"))
    if metric == "is":
        return _with_std("is", feature_distances.inception_score(generated[layer]))
    if metric == "fid":
        return {"fid": feature_distances.frechet_distance(generated.moments(layer), real.moments(layer))}
    if metric == "kid":
        return _with_std("kid", feature_distances.kernel_distance(generated[layer], real[layer]))
    if metric == "precision":
        return dict(
            zip(("precision", "recall"), feature_distances.precision_recall(generated[layer], real[layer]), strict=True)
        )
    frechet = feature_distances.frechet_distance(generated.moments(layer), real.moments(layer))
    figures = {"frechet_lite0": frechet}
    figures |= _with_std("kernel_lite0", feature_distances.kernel_distance(generated[layer], real[layer]))
    if min(len(generated[layer]), len(real[layer])) > feature_distances.NEIGHBOURS:
        precision, recall = feature_distances.precision_recall(_some(generated[layer]), _some(real[layer]))
        figures |= {"precision_lite0": precision, "recall_lite0": recall}
    return figures


def _some(features: np.ndarray) -> np.ndarray:
    count = min(len(features), MOST_COMPARED)
    return features[np.arange(count) * len(features) // count]


def _with_std(name: str, spread: feature_distances.Spread) -> dict[str, float]:
    return {name: spread.mean, f"{name}_std": spread.std}


def higher_is_better(figure: str) -> bool | None:
    """Whether higher values of a run's metric are better; None if unknown."""
    if figure in FIGURES:
        return FIGURES[figure].higher_is_better
    name, _, what = figure.partition("/")
    if name in DISTANCES and what == AFTER:
        return DISTANCES[name].higher_is_better
    return True if figure in ("style/share", "style/change_share") else None


def set_table(figures: Mapping[str, float]) -> str:
    """The metrics of a set for a terminal, one per line."""
    rows = []
    for name, figure in FIGURES.items():
        if name in figures:
            better = {True: " (higher is better)", False: " (lower is better)", None: ""}[figure.higher_is_better]
            rows.append([f"{figure.title}{better}", f"{figures[name]:.{figure.digits}f}"])
    return aligned([["translations of the test images, beside those of the target", ""], *rows])
