from __future__ import annotations

import pytest
import torch
from torch import nn

from cgcl_fast.networks import PatchDiscriminator
from networks.plain_weights import check_alike, discriminators, gradient_of


@pytest.mark.parametrize(
    "config",
    [
        {"ndf": 4},
        {"ndf": 4, "antialias": False},
        {"ndf": 2, "n_layers": 5},
        {"ndf": 3, "n_layers": 1, "input_nc": 1},
        {"ndf": 3, "n_layers": 2, "norm": "batch"},
        {"ndf": 3, "n_layers": 2, "norm": "none"},
    ],
    ids=str,
)
def test_outputs_and_gradients_are_those_of_the_published_chain(config: dict[str, int]) -> None:
    plain, ours = discriminators(**config)
    plain, ours = plain.double(), ours.double()
    size = (128, 120) if config.get("n_layers") == 5 else (50, 61)
    check_alike(plain, ours, torch.rand(2, config.get("input_nc", 3), *size, dtype=torch.float64))
    plain_convs = [layer for layer in plain.modules() if isinstance(layer, nn.Conv2d)]
    for a, b in zip(plain_convs, ours.convs, strict=True):
        for name, parameter in a.named_parameters():
            torch.testing.assert_close(gradient_of(b.get_parameter(name)), parameter.grad, atol=1e-10, rtol=1e-7)


@pytest.mark.parametrize("antialias", [True, False])
def test_a_256_image_gives_30_by_30(antialias: bool) -> None:
    assert PatchDiscriminator(ndf=1, antialias=antialias)(torch.zeros(1, 3, 256, 256)).shape == (1, 1, 30, 30)


def test_other_channels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"x: expected \(B, 3, H, W\), got \(1, 4, 64, 64\)"):
        PatchDiscriminator(ndf=1)(torch.zeros(1, 4, 64, 64))
