"""The encoders and the decoder of CGL against plain PyTorch, and the generator that is shared as a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from methods import plain_cgl as plain
from methods.cgl_cases import randomise
from torch import nn

from cgcl_fast import compat
from cgcl_fast.networks import (
    AdaINDecoder,
    ContentEncoder,
    DisentangledGenerator,
    StyleEncoder,
    load_generator,
    save_generator,
)
from cgcl_fast.networks.disentangled import UpConv

NAMES = ("dry", "wet", "dark")


def generator_of(**options: int) -> DisentangledGenerator:
    generator = DisentangledGenerator(NAMES, **{"ngf": 4, "n_blocks": 2, "style_dim": 3, "mlp_dim": 6, **options})
    randomise(generator)
    return generator


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_sizes_of_the_papers_layout() -> None:
    """Layer by layer: convolutions and linear layers with bias, layer norms with gain and bias."""

    def conv(a: int, b: int, k: int) -> int:
        return a * b * k * k + b

    blocks = 8 * conv(256, 256, 3)
    assert count(ContentEncoder()) == conv(3, 64, 7) + conv(64, 128, 4) + conv(128, 256, 4) + blocks
    strided = conv(64, 128, 4) + conv(128, 256, 4) + 2 * conv(256, 256, 4)
    assert count(StyleEncoder()) == conv(3 + 4, 64, 7) + strided + conv(256, 8, 1)
    perceptron = conv(8 + 4, 256, 1) + conv(256, 256, 1) + conv(256, 4096, 1)
    ups = conv(256, 128, 5) + 2 * 128 + conv(128, 64, 5) + 2 * 64
    assert count(AdaINDecoder()) == perceptron + blocks + ups + conv(64, 3, 7)
    assert count(DisentangledGenerator(("a", "b", "c", "d"))) == 15_039_755


@pytest.mark.parametrize(("size", "n_down"), [((16, 20), 2), ((32, 24), 2), ((16, 18), 1)])
def test_networks_are_the_plain_ones(size: tuple[int, int], n_down: int) -> None:
    generator = generator_of(n_down=n_down).double()
    w = plain.weights_of(generator)
    x = torch.rand(2, 3, *size, dtype=torch.float64) * 2 - 1
    label = F.one_hot(torch.tensor([2, 0]), 3).double()
    features, style = generator.content(x), generator.style(x, label)
    images = generator.decoder(features[-1], style, label)
    for row, domain in enumerate((2, 0)):
        expected = plain.content(w, x[row : row + 1], 2)
        for found, wanted in zip(features, expected, strict=True):
            torch.testing.assert_close(found[row], wanted[0])
        torch.testing.assert_close(style[row], plain.style(w, x[row : row + 1], domain, 3))
        wanted = plain.decoder(w, expected[-1], style[row], domain, 3, 2)
        torch.testing.assert_close(images[row], wanted[0])


def test_gradients_are_those_of_the_plain_networks() -> None:
    generator = generator_of().double()
    w = plain.weights_of(generator)
    x = torch.rand(1, 3, 16, 20, dtype=torch.float64) * 2 - 1
    label = F.one_hot(torch.tensor([1]), 3).double()
    weights = torch.randn(1, 3, 16, 20, dtype=torch.float64)
    parameters = [p for p in generator.parameters() if p.requires_grad]
    image = generator.decoder(generator.content(x)[-1], generator.style(x, label), label)
    found = torch.autograd.grad((image * weights).sum(), parameters)
    image = plain.decoder(w, plain.content(w, x, 2)[-1], plain.style(w, x, 1, 3), 1, 3, 2)
    expected = torch.autograd.grad((image * weights).sum(), parameters)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 6)])
def test_folded_doubling_is_interpolation_and_convolution(
    size: tuple[int, int], memory_format: torch.memory_format
) -> None:
    conv = UpConv(3, 4).double()
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    large = F.pad(F.interpolate(x, scale_factor=2), (2, 2, 2, 2), mode="replicate")
    expected = F.conv2d(large, conv.weight, conv.bias)
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate").contiguous(memory_format=memory_format)
    found = conv(padded)
    assert size == (1, 1) or found.is_contiguous(memory_format=memory_format)  # one pixel lies in both
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(expected)
    variables = (x, conv.weight, conv.bias)
    for a, b in zip(
        torch.autograd.grad((found * weights).sum(), variables),
        torch.autograd.grad((expected * weights).sum(), variables),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_a_style_is_read_without_teaching_the_reader() -> None:
    encoder = StyleEncoder(n_domains=3, ngf=4, style_dim=2)
    image, label = torch.randn(2, 3, 16, 16, requires_grad=True), torch.eye(3)[:2]
    plain, frozen = encoder(image, label), encoder(image, label, frozen=True)
    assert torch.equal(plain, frozen)
    (of_plain,) = torch.autograd.grad(plain.square().sum(), image, retain_graph=True)
    (of_frozen,) = torch.autograd.grad(frozen.square().sum(), image, retain_graph=True)
    torch.testing.assert_close(of_plain, of_frozen)
    found = torch.autograd.grad(frozen.sum(), list(encoder.parameters()), allow_unused=True)
    assert all(gradient is None for gradient in found)
    assert all(gradient.any() for gradient in torch.autograd.grad(plain.sum(), list(encoder.parameters())))


def test_translation_takes_domain_and_style() -> None:
    generator = generator_of()
    image = torch.rand(2, 3, 16, 12) * 2 - 1
    styles = generator.random_style(2, torch.Generator().manual_seed(5))
    assert styles.shape == (2, 3) and torch.equal(styles, torch.randn(2, 3, generator=torch.Generator().manual_seed(5)))
    both = generator(image, 1, styles)
    assert both.shape == image.shape and both.abs().max() <= 1
    torch.testing.assert_close(both[1:], generator(image[1:], 1, styles[1:]))
    torch.testing.assert_close(generator(image, 1, styles[:1])[1:], generator(image[1:], 1, styles[:1]))
    assert not torch.allclose(both, generator(image, 2, styles), atol=1e-3)
    assert not torch.allclose(both[:1], generator(image[:1], 1, styles[1:]), atol=1e-3)
    torch.testing.assert_close(
        generator(image, 0), generator(image, 0, generator.random_style(1, torch.Generator().manual_seed(0)))
    )
    assert not torch.equal(generator.random_style(1), generator.random_style(1))


def test_the_style_of_a_reference() -> None:
    generator = generator_of()
    image = torch.rand(2, 3, 16, 20)
    style = generator.style_of(image, 2)
    torch.testing.assert_close(style, generator.style(image, F.one_hot(torch.tensor([2, 2]), 3).float()))
    assert not torch.allclose(style, generator.style_of(image, 0))
    assert generator.style_of(torch.rand(1, 3, 3, 2), 0).shape == (1, 3)


@pytest.mark.parametrize("load", [load_generator, compat.load_generator])
def test_a_file_holds_domains_and_weights(tmp_path: Path, load: object) -> None:
    generator = generator_of()
    save_generator(tmp_path / "g.safetensors", generator)
    found = load(tmp_path / "g.safetensors")  # type: ignore[operator]
    assert isinstance(found, DisentangledGenerator)
    assert (found.domains, found.config) == (NAMES, generator.config)
    image = torch.rand(1, 3, 16, 16)
    assert torch.equal(found(image, 1), generator(image, 1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: g(torch.zeros(1, 3, 16, 16), 3), "domain: expected 0 to 2, got 3"),
        (lambda g: g(torch.zeros(1, 3, 16, 16), -1), "domain: expected 0 to 2, got -1"),
        (lambda g: g.style_of(torch.zeros(1, 3, 16, 16), 3), "domain: expected 0 to 2, got 3"),
        (lambda g: g(torch.zeros(1, 4, 16, 16), 0), r"image: expected \(B, 3, H, W\) .*got \(1, 4, 16, 16\)"),
        (lambda g: g(torch.zeros(1, 3, 4, 16), 0), "H and W at least 8"),
        (lambda g: g(torch.zeros(2, 3, 16, 16), 0, torch.zeros(3, 3)), r"style: expected \(1, 3\) or \(2, 3\)"),
        (lambda g: g(torch.zeros(2, 3, 16, 16), 0, torch.zeros(2, 8)), r"style: expected .*got \(2, 8\)"),
        (lambda g: g.domain_index("foggy"), "domain: expected one of dry, wet, dark, got 'foggy'"),
        (lambda g: g.domain_index(None), "domain: expected one of dry, wet, dark, got none"),
        (lambda g: DisentangledGenerator(("a",)), "domains: expected two or more different names, got a"),
        (lambda g: DisentangledGenerator(("a", "b"), ngf=0), "ngf: expected at least 1, got 0"),
        (lambda g: DisentangledGenerator(("a", "b"), n_down=3), "n_down: expected 1 or 2, got 3"),
    ],
)
def test_wrong_arguments_are_named(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(generator_of())  # type: ignore[operator]


def test_domain_names() -> None:
    assert [generator_of().domain_index(name) for name in NAMES] == [0, 1, 2]
    assert DisentangledGenerator(("a", "b"), ngf=1).domain_index(None) == 1


@pytest.mark.parametrize("part", ["content", "style", "decoder"])
def test_each_network_compiles_into_one_graph(part: str) -> None:
    generator = generator_of()
    image, label = torch.rand(2, 3, 16, 16), torch.eye(3)[:2]
    arguments = {
        "content": (image,),
        "style": (image, label),
        "decoder": (torch.rand(2, 16, 4, 4), torch.rand(2, 3), label),
    }[part]
    network = getattr(generator, part)
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*arguments), network(*arguments))
    found = compiled(*arguments)
    (found[-1] if part == "content" else found).sum().backward()
    assert all(p.grad is not None for p in network.parameters() if p.requires_grad)


def test_compiled_doubling_has_its_gradient_for_maps_in_channels_last_order() -> None:
    torch._dynamo.reset()
    conv = UpConv(4, 4)
    maps = torch.randn(2, 4, 6, 5).contiguous(memory_format=torch.channels_last)

    def gradient(run: object) -> torch.Tensor:
        x = maps.clone().requires_grad_()
        run(torch.relu(x)).square().sum().backward()  # type: ignore[operator]
        return x.grad

    torch.testing.assert_close(gradient(torch.compile(conv, fullgraph=True)), gradient(conv))
