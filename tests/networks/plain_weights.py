"""Weights for the plain networks of the tests, given to the package's by the published layout."""

from __future__ import annotations

import torch
from methods import plain_cut
from torch import nn

from cgcl_fast import compat, networks


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Weights that keep activations near one, so that a wrong layer cannot hide behind small numbers."""
    torch.manual_seed(seed)
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.kaiming_normal_(parameter)
        else:
            nn.init.normal_(parameter, 0.0, 0.1)


def check_alike(plain: nn.Module, ours: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Both make the same of ``x``, and have the same gradient at it; theirs at the weights are left to be compared.

    Returns:
        What ours makes of it.
    """
    theirs, x = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected, found = plain(theirs), ours(x)
    torch.testing.assert_close(found, expected)
    expected.square().mean().backward()
    found.square().mean().backward()
    torch.testing.assert_close(x.grad, theirs.grad)
    return found


def gradient_of(parameter: nn.Parameter) -> torch.Tensor | None:
    """After a backward pass. Zeros for a bias that is left out because the norm after it would subtract it again, and
    whose gradient in the plain networks is rounding."""
    return parameter.grad if parameter.requires_grad else torch.zeros_like(parameter)


def generators(**config: object) -> tuple[plain_cut.Generator, networks.ResnetGenerator]:
    plain = plain_cut.Generator(**config)  # type: ignore[arg-type]
    randomise(plain)
    if "n_down" not in config:
        return plain, compat.load_generator(plain.state_dict())
    ours = networks.ResnetGenerator(**config)  # type: ignore[arg-type]  # no file of such a shape was published
    randomise(ours)
    plain.load_state_dict(compat.published_state_dict(ours))
    return plain, ours


def discriminators(**config: object) -> tuple[plain_cut.Discriminator, networks.PatchDiscriminator]:
    plain = plain_cut.Discriminator(**config)  # type: ignore[arg-type]
    randomise(plain)
    return plain, compat.load_discriminator(plain.state_dict())
