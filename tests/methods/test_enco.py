"""EnCo's losses against a slow computation on plain networks, and what each phase may change."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks.plain_weights import randomise
from op_checks import DEVICE
from torch import Tensor

from cgcl_fast import compat
from cgcl_fast.methods import METHODS
from cgcl_fast.methods.enco import EnCo, EnCoConfig, layer_pairs

from . import plain_cut

SMALL: dict[str, Any] = {"ngf": 4, "ndf": 4, "n_blocks": 6, "nce_dim": 8, "num_patches": 20}


def batch_of(
    n: int = 2,
    size: tuple[int, int] = (32, 40),
    dtype: torch.dtype = torch.float64,
    size_of_b: tuple[int, int] | None = None,
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    a, b = (
        torch.rand(n, 3, *each, generator=generator, dtype=dtype, device="cpu").to(DEVICE) * 2 - 1
        for each in (size, size_of_b or size)
    )
    return {"A": a, "B": b}


def method_of(**options: Any) -> EnCo:
    method = EnCo(EnCoConfig(**{**SMALL, **options})).double().to(DEVICE)
    for seed, network in enumerate((method.G, method.D, method.H)):
        randomise(network, seed)
    return method


def record_draws(method: EnCo, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    draws: list[Tensor] = []
    draw = method.draw

    def recorded(*args: Any) -> Tensor:
        draws.append(draw(*args))
        return draws[-1]

    monkeypatch.setattr(method, "draw", recorded)
    return draws


def nce_by_hand(q: Tensor, k: Tensor, decoupled: bool) -> Tensor:
    """Eq. 1 and 2 for one layer, (B, K, C), position by position."""
    losses = []
    for queries, keys in zip(q, k, strict=True):
        queries = queries / (queries.norm(dim=1, keepdim=True) + 1e-7)
        keys = keys / (keys.norm(dim=1, keepdim=True) + 1e-7)
        for s, query in enumerate(queries):
            logits = [float(query.detach() @ key) / 0.07 for key in keys]
            counted = [math.exp(x) for t, x in enumerate(logits) if not (decoupled and t == s)]
            losses.append(math.log(sum(counted)) - logits[s])
    return torch.tensor(losses, dtype=torch.float64, device=DEVICE).mean()


@pytest.mark.parametrize("loss", ["infonce", "decoupled"])
@pytest.mark.parametrize(("antialias", "size_of_b"), [(True, None), (False, None), (True, (36, 32))])
def test_losses_equal_the_plain_computation(
    loss: str, antialias: bool, size_of_b: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = method_of(loss=loss, antialias=antialias)
    plain_g = plain_cut.Generator(ngf=4, n_blocks=6, antialias=antialias).double().to(DEVICE)
    plain_d = plain_cut.Discriminator(ndf=4, antialias=antialias).double().to(DEVICE)
    plain_g.load_state_dict(compat.published_state_dict(method.G))
    plain_d.load_state_dict(compat.published_state_dict(method.D))
    batch, shared = batch_of(size_of_b=size_of_b), method.choose(0.0)
    draws = record_draws(method, monkeypatch)
    d_losses = method.discriminator_loss(batch, shared)
    losses = method.generator_loss(batch, shared)

    with torch.no_grad():
        fake, same = plain_g(batch["A"]), plain_g(batch["B"])
        logits = plain_d(fake)
        torch.testing.assert_close(
            d_losses["loss"], (logits.square().mean() + (plain_d(batch["B"]) - 1).square().mean()) / 2
        )
        torch.testing.assert_close(losses["G_GAN"], (logits - 1).square().mean())
        torch.testing.assert_close(losses["idt"], 10 * (same - batch["B"]).abs().mean())
        encoder, decoder = zip(*layer_pairs(6, antialias).values(), strict=True)
        features = dict(
            zip((*encoder, *decoder[::-1]), plain_g.encode(batch["A"], (*encoder, *decoder[::-1])), strict=True)
        )
        nce = []
        for i, (down, up) in enumerate(zip(encoder, decoder, strict=True)):
            ids = draws[i][..., None].expand(-1, -1, features[up].shape[1])
            q, k = (method.H.mlps[i](features[n].flatten(2).transpose(1, 2).gather(1, ids)) for n in (up, down))
            nce.append(nce_by_hand(q, k, decoupled=loss == "decoupled"))
        torch.testing.assert_close(losses["NCE"], 2 * torch.stack(nce).mean())
    torch.testing.assert_close(losses["loss"].detach(), losses["G_GAN"] + losses["NCE"] + losses["idt"])


def test_pairs_of_the_paper_have_the_same_scale() -> None:
    assert layer_pairs(9) == {1: (3, 28), 2: (7, 24), 4: (13, 18)}
    for n_blocks, antialias, up, n_down in itertools.product((5, 6, 9), (True, False), (None, True, False), (2, 1)):
        generator = plain_cut.Generator(ngf=1, n_blocks=n_blocks, antialias=antialias, antialias_up=up, n_down=n_down)
        pairs = layer_pairs(n_blocks, antialias, n_down, up)
        encoder, decoder = zip(*pairs.values(), strict=True)
        features = generator.encode(torch.zeros(1, 3, 16, 16), (*encoder, *decoder[::-1]))
        shapes = [tuple(f.shape[1:]) for f in features]
        assert shapes[: len(pairs)] == shapes[: len(pairs) - 1 : -1]
        assert shapes[: len(pairs)] == [(scale, 16 // scale, 16 // scale) for scale in pairs]


@pytest.mark.parametrize("loss", ["infonce", "decoupled", "cosine"])
def test_each_phase_trains_its_own_networks(loss: str) -> None:
    method = method_of(loss=loss)
    batch, shared = batch_of(), method.choose(0.0)
    discriminator, generator = method.phases()
    assert (discriminator.networks, generator.networks, generator.frozen) == (("D",), ("G", "H"), ("D",))
    discriminator.loss(batch, shared)["loss"].backward()
    assert all(p.grad is None for network in (method.G, method.H) for p in network.parameters())
    assert all(p.grad is not None for p in method.D.parameters() if p.requires_grad)
    method.D.requires_grad_(False).zero_grad()
    assert all(not key.requires_grad for key in shared["keys"])
    generator.loss(batch, shared)["loss"].backward()
    assert all(p.grad is None for p in method.D.parameters())
    trained = [p for network in (method.G, method.H) for p in network.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
    assert all(p.grad.any() for p in method.H.parameters() if p.dim() > 1 and p.grad is not None)


def test_one_pass_of_the_generator_and_half_the_batch_in_the_second_half() -> None:
    method = method_of()
    passes: list[int] = []
    method.G.stem.register_forward_hook(lambda _, x, y: passes.append(len(y)))
    for progress in (0.0, 0.49, 0.5, 0.9):
        shared = method.choose(progress)
        method.discriminator_loss(batch_of(), shared)
        losses = method.generator_loss(batch_of(), shared)
        assert ("idt" in losses) == (progress < 0.5)
    assert passes == [4, 4, 2, 2]


def test_published_weights_are_halved_while_there_is_an_identity_term() -> None:
    """In the authors' code (NCE + IDT) / 2 with it, NCE alone without: 1 and 5, then 2."""
    found = {}
    for weights in ("paper", "published"):
        method = method_of(weights=weights, idt_share=0.25)
        for progress in (0.2, 0.25):
            torch.manual_seed(0)
            shared = method.choose(progress)
            losses = found[weights, progress] = method.generator_loss(batch_of(), shared)
            assert ("idt" in losses) == (progress < 0.25)
            parts = [value for name, value in losses.items() if name != "loss"]
            torch.testing.assert_close(losses["loss"].detach(), torch.stack(parts).sum())
    paper, published = found["paper", 0.2], found["published", 0.2]
    assert torch.equal(paper["G_GAN"], published["G_GAN"])
    for name in ("NCE", "idt"):
        torch.testing.assert_close(published[name], paper[name] / 2)
    torch.testing.assert_close(found["published", 0.25]["NCE"], found["paper", 0.25]["NCE"])


def test_predictor_of_the_later_code() -> None:
    """Linear without bias, BatchNorm, ReLU, linear, in stock modules with the published names of EnCo's ``prj_0``."""
    method = method_of(loss="cosine", predictor_norm=True)
    prj = torch.nn.Sequential(
        torch.nn.Linear(8, 4, bias=False), torch.nn.BatchNorm1d(4), torch.nn.ReLU(), torch.nn.Linear(4, 8)
    )
    prj.double().to(DEVICE).load_state_dict(method.H.predictors[0].state_dict())
    rows = torch.rand(2, 5, 8, dtype=torch.float64, device=DEVICE)
    torch.testing.assert_close(method.H.predictors[0](rows), prj(rows.flatten(0, 1)).view(2, 5, 8))
    assert len(method_of(loss="cosine").H.predictors[0]) == 3  # the default has none
    shared = method.choose(0.0)
    assert method.generator_loss(batch_of(), shared)["loss"].isfinite()


def test_positions_follow_the_discriminator(monkeypatch: pytest.MonkeyPatch) -> None:
    """With β = 1 and as many candidates as positions, the most fake ones of the interpolated score are drawn."""
    method = method_of(importance=1.0, oversample=1e6)
    batch, shared = batch_of(), method.choose(0.0)
    draws = record_draws(method, monkeypatch)
    method.generator_loss(batch, shared)
    for ids, size in zip(draws, ((32, 40), (16, 20), (8, 10)), strict=True):
        score = F.interpolate(shared["score"].float(), size, mode="bilinear", align_corners=False).flatten(1)
        expected = score.sort(dim=1).values[:, :20]
        torch.testing.assert_close(score.gather(1, ids), expected)


def test_fresh_half_does_not_follow_the_score() -> None:
    method = method_of(fresh_random=True, importance=0.25, num_patches=16)
    shared = {"score": torch.arange(80.0, device=DEVICE).view(1, 1, 8, 10)}
    feature = torch.zeros(1, 4, 8, 10, device=DEVICE)
    torch.manual_seed(0)
    rest = torch.cat([method.draw(feature, shared)[0, 4:] for _ in range(100)])
    assert set(rest.tolist()) == set(range(80))
    assert method.draw(feature, shared).shape == (1, 16)


def test_random_sampling_needs_no_score(monkeypatch: pytest.MonkeyPatch) -> None:
    method = method_of(sampling="random", lambda_gan=0.0)
    (only,) = method.phases()
    draws = record_draws(method, monkeypatch)
    assert only.name == "generator" and only.loss(batch_of(), method.choose(0.0))["loss"].isfinite()
    assert all(ids.shape == (2, 20) and not torch.equal(ids[0], ids[1]) for ids in draws)


def test_learning_rates_of_the_paper() -> None:
    discriminator, generator = EnCo(EnCoConfig(**SMALL)).phases()
    assert discriminator.optimizer.lr == 2e-4
    assert [generator.optimizer.lr_of(name) for name in generator.networks] == [5e-5, 5e-5]
    _, generator = EnCo(EnCoConfig(**SMALL, lr_h=1e-3)).phases()
    assert [generator.optimizer.lr_of(name) for name in generator.networks] == [5e-5, 1e-3]
    assert METHODS["enco"] is EnCo


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling": "grid"}, "sampling: expected 'dag' or 'random', got 'grid'"),
        ({"sampling": "dag", "lambda_gan": 0.0}, "needs a discriminator"),
        ({"loss": "l2"}, "loss: expected 'infonce', 'decoupled' or 'cosine', got 'l2'"),
        ({"loss": "cosine", "num_patches": 1}, "num_patches: the norms of 'cosine' need at least 2, got 1"),
        ({"n_blocks": 4}, "n_blocks: expected an integer from 5 to 256, got 4"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EnCo(EnCoConfig(**{**SMALL, **options}))
