from __future__ import annotations

import pytest
import torch
from torch import nn

from cgcl_fast.networks import ResnetGenerator, init_weights


@pytest.mark.parametrize(
    ("kind", "deviation"),
    [
        ("xavier", 0.02 * (2 / (64 * 9 + 128 * 9)) ** 0.5),
        ("normal", 0.02),
        ("kaiming", (2 / (64 * 9)) ** 0.5),
        ("kaiming_uniform", (2 / (64 * 9)) ** 0.5),
    ],
)
def test_weights_have_the_deviation_of_the_scheme_and_biases_are_zero(kind: str, deviation: float) -> None:
    conv = nn.Conv2d(64, 128, 3)
    init_weights(conv, kind)
    assert conv.weight.std().item() == pytest.approx(deviation, rel=0.02)
    assert conv.bias is not None and not conv.bias.any()


def test_uniform_weights_are_bounded_by_their_deviation() -> None:
    conv = nn.Conv2d(64, 128, 3)
    init_weights(conv, "kaiming_uniform")
    assert conv.weight.abs().max() <= 3**0.5 * conv.weight.std() * 1.01
    init_weights(conv, "kaiming")
    assert conv.weight.abs().max() > 3 * conv.weight.std()


def test_orthogonal_rows() -> None:
    linear = nn.Linear(32, 16)
    init_weights(linear, "orthogonal", 0.5)
    torch.testing.assert_close(linear.weight @ linear.weight.T, 0.25 * torch.eye(16))


def test_every_convolution_of_a_generator_is_reached() -> None:
    generator = ResnetGenerator(ngf=2, n_blocks=1, antialias=False)
    for parameter in generator.parameters():
        nn.init.constant_(parameter, 7.0)
    init_weights(generator)
    assert not any((parameter == 7.0).any() for parameter in generator.parameters())


def test_scales_of_batch_norms_are_near_one() -> None:
    norm = nn.BatchNorm2d(4000)
    nn.init.constant_(norm.bias, 3.0)
    init_weights(norm, "xavier", 0.02)
    assert norm.weight.mean().item() == pytest.approx(1, abs=0.002) and not norm.bias.any()
    assert norm.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="kind: expected one of xavier"):
        init_weights(nn.Linear(1, 1), "uniform")
