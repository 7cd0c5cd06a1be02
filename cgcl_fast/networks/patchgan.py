"""The PatchGAN discriminator of pix2pix, CycleGAN and CUT."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from cgcl_fast.networks.halvings import check_halvings
from cgcl_fast.networks.memory_format import in_fast_format
from cgcl_fast.networks.norms import Norm, NormedConv2d, has_bias
from cgcl_fast.networks.resnet import FastFormat
from cgcl_fast.nn import BlurDown, blur_down


class PatchDiscriminator(nn.Module):
    """Real or fake for each overlapping patch: 70x70 pixels with three layers.

    4x4 convolutions with LeakyReLU 0.2, and a norm in all but the first and the last. The first ``n_layers`` halve the
    size; with anti-aliasing by a convolution of stride 1 and a blur.

    Args:
        input_nc: channels of the image.
        ndf: channels after the first convolution; doubled by each further one, up to 8 ndf.
        n_layers: halvings.
        antialias: blur pools instead of strided convolutions.
        norm: "instance", "batch" or "none".
    """

    casts_together = True
    """Layers are called under autocast only, see ``engine.casting``."""

    def __init__(
        self, input_nc: int = 3, ndf: int = 64, n_layers: int = 3, antialias: bool = True, norm: str = "instance"
    ) -> None:
        super().__init__()
        for name, value in (("input_nc", input_nc), ("ndf", ndf)):
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        check_halvings("n_layers", n_layers)
        self.config: dict[str, Any] = {
            "input_nc": input_nc,
            "ndf": ndf,
            "n_layers": n_layers,
            "antialias": antialias,
            "norm": norm,
        }
        self.antialias = antialias
        stride = 1 if antialias else 2
        widths = [input_nc, *(ndf * min(2**i, 8) for i in range(n_layers + 1)), 1]
        strides = [stride] * n_layers + [1, 1]
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 4, stride=s, padding=1)
            if i in (0, n_layers + 1)
            else NormedConv2d(a, b, 4, stride=s, padding=1, bias=has_bias(norm))
            for i, (a, b, s) in enumerate(zip(widths, widths[1:], strides, strict=False))
        )
        self.norms = nn.ModuleList(Norm(width, norm, "leaky_relu") for width in widths[2:-1])

    @staticmethod
    def least_size(n_layers: int) -> int:
        """The smallest side in pixels of an image for which there is an output: the last two convolutions each take one
        pixel."""
        return 3 * 2**n_layers

    def forward(self, x: Tensor) -> Tensor:
        """Raw outputs, large for real.

        Args:
            x: (B, input_nc, H, W), values in [-1, 1].

        Returns:
            (B, 1, h, w); 30x30 for a 256x256 image.

        Raises:
            ValueError: ``x`` has another shape.
        """
        channels = self.config["input_nc"]
        if x.dim() != 4 or x.shape[1] != channels:
            raise ValueError(f"x: expected (B, {channels}, H, W), got {tuple(x.shape)}")
        n_layers = self.config["n_layers"]
        x = in_fast_format(x)
        for i, conv in enumerate(self.convs):
            x = conv(x)
            if i == 0:
                x = F.leaky_relu(x, 0.2)
            elif i <= n_layers:
                x = self.norms[i - 1](x)
            if self.antialias and i < n_layers:
                x = blur_down(x)
        return x

    def __prepare_scriptable__(self) -> nn.Module:
        """What ``torch.jit.script`` compiles in the place of this: TorchScript looks a layer up by a constant only."""
        layers: list[nn.Module] = [FastFormat()]
        activated = [nn.LeakyReLU(0.2), *self.norms]
        for i, conv in enumerate(self.convs):
            layers += [conv, *activated[i : i + 1]]
            if self.antialias and i < self.config["n_layers"]:
                layers.append(BlurDown())
        return nn.Sequential(*layers)
