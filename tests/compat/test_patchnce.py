"""The drop-in classes against the plain computation of the tests."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from methods import plain_cut
from torch import Tensor

from cgcl_fast.compat import PatchNCELoss, PatchSampleF, load_projector


def options(batch_size: int = 2, everything: bool = False, temperature: float = 0.07) -> SimpleNamespace:
    return SimpleNamespace(
        batch_size=batch_size, nce_includes_all_negatives_from_minibatch=everything, nce_T=temperature
    )


@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("scale", [None, 0.3, 3.0])
def test_loss_and_gradient(everything: bool, scale: float | None) -> None:
    """Also for features that are not of length 1, where the masked diagonal counts."""
    torch.manual_seed(0)
    q, k = torch.randn(2, 24, 16, dtype=torch.float64)
    if scale is None:
        q, k = F.normalize(q), F.normalize(k)
    else:
        q, k = q * scale, (k - 0.5) * scale
    mine, plain = q.clone().requires_grad_(), q.clone().requires_grad_()
    key = k.clone().requires_grad_()
    loss = PatchNCELoss(options(everything=everything))(mine, key)
    expected = plain_cut.patch_nce(plain, k, 1 if everything else 2, 0.07)
    assert loss.shape == (24,)
    torch.testing.assert_close(loss, expected)
    weights = torch.rand(24, dtype=torch.float64)
    (loss * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(mine.grad, plain.grad)
    assert key.grad is None


def test_a_single_patch_has_only_the_masked_negative() -> None:
    q = F.normalize(torch.randn(3, 8, dtype=torch.float64))
    loss = PatchNCELoss(options(batch_size=3, temperature=5.0))(q, -q)
    torch.testing.assert_close(loss, plain_cut.patch_nce(q, -q, 3, 5.0))
    assert (loss > 0.1).all()


def test_wrong_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of batch_size 2 rows, got 3"):
        PatchNCELoss(options())(torch.zeros(3, 4), torch.zeros(3, 4))
    with pytest.raises(ValueError, match="expected the same"):
        PatchNCELoss(options())(torch.zeros(4, 4), torch.zeros(2, 4))


def features() -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(2, c, *size) for c, size in ((3, (9, 7)), (5, (4, 6)))]


def test_projection_has_the_published_keys_and_numbers() -> None:
    sampler = PatchSampleF(use_mlp=True, init_type="xavier", init_gain=0.02, nc=8, gpu_ids=[])
    assert not list(sampler.parameters())
    first, ids = sampler(features(), 6)
    names = [f"mlp_{i}.{j}.{t}" for i in (0, 1) for j in (0, 2) for t in ("weight", "bias")]
    assert list(sampler.state_dict()) == names
    assert [tuple(i.shape) for i in ids] == [(6,), (6,)] and [tuple(f.shape) for f in first] == [(12, 8)] * 2
    plain = plain_cut.Heads([3, 5], 8)
    plain.load_state_dict(sampler.state_dict())
    for a, b in zip(first, plain(features(), ids), strict=True):
        torch.testing.assert_close(a, b)
    again, same = sampler([f + 1 for f in features()], 6, ids)
    assert all(torch.equal(a, b) for a, b in zip(ids, same, strict=True))
    assert not torch.equal(again[0], first[0])
    as_lists, _ = sampler(features(), 6, [i.tolist() for i in ids])
    torch.testing.assert_close(as_lists, first)
    assert load_projector(sampler.state_dict()).channels == (3, 5)


def test_more_patches_than_positions_takes_all() -> None:
    rows, ids = PatchSampleF()(features(), 1000)
    assert [sorted(i.tolist()) for i in ids] == [list(range(63)), list(range(24))]
    assert [tuple(r.shape) for r in rows] == [(126, 3), (48, 5)]


def test_features_alone_are_normalised() -> None:
    rows, ids = PatchSampleF(use_mlp=False)(features(), 4)
    picked = features()[1].flatten(2)[:, :, ids[1]].transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(rows[1], picked / (picked.norm(dim=1, keepdim=True) + 1e-7))


def test_no_patches_gives_maps_normalised_over_positions() -> None:
    sampler = PatchSampleF(use_mlp=True, init_type="normal", init_gain=1.0, nc=4)
    maps, ids = sampler(features(), 0)
    assert ids == [[], []] and [tuple(m.shape) for m in maps] == [(2, 4, 9, 7), (2, 4, 4, 6)]
    torch.testing.assert_close(maps[0].flatten(2).norm(dim=2), torch.ones(2, 4))
    projected = sampler.mlp_1(features()[1].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(F.normalize(maps[1].flatten(2), dim=2), F.normalize(projected.flatten(2), dim=2))
