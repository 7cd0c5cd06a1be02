"""Metrics of sets of features: Fréchet and kernel distance, precision and recall, inception score. Uses
torch-fidelity's functions if they accept features.

With Inception-V3's features the first two are FID (Heusel et al., 2017) and KID (Bińkowski et al., 2018); with those of
another network they are not, and must not be called so. Sets are arrays (N, D), which may be memory-mapped files: of
10^5 rows, only parts are in memory at once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from cgcl_fast.metrics.moments import Moments
from cgcl_fast.metrics.weights import MeasureError, package

SEED = 2020
"""Seed of random draws, as in torch-fidelity."""

SUBSETS, SUBSET_SIZE = 100, 1000
"""Subset size of the kernel distance, as in KID."""

SPLITS = 10
"""Number of splits of the inception score."""

NEIGHBOURS = 3
"""Number of neighbours in precision and recall (the paper's k)."""

MOST_DISTANCES = 2**26
"""Number of distances in memory at once, 256 MB."""


class Spread(NamedTuple):
    """A mean and its standard deviation."""

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
        subset_size: of smaller sets, all images.

    Raises:
        MeasureError: fewer than two images in a set.
    """
    kernel_mmd = package("torch_fidelity.metric_kid").kernel_mmd
    size = min(subset_size, len(first), len(second))
    if size < 2:
        raise MeasureError(f"needs at least 2 images in each set, got {size}")
    drawn = np.random.RandomState(seed)  # torch-fidelity's subsets, but in float64 and one at a time
    distances = []
    for _ in range(subsets):
        rows = [each[drawn.choice(len(each), size, replace=False)].astype(np.float64) for each in (first, second)]
        distances.append(kernel_mmd(*rows))
    return Spread(float(np.mean(distances)), float(np.std(distances)))


def precision_recall(generated: np.ndarray, real: np.ndarray, *, neighbours: int = NEIGHBOURS) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al., 2019, Eq. 1 and 2): the share of generated images within the
    manifold of real ones, and the reverse. A set's manifold is the union of balls around its images whose radius is the
    distance to the ``neighbours``-th neighbour.

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
        logits: (N, classes); fewer parts if there are fewer images.
    """
    metric = package("torch_fidelity.metric_isc")
    order = np.random.RandomState(seed).permutation(len(logits))
    splits = min(splits, len(logits))
    ends = [number * len(logits) // splits for number in range(splits + 1)]
    scores = []
    for start, end in zip(ends, ends[1:], strict=False):  # each part separately, because it is converted to float64
        part = torch.from_numpy(logits[order[start:end]])
        scores.append(metric.isc_features_to_metric(part, splits=1, shuffle=False)[metric.KEY_METRIC_ISC_MEAN])
    return Spread(float(np.mean(scores)), float(np.std(scores)))
