"""The modules of the norms, samplers and blurs beside the ops that they call, and what their constructors refuse."""

from __future__ import annotations

import pytest
import torch
from op_checks import DEVICE

from cgcl_fast import ops
from cgcl_fast.nn import AdaIN, BlurDown, BlurUp, DAGSampler, InstanceNorm, PatchSampler


def test_options_reach_the_op() -> None:
    x, residual = torch.randn(2, 2, 3, 5, 4, device=DEVICE)
    scale, shift = torch.randn(2, 2, 3, device=DEVICE)
    options = {"eps": 0.5, "activation": "leaky_relu", "pad": 2, "pad_mode": "replicate"}
    found = AdaIN(**options)(x, scale, shift, residual)
    assert torch.equal(found, ops.adain(x, scale, shift, residual=residual, **options))
    assert torch.equal(InstanceNorm(**options)(x, residual), ops.instance_norm(x, residual=residual, **options))
    assert torch.equal(BlurDown()(x), ops.blur_down(x)) and torch.equal(BlurUp()(x), ops.blur_up(x))
    assert repr(AdaIN(activation="relu", pad=1)) == "AdaIN(eps=1e-05, activation='relu', pad=1, pad_mode='reflect')"


def test_samplers_draw_as_the_ops_do() -> None:
    features, score = torch.zeros(3, 1, 4, 5, device=DEVICE), torch.randn(3, 1, 6, 6, device=DEVICE)
    for per_image, batch in ((False, None), (True, 3)):
        torch.manual_seed(5)
        found = PatchSampler(7, per_image=per_image)(features)
        torch.manual_seed(5)
        assert torch.equal(found, ops.sample_patch_ids(20, 7, batch=batch, device=torch.device(DEVICE)))
    torch.manual_seed(5)
    found = DAGSampler(6, oversample=2, importance=0.25)(features, score)
    torch.manual_seed(5)
    assert torch.equal(found, ops.dag_select(score, (4, 5), 6, oversample=2, importance=0.25))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AdaIN(activation="gelu"), "AdaIN: expected activation to be one of 'none', 'relu', 'leaky_relu', got"),
        (lambda: InstanceNorm(pad_mode="zeros"), "InstanceNorm: expected pad_mode to be one of"),
        (lambda: InstanceNorm(pad=-1), "InstanceNorm: expected pad >= 0, got -1"),
        (lambda: AdaIN(eps=-1.0), "AdaIN: expected a finite eps >= 0, got -1.0"),
        (lambda: PatchSampler(-1), "PatchSampler: expected num_patches >= 0, got -1"),
        (lambda: DAGSampler(8, oversample=0.5), "DAGSampler: expected a finite oversample >= 1, got 0.5"),
        (lambda: DAGSampler(8, importance=1.5), r"DAGSampler: expected importance in \[0, 1\], got 1.5"),
    ],
)
def test_what_is_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
