from __future__ import annotations

import pytest
import torch
from methods import plain_cut
from op_checks import DEVICE

from cgcl_fast import compat
from cgcl_fast.nn import Projector
from cgcl_fast.ops import gather_patches


def test_rows_are_those_of_the_published_perceptrons() -> None:
    plain = plain_cut.Heads([3, 5], 7).to(DEVICE)
    ours = compat.load_projector(plain.state_dict()).to(DEVICE)
    features = [torch.randn(2, 3, 6, 4, device=DEVICE), torch.randn(2, 5, 3, 3, device=DEVICE)]
    ids = [torch.tensor([5, 0, 23], device=DEVICE), torch.tensor([8, 1], device=DEVICE)]
    rows = ours(features, ids)
    assert [tuple(r.shape) for r in rows] == [(2, 3, 7), (2, 2, 7)]
    for found, expected in zip(rows, plain(features, ids), strict=True):
        unit = torch.nn.functional.normalize(found, dim=2).flatten(0, 1)
        torch.testing.assert_close(unit, expected, atol=1e-5, rtol=1e-5)


def test_each_image_may_have_its_own_positions() -> None:
    projector = Projector([4], 6).to(DEVICE)
    feature = torch.randn(2, 4, 3, 5, device=DEVICE)
    ids = torch.tensor([[0, 14], [7, 3]], device=DEVICE)
    (rows,) = projector([feature], [ids])
    for b in range(2):
        (alone,) = projector([feature[b : b + 1]], [ids[b]])
        torch.testing.assert_close(rows[b : b + 1], alone)


def test_rows_may_be_gathered_already() -> None:
    projector = Projector([4, 3], 6, predictor=True).to(DEVICE)
    features = [torch.randn(2, 4, 3, 5, device=DEVICE), torch.randn(2, 3, 2, 2, device=DEVICE)]
    ids = [torch.tensor([0, 14], device=DEVICE), torch.tensor([[3], [1]], device=DEVICE)]
    gathered = [gather_patches(feature, at) for feature, at in zip(features, ids, strict=True)]
    for predict in (False, True):
        for row, expected in zip(
            projector(gathered, predict=predict), projector(features, ids, predict=predict), strict=True
        ):
            assert torch.equal(row, expected)


def test_all_parameters_exist_at_once() -> None:
    assert sum(p.numel() for p in Projector([3, 4], 5).parameters()) == (3 * 5 + 5 + 30) + (4 * 5 + 5 + 30)
    assert Projector([3, 4], 5).channels == (3, 4)


def test_layers_must_match() -> None:
    with pytest.raises(ValueError, match="expected 2 layers of each, got 1 and 2"):
        Projector([3, 4], 5)([torch.zeros(1, 3, 2, 2)], [torch.zeros(1, dtype=torch.long)] * 2)
    with pytest.raises(ValueError, match="expected 2 layers of each, got 1 and 1"):
        Projector([3, 4], 5)([torch.zeros(1, 7, 3)])
