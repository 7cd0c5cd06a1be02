"""All networks under ``torch.jit.script`` and ``torch.jit.trace``, as they are, while gradients are on."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from cgcl_fast import networks
from cgcl_fast.networks import (
    ContentDiscriminator,
    ContentEncoder,
    DisentangledGenerator,
    DomainDiscriminator,
    MGUITGenerator,
    MultiScaleDiscriminator,
    PatchDiscriminator,
    PixelDiscriminator,
    ResnetBlock,
    ResnetGenerator,
    StyleEncoder,
    StyleGAN2Discriminator,
    StyleGAN2Generator,
    StyleMapEncoder,
    UnetGenerator,
)


@pytest.fixture(autouse=True)
def without_advice() -> Iterator[None]:
    """PyTorch says at each call that TorchScript is old, and of what a trace keeps as constant."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def image(*size: int) -> Tensor:
    return torch.rand(size) * 2 - 1


IMAGE = (2, 3, 24, 32)

CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, ...]]]] = {
    "resnet": (lambda: ResnetGenerator(ngf=4, n_blocks=1), lambda: (image(*IMAGE),)),
    "resnet strided": (
        lambda: ResnetGenerator(ngf=4, n_blocks=1, antialias=False, dropout=True, n_down=1),
        lambda: (image(*IMAGE),),
    ),
    "resnet batch norm": (lambda: ResnetGenerator(ngf=4, n_blocks=1, norm="batch"), lambda: (image(*IMAGE),)),
    "resnet block": (lambda: ResnetBlock(4, dropout=True), lambda: (image(2, 4, 8, 6),)),
    "unet": (lambda: UnetGenerator(ngf=2, n_down=6, dropout=True), lambda: (image(2, 3, 128, 64),)),
    "stylegan2": (lambda: StyleGAN2Generator(ngf=1, n_blocks=1), lambda: (image(*IMAGE),)),
    "stylegan2 published": (
        lambda: StyleGAN2Generator(ngf=1, n_blocks=1, published=True),
        lambda: (image(*IMAGE),),
    ),
    "content": (lambda: ContentEncoder(ngf=4, n_blocks=1), lambda: (image(*IMAGE),)),
    "style": (lambda: StyleEncoder(n_domains=2, ngf=4), lambda: (image(2, 3, 32, 24), torch.eye(2))),
    "style map": (lambda: StyleMapEncoder(ngf=4, style_nc=8), lambda: (image(*IMAGE),)),
    "patch": (lambda: PatchDiscriminator(ndf=4), lambda: (image(*IMAGE),)),
    "patch strided": (lambda: PatchDiscriminator(ndf=4, antialias=False, norm="batch"), lambda: (image(*IMAGE),)),
    "pixel": (lambda: PixelDiscriminator(ndf=4), lambda: (image(*IMAGE),)),
    "domain": (lambda: DomainDiscriminator(ndf=2, n_layers=3), lambda: (image(*IMAGE),)),
    "stylegan2 discriminator": (lambda: StyleGAN2Discriminator(ndf=1, size=16), lambda: (image(4, 3, 16, 16),)),
    "scales": (lambda: MultiScaleDiscriminator(ndf=4, n_layers=2, n_scales=2), lambda: (image(*IMAGE),)),
    "content discriminator": (lambda: ContentDiscriminator(4, 1), lambda: (image(2, 4, 16, 12),)),
}

STYLED: dict[str, Callable[[], nn.Module]] = {
    "disentangled": lambda: DisentangledGenerator(("day", "night", "rain"), ngf=4, n_blocks=1, mlp_dim=8),
    "mguit": lambda: MGUITGenerator(ngf=4, n_blocks=1, style_nc=8, items=(2, 3)),
}


def reloaded(module: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    file = io.BytesIO()
    torch.jit.save(module, file)
    file.seek(0)
    return torch.jit.load(file)


def assert_same(found: object, expected: object) -> None:
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)


def test_every_public_network_is_here() -> None:
    here = {type(make()).__name__ for make, _ in CASES.values()} | {type(make()).__name__ for make in STYLED.values()}
    modules = {name for name in networks.__all__ if isinstance(getattr(networks, name), type)}
    assert modules - here == {"AdaINDecoder", "StyledGenerator"}, "a part of another one, and an interface"


@pytest.mark.parametrize("name", CASES)
def test_scripted_is_eager(name: str) -> None:
    make, inputs = CASES[name]
    module, given = make().eval(), inputs()
    expected = module(*given)
    scripted = reloaded(torch.jit.script(module))
    assert_same(scripted(*given), expected)
    assert_same(module(*given), expected)  # scripting has changed nothing


@pytest.mark.parametrize("name", CASES)
def test_traced_is_eager_at_other_sizes(name: str) -> None:
    make, inputs = CASES[name]
    module, given = make().eval(), inputs()
    traced = reloaded(torch.jit.trace(module, given))
    if name not in ("stylegan2 discriminator", "domain", "style"):  # of one size, and of a label for each image
        given = (torch.cat([given[0], given[0].flip(3)], dim=2)[:1],)
    assert_same(traced(*given), module(*given))


@pytest.mark.parametrize("name", STYLED)
def test_scripted_takes_domain_and_style(name: str) -> None:
    generator: networks.StyledGenerator = STYLED[name]().eval()
    scripted = reloaded(torch.jit.script(generator))
    x = image(*IMAGE)
    for domain in range(len(generator.domains)):
        assert_same(scripted(x, domain), generator(x, domain))
        for rows in (1, 2):
            style = generator.random_style(rows, torch.Generator().manual_seed(domain))
            assert_same(scripted(x, domain, style), generator(x, domain, style))
    with pytest.raises(torch.jit.Error, match="domain: expected 0 to"):
        scripted(x, len(generator.domains))


@pytest.mark.parametrize("name", STYLED)
def test_traced_keeps_the_domain(name: str) -> None:
    generator: networks.StyledGenerator = STYLED[name]().eval()

    class ToTheFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.generator = generator

        def forward(self, x: Tensor, style: Tensor) -> Tensor:
            return self.generator(x, 0, style)

    style = generator.random_style(2, torch.Generator().manual_seed(0))
    traced = reloaded(torch.jit.trace(ToTheFirst(), (image(*IMAGE), style)))
    x = image(3, 3, 32, 16)
    style = generator.random_style(3, torch.Generator().manual_seed(1))
    assert_same(traced(x, style), generator(x, 0, style))


def test_scripted_can_be_trained() -> None:
    torch.manual_seed(0)
    generator = ResnetGenerator(ngf=4, n_blocks=1, norm="batch")
    scripted = torch.jit.script(generator)
    x = image(*IMAGE)
    weights, own = [*generator.parameters()], {weight.data_ptr(): weight for weight in scripted.parameters()}
    expected = torch.autograd.grad(generator(x).square().sum(), weights)
    found = torch.autograd.grad(scripted(x).square().sum(), [own[weight.data_ptr()] for weight in weights])
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)


def test_scripted_dropout_acts_in_training_only() -> None:
    scripted = torch.jit.script(ResnetGenerator(ngf=4, n_blocks=1, dropout=True))
    x = image(1, 3, 16, 16)
    assert not torch.equal(scripted(x), scripted(x))
    scripted.eval()
    assert torch.equal(scripted(x), scripted(x))
