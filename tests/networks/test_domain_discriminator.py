from __future__ import annotations

import pytest
import torch
from methods import plain_cgl as plain
from methods.cgl_cases import randomise

from cgcl_fast.networks import DomainDiscriminator


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
    assert torch.autograd.gradgradcheck(lambda x: network(x)[0], (x,))


@pytest.mark.parametrize("shape", [(1, 3, 32, 63), (1, 4, 64, 64), (3, 64, 64)])
def test_other_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"x: expected \(B, 3, H, W\) with H and W at least 64 for 6 halvings"):
        DomainDiscriminator(ndf=1)(torch.zeros(shape))


def test_other_options_are_refused() -> None:
    with pytest.raises(ValueError, match="n_layers: expected at least 1, got 0"):
        DomainDiscriminator(n_layers=0)
