"""Which metrics are computed of what, and which of them increase with quality."""

from __future__ import annotations

import numpy as np
import pytest

from cgcl_fast.metrics import comparison
from cgcl_fast.metrics.comparison import Judges, compare, higher_is_better
from cgcl_fast.metrics.features import FeatureSet

pytest.importorskip("torch_fidelity")


def features(count: int, seed: int, shift: float = 0.0) -> FeatureSet:
    rows = np.random.RandomState(seed).standard_normal((count, 4)).astype(np.float32) + np.float32(shift)
    return FeatureSet({("lite0", "pooled"): rows})


def test_closer_sets_have_better_figures() -> None:
    real = features(200, 0)
    near, far = (compare(features(200, 1, shift), real, Judges({"lite0"})) for shift in (0.1, 1.0))
    for name in ("frechet_lite0", "kernel_lite0", "precision_lite0", "recall_lite0"):
        assert (near[name] > far[name]) == higher_is_better(name), name


def test_what_cannot_be_had_is_left_out_and_the_rest_is_there() -> None:
    judges = Judges({"lite0", "precision", "cost"})
    few = FeatureSet({**features(3, 0).layers, ("vgg16", "features"): features(3, 0)["lite0", "pooled"]})
    assert compare(few, few, judges).keys() == {"frechet_lite0", "kernel_lite0", "kernel_lite0_std"}
    assert judges.metrics == {"lite0", "cost"} and judges.skipped.keys() == {"precision"}
    assert "more than 3 images" in judges.skipped["precision"]


def test_precision_of_many_images_is_that_of_some_spread_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "MOST_COMPARED", 5)
    seen: list[np.ndarray] = []
    monkeypatch.setattr(comparison.feature_distances, "precision_recall", lambda *sets: seen.extend(sets) or (0.0, 0.0))
    many, few = features(11, 0), features(4, 1)
    compare(many, few, Judges({"lite0"}))
    np.testing.assert_array_equal(seen[0], many["lite0", "pooled"][[0, 2, 4, 6, 8]])
    np.testing.assert_array_equal(seen[1], few["lite0", "pooled"])


@pytest.mark.parametrize(
    ("figure", "higher"),
    [("psnr/after", True), ("delta_e/after", False), ("fid", False), ("is", True), ("psnr/before", None), ("x", None)],
)
def test_direction_of_figures(figure: str, higher: bool | None) -> None:
    assert higher_is_better(figure) is higher
