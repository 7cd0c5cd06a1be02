"""MGUIT's losses, gradients and memory against the paper pixel by pixel, and what each phase may change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from networks.plain_weights import randomise
from op_checks import DEVICE
from torch import Tensor

from cgcl_fast.methods import METHODS
from cgcl_fast.methods.base import DataNeeds
from cgcl_fast.methods.mguit import MGUIT, MGUITConfig

from .one_step import phases_of_a_step
from .plain_mguit import PlainMGUIT, labels_of

SMALL: dict[str, Any] = {
    "ngf": 2,
    "ndf": 2,
    "n_blocks": 1,
    "style_nc": 5,
    "d_layers": 2,
    "n_scales": 2,
    "content_layers": 1,
    "noise": 0.0,
    "items": (3, 2, 1),
    "background_items": 4,
}

LATENT = ("encoders.0", "encoders.1", "last_encoder_block", "first_decoder_block", "decoders.0", "decoders.1", "E_s")


def batch_of(
    n: int = 1,
    size: tuple[int, int] = (32, 24),
    dtype: torch.dtype = torch.float64,
    size_of_b: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """The first image of each domain has boxes that overlap, the others have none. A has no sign, B no person."""
    generator = torch.Generator().manual_seed(3)
    a, b = (
        torch.rand(n, 3, *each, generator=generator, dtype=dtype, device="cpu").to(DEVICE) * 2 - 1
        for each in (size, size_of_b or size)
    )
    batch: dict[str, Any] = {"A": a, "B": b}
    boxes = {"A": [[1.0, 6, 20, 31], [9, 11, 14, 30]], "B": [[0.0, 0, 10, 10], [3, 2, 9, 9], [12, 20, 24, 32]]}
    classes = {"A": [0, 1], "B": [0, 2, 0]}
    for name in "AB":
        batch[f"{name}_boxes"] = [torch.tensor(boxes[name], device="cpu")] + [torch.zeros(0, 4, device="cpu")] * (n - 1)
        none = torch.zeros(0, dtype=torch.int64, device="cpu")
        batch[f"{name}_classes"] = [torch.tensor(classes[name], device="cpu")] + [none] * (n - 1)
    return batch


def method_of(**options: Any) -> MGUIT:
    method = MGUIT(MGUITConfig(**{**SMALL, **options})).double().to(DEVICE)
    for seed, network in enumerate((method.G, method.E_s, method.D, method.D_c)):
        randomise(network, seed)
    return method


def step(method: MGUIT, batch: dict[str, Any]) -> dict[str, Tensor]:
    """The losses and gradients of a step as the engine does it, without the optimisers."""
    batch, shared = method.prepare(batch), method.choose(0.0)
    losses: dict[str, Tensor] = {}
    for phase, found in phases_of_a_step(method, batch, shared):
        losses.update({name if name != "loss" else phase.name: value.detach() for name, value in found.items()})
    return losses


def record_random_values(method: MGUIT, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    drawn: list[Tensor] = []
    draw = method.G.memory.random_values

    def recorded(*args: Any) -> Tensor:
        drawn.append(draw(*args))
        return drawn[-1]

    monkeypatch.setattr(method.G.memory, "random_values", recorded)
    return drawn


@pytest.mark.parametrize(
    ("n", "options", "size_of_b"),
    [
        (2, {"temperature": 0.2}, None),
        (1, {"memory_temperature": 0.1}, None),
        (2, {"memory_loss": "published", "lambda_content_l1": 0.6, "lambda_content_kl": 0.2}, None),
        (1, {"memory_loss": "published", "memory": "single"}, None),
        (1, {"memory_temperature": 0.3, "update": "published"}, None),
        (1, {"memory": "single"}, None),
        (
            1,
            {"memory_loss": "triplet", "margin": 0.5, "lambda_self": 3.0, "lambda_latent": 2.0, "lambda_key": 0.7},
            None,
        ),
        (1, {"memory": "single", "memory_loss": "triplet", "update": "published"}, None),
        (
            1,
            {"update": "published", "lambda_cycle": 4.0, "lambda_content": 0.3, "lambda_gan": 0.6, "lambda_kl": 0.2},
            None,
        ),
        (2, {"memory_temperature": 0.1}, (36, 28)),
        (1, {"memory_loss": "published", "update": "published", "lambda_content_l1": 0.6}, (32, 40)),
        (1, {"memory": "single", "lambda_content_kl": 0.2}, (44, 24)),
    ],
    ids=str,
)
def test_a_step_equals_the_plain_one(
    n: int, options: dict[str, Any], size_of_b: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, batch = method_of(**options), batch_of(n, size_of_b=size_of_b)
    weights = {k: v.detach().clone().requires_grad_("memory" not in k) for k, v in method.state_dict().items()}
    drawn = record_random_values(method, monkeypatch)
    losses = step(method, batch)
    (random_values,) = drawn

    plain = PlainMGUIT(weights, method.config, random_values[0])
    labels = [labels_of(batch[f"{d}_boxes"], batch[f"{d}_classes"], batch[d].shape[2:], 3) for d in "AB"]
    assert {int(k) for k in labels[0].unique()} == {0, 1, 3} and {int(k) for k in labels[1].unique()} == {0, 2, 3}
    expected = plain.losses([batch["A"], batch["B"]], labels)
    assert set(losses) == {"discriminator", "generator", *expected}
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value.detach(), msg=lambda m, name=name: f"{name}: {m}")

    judged = ("D_A", "D_B", "D_content")
    for phase, terms, networks in (
        ("discriminator", judged, ("D.", "D_c.")),
        ("generator", tuple(expected.keys() - set(judged)), ("G.", "E_s.")),
    ):
        total = torch.stack([expected[name] for name in terms]).sum()
        torch.testing.assert_close(losses[phase], total.detach())
        names = [name for name, p in method.named_parameters() if p.requires_grad and name.startswith(networks)]
        gradients = torch.autograd.grad(total, [weights[name] for name in names], retain_graph=True)
        found = dict(method.named_parameters())
        for name, gradient in zip(names, gradients, strict=True):
            torch.testing.assert_close(
                found[name].grad, gradient, atol=1e-9, rtol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
            )

    keys, values = plain.memory_after
    torch.testing.assert_close(method.G.memory.keys, keys)
    torch.testing.assert_close(method.G.memory.values, values)
    assert not torch.equal(keys, weights["G.memory.keys"]) and not torch.equal(values, weights["G.memory.values"])


@pytest.mark.parametrize(
    ("term", "reached"),
    [
        ("self", LATENT[:-1]),
        ("cycle", LATENT[:-1]),
        ("gan", LATENT[:-1]),
        ("latent", LATENT),
        ("content", LATENT[:3]),
        ("key", LATENT[:3]),
        ("kl", LATENT[-1:]),
        ("value", LATENT[-1:]),
        ("content_kl", LATENT[:3]),
        ("content_l1", LATENT[:-1]),
    ],
)
def test_each_term_reaches_its_networks_only(term: str, reached: tuple[str, ...]) -> None:
    weights = {f"lambda_{name}": 0.0 for name in ("self", "cycle", "gan", "latent", "content", "key", "kl", "value")}
    weights |= {"lambda_content_l1": 0.0, "lambda_content_kl": 0.0}
    method, shared = method_of(**{**weights, f"lambda_{term}": 1.0}), {}
    method.D.requires_grad_(False)
    method.D_c.requires_grad_(False)
    method.generator_loss(method.prepare(batch_of()), shared)["loss"].backward()
    assert all(p.grad is None for network in (method.D, method.D_c) for p in network.parameters())
    touched = {
        name.removeprefix("G.").rsplit(".", 1)[0]
        for name, p in method.named_parameters()
        if p.grad is not None and p.grad.any()
    }
    assert {part for part in LATENT if any(name.startswith(part) for name in touched)} == set(reached)
    assert all(name.startswith(reached) for name in touched)
    assert not any(buffer.requires_grad for buffer in method.buffers())
    assert all(not x.requires_grad for name in ("contents", "styles", "random_style") for x in shared[name])


def test_noise_is_in_the_content_or_only_where_it_enters_the_decoder() -> None:
    images = batch_of()
    for place in ("content", "decoder"):
        method = method_of(noise=0.1, noise_in=place)
        entered: list[Tensor] = []
        method.G.first_decoder_block.register_forward_pre_hook(lambda _, x, entered=entered: entered.append(x[0]))
        shared: dict[str, Any] = {}
        method.forward_generator(method.prepare(images), shared)
        method.G.noise = 0.0
        clean = method.G.encode([images["A"], images["B"]])
        method.G.noise = 0.1
        exact = torch.equal(*shared["content"], clean)
        assert exact == (place == "decoder")
        noise = entered[0] - clean
        assert 0.08 < noise.std() < 0.12 and abs(noise.mean()) < 0.02
        method.eval()
        assert torch.equal(method.G.encode([images["A"], images["B"]]), clean)
        assert torch.equal(method.G.prepare(clean), method.G.first_decoder_block(clean))


def test_decay_and_clipping_reach_the_optimisers() -> None:
    discriminator, generator = method_of(weight_decay=1e-4, clip_content=5.0).phases()
    assert discriminator.optimizer.weight_decay == generator.optimizer.weight_decay == 1e-4
    assert (discriminator.optimizer.clip, generator.optimizer.clip) == ({"D_c": 5.0}, {})
    assert [(p.optimizer.weight_decay, p.optimizer.clip) for p in method_of().phases()] == [(0, {}), (0, {})]


def test_each_phase_trains_its_own_networks() -> None:
    method, shared = method_of(), {}
    batch = method.prepare(batch_of())
    discriminator, generator = method.phases()
    assert (discriminator.networks, generator.networks) == (("D", "D_c"), ("G", "E_s"))
    assert (discriminator.optimizer.lr_of("D"), discriminator.optimizer.lr_of("D_c")) == (1e-4, 4e-5)
    assert {generator.optimizer.lr_of(name) for name in generator.networks} == {1e-4}
    assert generator.frozen == ("D", "D_c") and generator.after is not None and discriminator.after is None
    discriminator.loss(batch, shared)["loss"].backward()
    assert all(p.grad is None for network in (method.G, method.E_s) for p in network.parameters())
    assert all(p.grad is not None for network in (method.D, method.D_c) for p in network.parameters())
    memory = method.G.memory
    before = memory.keys.clone(), memory.values.clone()
    generator.loss(batch, shared)["loss"].backward()
    trained = [p for network in (method.G, method.E_s) for p in network.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in trained)
    assert torch.equal(memory.keys, before[0]) and torch.equal(memory.values, before[1])
    generator.after([batch], [shared])
    persons, signs = memory.item_class == 1, memory.item_class == 2
    assert not torch.equal(memory.values[0, persons], before[1][0, persons])
    # There is no sign in A and no person in B.
    assert torch.equal(memory.values[0, signs], before[1][0, signs])
    assert torch.equal(memory.values[1, persons], before[1][1, persons])


def test_nothing_is_computed_twice() -> None:
    method = method_of()
    passes: list[tuple[str, int]] = []
    for name in ("encoders.0.stem", "last_encoder_block", "first_decoder_block", "decoders.0.content"):
        layer = method.G.get_submodule(name)
        layer.register_forward_hook(lambda _, x, y, name=name: passes.append((name, len(y))))
    method.E_s[0].register_forward_hook(lambda _, x, y: passes.append(("style", len(y))))
    method.D[0].register_forward_hook(lambda _, x, y: passes.append(("D", len(x[0]))))
    method.D_c.register_forward_hook(lambda _, x, y: passes.append(("D_c", len(y))))
    step(method, batch_of(2))
    assert sorted(passes) == sorted(
        [("encoders.0.stem", 2), ("last_encoder_block", 4), ("first_decoder_block", 4), ("decoders.0.content", 6)]
        + [("encoders.0.stem", 2), ("last_encoder_block", 4), ("first_decoder_block", 4), ("decoders.0.content", 2)]
        + [("style", 4), ("D", 6), ("D", 4), ("D_c", 4), ("D_c", 4)]
    )


def test_a_single_memory_needs_no_boxes_and_a_class_aware_one_does() -> None:
    images = {name: image for name, image in batch_of().items() if name in "AB"}
    assert all(value.isfinite() for value in step(method_of(memory="single"), images).values())
    with pytest.raises(ValueError, match="A_boxes: the class-aware memory needs boxes"):
        method_of().prepare(images)
    assert MGUIT.needs(MGUITConfig()) == DataNeeds(classes=("1", "2", "3"))
    assert MGUIT.needs(MGUITConfig(memory="single")) == DataNeeds()
    assert MGUIT.needs(MGUITConfig(classes=("truck",), items=(3,))) == DataNeeds(classes=("truck",))


def test_autocast_trains_every_parameter() -> None:
    method = MGUIT(MGUITConfig(**{**SMALL, "init_gain": 0.1, "noise": 1.0})).to(DEVICE)
    batch = batch_of(dtype=torch.float32)
    with torch.autocast(DEVICE.type, torch.bfloat16):
        losses = step(method, batch)
    assert all(value.isfinite() for value in losses.values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters() if p.requires_grad)
    assert all(p.grad is not None and p.grad.any() for p in method.E_s.parameters())
    assert method.G.memory.keys.dtype == torch.float32 and bool(method.G.memory.values.isfinite().all())


@pytest.mark.parametrize("size", [(30, 41), (64, 32), (3, 2)])
def test_translate_takes_any_size_without_boxes(size: tuple[int, int]) -> None:
    method = MGUIT(MGUITConfig(**{**SMALL, "init_gain": 0.2})).eval().to(DEVICE)
    image = torch.rand(2, 3, *size, device=DEVICE) * 2 - 1
    found = method.translate(image)
    assert found.shape == image.shape and found.abs().max() <= 1 and not found.requires_grad
    pictures = method.samples({"A": image, "truth": image})
    assert list(pictures) == ["source", "translated", "truth", "random style"]
    torch.testing.assert_close(pictures["translated"], found)
    assert not torch.allclose(pictures["random style"], found)
    assert torch.equal(pictures["random style"], method.samples({"A": image})["random style"])


def test_defaults_are_those_of_the_paper() -> None:
    config = MGUITConfig()
    assert METHODS["mguit"] is MGUIT
    assert (config.lambda_self, config.lambda_cycle, config.lambda_content, config.lambda_gan) == (10, 10, 1, 1)
    assert (config.lambda_kl, config.lambda_latent, config.lambda_key, config.lambda_value) == (0.01, 10, 1, 0.5)
    assert (config.lr, config.beta1, config.beta2, config.epochs, config.decay_epochs) == (1e-4, 0.9, 0.999, 30, 30)
    assert (config.init_gain, config.memory, config.memory_loss, config.update) == (
        1e-3,
        "class",
        "contrastive",
        "paper",
    )
    with torch.device("meta"), torch.no_grad():
        method = MGUIT(config)
        content = method.G.encode([torch.zeros(1, 3, 360, 360)], [0])
        style = method.E_s[0](torch.zeros(1, 3, 360, 360))
    assert content.shape == style.shape == (1, 256, 90, 90)
    assert method.G.memory.keys.shape == (20, 256) and method.G.memory.values.shape == (2, 20, 256)
    assert method.G.memory.items == (5, 2, 3, 10)
    assert config.memory_temperature == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory": "none"}, "memory: expected 'class' or 'single', got 'none'"),
        ({"memory_loss": "l2"}, "memory_loss: expected 'contrastive', 'triplet' or 'published', got 'l2'"),
        ({"update": "never"}, "update: expected 'paper' or 'published', got 'never'"),
        ({"items": (5, 3)}, "items: expected a number for each of the 3 classes, got 2"),
        ({"items": (5, 3, 0)}, "items: expected integers from 1 to"),
        ({"n_blocks": -1}, "n_blocks: expected an integer from 0 to 256, got -1"),
        ({"n_scales": 0}, "n_scales: expected an integer from 1 to 16, got 0"),
        ({"memory_temperature": 0.01}, "memory_temperature: expected a number from 0.02 to 1e.06, got 0.01"),
        ({"temperature": 0.0}, "temperature: expected a number from 1e-06 to 1e.06, got 0"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MGUIT(MGUITConfig(**{**SMALL, **options}))


def test_images_must_fit_the_networks() -> None:
    with pytest.raises(ValueError, match="multiples of 4, got 30x32"):
        method_of(memory="single").discriminator_loss(batch_of(1, (30, 32)), {})
    with pytest.raises(ValueError, match="sides of at least 32 for this many layers and scales"):
        method_of(memory="single", d_layers=4).discriminator_loss(batch_of(1, (16, 32)), {})
    with pytest.raises(ValueError, match="B: expected sides that are multiples of 4, got 32x30"):
        method_of(memory="single").discriminator_loss(batch_of(size_of_b=(32, 30)), {})
    batch = batch_of(size_of_b=(32, 32))
    with pytest.raises(ValueError, match="of one size, got"):
        method_of().G.encode([batch["A"], batch["B"]])
