"""MGUIT's networks apart from the losses: files, styles, noise, sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cgcl_fast.networks import (
    ContentDiscriminator,
    MGUITGenerator,
    MultiScaleDiscriminator,
    init_weights,
    load_generator,
    save_generator,
)


def generator_of(update: str = "paper", noise: float = 1.0) -> MGUITGenerator:
    torch.manual_seed(1)
    generator = MGUITGenerator(
        ngf=2, n_blocks=1, style_nc=5, items=(2, 3), update=update, noise=noise, domains=("day", "night")
    )
    init_weights(generator, "kaiming")
    return generator.eval()


def test_a_generator_comes_back_from_its_file_with_its_memory(tmp_path: Path) -> None:
    generator = generator_of("published")
    save_generator(tmp_path / "g.safetensors", generator)
    found = load_generator(tmp_path / "g.safetensors")
    assert isinstance(found, MGUITGenerator) and found.config == generator.config
    assert found.domains == ("day", "night") and found.memory.rule == "published"
    image = torch.rand(2, 3, 16, 12) * 2 - 1
    found.to(image.device).eval()
    with torch.no_grad():
        for domain in (0, 1):
            assert torch.equal(found(image, domain), generator(image, domain))
    assert torch.equal(found.memory.keys, generator.memory.keys)
    assert torch.equal(found.memory.item_class, torch.tensor([0, 0, 1, 1, 1]))


@torch.no_grad()
def test_a_style_is_read_in_place_of_the_stored_values() -> None:
    generator, image = generator_of(), torch.rand(2, 3, 16, 12) * 2 - 1
    default = generator(image, 1)
    torch.testing.assert_close(generator(image), default)
    values = generator.memory.values
    torch.testing.assert_close(generator(image, 1, values[1][None]), default)
    other = generator(image, 1, values[0][None])
    assert not torch.allclose(other, default)
    each = generator(image, 1, torch.stack([values[1], values[0]]))
    torch.testing.assert_close(each, torch.stack([default[0], other[1]]))
    assert not torch.allclose(generator(image, 0), default)


@pytest.mark.parametrize("update", ["paper", "published"])
def test_random_styles_follow_their_generator_and_have_the_scale_of_stored_values(update: str) -> None:
    generator = generator_of(update)
    first, second, other = (generator.random_style(3, torch.Generator().manual_seed(seed)) for seed in (4, 4, 5))
    assert first.shape == (3, 5, 5) and torch.equal(first, second) and not torch.equal(first, other)
    many = generator.random_style(400).square().sum(2)
    if update == "paper":
        torch.testing.assert_close(many, torch.ones_like(many))
    else:
        assert 4.5 < many.mean() < 5.5 and many.std() > 1


def test_noise_is_of_the_training_only_and_of_the_given_deviation() -> None:
    generator, image = generator_of(noise=0.5), torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        clean = generator.encode([image], [0])
        assert torch.equal(clean, generator.encode([image], [0]))
        noise = generator.train().encode([image], [0]) - clean
    assert 0.4 < noise.std() < 0.6 and abs(noise.mean()) < 0.1
    generator.noise = 0.0
    with torch.no_grad():
        torch.testing.assert_close(generator.encode([image], [0]), clean)


def test_domains_share_the_inner_blocks_only() -> None:
    generator, images = generator_of(), [torch.rand(n, 3, 16, 12) for n in (1, 2)]
    both = generator.encode(images)
    torch.testing.assert_close(both, torch.cat([generator.encode([x], [d]) for d, x in enumerate(images)]))
    generator.encode([images[0]], [0]).sum().backward()
    assert all(p.grad is None for p in generator.encoders[1].parameters())
    assert all(p.grad is not None for p in generator.last_encoder_block.parameters() if p.requires_grad)


def test_wrong_arguments_are_named() -> None:
    generator = generator_of()
    image = torch.zeros(2, 3, 16, 12)
    for call, message in (
        (lambda: generator(image, 2), "domain: expected 0"),
        (lambda: generator(image, 1, torch.zeros(3, 5, 5)), r"style: expected \(B, 5, 5\), got \(3, 5, 5\)"),
        (lambda: generator(image[:, :1]), r"images: expected \(B, 3, H, W\)"),
        (lambda: generator(image[..., :4]), "sides of at least 8 that are multiples of 4, got 16x4"),
        (lambda: generator.style_of(image, 1), "takes no style from a reference image"),
        (lambda: MGUITGenerator(ngf=0), "ngf: expected at least 1, got 0"),
        (lambda: MGUITGenerator(domains=("a", "b", "c")), "domains: expected two, got 3"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_discriminators_take_the_paper_sizes_and_small_ones() -> None:
    found = MultiScaleDiscriminator(ndf=1)(torch.zeros(1, 3, 360, 360))
    assert [tuple(x.shape[2:]) for x in found] == [(22, 22), (11, 11), (5, 5)]
    assert [tuple(x.shape[2:]) for x in MultiScaleDiscriminator(ndf=1)(torch.zeros(1, 3, 64, 71))] == [
        (4, 4),
        (2, 2),
        (1, 1),
    ]
    with pytest.raises(ValueError, match="sides of at least 64"):
        MultiScaleDiscriminator(ndf=1)(torch.zeros(1, 3, 63, 80))
    assert ContentDiscriminator(2)(torch.zeros(1, 2, 90, 90)).shape == (1, 1, 13, 13)
    assert ContentDiscriminator(2)(torch.zeros(1, 2, 8, 8)).shape == (1, 1, 2, 2)
