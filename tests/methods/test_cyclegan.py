"""CycleGAN's losses against a slow computation on plain networks, and what each phase may change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from networks.plain_weights import randomise
from op_checks import DEVICE
from torch import Tensor

from cgcl_fast import compat
from cgcl_fast.methods import METHODS
from cgcl_fast.methods.cyclegan import CycleGAN, CycleGANConfig
from cgcl_fast.nn import ImagePool

from . import plain_cut

SMALL: dict[str, Any] = {"ngf": 4, "ndf": 4, "n_blocks": 2}


def batch_of(size_of_b: tuple[int, int] = (32, 24)) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    a, b = (
        torch.rand(2, 3, *size, generator=generator, dtype=torch.float64, device="cpu").to(DEVICE) * 2 - 1
        for size in ((32, 24), size_of_b)
    )
    return {"A": a, "B": b}


def method_of(**options: Any) -> CycleGAN:
    method = CycleGAN(CycleGANConfig(**SMALL, **options)).double().to(DEVICE)
    for seed, network in enumerate((method.G, method.F, method.D_X, method.D_Y)):
        randomise(network, seed)
    return method


@pytest.mark.parametrize(
    ("lambda_idt", "norm", "size_of_b"),
    [
        (0.5, "instance", (32, 24)),
        (0.0, "instance", (32, 24)),
        (0.5, "instance", (28, 40)),
        (0.5, "batch", (32, 24)),
        (0.5, "none", (32, 24)),
    ],
)
def test_losses_equal_the_plain_computation(lambda_idt: float, norm: str, size_of_b: tuple[int, int]) -> None:
    method = method_of(lambda_idt=lambda_idt, pool_size=0, norm_g=norm, norm_d=norm)
    shape: dict[str, Any] = {"antialias": False, "norm": norm}
    g, f = (plain_cut.Generator(ngf=4, n_blocks=2, **shape).double().to(DEVICE) for _ in range(2))
    d_x, d_y = (plain_cut.Discriminator(ndf=4, **shape).double().to(DEVICE) for _ in range(2))
    for plain, ours in ((g, method.G), (f, method.F), (d_x, method.D_X), (d_y, method.D_Y)):
        plain.load_state_dict(compat.published_state_dict(ours))
    batch, shared = batch_of(size_of_b), {}
    x, y = batch["A"], batch["B"]
    losses = method.generator_loss(batch, shared)
    d_losses = method.discriminator_loss(batch, shared)
    with torch.no_grad():
        expected = {
            "G_GAN": (d_y(g(x)) - 1).square().mean(),
            "F_GAN": (d_x(f(y)) - 1).square().mean(),
            "cycle_x": 10 * (f(g(x)) - x).abs().mean(),
            "cycle_y": 10 * (g(f(y)) - y).abs().mean(),
        }
        if lambda_idt:
            expected["idt_y"], expected["idt_x"] = 5 * (g(y) - y).abs().mean(), 5 * (f(x) - x).abs().mean()
        assert set(losses) == {"loss", *expected}
        for name, value in expected.items():
            torch.testing.assert_close(losses[name], value, msg=name)
        torch.testing.assert_close(losses["loss"].detach(), torch.stack(list(expected.values())).sum())
        by_hand = ((d_y(y) - 1).square().mean() + d_y(g(x)).square().mean()) / 2
        by_hand += ((d_x(x) - 1).square().mean() + d_x(f(y)).square().mean()) / 2
        torch.testing.assert_close(d_losses["loss"].detach(), by_hand)


def test_unets_and_pixels() -> None:
    method = CycleGAN(CycleGANConfig(ngf=1, ndf=2, net_g="unet_128", net_d="pixel", pool_size=0)).to(DEVICE)
    assert CycleGAN.needs(method.config).multiple == 128 and method.config.least_size() == 128
    x, y = torch.rand(2, 1, 3, 128, 128, device=DEVICE) * 2 - 1
    losses = method.generator_loss({"A": x, "B": y}, {})
    with torch.no_grad():
        torch.testing.assert_close(losses["G_GAN"], (method.D_Y(method.G(x)) - 1).square().mean())
        torch.testing.assert_close(losses["cycle_x"], 10 * (method.F(method.G(x)) - x).abs().mean())
    losses["loss"].backward()
    assert all(p.grad is not None for g in (method.G, method.F) for p in g.parameters() if p.requires_grad)
    with pytest.raises(ValueError, match="A: expected sides that are multiples of 128, got 64x128"):
        method.generator_loss({"A": x[:, :, :64], "B": y[:, :, :64]}, {})
    image = torch.rand(1, 3, 70, 130, device=DEVICE)
    assert method.translate(image).shape == image.shape


def test_each_phase_trains_its_own_networks() -> None:
    method, batch, shared = method_of(), batch_of(), {}
    generators, discriminators = method.phases()
    assert generators.networks == ("G", "F") and discriminators.networks == ("D_X", "D_Y")
    assert generators.frozen == ("D_X", "D_Y")
    judges = [p for d in (method.D_X, method.D_Y) for p in d.parameters() if p.requires_grad]
    for parameter in judges:
        parameter.requires_grad_(False)
    generators.loss(batch, shared)["loss"].backward()
    assert all(p.grad is None for d in (method.D_X, method.D_Y) for p in d.parameters())
    assert all(p.grad is not None for g in (method.G, method.F) for p in g.parameters() if p.requires_grad)
    for network in (method.G, method.F):
        network.zero_grad()
    for parameter in judges:
        parameter.requires_grad_(True)
    discriminators.loss(batch, shared)["loss"].backward()
    assert all(p.grad is not None for p in judges)
    assert all(p.grad is None for g in (method.G, method.F) for p in g.parameters())


def history_of(pool: ImagePool) -> list[Tensor]:
    return pool.get_extra_state()["images"]


def test_pool_gives_older_images_in_half_of_the_cases() -> None:
    pool = ImagePool(50)
    torch.manual_seed(0)
    images = torch.arange(1050.0).view(-1, 1, 1, 1)
    out = torch.cat([pool.query(image[None]) for image in images]).flatten()
    assert torch.equal(out[:50], images.flatten()[:50])
    older = (out[50:] != images.flatten()[50:]).float().mean()
    assert 0.45 < older < 0.55 and len(history_of(pool)) == 50
    given = images.flatten()
    assert all(float(value) <= float(given[i]) for i, value in enumerate(out))


def test_pool_takes_the_images_of_a_batch_one_after_the_other() -> None:
    """As a list would, with the same draws: an image may get back one that came with it."""
    pool, kept = ImagePool(3), list[float]()
    found, expected = [], []
    for number in range(20):
        images = torch.arange(8.0) + 8 * number
        torch.manual_seed(number)
        found += pool.query(images.view(-1, 1, 1, 1)).flatten().tolist()
        torch.manual_seed(number)
        older, places = torch.rand(8) < 0.5, torch.randint(3, (8,))
        for image, is_older, place in zip(images.tolist(), older, places, strict=True):
            if len(kept) < 3:
                kept.append(image)
            elif is_older:
                image, kept[place] = kept[place], image
            expected.append(image)
    assert found == expected and [float(image) for image in history_of(pool)] == kept
    together = [value // 8 for value in found]
    assert any(found[i] in range(8 * (i // 8), i) for i in range(len(found))) and together != sorted(together)


def test_pool_has_a_history_for_each_size() -> None:
    pool, other = ImagePool(2), ImagePool(2)
    for number in range(6):
        for size in (4, 6):
            out = pool.query(torch.full((1, 3, size, size), float(number)))
            assert out.shape == (1, 3, size, size)
    assert [image.shape[1] for image in history_of(pool)] == [4, 4, 6, 6]
    other.load_state_dict(pool.state_dict())
    assert all(torch.equal(*pair) for pair in zip(history_of(pool), history_of(other), strict=True))


def test_images_of_a_ninth_size_have_no_history() -> None:
    pool = ImagePool(2)
    torch.manual_seed(0)
    for number in range(20):
        for width in range(4, 14):
            image = torch.full((1, 3, 4, width), float(number))
            out = pool.query(image)
            assert out.shape == image.shape and (width < 12 or torch.equal(out, image))
    assert {image.shape[2] for image in history_of(pool)} == set(range(4, 12)) and len(history_of(pool)) == 16


def test_pool_is_part_of_the_state() -> None:
    pool, other = ImagePool(2), ImagePool(2)
    pool.query(torch.ones(2, 3, 4, 4))
    other.load_state_dict(pool.state_dict())
    assert len(history_of(other)) == 2 and torch.equal(history_of(other)[1], torch.ones(3, 4, 4))
    torch.manual_seed(1)
    first = [pool.query(torch.full((1, 3, 4, 4), float(i))) for i in range(8)]
    torch.manual_seed(1)
    assert all(torch.equal(a, other.query(torch.full((1, 3, 4, 4), float(i)))) for i, a in enumerate(first))
    with pytest.raises(ValueError, match="size: expected at least 0"):
        ImagePool(-1)


def test_defaults_are_those_of_the_paper() -> None:
    config = CycleGANConfig()
    assert (config.lambda_cycle, config.lambda_idt, config.pool_size, config.antialias) == (10, 0.5, 50, False)
    assert (config.lr, config.beta1, config.epochs, config.decay_epochs) == (2e-4, 0.5, 100, 100)
    assert METHODS["cyclegan"] is CycleGAN
    with pytest.raises(ValueError, match="lambda_idt: the identity term needs as many"):
        CycleGAN(CycleGANConfig(**SMALL, output_nc=1))
