"""CGL's losses against the papers' equations one image at a time, and what each phase may change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from op_checks import DEVICE
from torch import Tensor

from cgcl_fast.methods import METHODS
from cgcl_fast.methods.cgl import CGL, CGLConfig

from . import plain_cgl as plain
from .cgl_cases import SMALL, batch_of, randomise

NONE = ([False, False], [False, False])
SOME = ([True, True], [False, True])


def method_of(**options: Any) -> CGL:
    method = CGL(CGLConfig(**{**SMALL, **options})).double().to(DEVICE)
    randomise(method)
    return method


class Plain:
    """Everything that a step's losses are made of, for one item of the batch."""

    def __init__(self, method: CGL, batch: dict[str, Any], shared: dict[str, Any], item: int) -> None:
        self.config, n = method.config, len(batch["A"])
        self.rows = (item, item + n)
        self.z = [int(batch[f"{d}_domain"][item]) for d in "AB"]
        self.has = [bool(batch[f"{d}_has_object"][item]) for d in "AB"]
        self.real = {
            "g": [batch[d][item : item + 1] for d in "AB"],
            "o": [batch[f"{d}_object"][item : item + 1] for d in "AB"],
        }
        self.w = {k: plain.weights_of(getattr(method, f"G_{k}")) for k in "go"}
        self.d = {k: plain.weights_of(getattr(method, f"D_{k}")) for k in "go"}
        self.drawn = {k: [shared[k].drawn[row] for row in self.rows] for k in "go"}
        self.there = {"g": [True, True], "o": self.has}
        self.pair = {"g": True, "o": all(self.has)}
        # Which of the two instances was drawn to be crossed with the first image.
        instance = shared["crossed"].instance[item : item + 1] if "crossed" in shared else self.real["o"][1]
        self.drawn_l = int(not torch.equal(instance, self.real["o"][0]))

    def content(self, k: str, x: Tensor) -> Tensor:
        return plain.content(self.w[k], x, self.config.n_blocks)[-1]

    def style(self, k: str, x: Tensor, domain: int) -> Tensor:
        return plain.style(self.w[k], x, domain, len(self.config.domains))

    def read(self, k: str, translation: Tensor, domain: int) -> Tensor:
        """The style of an image, read from a translation."""
        frozen = {name: weight.detach() for name, weight in self.w[k].items()}
        weights = frozen if self.config.frozen_reading else self.w[k]
        return plain.style(weights, translation, domain, len(self.config.domains))

    def decode(self, k: str, c: Tensor, s: Tensor, domain: int) -> Tensor:
        return plain.decoder(self.w[k], c, s, domain, len(self.config.domains), self.config.n_blocks)

    def judge(self, k: str, x: Tensor) -> tuple[Tensor, Tensor]:
        return plain.discriminator(self.d[k], x, self.config.d_layers)

    def u(self, k: str, i: int) -> Tensor:
        """The content of image i in the style and the domain of the other one (Eq. 6)."""
        j, x = 1 - i, self.real[k]
        return self.decode(k, self.content(k, x[i]), self.style(k, x[j], self.z[j]), self.z[j])

    def random(self, k: str, i: int) -> Tensor:
        return self.decode(k, self.content(k, self.real[k][i]), self.drawn[k][i], self.z[1 - i])

    def fakes(self, k: str) -> list[tuple[Tensor, int]]:
        """The translations that exist, with their domains."""
        found = [(self.u(k, i), self.z[1 - i]) for i in (0, 1) if self.pair[k]]
        return found + [(self.random(k, i), self.z[1 - i]) for i in (0, 1) if self.there[k][i]]

    def terms(self, k: str) -> dict[str, list[Tensor]]:
        """Values over images, whose means are the terms of L_G without their weights."""
        found: dict[str, list[Tensor]] = {name: [] for name in ("adv", "cls", "rec", "cc", "content", "style", "drawn")}
        for fake, domain in self.fakes(k):
            src, logits = self.judge(k, fake)
            found["adv"].append(-src.mean())
            found["cls"].append(F.cross_entropy(logits[None], torch.tensor([domain], device=DEVICE)))
        for i in (0, 1):
            j, x, z = 1 - i, self.real[k], self.z
            if self.there[k][i]:
                c, s = self.content(k, x[i]), self.style(k, x[i], z[i])
                found["rec"].append(plain.l1(self.decode(k, c, s, z[i]), x[i]))
                found["drawn"].append(plain.l1(self.style(k, self.random(k, i), z[j]), self.drawn[k][i]))
            if self.pair[k]:
                mine, other = self.u(k, i), self.u(k, j)
                back = self.decode(k, self.content(k, mine), self.read(k, other, z[i]), z[i])
                found["cc"].append(plain.l1(back, x[i]))
                found["content"].append(plain.l1(self.content(k, mine), self.content(k, x[i]).detach()))
                found["style"].append(plain.l1(self.read(k, mine, z[j]), self.style(k, x[j], z[j]).detach()))
        return found

    def granularities(self) -> dict[str, Tensor] | None:
        """Eq. 4 and 7 for x^(k) of the pair's first domain and o^(l) of the one that was drawn."""
        if not self.has[self.drawn_l]:
            return None
        x, o, k, of_o = self.real["g"][0], self.real["o"][self.drawn_l], self.z[0], self.z[self.drawn_l]
        maker = "o" if self.config.cgc_generator == "object" else "g"
        c, s = self.content("o", o), self.style("g", x, k)
        crossed = self.decode(maker, c, s, k)
        crossed_c, crossed_s = self.content("o", crossed), self.read("o", crossed, k)
        x_back = self.decode("g", self.content("g", x), crossed_s, k)
        o_back = self.decode("o", crossed_c, self.style("o", o, of_o), of_o)
        return {
            "cgc_g": plain.l1(x_back, x),
            "cgc_o": plain.l1(o_back, o),
            "content_cgc": plain.l1(crossed_c, c.detach()),
            "style_cgc": plain.l1(crossed_s, s.detach()),
        }


@pytest.mark.parametrize(
    ("present", "options", "size_of_b"),
    [
        (None, {}, None),
        (SOME, {"cgc_generator": "object", "lambda_rec": 3.0, "lambda_code": 0.5, "lambda_cgc": 2.0}, None),
        (NONE, {"lambda_gan": 0.3, "lambda_cls": 0.7}, None),
        (SOME, {"frozen_reading": False}, None),
        (SOME, {"cgc_generator": "object"}, (20, 28)),
        (None, {"frozen_reading": False}, (32, 28)),
    ],
)
def test_the_generators_loss_is_that_of_the_equations(present: Any, options: dict[str, Any], size_of_b: Any) -> None:
    method, batch, shared = method_of(**options), batch_of(present=present, size_of_b=size_of_b), {}
    config = method.config
    losses = method.generator_loss(batch, shared)
    items = [Plain(method, batch, shared, item) for item in range(2)]
    expected = {}
    for k in "go":
        terms: dict[str, list[Tensor]] = {}
        for item in items:
            for name, values in item.terms(k).items():
                terms.setdefault(name, []).extend(values)
        mean = {name: plain.mean(values) for name, values in terms.items()}
        expected |= {
            f"adv_{k}": config.lambda_gan * mean["adv"],
            f"cls_{k}": config.lambda_cls * mean["cls"],
            f"rec_{k}": config.lambda_rec * mean["rec"],
            f"cc_{k}": config.lambda_rec * 2 * mean["cc"],  # a sum over the two domains
            f"content_{k}": config.lambda_code * mean["content"],
            f"style_{k}": config.lambda_code * (mean["style"] + mean["drawn"]),
        }
    crossed = [found for item in items if (found := item.granularities()) is not None]
    for name in ("cgc_g", "cgc_o", "content_cgc", "style_cgc"):
        weight = config.lambda_cgc if name.startswith("cgc") else config.lambda_code
        expected[name] = weight * plain.mean([found[name] for found in crossed])
    assert losses.keys() == {"loss", *expected}
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value.detach(), msg=lambda text, name=name: f"{name}: {text}")
    total = torch.stack(list(expected.values())).sum()
    torch.testing.assert_close(losses["loss"], total)
    parameters = [p for p in (*method.G_g.parameters(), *method.G_o.parameters()) if p.requires_grad]
    gradients = (
        torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        for loss in (losses["loss"], total)
    )
    for got, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-9)
    if present is NONE:
        assert all(value == 0 for name, value in losses.items() if name.endswith("_o"))


@pytest.mark.parametrize(
    ("present", "options", "size_of_b"),
    [(None, {}, None), (SOME, {"lambda_gan": 0.3, "lambda_cls": 0.7}, None), (SOME, {}, (20, 28))],
)
def test_the_discriminators_loss_is_that_of_the_equations(
    present: Any, options: dict[str, Any], size_of_b: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, shared = method_of(lambda_gp=7.0, **options), {}
    batch = batch_of(present=present, size_of_b=size_of_b)
    config = method.config
    shares: list[Tensor] = []
    for name in ("rand", "rand_like"):
        draw = getattr(torch, name)

        def recorded(*args: Any, draw: Any = draw, **kwargs: Any) -> Tensor:
            shares.append(draw(*args, **kwargs))
            return shares[-1]

        monkeypatch.setattr(torch, name, recorded)
    losses = method.discriminator_loss(batch, shared)
    monkeypatch.undo()
    items = [Plain(method, batch, shared, item) for item in range(2)]
    of_g, of_o = shares[1:-2], shares[-2:]  # images of two sizes have a draw for each
    for k, (coins, *drawn) in (("g", of_g), ("o", of_o)):
        share = torch.cat(drawn)
        real, fake, entropy, penalty, norms = [], [], [], [], []
        for item in items:
            fake += [item.judge(k, image)[0].mean().detach() for image, _ in item.fakes(k)]
            for i in (0, 1):
                if not item.there[k][i]:
                    continue
                src, logits = item.judge(k, item.real[k][i])
                real.append(src.mean().detach())
                entropy.append(F.cross_entropy(logits[None], torch.tensor([item.z[i]], device=DEVICE)).detach())
                if not item.pair[k]:
                    continue
                # Whose content is in the fake: that of the fake of domain i, or where this has another size its own.
                j = i if k == "g" and size_of_b else 1 - i
                with torch.no_grad():
                    generated = item.u(k, j) if coins[item.rows[j]] < 0.5 else item.random(k, j)
                part = share[item.rows[i]].squeeze()
                x = ((1 - part) * item.real[k][i] + part * generated).requires_grad_()
                (gradient,) = torch.autograd.grad(item.judge(k, x)[0].sum(), x)
                norms.append(plain.norm(gradient))
                penalty.append(torch.tensor((norms[-1] - 1) ** 2, dtype=torch.float64, device=DEVICE))
        assert (len(real), len(fake), len(penalty)) == ((3, 5, 2) if present and k == "o" else (4, 8, 4))
        torch.testing.assert_close(losses[f"adv_{k}"], config.lambda_gan * (plain.mean(fake) - plain.mean(real)))
        torch.testing.assert_close(losses[f"cls_{k}"], config.lambda_cls * plain.mean(entropy))
        torch.testing.assert_close(losses[f"gp_{k}"], config.lambda_gan * 7.0 * plain.mean(penalty))
        found, counted = shared[f"norms_{k}"]
        assert float((found * counted).sum()) == pytest.approx(sum(norms))
    parts = [losses[f"{name}_{k}"] for name in ("adv", "cls", "gp") for k in "go"]
    torch.testing.assert_close(losses["loss"].detach(), torch.stack(parts).sum())


def test_the_penaltys_gradient_is_the_second_derivative() -> None:
    """Against central differences of L_D in a few weights of each D."""
    method, batch = method_of(lambda_gan=1.0, lambda_cls=0.0, lambda_gp=50.0), batch_of(n=1, size=(16, 16))

    def loss() -> Tensor:
        torch.manual_seed(4)
        return method.discriminator_loss(batch, {})["loss"]

    loss().backward()
    for critic in (method.D_g, method.D_o):
        for parameter in (critic.convs[0].weight, critic.convs[2].bias, critic.src.weight):
            assert parameter.grad is not None
            place = parameter.grad.abs().argmax()
            values = []
            for step in (1e-5, -2e-5):
                with torch.no_grad():
                    parameter.view(-1)[place] += step
                values.append(float(loss().detach()))
            with torch.no_grad():
                parameter.view(-1)[place] += 1e-5
            assert (values[0] - values[1]) / 2e-5 == pytest.approx(float(parameter.grad.view(-1)[place]), rel=1e-4)


def test_each_phase_trains_its_own_networks() -> None:
    method, batch, shared = method_of(), batch_of(), {}
    discriminator, generator = method.phases()
    assert (discriminator.networks, discriminator.frozen) == (("D_g", "D_o"), ())
    assert (generator.networks, generator.frozen) == (("G_g", "G_o"), ("D_g", "D_o"))
    discriminator.loss(batch, shared)["loss"].backward()
    assert all(p.grad is None for network in (method.G_g, method.G_o) for p in network.parameters())
    assert all(p.grad is not None for network in (method.D_g, method.D_o) for p in network.parameters())
    for critic in (method.D_g, method.D_o):
        critic.requires_grad_(False).zero_grad()
    generator.loss(batch, shared)["loss"].backward()
    assert all(p.grad is None for network in (method.D_g, method.D_o) for p in network.parameters())
    for network in (method.G_g, method.G_o):
        for name, parameter in network.named_parameters():
            if not parameter.requires_grad:  # the bias before an instance norm
                continue
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            assert parameter.grad.any() or name.endswith("bias"), name
    assert {name for name, _ in method.named_parameters()} == {
        f"{network}.{name}"
        for network in ("G_g", "G_o", "D_g", "D_o")
        for name, _ in getattr(method, network).named_parameters()
    }


def test_without_an_instance_only_the_global_networks_learn() -> None:
    method, batch, shared = method_of(), batch_of(present=NONE), {}
    losses = {phase.name: phase.loss(batch, shared)["loss"] for phase in method.phases()}
    losses["discriminator"].backward(retain_graph=True)
    assert not any(p.grad.any() for p in method.D_o.parameters() if p.grad is not None)
    assert all(p.grad is not None and p.grad.any() for p in method.D_g.parameters() if p.dim() > 1)
    losses["generator"].backward()
    assert not any(p.grad.any() for p in method.G_o.parameters() if p.grad is not None)
    assert all(p.grad is not None and p.grad.any() for p in method.G_g.parameters() if p.dim() > 1)
    for phase in method.phases():
        if phase.after is not None:
            phase.after([batch], [shared])
    assert method.penalty_g.images == 4 and method.penalty_o.images == 0


def test_an_item_counts_alone_as_it_does_in_a_batch() -> None:
    """The gradients of a batch whose second item has no instance: for G_o those of the first item alone."""
    batch = batch_of(present=([True, False], [True, False]))
    alone = {name: value[:1] for name, value in batch.items()}
    gradients = []
    for rows in (batch, alone):
        method, shared = method_of(), {}
        method.first_pass(rows, shared)
        method.second_pass(shared)
        losses = method.generator_losses(shared)
        torch.stack([value for name, value in losses.items() if name in ("rec_o", "cc_o", "cgc_o")]).sum().backward()
        gradients.append([p.grad for p in method.G_o.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_terms_that_read_the_style_of_an_image_begin_later() -> None:
    method, batch = method_of(cross_from=0.25), batch_of()
    assert [method.choose(progress)["crossing"] for progress in (0.0, 0.24, 0.25, 1.0)] == [False, False, True, True]
    assert CGL(CGLConfig(**SMALL)).choose(0.0) == {"crossing": True}
    torch.manual_seed(2)
    early = method.generator_loss(batch, {"crossing": False})
    torch.manual_seed(2)
    late = method.generator_loss(batch, {"crossing": True})
    assert late.keys() - early.keys() == {"cc_g", "cc_o", "cgc_g", "cgc_o", "content_cgc", "style_cgc"}
    for name, value in early.items():
        if name.startswith(("style_g", "style_o")):
            assert value < late[name]  # of the random style alone
        elif name != "loss":
            torch.testing.assert_close(value, late[name])
    torch.testing.assert_close(early["loss"].detach(), sum(value for name, value in early.items() if name != "loss"))


def test_every_network_runs_twice_a_step() -> None:
    method, batch, shared = method_of(cgc_generator="object"), batch_of(), {}
    runs: dict[str, list[int]] = {}
    for k in "go":
        for name in ("content", "style", "decoder"):
            network = getattr(getattr(method, f"G_{k}"), name)
            network.register_forward_hook(lambda _, x, y, key=f"{name}_{k}": runs.setdefault(key, []).append(len(x[0])))
    method.discriminator_loss(batch, shared)
    assert all(len(sizes) == 1 for sizes in runs.values())
    method.generator_loss(batch, shared)
    assert runs == {
        "content_g": [4, 4],
        "style_g": [4, 4, 4],
        "decoder_g": [12, 6],
        "content_o": [4, 6],
        "style_o": [4, 4, 6],
        "decoder_o": [14, 6],
    }


def test_learning_rates_are_halved() -> None:
    method = CGL(CGLConfig(**SMALL, halve_every=3))
    schedule = method.schedule(8)
    assert [schedule(step) for step in range(8)] == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]
    assert {phase.optimizer.lr for phase in method.phases()} == {1e-4}
    assert CGL(CGLConfig(**SMALL)).schedule(10**6)(99_999) == 1 and METHODS["cgl"] is CGL


def test_what_it_asks_of_the_data() -> None:
    needs = CGL.needs(CGLConfig(**SMALL, min_object=5))
    assert (needs.random_pairs, needs.object_size, needs.min_object, needs.classes) == (True, 16, 5, None)
    assert CGL.needs(CGLConfig(classes=("car",))).classes == ("car",)


def test_samples_and_translation() -> None:
    method = CGL(CGLConfig(**SMALL)).eval().to(DEVICE)
    images = {
        name: torch.rand(3, 3, 18, 21, device=DEVICE) * 2 - 1
        for name in ("A", "reference_dry", "reference_wet", "reference_dark")
    }
    pictures = method.samples({**images, "A_domain": torch.tensor([0, 1, 2], device=DEVICE), "truth_wet": images["A"]})
    assert list(pictures) == ["source", "dry", "dry random", "wet", "wet random", "wet truth", "dark", "dark random"]
    assert all(picture.shape == images["A"].shape for picture in pictures.values())
    assert not torch.equal(pictures["wet"], pictures["wet random"])
    again = method.samples({**images, "A_domain": torch.tensor([0, 1, 2], device=DEVICE)})
    assert torch.equal(again["dark random"], pictures["dark random"])
    one = method.translate(images["A"], 2, method.G_g.style_of(images["reference_dark"][:1], 2))
    torch.testing.assert_close(one[0], pictures["dark"][0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cgc_generator": "both"}, "cgc_generator: expected 'object' or 'global', got 'both'"),
        ({"init_type": "xavier"}, "init_type: expected 'kaiming' or 'kaiming_uniform', got 'xavier'"),
        ({"object_size": 18}, "object_size: expected a multiple of 4, at least 16 for 3 d_layers, got 18"),
        ({"object_size": 16, "d_layers": 5}, "at least 32 for 5 d_layers, got 16"),
        ({"domains": ("dry",)}, "domains: expected two or more different names, got dry"),
        ({"domains": ("dry", "dry")}, "domains: expected different names"),
        ({"gp_upper": 0.5}, "gp_lower: expected at most gp_upper 0.5"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CGL(CGLConfig(**{**SMALL, **options}))


def test_images_of_other_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="A: expected sides that are multiples of 4, at least 16, got 30x24"):
        method_of().generator_loss(batch_of(size=(30, 24)), {})
