"""The PixelGAN discriminator of pix2pix, CycleGAN and CUT (``netD pixel``)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgcl_fast.networks.memory_format import in_fast_format
from cgcl_fast.networks.norms import Norm, NormedConv2d, has_bias


class PixelDiscriminator(nn.Module):
    """Real or fake for each pixel separately: three 1x1 convolutions with LeakyReLU 0.2, the second with a norm.

    Args:
        input_nc: channels of the image.
        ndf: channels after the first convolution; twice as many after the second.
        norm: "instance", "batch" or "none".
    """

    def __init__(self, input_nc: int = 3, ndf: int = 64, norm: str = "instance") -> None:
        super().__init__()
        for name, value in (("input_nc", input_nc), ("ndf", ndf)):
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        self.config: dict[str, Any] = {"input_nc": input_nc, "ndf": ndf, "norm": norm}
        self.norm = Norm(2 * ndf, norm, "leaky_relu")
        bias = has_bias(norm)
        self.convs = nn.ModuleList(
            (
                nn.Conv2d(input_nc, ndf, 1),
                NormedConv2d(ndf, 2 * ndf, 1, bias=bias),
                nn.Conv2d(2 * ndf, 1, 1, bias=bias),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Raw outputs, large for real.

        Args:
            x: (B, input_nc, H, W), values in [-1, 1].

        Returns:
            (B, 1, H, W).

        Raises:
            ValueError: ``x`` has another shape.
        """
        if not torch.jit.is_scripting():
            self._check(x)
        x = F.leaky_relu(self.convs[0](in_fast_format(x)), 0.2)
        return self.convs[2](self.norm(self.convs[1](x)))

    def _check(self, x: Tensor) -> None:
        channels = self.config["input_nc"]
        if x.dim() != 4 or x.shape[1] != channels:
            raise ValueError(f"x: expected (B, {channels}, H, W), got {tuple(x.shape)}")
