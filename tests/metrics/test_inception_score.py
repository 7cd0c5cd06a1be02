"""IS and CIS: cases with known answers, the definition written out, and torch-fidelity's IS."""

from __future__ import annotations

import math

import pytest
import torch

from cgcl_fast.metrics.inception_score import InceptionScores, conditional_inception_score, inception_score


def probabilities(*shape: int) -> torch.Tensor:
    return (3 * torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).softmax(-1)


def test_known_answers():
    """Sure of one of four classes, each as often: IS is 4. Sure of always the same, or of none: 1."""
    sure = torch.eye(4).repeat(5, 1)
    assert inception_score(sure) == pytest.approx(4)
    assert inception_score(sure[:1].repeat(7, 1)) == pytest.approx(1)
    assert inception_score(torch.full((6, 4), 0.25)) == pytest.approx(1)


def test_known_answers_of_inputs():
    """Of each input's translations two classes in turn: CIS is 2. Each input always its own class: CIS 1 and IS 3."""
    two = torch.eye(3)[torch.tensor([[0, 1, 0, 1], [1, 2, 2, 1]])]
    assert conditional_inception_score(two) == pytest.approx(2)
    own = torch.eye(3)[:, None].expand(3, 4, 3)
    assert conditional_inception_score(own) == pytest.approx(1)
    assert inception_score(own.flatten(0, 1)) == pytest.approx(3)


def test_the_definition_written_out():
    p = probabilities(3, 5, 4)

    def divergence(a: torch.Tensor, b: torch.Tensor) -> float:
        return sum(float(x) * (math.log(float(x)) - math.log(float(y))) for x, y in zip(a, b, strict=True))

    mean = p.mean((0, 1))
    between = [divergence(row, mean) for of_input in p for row in of_input]
    within = [divergence(row, of_input.mean(0)) for of_input in p for row in of_input]
    scores = InceptionScores(4)
    for of_input in p:
        scores.update(of_input)
    assert scores.figures() == pytest.approx(
        {"IS": math.exp(sum(between) / len(between)), "CIS": math.exp(sum(within) / len(within))}
    )


def test_is_of_torch_fidelity():
    metric = pytest.importorskip("torch_fidelity.metric_isc")
    logits = 3 * torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    theirs = metric.isc_features_to_metric(logits, splits=1, shuffle=False)
    assert inception_score(logits.softmax(1)) == pytest.approx(theirs["inception_score_mean"], rel=1e-6)


def test_processes_add_their_sums():
    p = probabilities(4, 5, 3)
    alone, first, second = InceptionScores(3), InceptionScores(3), InceptionScores(3)
    for n, of_input in enumerate(p):
        alone.update(of_input)
        (first, second)[n % 2].update(of_input)
    first.sums += second.sums
    assert first.figures() == pytest.approx(alone.figures())


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="expected numbers from 0 on that add up to 1"):
        inception_score(torch.ones(2, 3))
    with pytest.raises(ValueError, match="expected numbers from 0 on that add up to 1"):
        inception_score(torch.full((2, 3), math.nan))
    with pytest.raises(ValueError, match=r"expected \(N, S, K\), got \(2, 3\)"):
        conditional_inception_score(torch.full((2, 3), 1 / 3))
    with pytest.raises(ValueError, match=r"expected \(S, 2\), got \(2, 3\)"):
        InceptionScores(2).update(torch.full((2, 3), 1 / 3))
    with pytest.raises(ValueError, match="expected those of some translations, got none"):
        InceptionScores(2).figures()
    with pytest.raises(ValueError, match="classes: expected at least 2, got 1"):
        InceptionScores(1)
