"""Convolutions before an instance norm, whose bias is kept but left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from cgcl_fast.networks import (
    AdaINDecoder,
    ContentEncoder,
    PatchDiscriminator,
    PixelDiscriminator,
    ResnetGenerator,
    UnetGenerator,
)
from cgcl_fast.networks.mguit import DomainContentEncoder
from cgcl_fast.networks.norms import NormedConv2d, NormedConvTranspose2d
from networks.plain_weights import randomise

PAIRS = [(NormedConv2d, nn.Conv2d), (NormedConvTranspose2d, nn.ConvTranspose2d)]
IMAGE = (2, 3, 32, 36)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], list[tuple[int, ...]], int]] = {  # shapes; biases left out
    "resnet": (lambda: ResnetGenerator(ngf=3, n_blocks=2), [IMAGE], 9),
    "resnet strided": (lambda: ResnetGenerator(ngf=3, n_blocks=1, antialias=False, dropout=True), [IMAGE], 7),
    "patchgan": (lambda: PatchDiscriminator(ndf=3), [IMAGE], 3),
    "pixelgan": (lambda: PixelDiscriminator(ndf=3), [IMAGE], 1),
    "unet": (lambda: UnetGenerator(ngf=2, n_down=5), [(2, 3, 32, 64)], 7),
    "mguit": (lambda: DomainContentEncoder(ngf=2, n_blocks=1), [IMAGE], 4),
    "content encoder": (lambda: ContentEncoder(ngf=2, n_blocks=2), [IMAGE], 7),
    "AdaIN decoder": (
        lambda: AdaINDecoder(n_domains=2, ngf=2, n_blocks=2, style_dim=3, mlp_dim=4),
        [(2, 8, 6, 5), (2, 3), (2, 2)],
        4,
    ),
}


def biases_left_out(network: nn.Module) -> Iterator[Tensor]:
    return (m.bias for m in network.modules() if isinstance(m, tuple(ours for ours, _ in PAIRS)) and m.bias is not None)


def output_and_gradients(network: nn.Module, inputs: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    torch.manual_seed(1)
    result = network(*inputs)
    result = result[-1] if isinstance(result, list) else result
    torch.manual_seed(2)
    wanted = [*inputs, *(p for p in network.parameters() if p.requires_grad)]
    return result, list(torch.autograd.grad((result * torch.randn_like(result)).sum(), wanted))


@pytest.mark.parametrize("name", NETWORKS)
def test_leaving_biases_out_changes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the output, for any biases; nor, against convolutions that add them, the gradient of anything else."""
    make, shapes, count = NETWORKS[name]
    network = make().double()
    randomise(network)
    biases = list(biases_left_out(network))
    assert len(biases) == count
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    output, gradients = output_and_gradients(network, inputs)
    for ours, stock in PAIRS:
        monkeypatch.setattr(ours, "forward", stock.forward)
    expected, theirs = output_and_gradients(network, inputs)
    torch.testing.assert_close(output, expected)
    for a, b in zip(gradients, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-7)
    monkeypatch.undo()
    with torch.no_grad():
        for bias in biases:
            bias.add_(torch.randn_like(bias) * 100)
    assert torch.equal(output_and_gradients(network, inputs)[0], output)


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_other_norms_leave_nothing_out(norm: str) -> None:
    for network in (ResnetGenerator(ngf=2, norm=norm), UnetGenerator(ngf=2, norm=norm), PatchDiscriminator(norm=norm)):
        assert not list(biases_left_out(network))
        assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize(("ours", "stock"), PAIRS)
def test_files_are_those_of_the_stock_convolution(ours: type[nn.Module], stock: type[nn.Module]) -> None:
    options = {"stride": 2, "padding": 1}
    conv, plain = ours(3, 4, 3, **options), stock(3, 4, 3, **options)
    assert isinstance(conv, stock) and not conv.bias.requires_grad and conv.weight.requires_grad
    assert ours(3, 4, 3, is_feature=True).bias.requires_grad and ours(3, 4, 3, bias=False).bias is None
    conv.load_state_dict(plain.state_dict())
    plain.load_state_dict(conv.state_dict())
    x = torch.randn(2, 3, 7, 6)
    torch.testing.assert_close(conv(x) + conv.bias.view(-1, 1, 1), plain(x))


def test_a_generator_has_a_gradient_of_all_that_processes_wait_for() -> None:
    """DistributedDataParallel without ``find_unused_parameters`` raises at the second pass otherwise."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        generator = ResnetGenerator(ngf=2, n_blocks=1)
        parallel = nn.parallel.DistributedDataParallel(generator)
        for _ in range(2):
            parallel(torch.rand(1, 3, 16, 16)).sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    assert all(p.grad is not None for p in generator.parameters() if p.requires_grad)
