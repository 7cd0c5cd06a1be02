"""SinCUT's networks against the blocks of StyleGAN2's paper written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from cgcl_fast.networks import StyleGAN2Discriminator, StyleGAN2Generator, load_generator, save_generator
from cgcl_fast.ops import gather_patches

from . import plain_stylegan2


def randomise(module: nn.Module) -> None:
    """Biases and the strength of the noise start at zero, where a wrong one would not be seen."""
    torch.manual_seed(1)
    for parameter in module.parameters():
        nn.init.normal_(parameter)


def image(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 2 - 1


@pytest.mark.parametrize("n_blocks", [0, 3])
@pytest.mark.parametrize("size", [(16, 24), (10, 6)])
def test_every_layer_is_that_of_stylegan2(n_blocks: int, size: tuple[int, int]) -> None:
    generator = StyleGAN2Generator(3, 2, ngf=1, n_blocks=n_blocks).double().eval()
    randomise(generator)
    x = image(2, 3, *size)
    expected = plain_stylegan2.generator(generator.state_dict(), x, n_blocks)
    for number, layer in enumerate(expected):
        found, (feature,) = generator(x, (number,))
        if number >= n_blocks + 3:  # the blur comes first here, which differs where it meets the border
            feature, layer = feature[..., 2:-2, 2:-2], layer[..., 2:-2, 2:-2]
        torch.testing.assert_close(feature, layer)
        torch.testing.assert_close(generator.encode(x, (number,))[0], generator(x, (number,))[1][0], atol=0, rtol=0)
    numbers = (0, 2, len(expected) - 1)
    ids = [torch.tensor([3, 0, 5]), torch.tensor([[1], [2]]), torch.tensor([7])]
    rows = [gather_patches(f, at) for f, at in zip(generator.encode(x, numbers), ids, strict=True)]
    assert all(map(torch.equal, generator.encode(x, numbers, ids), rows))
    assert len(expected) == generator.last_layer + 1
    channels = generator.layer_channels(range(len(expected)))
    assert channels == tuple(layer.shape[1] for layer in expected)
    torch.testing.assert_close(generator(x), found, atol=0, rtol=0)


def test_noise_is_drawn_in_training_only(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = StyleGAN2Generator(ngf=1, n_blocks=1).double()
    randomise(generator)
    x = image(2, 3, 16, 16)
    draws = []
    randn = torch.randn

    def recorded(*shape: int, **options: Any) -> torch.Tensor:
        draws.append(randn(*shape, **options))
        return draws[-1]

    monkeypatch.setattr(torch, "randn", recorded)
    found, (encoded,) = generator(x, (2,))
    monkeypatch.undo()
    (noise,) = draws
    assert noise.shape == (2, 1, 16, 16) and not torch.equal(noise[0], noise[1])
    expected = plain_stylegan2.generator(generator.state_dict(), x, 1, noise)
    torch.testing.assert_close(found[..., 2:-2, 2:-2], expected[-1][..., 2:-2, 2:-2])
    generator.eval()
    assert torch.equal(generator(x), generator(x)) and not torch.allclose(generator(x), found)
    assert torch.equal(generator.encode(x, (2,))[0], encoded)  # what the keys are reused for


def test_every_parameter_gets_its_gradient() -> None:
    generator = StyleGAN2Generator(ngf=1, n_blocks=2).double()
    randomise(generator)
    torch.manual_seed(0)
    x = image(1, 3, 8, 8)

    def value() -> torch.Tensor:
        torch.manual_seed(3)  # the same noise each time
        return generator(x).square().sum()

    value().backward()
    for name, parameter in generator.named_parameters():
        assert parameter.grad is not None
        with torch.no_grad():
            flat, step = parameter.view(-1), 1e-6
            flat[0] += step
            above = value()
            flat[0] -= 2 * step
            below = value()
            flat[0] += step
        torch.testing.assert_close(
            parameter.grad.view(-1)[0], (above - below) / (2 * step), rtol=1e-4, atol=1e-4, msg=name
        )


@pytest.mark.parametrize(("n_blocks", "published"), [(0, False), (1, False), (6, False), (1, True)])
def test_a_pixel_depends_on_none_beyond_the_margin(n_blocks: int, published: bool) -> None:
    generator = StyleGAN2Generator(ngf=1, n_blocks=n_blocks, published=published).double().eval()
    randomise(generator)
    margin = generator.margin
    side = 2 * margin + 8
    reach = 0
    for centre in (side // 2, side // 2 + 1):  # both phases of the stride
        x = image(1, 3, side, side).requires_grad_()
        generator(x)[0, :, centre, centre].sum().backward()
        assert x.grad is not None
        ys, xs = x.grad.abs().sum((0, 1)).nonzero().T
        reach = max(reach, int((ys - centre).abs().max()), int((xs - centre).abs().max()))
    assert margin - 4 < reach <= margin and margin % 4 == 0


@pytest.mark.parametrize("stddev", [True, False])
@pytest.mark.parametrize("batch", [8, 3])
@pytest.mark.parametrize("size", [8, 32])
def test_discriminator_is_that_of_stylegan2(stddev: bool, batch: int, size: int) -> None:
    discriminator = StyleGAN2Discriminator(3, 1, size, stddev).double()
    randomise(discriminator)
    x = image(batch, 3, size, size)
    expected = plain_stylegan2.discriminator(discriminator.state_dict(), x, len(discriminator.blocks), stddev)
    assert expected.shape == (batch, 1) and len(discriminator.blocks) == {8: 1, 32: 3}[size]
    torch.testing.assert_close(discriminator(x), expected)


def test_discriminator_can_be_differentiated_twice() -> None:
    discriminator = StyleGAN2Discriminator(1, 1, 8).double()
    randomise(discriminator)
    x = image(2, 1, 8, 8).requires_grad_()
    parameters = [discriminator.stem.weight, discriminator.blocks[0].conv2.weight, discriminator.head.bias]

    def run(image: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        names = ("stem.weight", "blocks.0.conv2.weight", "head.bias")
        return torch.func.functional_call(discriminator, dict(zip(names, values, strict=True)), (image,))

    assert torch.autograd.gradcheck(run, (x, *parameters), fast_mode=True)
    assert torch.autograd.gradgradcheck(run, (x, *parameters), fast_mode=True)


def test_widths_and_variance_at_the_start() -> None:
    generator, discriminator = StyleGAN2Generator(), StyleGAN2Discriminator()
    assert generator.layer_channels((0, 2, 4)) == (3, 160, 160) and generator.stem.weight.shape[0] == 80
    assert [block.conv2.weight.shape[0] for block in discriminator.blocks] == [64, 128, 256, 512]
    assert discriminator.stem.weight.shape[0] == 32 and discriminator.conv.weight.shape[1] == 513
    torch.manual_seed(0)
    plain_colour = torch.randn(64, 3, 1, 1).expand(-1, -1, 32, 32)  # which the blurs leave as it is
    with torch.no_grad():
        features = StyleGAN2Generator(ngf=4).eval()(plain_colour, range(1, 11))[1]
    assert all(0.5 < feature.square().mean() < 2.5 for feature in features)


def test_a_file_brings_the_generator_back(tmp_path) -> None:
    generator = StyleGAN2Generator(1, 1, ngf=2, n_blocks=1)
    randomise(generator)
    save_generator(tmp_path / "g.safetensors", generator)
    found = load_generator(tmp_path / "g.safetensors")
    assert found.config == generator.config
    x = torch.rand(1, 1, 8, 8)
    assert torch.equal(found.eval()(x), generator.eval()(x))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: StyleGAN2Generator(ngf=0), "ngf: expected at least 1, got 0"),
        (lambda: StyleGAN2Generator(n_blocks=-1), "n_blocks: expected at least 0"),
        (lambda: StyleGAN2Generator(ngf=1)(torch.zeros(1, 3, 7, 8)), r"x: expected \(B, 3, H, W\) with even H and W"),
        (lambda: StyleGAN2Generator(ngf=1)(torch.zeros(1, 3, 8, 8), (11,)), "expected numbers from 0 to 10"),
        (lambda: StyleGAN2Generator(ngf=1).layer_channels((2, 0)), "expected layers in ascending order"),
        (lambda: StyleGAN2Generator(ngf=1).encode(torch.zeros(1, 3, 8, 8), ()), "expected at least one layer"),
        (lambda: StyleGAN2Generator(ngf=1).encode(torch.zeros(1, 3, 8, 8), (1,), []), "each of 1 layers, got 0"),
        (lambda: StyleGAN2Discriminator(size=24), "size: expected a power of two and at least 8, got 24"),
        (lambda: StyleGAN2Discriminator(ndf=0), "ndf: expected at least 1"),
        (lambda: StyleGAN2Discriminator(ndf=1, size=8)(torch.zeros(1, 3, 8, 16)), r"x: expected \(B, 3, 8, 8\)"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
