"""The discriminator of CGL and CGCL: real or fake, and the domain (CGL, Sec. 4; after StarGAN)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgcl_fast.networks.halvings import check_halvings
from cgcl_fast.networks.memory_format import in_fast_format


class DomainDiscriminator(nn.Module):
    """4x4 convolutions of stride 2 with LeakyReLU 0.2 and without norm, then two heads: D_src, a map of real or fake
    (1x1), and D_cls, the logits of the domains (one convolution over the whole remaining map).

    Plain operations only: the gradient penalty differentiates its gradient.

    Args:
        n_domains: number of domains.
        input_nc: channels of the image.
        ndf: channels after the first convolution, doubled by each further one.
        n_layers: halvings (6: 64 to 2048 channels, 4x4 positions of a 256x256 image).
        map_size: side of D_cls's kernel. If the map is larger, the logits are averaged over it; if smaller, it is
            padded with zeros.
    """

    def __init__(
        self, n_domains: int = 4, input_nc: int = 3, ndf: int = 64, n_layers: int = 6, map_size: int = 4
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "n_domains": n_domains,
            "input_nc": input_nc,
            "ndf": ndf,
            "n_layers": n_layers,
            "map_size": map_size,
        }
        for name, value in self.config.items():
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        check_halvings("n_layers", n_layers)
        self.map_size = map_size
        widths = [input_nc, *(ndf * 2**i for i in range(n_layers))]
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in zip(widths, widths[1:], strict=False)
        )
        self.src = nn.Conv2d(widths[-1], 1, 1)
        self.cls = nn.Conv2d(widths[-1], n_domains, map_size)

    @staticmethod
    def least_size(n_layers: int) -> int:
        """The smallest side of an image in pixels."""
        return 2**n_layers

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """D_src and D_cls.

        Args:
            x: (B, input_nc, H, W), values in [-1, 1], H and W at least 2 to the power of ``n_layers``.

        Returns:
            (B, 1, h, w), large for real, and the logits (B, n_domains).

        Raises:
            ValueError: ``x`` has another shape.
        """
        if not torch.jit.is_scripting():
            self._check(x)
        x = in_fast_format(x)
        for conv in self.convs:
            x = F.leaky_relu(conv(x), 0.2)
        bottom, right = max(0, self.map_size - x.shape[2]), max(0, self.map_size - x.shape[3])
        padded = F.pad(x, (right // 2, right - right // 2, bottom // 2, bottom - bottom // 2))
        return self.src(x), self.cls(padded).mean((2, 3))

    def _check(self, x: Tensor) -> None:
        channels, least = self.config["input_nc"], self.least_size(len(self.convs))
        if x.dim() != 4 or x.shape[1] != channels or min(x.shape[2:]) < least:
            raise ValueError(
                f"x: expected (B, {channels}, H, W) with H and W at least {least} for {len(self.convs)} halvings, "
                f"got {tuple(x.shape)}"
            )

    def realness(self, x: Tensor) -> Tensor:
        """Only D_src, for the gradient penalty. It is never compiled, because compiled code cannot be differentiated
        twice."""
        x = in_fast_format(x)
        for conv in self.convs:
            x = conv(x)
            # LeakyReLU by a condition, through which autograd does not go. PyTorch's function has a second derivative,
            # zeros, which are taken back through all layers and added to the weights' gradients.
            x = torch.where(x > 0, x, 0.2 * x)
        return self.src(x)
