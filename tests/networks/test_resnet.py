"""The generator against the published chain of modules: images, every feature layer, gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cgcl_fast.networks import PatchDiscriminator, ResnetGenerator
from cgcl_fast.nn import Projector
from cgcl_fast.ops import gather_patches
from networks.plain_weights import generators, gradient_of

LAYOUTS = [
    {"ngf": 4},
    {"ngf": 4, "antialias": False},
    {"ngf": 3, "n_blocks": 2, "antialias": True, "antialias_up": False},
    {"ngf": 3, "n_blocks": 1, "antialias": False, "antialias_up": True, "input_nc": 1, "output_nc": 4},
    {"ngf": 2, "n_blocks": 0},
    {"ngf": 4, "n_blocks": 3, "n_down": 1},
    {"ngf": 3, "n_blocks": 1, "antialias": False, "n_down": 1},
]


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameter_counts_are_those_of_the_papers() -> None:
    generator = ResnetGenerator()
    assert count(generator) == 11_378_179
    assert count(PatchDiscriminator()) == 2_764_737
    assert count(Projector(generator.layer_channels((0, 4, 8, 12, 16)))) == 560_384
    assert count(ResnetGenerator(antialias=False)) == 11_378_179
    assert count(PatchDiscriminator(antialias=False)) == 2_764_737


@pytest.mark.parametrize("config", LAYOUTS, ids=str)
@pytest.mark.parametrize("size", [(24, 32), (21, 30)])
def test_every_layer_is_the_published_one(config: dict[str, int], size: tuple[int, int]) -> None:
    plain, ours = generators(**config)
    x = torch.rand(2, config.get("input_nc", 3), *size) * 2 - 1
    numbers = range(len(plain.model))
    expected = plain.encode(x, numbers)  # in-place ReLUs overwrite the norms here as they do in published code
    for number in numbers:
        image, (feature,) = ours(x, (number,))
        torch.testing.assert_close(feature, expected[number], atol=2e-5, rtol=2e-5)
        torch.testing.assert_close(ours.encode(x, (number,))[0], feature, atol=0, rtol=0)
    torch.testing.assert_close(image, plain(x), atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(ours(x), image, atol=0, rtol=0)


def test_default_layers_have_the_shapes_of_the_paper() -> None:
    layers = (0, 4, 8, 12, 16)
    generator = ResnetGenerator(ngf=8)
    features = generator.encode(torch.zeros(1, 3, 64, 64), layers)
    shapes = [tuple(f.shape[1:]) for f in features]
    assert shapes == [(3, 70, 70), (16, 64, 64), (32, 32, 32), (32, 16, 16), (32, 16, 16)]
    assert generator.layer_channels(layers) == (3, 16, 32, 32, 32)
    assert generator.layer_channels((3, 7, 13, 18, 24, 28)) == (8, 16, 32, 32, 16, 8)


@pytest.mark.parametrize("antialias", [True, False])
def test_gradients_are_those_of_the_published_chain(antialias: bool) -> None:
    plain, ours = generators(ngf=4, n_blocks=2, antialias=antialias)
    plain, ours = plain.double(), ours.double()
    x = (torch.rand(2, 3, 20, 24, dtype=torch.float64) * 2 - 1).requires_grad_()
    y = x.detach().clone().requires_grad_()
    weights = torch.randn(2, 3, 20, 24, dtype=torch.float64)
    (plain(x) * weights).sum().backward()
    (ours(y) * weights).sum().backward()
    torch.testing.assert_close(y.grad, x.grad)
    expected = [p.grad for p in plain.parameters()]
    found = [gradient_of(p) for p in ours.parameters()]
    for a, b in zip(expected, found, strict=True):
        assert a is not None and b is not None
        torch.testing.assert_close(b, a, atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("antialias", [True, False])
def test_gradients_of_features_are_those_of_the_published_chain(antialias: bool) -> None:
    """At each convolution, whose bias counts there, and at a few others."""
    plain, ours = generators(ngf=4, n_blocks=2, antialias=antialias)
    plain, ours = plain.double(), ours.double()
    numbers = (1, 4, 6, 8, 13, 15, 19) if antialias else (1, 4, 7, 11, 12, 15, 19)
    x = torch.rand(2, 3, 20, 24, dtype=torch.float64) * 2 - 1
    loss = torch.zeros((), dtype=torch.float64)
    image, features = ours(x, numbers)
    weights = [torch.randn_like(feature) for feature in features]
    for feature, expected, weight in zip(features, plain.encode(x, numbers), weights, strict=True):
        torch.testing.assert_close(feature, expected)
        loss = loss + (expected * weight).sum()
    (loss + plain(x).square().sum()).backward()
    (sum((f * w).sum() for f, w in zip(features, weights, strict=True)) + image.square().sum()).backward()
    for a, b in zip(plain.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(gradient_of(b), a.grad, atol=1e-9, rtol=1e-7)
    assert all(conv.bias.grad.abs().max() > 1e-3 for conv in (ours.stem, *ours.down))
    ours.zero_grad()
    ours(x).sum().backward()
    assert all(not conv.bias.grad.any() for conv in (ours.stem, *ours.down, *ours.up))


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("antialias", [True, False])
def test_rows_are_those_of_the_features(antialias: bool, norm: str) -> None:
    """Gathered within the pass or of maps without biases: values, and the gradients of biases too."""
    generator = ResnetGenerator(ngf=4, n_blocks=2, antialias=antialias, norm=norm).double().eval()
    for number, parameter in enumerate(generator.parameters()):
        nn.init.normal_(parameter, std=0.2 + 0.01 * number)
    numbers = (0, 1, 4, 6, 8, 13, 15, 19) if antialias else (0, 1, 4, 7, 11, 12, 15, 19)
    x = torch.rand(2, 3, 20, 24, dtype=torch.float64) * 2 - 1
    features = generator.encode(x, numbers)
    shapes = [feature[0, 0].numel() for feature in features]
    ids = [torch.randint(n, (2, 5) if i % 2 else (5,)) for i, n in enumerate(shapes)]
    expected = [gather_patches(feature, at) for feature, at in zip(features, ids, strict=True)]
    image, maps = generator(x, numbers, add_biases=False)
    ways = [generator.encode(x, numbers, ids), generator.rows(maps, numbers, ids)]
    ways.append(generator.rows(generator.encode(x, numbers, add_biases=False), numbers, ids))
    torch.testing.assert_close(image, generator(x))
    weights = [torch.randn_like(row) for row in expected]
    used = [p for p in generator.parameters() if p.requires_grad]

    def gradients(rows: list[Tensor]) -> list[Tensor]:
        loss = torch.stack([(row * weight).sum() for row, weight in zip(rows, weights, strict=True)]).sum()
        found = torch.autograd.grad(loss, used, allow_unused=True)
        return [torch.zeros(()) if grad is None else grad for grad in found]

    wanted = gradients(expected)
    for rows in ways:
        for row, other in zip(rows, expected, strict=True):
            torch.testing.assert_close(row, other, atol=0, rtol=0)
        for grad, other in zip(gradients(rows), wanted, strict=True):
            torch.testing.assert_close(grad, other, atol=1e-10, rtol=1e-8)


def test_rows_need_positions_of_each_layer() -> None:
    generator = ResnetGenerator(ngf=2)
    with pytest.raises(ValueError, match="expected one for each of 2 layers, got 1"):
        generator.encode(torch.zeros(1, 3, 16, 16), (0, 4), [torch.zeros(1, dtype=torch.long)])
    with pytest.raises(ValueError, match="expected one for each of 1 layers, got 0"):
        generator.rows([torch.zeros(1, 3, 16, 16)], (0,), [])


def test_encode_computes_nothing_beyond_the_last_layer() -> None:
    generator = ResnetGenerator(ngf=2)
    ran = []
    for name, module in generator.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda *_, name=name: ran.append(name))
    generator.encode(torch.zeros(1, 3, 16, 16), (0, 4, 12))
    assert ran == ["stem", "down.0", "down.1", "blocks.0.conv1", "blocks.0.conv2"]


def test_dropout_acts_in_training_only() -> None:
    generator = ResnetGenerator(ngf=4, n_blocks=1, dropout=True)
    x = torch.rand(1, 3, 16, 16)
    assert not torch.equal(generator(x), generator(x))
    generator.eval()
    assert torch.equal(generator(x), generator(x))


@pytest.mark.parametrize("layers", [(4, 4), (8, 4), (-1,), (32,), (2, 3)])
def test_feature_layers_must_exist_and_ascend(layers: tuple[int, ...]) -> None:
    generator = ResnetGenerator(ngf=2)
    with pytest.raises(ValueError, match="feature_layers"):
        generator(torch.zeros(1, 3, 16, 16), layers)


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 4, 16, 16), (1, 3, 4, 16)])
def test_other_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="x: expected"):
        ResnetGenerator(ngf=2)(torch.zeros(shape))


def test_compiles_into_one_graph() -> None:
    _, generator = generators(ngf=4, n_blocks=1)
    compiled = torch.compile(generator, fullgraph=True, backend="aot_eager")
    x = torch.rand(1, 3, 16, 16)
    image, features = compiled(x, (0, 4))
    expected, wanted = generator(x, (0, 4))
    torch.testing.assert_close(image, expected)
    torch.testing.assert_close(features, wanted)
    image.sum().backward()
    assert generator.stem.weight.grad is not None and generator.stem.weight.grad.isfinite().all()
