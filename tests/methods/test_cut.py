"""The CUT step against the plain one, and what each phase may change."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from networks.plain_weights import gradient_of, randomise
from op_checks import DEVICE
from torch import Tensor

from cgcl_fast import compat
from cgcl_fast.methods import METHODS
from cgcl_fast.methods.cut import CUT, CUTConfig, FastCUT, FastCUTConfig

from . import plain_cut
from .one_step import phases_of_a_step

SMALL: dict[str, Any] = {"ngf": 4, "ndf": 4, "n_blocks": 6, "nce_dim": 8, "num_patches": 20}


def batch_of(
    n: int = 2,
    size: tuple[int, int] = (32, 24),
    dtype: torch.dtype = torch.float64,
    size_of_b: tuple[int, int] | None = None,
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    a, b = (
        torch.rand(n, 3, *each, generator=generator, dtype=dtype, device="cpu").to(DEVICE) * 2 - 1
        for each in (size, size_of_b or size)
    )
    return {"A": a, "B": b}


def pair(kind: type[CUT], config: CUTConfig) -> tuple[CUT, plain_cut.PlainCUT]:
    """A method and the plain step with the same weights, in float64."""
    method = kind(config).double().to(DEVICE)
    for seed, network in enumerate((method.G, method.D, method.H)):
        randomise(network, seed)
    shape = {"n_blocks": config.n_blocks, "antialias": config.antialias, "antialias_up": config.antialias_up}
    plain_g = plain_cut.Generator(ngf=config.ngf, **shape).double().to(DEVICE)  # type: ignore[arg-type]
    plain_d = plain_cut.Discriminator(ndf=config.ndf, antialias=config.antialias).double().to(DEVICE)
    plain_h = plain_cut.Heads(method.H.channels, config.nce_dim).double().to(DEVICE)
    for ours, plain in ((method.G, plain_g), (method.D, plain_d), (method.H, plain_h)):
        plain.load_state_dict(compat.published_state_dict(ours))
    plain = plain_cut.PlainCUT(
        plain_g, plain_d, plain_h, config.nce_layers, config.lambda_x, config.lambda_y, config.temperature
    )
    return method, plain


def optimizers(method: CUT) -> list[torch.optim.Adam]:
    return [
        torch.optim.Adam(
            [p for name in phase.networks for p in getattr(method, name).parameters()],
            phase.optimizer.lr,
            phase.optimizer.betas,
        )
        for phase in method.phases()
    ]


def step(method: CUT, batch: dict[str, Tensor], adams: list[torch.optim.Adam]) -> tuple[dict[str, Tensor], bool]:
    """One step as the engine does it, but the gradients stay; the losses, and whether it was flipped."""
    shared = method.choose(0.0)
    losses = {}
    for (phase, found), adam in zip(phases_of_a_step(method, batch, shared), adams, strict=True):
        adam.step()
        losses.update({f"{phase.name}/{name}": value.detach() for name, value in found.items()})
    return losses, shared["flipped"]


def record_draws(method: CUT, monkeypatch: pytest.MonkeyPatch) -> list[list[Tensor]]:
    draws: list[list[Tensor]] = []
    sample = method.nce.sample

    def recorded(*args: Any) -> list[Tensor]:
        draws.append(sample(*args))
        return draws[-1]

    monkeypatch.setattr(method.nce, "sample", recorded)
    return draws


CASES = [
    (CUT, CUTConfig(**SMALL), None),
    (CUT, CUTConfig(**SMALL, antialias=False), None),
    (CUT, CUTConfig(**SMALL, antialias=False, antialias_up=True), None),  # published: --no_antialias alone
    (CUT, CUTConfig(**SMALL, lambda_x=2.0, lambda_y=0.5, temperature=0.2, nce_layers=(16,)), None),
    (FastCUT, FastCUTConfig(**SMALL), None),
    (CUT, CUTConfig(**SMALL), (24, 28)),
    (FastCUT, FastCUTConfig(**SMALL), (28, 24)),
    (CUT, CUTConfig(**SMALL, flip_equivariance=True), (40, 24)),
]


@pytest.mark.parametrize(("n", "kind", "config", "size_of_b"), [(2, *case) for case in CASES] + [(1, *CASES[0])])
def test_two_steps_equal_the_plain_four_pass_step(
    n: int, kind: type[CUT], config: CUTConfig, size_of_b: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, plain = pair(kind, config)
    adams, batch = optimizers(method), batch_of(n, size_of_b=size_of_b)
    draws = record_draws(method, monkeypatch)
    flips = set()
    torch.manual_seed(2)
    for _ in range(3 if config.flip_equivariance else 2):
        draws.clear()
        losses, flipped = step(method, batch, adams)
        flips.add(flipped)
        expected = plain.step(batch["A"], batch["B"], (draws[0], draws[-1]), flipped)
        torch.testing.assert_close(losses["discriminator/loss"], expected["D"])
        torch.testing.assert_close(losses["generator/G_GAN"], expected["G_GAN"])
        torch.testing.assert_close(losses["generator/NCE"], expected["NCE"])
        torch.testing.assert_close(losses["generator/loss"], expected["G"])
        if config.lambda_y:
            torch.testing.assert_close(losses["generator/NCE_Y"], expected["NCE_Y"])
        for ours, theirs in ((method.G, plain.G), (method.D, plain.D), (method.H, plain.H)):
            for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
                gradient = gradient_of(mine)
                assert gradient is not None and other.grad is not None
                torch.testing.assert_close(gradient, other.grad, atol=1e-8, rtol=1e-6, msg=name)
            # Adam divides a gradient by its size, also one that is only rounding (a bias before a norm): start equal.
            theirs.load_state_dict(compat.published_state_dict(ours))
    assert len(draws) == (2 if config.lambda_y else 1)
    assert flips == ({True, False} if config.flip_equivariance else {False})


@pytest.mark.parametrize("kind", [CUT, FastCUT])
def test_each_phase_trains_its_own_networks(kind: type[CUT]) -> None:
    method = kind(kind.Config(**SMALL)).double().to(DEVICE)
    batch, shared = batch_of(), method.choose(0.0)
    discriminator, generator = method.phases()
    assert (discriminator.networks, generator.networks, generator.frozen) == (("D",), ("G", "H"), ("D",))
    discriminator.loss(batch, shared)["loss"].backward()
    assert all(p.grad is not None and p.grad.any() for p in method.D.convs[-1].parameters())
    assert all(p.grad is None for network in (method.G, method.H) for p in network.parameters())
    method.D.requires_grad_(False).zero_grad()
    generator.loss(batch, shared)["loss"].backward()
    assert all(p.grad is None for p in method.D.parameters())
    trained = [p for network in (method.G, method.H) for p in network.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in trained)
    assert all(p.grad.any() for p in method.H.parameters() if p.grad is not None)


def test_keys_take_no_gradient() -> None:
    """With the query fixed, nothing is left that could move the encoder or H through the keys."""
    method = CUT(CUTConfig(**SMALL)).double().to(DEVICE)
    batch, shared = batch_of(), method.choose(0.0)
    method.forward_generator(batch, shared)
    assert all(not feature.requires_grad for feature in shared["source_features"])
    rows = [torch.randn(4, 20, 8, dtype=torch.float64, requires_grad=True, device=DEVICE) for _ in method.layers]
    keys = [torch.randn(4, 20, 8, dtype=torch.float64, requires_grad=True, device=DEVICE) for _ in method.layers]
    method.nce(rows, keys).sum().backward()
    assert all(key.grad is None for key in keys) and all(row.grad is not None for row in rows)


def test_one_pass_of_the_generator_and_one_of_its_encoder() -> None:
    method = CUT(CUTConfig(**SMALL)).double().to(DEVICE)
    passes: list[tuple[str, int]] = []
    method.G.stem.register_forward_hook(lambda _, x, y: passes.append(("stem", len(y))))
    method.G.head.register_forward_hook(lambda _, x, y: passes.append(("head", len(y))))
    step(method, batch_of(), optimizers(method))
    assert passes == [("stem", 4), ("head", 4), ("stem", 4)]


def test_autocast_leaves_no_parameter_without_gradient() -> None:
    """Autocast caches cast weights; one cast for the keys first would take the gradient from the queries."""
    method = CUT(CUTConfig(**SMALL)).to(DEVICE)
    batch, shared = batch_of(dtype=torch.float32), method.choose(0.0)
    method.D.requires_grad_(False)
    with torch.autocast(DEVICE.type, torch.bfloat16):
        loss = method.phases()[1].loss(batch, shared)["loss"]
    loss.backward()
    trained = [p for p in [*method.G.parameters(), *method.H.parameters()] if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
    assert all(p.grad.any() for p in method.H.parameters() if p.grad is not None)


def test_flips_are_half_of_the_steps_and_follow_the_seed() -> None:
    method = FastCUT(FastCUTConfig(**{**SMALL, "ngf": 1, "n_blocks": 5})).double().to(DEVICE)
    batch = batch_of(1, (16, 16))

    def flips() -> list[bool]:
        torch.manual_seed(5)
        found = []
        for _ in range(24):
            shared = method.choose(0.0)
            with torch.no_grad():
                method.forward_generator(batch, shared)
            found.append(shared["flipped"])
        return found

    first = flips()
    assert first == flips() and 4 < sum(first) < 20


@pytest.mark.parametrize("negatives", ["external", "both"])
@pytest.mark.parametrize("kind", [CUT, FastCUT])
def test_external_negatives(negatives: str, kind: type[CUT], monkeypatch: pytest.MonkeyPatch) -> None:
    method = kind(kind.Config(**SMALL, negatives=negatives, queue_size=50, momentum=0.9)).double().to(DEVICE)
    for network in (method.G, method.H, method.momentum_G, method.momentum_H):
        randomise(network)
    batch, adams = batch_of(), optimizers(method)
    before = {k: v.clone() for k, v in method.state_dict().items()}
    draws = record_draws(method, monkeypatch)
    losses, flipped = step(method, batch, adams)
    domains = ["A", "B"] if kind is CUT else ["A"]
    assert list(method.queues) == domains

    # The loss by hand: queries and keys of the step before, the queue as it was.
    reference = kind(method.config).double().to(DEVICE)
    reference.load_state_dict(before)
    with torch.no_grad():
        source = torch.cat([batch[d] for d in domains])
        output = reference.G(source.flip(3) if flipped else source)
        queries = reference.G.encode(output, method.layers)
        queries = [q.flip(3) for q in queries] if flipped else queries
        keys = reference.G.encode(source, method.layers)
        found = []
        for d, domain in enumerate(domains):
            part = slice(2 * d, 2 * d + 2)
            ids = draws[d]
            q = reference.H([f[part] for f in queries], ids)
            k = reference.H([f[part] for f in keys], ids)
            layers = []
            for i, (rows, cols) in enumerate(zip(q, k, strict=True)):
                rows, cols = (torch.nn.functional.normalize(v, dim=2) for v in (rows, cols))
                inside = rows @ cols.transpose(1, 2) / 0.07
                positive = inside.diagonal(dim1=1, dim2=2)[..., None]
                outside = rows @ before[f"queues.{domain}.{i}.rows"].T / 0.07
                inside = inside.masked_fill(torch.eye(20, dtype=torch.bool, device=DEVICE), -math.inf)
                logits = torch.cat([positive, outside, *([inside] if negatives == "both" else [])], 2)
                layers.append((logits.logsumexp(2) - positive[..., 0]).mean())
            found.append(torch.stack(layers).mean())
    torch.testing.assert_close(losses["generator/NCE"], found[0] * method.config.lambda_x, atol=1e-5, rtol=1e-5)
    if kind is CUT:
        torch.testing.assert_close(losses["generator/NCE_Y"], found[1], atol=1e-5, rtol=1e-5)

    # Afterwards: the average moved a tenth of the way, and the keys that it computes are in the queue.
    after = method.state_dict()
    torch.testing.assert_close(
        after["momentum_G.stem.weight"], 0.9 * before["momentum_G.stem.weight"] + 0.1 * after["G.stem.weight"]
    )
    with torch.no_grad():
        features = method.momentum_G.encode(batch["A"], method.layers)
        rows = method.momentum_H(features, draws[len(domains)])
    for i, row in enumerate(rows):
        unit = torch.nn.functional.normalize(row, dim=2).flatten(0, 1)
        torch.testing.assert_close(after[f"queues.A.{i}.rows"][:40], unit, atol=1e-6, rtol=1e-6)
        assert torch.equal(after[f"queues.A.{i}.rows"][40:], before[f"queues.A.{i}.rows"][40:])
    assert after["queues.A.0.position"] == 40
    assert all(not p.requires_grad for p in method.momentum_G.parameters())


def test_negatives_of_the_whole_batch() -> None:
    """With one image they are those of the image, so x and y are kept apart; with two there are more."""
    found = {}
    for negatives in ("internal", "batch"):
        method = CUT(CUTConfig(**SMALL, negatives=negatives)).double().to(DEVICE)
        for seed, network in enumerate((method.G, method.D, method.H)):
            randomise(network, seed)
        for n in (1, 2):
            torch.manual_seed(4)
            found[negatives, n], _ = step(method, batch_of(n), optimizers(method))
            for seed, network in enumerate((method.G, method.D, method.H)):
                randomise(network, seed)
        assert all(phase.after is None for phase in method.phases())
    for name in ("generator/NCE", "generator/NCE_Y"):
        torch.testing.assert_close(found["batch", 1][name], found["internal", 1][name])
        assert found["batch", 2][name] > found["internal", 2][name] + 0.1


@pytest.mark.parametrize("kind", [CUT, FastCUT])
def test_attention_picks_each_images_own_positions(kind: type[CUT], monkeypatch: pytest.MonkeyPatch) -> None:
    method = kind(kind.Config(**SMALL, sampling="dag")).double().to(DEVICE)
    for seed, network in enumerate((method.G, method.D, method.H)):
        randomise(network, seed)
    scores = []
    sample = method.nce.sample

    def recorded(features: list[Tensor], score: Tensor) -> list[Tensor]:
        scores.append(score)
        return sample(features, score)

    monkeypatch.setattr(method.nce, "sample", recorded)
    batch, flips = batch_of(1, size=(40, 40)), set()
    torch.manual_seed(1)
    for _ in range(3 if kind is FastCUT else 1):
        shared = method.choose(0.0)
        losses = method.generator_loss(batch, shared)
        losses["loss"].backward()
        assert losses["loss"].isfinite()
        flips.add(shared["flipped"])
        score = method.D(shared["output"]).detach()
        torch.testing.assert_close(scores[-1], score.flip(3) if shared["flipped"] else score)
    assert flips == ({True, False} if kind is FastCUT else {False})


def test_attention_takes_its_own_k_and_beta(monkeypatch: pytest.MonkeyPatch) -> None:
    """With all positions as candidates and β = 1 they are the most fake ones, and with β = 0 the least."""
    for importance, descending in ((1.0, False), (0.0, True)):
        method = CUT(CUTConfig(**SMALL, sampling="dag", oversample=1e6, importance=importance)).double().to(DEVICE)
        for seed, network in enumerate((method.G, method.D, method.H)):
            randomise(network, seed)
        draws = record_draws(method, monkeypatch)
        batch, shared = batch_of(size=(40, 40)), method.choose(0.0)
        method.generator_loss(batch, shared)
        score = torch.cat([method.D(images) for images in shared["output"].chunk(2)]).detach()
        score = torch.nn.functional.interpolate(score.float(), (40, 40), mode="bilinear", align_corners=False)
        expected = score.flatten(1).sort(dim=1, descending=descending).values[:, :20]
        found = score.flatten(1).gather(1, draws[0][1])
        torch.testing.assert_close(found.sort(dim=1, descending=descending).values, expected)


@pytest.mark.parametrize("kind", ["normal", "kaiming", "orthogonal"])
def test_weights_begin_as_named(kind: str) -> None:
    torch.manual_seed(0)
    method = CUT(CUTConfig(**{**SMALL, "ngf": 16}, init_type=kind, init_gain=0.5))
    weight = method.G.blocks[0].conv1.weight.flatten(1)
    if kind == "orthogonal":
        torch.testing.assert_close(weight @ weight.T, 0.25 * torch.eye(len(weight)), atol=1e-5, rtol=1e-5)
    deviation = {"normal": 0.5, "kaiming": (2 / weight.shape[1]) ** 0.5, "orthogonal": 0.5 / weight.shape[1] ** 0.5}
    assert weight.std().item() == pytest.approx(deviation[kind], rel=0.02)


@pytest.mark.parametrize("gan", ["nonsaturating", "wgan", "hinge"])
def test_without_adversary_or_with_another(gan: str) -> None:
    method = CUT(CUTConfig(**SMALL, lambda_gan=0.0)).double().to(DEVICE)
    (only,) = method.phases()
    losses, _ = step(method, batch_of(), optimizers(method))
    assert only.name == "generator" and "generator/G_GAN" not in losses and losses["generator/loss"].isfinite()
    method = CUT(CUTConfig(**SMALL, gan=gan)).double().to(DEVICE)
    losses, _ = step(method, batch_of(), optimizers(method))
    assert all(value.isfinite() for value in losses.values())


def test_with_dropout_the_keys_are_encoded_anew() -> None:
    method = CUT(CUTConfig(**SMALL, dropout=True)).double().to(DEVICE)
    count = []
    method.G.stem.register_forward_hook(lambda *_: count.append(1))
    losses, _ = step(method, batch_of(), optimizers(method))
    assert len(count) == 3 and losses["generator/loss"].isfinite()


def test_defaults_are_those_of_the_paper() -> None:
    cut, fast = CUTConfig(), FastCUTConfig()
    assert (cut.lambda_x, cut.lambda_y, cut.epochs, cut.decay_epochs, cut.flip_equivariance) == (1, 1, 200, 200, False)
    assert (fast.lambda_x, fast.lambda_y, fast.epochs, fast.decay_epochs) == (10, 0, 150, 50)
    assert fast.flip_equivariance and fast.lr == cut.lr == 2e-4 and fast.beta1 == 0.5
    assert METHODS["cut"] is CUT and METHODS["fastcut"] is FastCUT
    assert isinstance(METHODS["fastcut"].Config(), FastCUTConfig)


@pytest.mark.parametrize("size", [(30, 41), (3, 2), (64, 32), (1, 1)])
def test_translate_keeps_any_size(size: tuple[int, int]) -> None:
    method = CUT(CUTConfig(**SMALL)).to(DEVICE)
    image = torch.rand(2, 3, *size, device=DEVICE) * 2 - 1
    found = method.translate(image)
    assert found.shape == image.shape and found.abs().max() <= 1 and not found.requires_grad
    if size == (64, 32):
        torch.testing.assert_close(found, method.G(image).detach())
    samples = method.samples({"A": image, "B": image, "truth": image})
    assert list(samples) == ["source", "translated", "truth"]
    torch.testing.assert_close(samples["translated"], found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling": "grid"}, "sampling: expected 'random' or 'dag', got 'grid'"),
        ({"sampling": "dag", "lambda_gan": 0.0}, "needs a discriminator"),
        ({"negatives": "none"}, "negatives: expected"),
        ({"nce_layers": ()}, "nce_layers: expected at least one"),
        ({"nce_layers": (0, 40)}, "nce_layers: expected numbers from 0 to 28"),
        ({"gan": "wgangp"}, "gan: expected 'lsgan'"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CUT(CUTConfig(**{**SMALL, **options}))


def test_training_sizes_must_be_multiples_of_four() -> None:
    method = CUT(CUTConfig(**SMALL)).double().to(DEVICE)
    with pytest.raises(ValueError, match="multiples of 4, got 30x32"):
        method.discriminator_loss(batch_of(1, (30, 32)), method.choose(0.0))
