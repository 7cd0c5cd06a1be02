"""Figures of sets of features, by torch-fidelity's functions where they take features: Fréchet and kernel distance,
precision and recall, inception score.

In Inception-V3's features the first two are FID (Heusel et al., 2017) and KID (Bińkowski et al., 2018); in those of
another network they are not, and must not be called so. Sets are arrays (N, D), which may be in a file: of 10^5 rows
only parts are in memory at once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from cgcl_fast.metrics.moments import Moments
from cgcl_fast.metrics.weights import MeasureError, package

SEED = 2020
"""torch-fidelity's, of what it draws."""

SUBSETS, SUBSET_SIZE = 100, 1000
"""Of the kernel distance, as in KID."""

SPLITS = 10
"""Of the inception score."""

NEIGHBOURS = 3
"""Of precision and recall (the paper's k)."""

MOST_DISTANCES = 2**26
"""Distances of rows that are in memory at once, 256 MB."""


class Spread(NamedTuple):
    """A mean, and the standard deviation over what it is the mean of."""

    mean: float
    std: float


def frechet_distance(first: Moments, second: Moments) -> float:
    """\\|μ₁ - μ₂\\|² + tr(Σ₁ + Σ₂ - 2(Σ₁Σ₂)^½), the squared Fréchet distance of two Gaussians, in float64.

    Raises:
        MeasureError: fewer than two images in a set.
    """
    metric = package("torch_fidelity.metric_fid")
    gaussians = [{"mu": each.mean, "sigma": each.covariance} for each in (first, second)]
    return metric.fid_statistics_to_metric(*gaussians, False)[metric.KEY_METRIC_FID]


def kernel_distance(
    first: np.ndarray, second: np.ndarray, *, subsets: int = SUBSETS, subset_size: int = SUBSET_SIZE, seed: int = SEED
) -> Spread:
    """The unbiased squared maximum mean discrepancy with the kernel (x·y/D + 1)³, mean over random subsets, in float64.

    Args:
        first, second: (N, D) and (M, D).
        subset_size: of fewer images, all of them.

    Raises:
        MeasureError: fewer than two images in a set.
    """
    kernel_mmd = package("torch_fidelity.metric_kid").kernel_mmd
    size = min(subset_size, len(first), len(second))
    if size < 2:
        raise MeasureError(f"needs at least 2 images in each set, got {size}")
    drawn = np.random.RandomState(seed)  # torch-fidelity's subsets, but in float64 and only they in memory
    distances = []
    for _ in range(subsets):
        rows = [each[drawn.choice(len(each), size, replace=False)].astype(np.float64) for each in (first, second)]
        distances.append(kernel_mmd(*rows))
    return Spread(float(np.mean(distances)), float(np.std(distances)))


def precision_recall(generated: np.ndarray, real: np.ndarray, *, neighbours: int = NEIGHBOURS) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al., 2019, Eq. 1 and 2): shares of generated images within the
    manifold of real ones and the other way round; a manifold is the balls around its images that reach their
    ``neighbours``-th neighbour.

    Raises:
        MeasureError: too few images in a set.
    """
    metric = package("torch_fidelity.metric_prc")
    least = min(len(generated), len(real))
    if least <= neighbours:
        raise MeasureError(f"needs more than {neighbours} images in each set, got {least}")
    sets = [torch.from_numpy(each) for each in (generated, real)]
    rows = max(1, MOST_DISTANCES // max(map(len, sets)))
    precision, recall = metric.calculate_precision_recall_part(*sets, neighbours, rows)
    return precision, recall


def inception_score(logits: np.ndarray, *, splits: int = SPLITS, seed: int = SEED) -> Spread:
    """exp E[KL(p(y|x) ‖ p(y))] (Salimans et al., 2016), mean over ``splits`` parts of the images in random order.

    Args:
        logits: (N, classes); fewer parts where there are fewer images.
    """
    metric = package("torch_fidelity.metric_isc")
    order = np.random.RandomState(seed).permutation(len(logits))
    splits = min(splits, len(logits))
    ends = [number * len(logits) // splits for number in range(splits + 1)]
    scores = []
    for start, end in zip(ends, ends[1:], strict=False):  # each part by itself, since it is made float64
        part = torch.from_numpy(logits[order[start:end]])
        scores.append(metric.isc_features_to_metric(part, splits=1, shuffle=False)[metric.KEY_METRIC_ISC_MEAN])
    return Spread(float(np.mean(scores)), float(np.std(scores)))
