"""The multilayer dual contrastive loss against Eq. 6, the ablations, and the sizes that the papers print."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from op_checks import DEVICE
from torch import Tensor

from cgcl_fast.methods import METHODS
from cgcl_fast.methods.cgcl import CGCL, CGCLConfig
from cgcl_fast.methods.cgl import CGL, CGLConfig

from . import plain_cgl as plain
from .cgl_cases import SMALL, batch_of, randomise

TINY: dict[str, Any] = {
    **SMALL,
    "nce_dim": 4,
    "num_patches_g": 12,
    "num_patches_o": 9,
    "num_negatives_g": 5,
    "num_negatives_o": 3,
}
SOME = ([True, True], [False, True])


def method_of(**options: Any) -> CGCL:
    method = CGCL(CGCLConfig(**{**TINY, **options})).double().to(DEVICE)
    randomise(method)
    return method


@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize("present", [None, SOME])
def test_contrast_is_that_of_the_equation(every: bool, present: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"num_negatives_g": "all", "num_negatives_o": "all"} if every else {}
    method, batch, shared = method_of(lambda_mdc=0.3, temperature=0.2, **options), batch_of(present=present), {}
    draws: list[tuple[list[Tensor], Tensor | None]] = []
    draw = method.draw

    def recorded(*args: Any) -> Any:
        draws.append(draw(*args))
        return draws[-1]

    monkeypatch.setattr(method, "draw", recorded)
    losses = method.generator_loss(batch, shared)
    both = [True, True, True, True]
    paired = both if present is None else [False, True, False, True]
    with torch.no_grad():
        for k, (ids, offsets), counts, count in zip("go", draws, (both, paired), (12, 9), strict=True):
            assert (offsets is None) == every
            negatives = range(1, count) if offsets is None else offsets.tolist()
            assert len(set(negatives)) == (count - 1 if every else {"g": 5, "o": 3}[k])
            assert all(0 < offset < count for offset in negatives)
            images, translations = ([x for each in of for x in each] for of in (shared[k].real, shared[k].swapped))
            w, mlps, values = plain.weights_of(getattr(method, f"G_{k}")), getattr(method, f"H_{k}").mlps, []
            for row in range(4):
                if not counts[row]:
                    continue
                source = plain.content(w, images[row][None], 2)
                target = plain.content(w, translations[row][None], 2)
                for layer in range(2):
                    assert ids[layer].shape == (count,)
                    key, query = (
                        mlps[layer](features[layer][0].flatten(1).T[ids[layer]]) for features in (source, target)
                    )
                    values.append(plain.nce(query, key, negatives, 0.2))
            torch.testing.assert_close(losses[f"mdc_{k}"], 0.3 * plain.mean(values))
    parts = [value for name, value in losses.items() if name != "loss"]
    torch.testing.assert_close(losses["loss"].detach(), torch.stack(parts).sum())


def test_the_contrasts_gradient_reaches_the_networks_of_the_translation_alone() -> None:
    method, batch, shared = method_of(), batch_of(), {}
    method.first_pass(batch, shared)
    method.second_pass(shared)
    for name, other in (("g", "o"), ("o", "g")):
        method.zero_grad()
        method.contrast(name, shared[name]).backward(retain_graph=True)
        reached = {n for n, p in method.named_parameters() if p.grad is not None and p.grad.any()}
        assert not any(n.startswith((f"G_{other}", f"H_{other}", "D_")) for n in reached)
        weights = {n for n, p in method.named_parameters() if p.dim() > 1}
        mine = {n for n in weights if n.startswith((f"G_{name}", f"H_{name}"))}
        assert mine <= reached
    # Keys are detached: with queries of no gradient there is none at all.
    part = shared["g"]
    part.swapped_features = [[feature.detach() for feature in layers] for layers in part.swapped_features]
    method.zero_grad()
    method.contrast("g", part).backward()
    assert all(p.grad is None or not p.grad.any() for p in method.G_g.parameters())


def test_the_generator_phase_trains_the_projectors() -> None:
    method, batch, shared = method_of(), batch_of(), {}
    discriminator, generator = method.phases()
    assert generator.networks == ("G_g", "G_o", "H_g", "H_o")
    discriminator.loss(batch, shared)["loss"].backward()
    assert all(p.grad is None for n, p in method.named_parameters() if not n.startswith("D_"))
    method.zero_grad()
    method.D_g.requires_grad_(False), method.D_o.requires_grad_(False)
    generator.loss(batch, shared)["loss"].backward()
    trained = [p for n, p in method.named_parameters() if not n.startswith("D_") and p.requires_grad]
    assert all(p.grad is not None for p in trained)
    assert all(p.grad is None for n, p in method.named_parameters() if n.startswith("D_"))


@pytest.mark.parametrize("lambda_cgc", [0.0, 10.0])
@pytest.mark.parametrize("lambda_mdc", [0.0, 1.0])
def test_the_rows_of_the_ablation_are_configs(lambda_cgc: float, lambda_mdc: float) -> None:
    """CGCL's Table 2: with and without CGC and MDC."""
    method = method_of(lambda_cgc=lambda_cgc, lambda_mdc=lambda_mdc)
    losses = method.generator_loss(batch_of(), {})
    assert ("cgc_g" in losses, "cgc_o" in losses) == (lambda_cgc > 0,) * 2
    assert ("mdc_g" in losses, "mdc_o" in losses) == (lambda_mdc > 0,) * 2
    assert any(name.startswith("H_") for name, _ in method.named_parameters()) == (lambda_mdc > 0)
    losses["loss"].backward()


def test_the_sizes_of_the_papers() -> None:
    """CGL's Table 6 and CGCL's Table 3, float32 parameters without D."""
    for kind, parameters, printed in ((CGL, 30_079_510, 119), (CGCL, 31_132_182, 125)):
        with torch.device("meta"):
            method = kind(kind.Config())
        counts = [p.numel() for name in method.generators() for p in getattr(method, name).parameters()]
        assert sum(counts) == parameters
        assert 4 * sum(counts) / 1e6 == pytest.approx(printed, rel=0.02)
    assert METHODS["cgcl"] is CGCL


def test_defaults_of_the_papers() -> None:
    cgl, cgcl = CGLConfig(), CGCLConfig()
    assert (cgl.lambda_gan, cgl.lambda_cls, cgl.lambda_rec, cgl.lambda_cgc, cgl.lambda_code) == (1, 1, 10, 10, 1)
    assert (cgcl.lambda_gan, cgcl.lambda_cls, cgcl.lambda_rec, cgcl.lambda_cgc, cgcl.lambda_code) == (1, 1, 10, 10, 10)
    assert (cgcl.lambda_mdc, cgcl.temperature, cgcl.nce_dim) == (1, 0.07, 256)
    assert (cgcl.num_patches_g, cgcl.num_patches_o, cgcl.num_negatives_g, cgcl.num_negatives_o) == (256, 64, 64, 16)
    assert (cgl.init_type, cgcl.init_type, cgl.lr, cgl.lambda_gp, cgl.halve_every) == (
        "kaiming",
        "kaiming_uniform",
        1e-4,
        10,
        100_000,
    )


@pytest.mark.parametrize("field", CGCLConfig.__dataclass_fields__)
def test_every_option_is_explained(field: str) -> None:
    assert f"\n        {field}: " in (CGCLConfig.__doc__ or "")
