from __future__ import annotations

import pytest
import torch

from cgcl_fast.networks import PatchDiscriminator, ResnetGenerator
from cgcl_fast.nn import Projector


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameter_counts_are_those_of_the_papers() -> None:
    generator = ResnetGenerator()
    assert count(generator) == 11_378_179
    assert count(PatchDiscriminator()) == 2_764_737
    assert count(Projector(generator.layer_channels((0, 4, 8, 12, 16)))) == 560_384
    assert count(ResnetGenerator(antialias=False)) == 11_378_179


@pytest.mark.parametrize("layers", [(4, 4), (8, 4), (-1,), (32,), (2, 3)])
def test_feature_layers_must_exist_and_ascend(layers: tuple[int, ...]) -> None:
    generator = ResnetGenerator(ngf=2)
    with pytest.raises(ValueError, match="feature_layers"):
        generator(torch.zeros(1, 3, 16, 16), layers)
