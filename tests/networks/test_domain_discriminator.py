from __future__ import annotations

import pytest
import torch
from methods import plain_cgl as plain
from methods.cgl_cases import randomise

from cgcl_fast.networks import DomainDiscriminator
from cgcl_fast.nn import GradientPenalty


def test_the_papers_layout() -> None:
    """Six convolutions 64...2048, a 1x1 map and one 4x4 kernel over the 4x4 positions of a 256x256 image."""
    with torch.device("meta"):
        network = DomainDiscriminator()
        src, cls = network(torch.zeros(2, 3, 256, 256))
    assert [conv.out_channels for conv in network.convs] == [64, 128, 256, 512, 1024, 2048]
    assert (src.shape, cls.shape, network.cls.weight.shape) == ((2, 1, 4, 4), (2, 4), (4, 2048, 4, 4))


@pytest.mark.parametrize("side", [8, 16, 32, 64])
def test_outputs_are_the_plain_ones(side: int) -> None:
    """Maps smaller than the kernel of D_cls (padded), of its size, and larger (averaged)."""
    network = DomainDiscriminator(3, ndf=2, n_layers=3, map_size=4).double()
    randomise(network)
    x = torch.rand(2, 3, side, side, dtype=torch.float64) * 2 - 1
    src, cls = network(x)
    for row in range(2):
        map_, logits = plain.discriminator(plain.weights_of(network), x[row : row + 1], 3)
        torch.testing.assert_close(src[row].flatten(), map_)
        torch.testing.assert_close(cls[row], logits)


def test_can_be_differentiated_twice() -> None:
    network = DomainDiscriminator(2, ndf=2, n_layers=2, map_size=2).double()
    randomise(network)
    x = torch.rand(1, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(network.realness, (x,))


def test_the_penalty_has_the_derivatives_of_a_gradients_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    network = DomainDiscriminator(2, ndf=2, n_layers=2, map_size=2).double()
    randomise(network)
    x, fake = torch.rand(2, 2, 3, 12, 8, dtype=torch.float64) * 2 - 1
    torch.testing.assert_close(network.realness(x), network(x)[0], rtol=1e-12, atol=1e-12)
    share = torch.rand(2, 1, 1, 1, dtype=torch.float64)
    monkeypatch.setattr(torch, "rand", lambda *size, **_: share)
    norms = GradientPenalty.gradient_norms(network.realness, x, fake)
    norms.sub(1).square().sum().backward()
    found = {name: parameter.grad for name, parameter in network.named_parameters()}
    network.zero_grad()
    between = torch.lerp(x, fake, share).requires_grad_()
    (gradient,) = torch.autograd.grad(network(between)[0].sum(), between, create_graph=True)
    expected = gradient.square().sum((1, 2, 3)).sqrt()
    torch.testing.assert_close(norms, expected)
    expected.sub(1).square().sum().backward()
    for name, parameter in network.named_parameters():
        if "weight" in name and "cls" not in name:
            assert parameter.grad is not None and parameter.grad.abs().max() > 1e-6
            torch.testing.assert_close(found[name], parameter.grad)
        else:  # no bias moves a gradient
            assert found[name] is None or not found[name].any()


@pytest.mark.parametrize("shape", [(1, 3, 32, 63), (1, 4, 64, 64), (3, 64, 64)])
def test_other_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"x: expected \(B, 3, H, W\) with H and W at least 64 for 6 halvings"):
        DomainDiscriminator(ndf=1)(torch.zeros(shape))


def test_other_options_are_refused() -> None:
    with pytest.raises(ValueError, match="n_layers: expected at least 1, got 0"):
        DomainDiscriminator(n_layers=0)
