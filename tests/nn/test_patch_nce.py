"""The loss module against explicit sums, row by row."""

from __future__ import annotations

import math

import pytest
import torch
from op_checks import DEVICE
from torch import Tensor

from cgcl_fast.nn import PatchNCE


def slow(q: Tensor, k: Tensor, extra: Tensor | None, inside: bool, tau: float) -> float:
    """Mean cross entropy of one layer of one image; one row at a time."""
    q, k = (v / v.norm(dim=1, keepdim=True) for v in (q, k))
    extra = None if extra is None else extra / extra.norm(dim=1, keepdim=True)
    total = 0.0
    for s in range(len(q)):
        positive = math.exp(float(q[s] @ k[s]) / tau)
        others = [math.exp(float(q[s] @ k[t]) / tau) for t in range(len(k)) if t != s] if inside else []
        if extra is not None:
            others += [math.exp(float(q[s] @ e) / tau) for e in extra]
        total -= math.log(positive / (positive + sum(others)))
    return total / len(q)


@pytest.mark.parametrize("negatives", ["internal", "external", "both"])
def test_loss_of_each_image(negatives: str) -> None:
    torch.manual_seed(0)
    queries, keys = ([torch.randn(3, p, 4, dtype=torch.float64, device=DEVICE) for p in (5, 6)] for _ in range(2))
    extra = (
        None if negatives == "internal" else [torch.randn(7, 4, dtype=torch.float64, device=DEVICE) for _ in range(2)]
    )
    found = PatchNCE(5, 0.3, negatives)(queries, keys, extra)
    assert found.shape == (3,)
    for b in range(3):
        layers = [
            slow(q[b], k[b], None if extra is None else extra[i], negatives != "external", 0.3)
            for i, (q, k) in enumerate(zip(queries, keys, strict=True))
        ]
        assert found[b].item() == pytest.approx(sum(layers) / 2, rel=1e-5)


def test_negatives_of_the_whole_batch() -> None:
    torch.manual_seed(0)
    queries, keys = ([torch.randn(3, p, 4, dtype=torch.float64, device=DEVICE) for p in (5, 1)] for _ in range(2))
    found = PatchNCE(5, 0.3, "batch")(queries, keys)
    layers = [slow(q.flatten(0, 1), k.flatten(0, 1), None, True, 0.3) for q, k in zip(queries, keys, strict=True)]
    assert found.shape == (3,) and found.mean().item() == pytest.approx(sum(layers) / 2, rel=1e-5)


def test_positions_are_shared_by_a_batch_or_picked_by_the_score() -> None:
    nce = PatchNCE(6)
    features = [torch.zeros(2, 3, 4, 5, device=DEVICE), torch.zeros(2, 3, 2, 2, device=DEVICE)]
    drawn = nce.sample(features)
    assert [tuple(ids.shape) for ids in drawn] == [(6,), (4,)]
    assert all(len(set(ids.tolist())) == len(ids) for ids in drawn)
    score = torch.arange(40.0, device=DEVICE).reshape(2, 1, 4, 5)
    picked = nce.sample([features[0]], torch.cat([score[:1], -score[1:]]))[0]
    assert picked.shape == (2, 6)
    assert (picked[0].diff() > 0).all() and (picked[1].diff() < 0).all()  # in ascending order of the score


def test_what_does_not_fit_is_refused() -> None:
    rows = [torch.zeros(1, 2, 3, device=DEVICE)]
    with pytest.raises(ValueError, match="negatives: expected"):
        PatchNCE(negatives="all")
    with pytest.raises(ValueError, match="external: expected rows for 'both'"):
        PatchNCE(negatives="both")(rows, rows)
    with pytest.raises(ValueError, match="external: unused for 'internal'"):
        PatchNCE()(rows, rows, rows)
