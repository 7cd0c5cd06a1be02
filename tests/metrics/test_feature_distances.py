"""Distances of sets of features: against closed forms and against torch-fidelity called directly."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cgcl_fast.data import Preprocess
from cgcl_fast.engine import make_accelerator
from cgcl_fast.metrics.feature_distances import frechet_distance, inception_score, kernel_distance, precision_recall
from cgcl_fast.metrics.features import FeatureSet, InceptionV3, features_of
from cgcl_fast.metrics.image_sets import FolderImages
from cgcl_fast.metrics.moments import Moments, moments
from cgcl_fast.metrics.weights import INCEPTION, MeasureError

torch_fidelity = pytest.importorskip("torch_fidelity")

from random_networks import inception_weights  # noqa: E402


def rows(count: int, width: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    return (np.random.RandomState(seed).standard_normal((count, width)) * scale + shift).astype(np.float32)


def test_moments_are_those_of_all_rows_however_they_come() -> None:
    features = rows(50, 6, seed=0) + 1e4  # where a difference of sums of squares would have lost half of the digits
    found = Moments(6)
    for part in np.split(features, [1, 4, 30]):
        found.add(part)
    exact = features.astype(np.float64)
    np.testing.assert_allclose(found.mean, exact.mean(0), rtol=1e-14)
    np.testing.assert_allclose(found.covariance, np.cov(exact, rowvar=False), rtol=1e-9)
    np.testing.assert_allclose(moments(features).covariance, found.covariance, rtol=1e-9)


def gaussian(mean: np.ndarray, covariance: np.ndarray) -> Moments:
    found = Moments(len(mean))
    found.count, found.mean, found._squares = 2, mean, covariance
    return found


def test_frechet_distance_of_gaussians_is_the_closed_form() -> None:
    """With covariances that commute (Σ₁Σ₂)^½ is Σ₁^½ Σ₂^½."""
    turn, _ = np.linalg.qr(np.random.RandomState(0).standard_normal((5, 5)))
    first, second = np.array([1.0, 4.0, 9.0, 0.25, 2.0]), np.array([4.0, 1.0, 0.5, 0.25, 3.0])
    apart = np.array([1.0, -2.0, 0.0, 0.5, 0.0])
    found = frechet_distance(
        gaussian(np.zeros(5), turn @ np.diag(first) @ turn.T), gaussian(apart, turn @ np.diag(second) @ turn.T)
    )
    assert found == pytest.approx(5.25 + ((np.sqrt(first) - np.sqrt(second)) ** 2).sum(), rel=1e-9)


def test_kernel_distance_of_equal_subsets_is_the_unbiased_estimate() -> None:
    """Of all images, where there are fewer than a subset has: the sum over pairs, written out."""
    x, y = rows(4, 3, seed=1).astype(np.float64), rows(5, 3, seed=2, shift=0.5).astype(np.float64)

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return (float(a @ b) / 3 + 1) ** 3

    drawn = np.random.RandomState(7)
    drawn.choice(4, 4, replace=False)
    y4 = y[drawn.choice(5, 4, replace=False)]
    within = sum(kernel(s[i], s[j]) for s in (x, y4) for i in range(4) for j in range(4) if i != j) / 12
    across = sum(kernel(a, b) for a in x for b in y4) / 16
    found = kernel_distance(x.astype(np.float32), y.astype(np.float32), subsets=1, seed=7)
    assert found.mean == pytest.approx(within - 2 * across, rel=1e-5)


def test_precision_and_recall_count_images_in_balls() -> None:
    """On a line: real 0 1 2 3 10, whose balls to the third neighbour have the radii 3, 2, 2, 3 and 9."""
    real = np.array([[0.0], [1.0], [2.0], [3.0], [10.0]], np.float32)
    generated = np.array([[-2.9], [0.5], [6.1], [19.5], [21.0]], np.float32)
    precision, _ = precision_recall(generated, real)
    assert precision == pytest.approx(3 / 5)  # -2.9 and 0.5 of the first ones, 6.1 of the last
    assert precision_recall(real, real) == (1.0, 1.0)


def test_inception_score_of_known_classes() -> None:
    """Images that are surely of one of 4 classes, equally often, score 4; all of one class or in doubt, 1."""
    sure = np.eye(4, dtype=np.float32).repeat(10, 0) * 100
    assert inception_score(sure, splits=1).mean == pytest.approx(4, rel=1e-6)
    assert inception_score(sure[:10], splits=2).mean == pytest.approx(1, rel=1e-6)
    assert inception_score(np.zeros((10, 4), np.float32), splits=2).mean == pytest.approx(1, rel=1e-6)


def test_equal_to_torch_fidelitys_functions() -> None:
    first, second = rows(60, 8, seed=3), rows(70, 8, seed=4, scale=1.3, shift=0.2)
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    both = [torch.from_numpy(each) for each in (first, second)]
    fid = fid_statistics_to_metric(*map(fid_features_to_statistics, both), False)["frechet_inception_distance"]
    assert frechet_distance(moments(first), moments(second)) == pytest.approx(fid, rel=1e-6)
    kid = kid_features_to_metric(*both, kid_subsets=5, kid_subset_size=20, verbose=False)
    found = kernel_distance(first, second, subsets=5, subset_size=20)
    assert found.mean == pytest.approx(kid["kernel_inception_distance_mean"], rel=1e-5)
    assert found.std == pytest.approx(kid["kernel_inception_distance_std"], rel=1e-5)
    prc = prc_features_to_metric(*both, verbose=False)
    assert precision_recall(first, second) == (prc["precision"], prc["recall"])
    isc = isc_features_to_metric(both[0], splits=7)
    score = inception_score(first, splits=7)
    assert score.mean == pytest.approx(isc["inception_score_mean"], rel=1e-12)
    assert score.std == pytest.approx(isc["inception_score_std"], rel=1e-12)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    found = []
    for number, low in enumerate((0, 60)):
        folder = tmp_path_factory.mktemp(f"images{number}")
        noise = np.random.RandomState(number).randint(low, 256, (4, 8, 6, 3), dtype=np.uint8)
        for index, image in enumerate(noise):
            Image.fromarray(image).save(folder / f"{index}.png")
        found.append(folder)
    return found


def test_images_to_figures_as_torch_fidelity_called_directly(folders: list[Path], tmp_path: Path) -> None:
    """From files to figures, in Inception-V3 of random weights; in its first features, of which there are few."""
    weights = inception_weights()
    weights["fc.weight"] *= 50  # so that classes are told apart, and the inception score is far from 1
    file = tmp_path / INCEPTION.name
    torch.save(weights, file)
    sizes = {"kid_subsets": 3, "kid_subset_size": 3, "isc_splits": 2}
    layers = {f"feature_layer_{name}": "64" for name in ("fid", "kid", "prc")}
    direct = torch_fidelity.calculate_metrics(
        input1=str(folders[0]), input2=str(folders[1]), cuda=False, isc=True, fid=True, kid=True, prc=True,
        feature_extractor="inception-v3-compat", feature_extractor_weights_path=str(file), cache=False, verbose=False,
        batch_size=4, save_cpu_ram=True, **sizes, **layers,
    )  # fmt: skip
    network = InceptionV3(weights, "random", layer="64")
    assert not network.published
    preprocess = Preprocess("none", train=False, multiple=1)
    first, second = (
        features_of(FolderImages(folder, preprocess), {"inception": network}, make_accelerator(device="cpu"))
        for folder in folders
    )
    assert isinstance(first, FeatureSet) and isinstance(second, FeatureSet)
    features = ("inception", "features")
    fid = frechet_distance(first.moments(features), second.moments(features))
    assert fid == pytest.approx(direct["frechet_inception_distance"], rel=1e-4)
    kid = kernel_distance(first[features], second[features], subsets=3, subset_size=3)
    assert kid.mean == pytest.approx(direct["kernel_inception_distance_mean"], rel=1e-4)
    assert precision_recall(first[features], second[features]) == (direct["precision"], direct["recall"])
    score = inception_score(first["inception", "logits"], splits=2)
    assert score.mean - 1 == pytest.approx(direct["inception_score_mean"] - 1, rel=1e-3)
    assert math.isfinite(fid) and fid > 0 and score.mean > 1.0001, score.mean


@pytest.mark.parametrize(
    "measure",
    [
        lambda one: frechet_distance(moments(one), moments(one)),
        lambda one: kernel_distance(one, one),
        lambda one: precision_recall(one, one),
    ],
)
def test_one_image_is_named(measure: Callable[[np.ndarray], object]) -> None:
    with pytest.raises(MeasureError, match=r"^needs .* images in each set, got 1"):
        measure(rows(1, 4, seed=0))
