"""Small CGL methods and synthetic batches for the tests."""

from __future__ import annotations

from typing import Any

import torch
from op_checks import DEVICE
from torch import Tensor, nn

SMALL: dict[str, Any] = {
    "domains": ("dry", "wet", "dark"),
    "object_size": 16,
    "ngf": 2,
    "n_blocks": 2,
    "style_dim": 3,
    "mlp_dim": 5,
    "ndf": 2,
    "d_layers": 3,
}


def batch_of(
    n: int = 2,
    size: tuple[int, int] = (32, 24),
    present: tuple[list[bool], list[bool]] | None = None,
    size_of_b: tuple[int, int] | None = None,
    **like: Any,
) -> dict[str, Any]:
    """A batch of random pairs of three domains; ``present`` says which images have an instance."""
    generator = torch.Generator().manual_seed(3)
    like = {"dtype": torch.float64, **like}

    def images(height: int, width: int) -> Tensor:
        drawn = torch.rand(n, 3, height, width, generator=generator, dtype=torch.float64, device="cpu")
        return (drawn * 2 - 1).to(device=DEVICE, **like)

    a = torch.arange(n, device=DEVICE) % 3
    batch: dict[str, Any] = {"A": images(*size), "B": images(*(size_of_b or size))}
    batch |= {"A_domain": a, "B_domain": (a + 1) % 3}
    for name, flags in zip("AB", present or ([True] * n, [True] * n), strict=True):
        has = torch.tensor(flags, device=DEVICE)
        batch[f"{name}_object"] = images(16, 16) * has[:, None, None, None]
        batch[f"{name}_has_object"] = has
    return batch


def randomise(module: nn.Module) -> None:
    """Weights that keep activations near one, norms with scales and biases of their own."""
    torch.manual_seed(1)
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.kaiming_normal_(parameter)
        else:
            nn.init.normal_(parameter, 0.5, 0.2)
