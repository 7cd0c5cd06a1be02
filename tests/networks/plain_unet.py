"""The published U-Net and PixelGAN in stock PyTorch modules, whose names in the state dict are the published ones.

For comparison: written only from the description of the layers, without any module of the package.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from methods.plain_cut import NORMS
from torch import Tensor, nn


class Level(nn.Module):
    """A halving, the levels within, and the doubling back; beside it, what came in."""

    def __init__(self, widths: Sequence[int], norm: str, drops: Sequence[bool]) -> None:
        super().__init__()
        bias = norm == "instance"
        outer, inner, *rest = widths
        layers: list[nn.Module] = [nn.LeakyReLU(0.2), nn.Conv2d(outer, inner, 4, 2, 1, bias=bias)]
        if rest:
            layers += [NORMS[norm](inner), Level([inner, *rest], norm, drops[1:])]
        layers += [nn.ReLU(), nn.ConvTranspose2d(inner * (2 if rest else 1), outer, 4, 2, 1, bias=bias)]
        layers += [NORMS[norm](outer)]
        layers += [nn.Dropout(0.5)] if drops[0] else []
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.model(x)], 1)


class Unet(nn.Module):
    def __init__(
        self,
        input_nc: int = 3,
        output_nc: int = 3,
        ngf: int = 64,
        n_down: int = 8,
        norm: str = "instance",
        dropout: bool = False,
    ) -> None:
        super().__init__()
        widths = [ngf, 2 * ngf, 4 * ngf] + [8 * ngf] * (n_down - 3)
        drops = [False] * 3 + [dropout] * (n_down - 5) + [False]
        top = nn.Module()
        top.model = nn.Sequential(
            nn.Conv2d(input_nc, ngf, 4, 2, 1, bias=norm == "instance"),
            Level(widths, norm, drops),
            nn.ReLU(),
            nn.ConvTranspose2d(2 * ngf, output_nc, 4, 2, 1),
            nn.Tanh(),
        )
        self.model = top

    def forward(self, x: Tensor) -> Tensor:
        return self.model.model(x)


class Pixel(nn.Module):
    def __init__(self, input_nc: int = 3, ndf: int = 64, norm: str = "instance") -> None:
        super().__init__()
        bias = norm == "instance"
        self.net = nn.Sequential(
            nn.Conv2d(input_nc, ndf, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(ndf, 2 * ndf, 1, bias=bias),
            NORMS[norm](2 * ndf),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * ndf, 1, 1, bias=bias),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)
