"""The U-Net generator of pix2pix, also an option of CycleGAN (``netG unet_256``)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgcl_fast.networks.halvings import check_halvings
from cgcl_fast.networks.memory_format import in_fast_format
from cgcl_fast.networks.norms import Norm, NormedConv2d, NormedConvTranspose2d, has_bias


class UnetGenerator(nn.Module):
    """4x4 convolutions that halve the size ``n_down`` times, then transposed convolutions that double it as often. Each
    of the latter, except the innermost, also gets the output of the convolution at its size.

    A doubling applies ReLU before its convolution. Its concatenated inputs can be activated separately, so each norm is
    one operation together with the activation that follows.

    Args:
        input_nc: channels of the input image.
        output_nc: channels of the output image.
        ngf: channels after the first convolution; doubled by each further one, up to 8 ngf.
        n_down: halvings: 8 is the published unet_256, 7 unet_128.
        norm: "instance", "batch" or "none".
        dropout: dropout after the doublings in the middle, between those of 8 ngf channels.
    """

    entry_points = ("forward",)

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
        for name, value in (("input_nc", input_nc), ("output_nc", output_nc), ("ngf", ngf)):
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        check_halvings("n_down", n_down)
        if n_down < 5:
            raise ValueError(f"n_down: expected at least 5, got {n_down}")
        self.config: dict[str, Any] = {
            "input_nc": input_nc,
            "output_nc": output_nc,
            "ngf": ngf,
            "n_down": n_down,
            "norm": norm,
            "dropout": dropout,
        }
        self.multiple = 2**n_down
        """Sides of images must be multiples of this."""
        bias = has_bias(norm)
        widths = [ngf * min(2**i, 8) for i in range(n_down)]
        self.down = nn.ModuleList(
            (nn.Conv2d if i in (0, n_down - 1) else NormedConv2d)(a, b, 4, 2, 1, bias=bias)
            for i, (a, b) in enumerate(zip([input_nc, *widths], widths, strict=False))
        )
        self.down_norms = nn.ModuleList(Norm(width, norm, "leaky_relu") for width in widths[1:-1])
        self.up = nn.ModuleList(  # from the outermost, like the others
            (nn.ConvTranspose2d if i == 0 else NormedConvTranspose2d)(
                b * (1 if i == n_down - 1 else 2), a, 4, 2, 1, bias=bias or i == 0
            )
            for i, (a, b) in enumerate(zip([output_nc, *widths], widths, strict=False))
        )
        self.up_norms = nn.ModuleList(Norm(width, norm, "relu") for width in widths[:-1])
        self.dropout = nn.Dropout(0.5) if dropout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Translate images.

        Args:
            x: (B, input_nc, H, W), values in [-1, 1], H and W multiples of ``multiple``.

        Returns:
            (B, output_nc, H, W) in [-1, 1].

        Raises:
            ValueError: ``x`` has another shape.
        """
        channels = self.config["input_nc"]
        if x.dim() != 4 or x.shape[1] != channels or any(side % self.multiple or not side for side in x.shape[2:]):
            raise ValueError(
                f"x: expected (B, {channels}, H, W) with H and W multiples of {self.multiple}, got {tuple(x.shape)}"
            )
        # An exporter compares the strides of channels_last maps; its program would refuse an innermost map one pixel
        # wide or high.
        x = x.contiguous() if torch.compiler.is_exporting() else in_fast_format(x)
        x = F.leaky_relu(self.down[0](x), 0.2)
        joined = [x]
        for conv, norm in zip(self.down[1:-1], self.down_norms, strict=True):
            x = norm(conv(x))
            joined.append(x)
        x = F.relu(self.down[-1](x))
        for i in reversed(range(1, len(self.up))):
            x = self.up_norms[i - 1](self.up[i](x))
            if 4 <= i < len(self.up) - 1:
                x = self.dropout(x)
            x = torch.cat([F.relu(joined[i - 1]), x], dim=1)
        return self.up[0](x).tanh()

    def __prepare_scriptable__(self) -> nn.Module:
        """What ``torch.jit.script`` compiles in the place of this."""
        return _ScriptableUnet(self)


class _ScriptableUnet(nn.Module):
    """The layers of a :class:`UnetGenerator` in the order in which they run: TorchScript goes through a list of modules
    from its beginning to its end only."""

    def __init__(self, generator: UnetGenerator) -> None:
        super().__init__()
        self.first, self.down, self.innermost = generator.down[0], generator.down[1:-1], generator.down[-1]
        self.last, self.up = generator.up[0], generator.up[:0:-1]
        self.down_norms, self.up_norms = generator.down_norms, generator.up_norms[::-1]
        self.dropout = generator.dropout

    def forward(self, x: Tensor) -> Tensor:
        """(B, input_nc, H, W) to (B, output_nc, H, W) in [-1, 1]."""
        x = F.leaky_relu(self.first(in_fast_format(x)), 0.2)
        joined = [x]
        for conv, norm in zip(self.down, self.down_norms):  # noqa: B905  TorchScript knows no strict
            x = norm(conv(x))
            joined.append(x)
        x = F.relu(self.innermost(x))
        depth = len(joined)
        for i, (conv, norm) in enumerate(zip(self.up, self.up_norms)):  # noqa: B905
            x = norm(conv(x))
            if 0 < i <= depth - 4:
                x = self.dropout(x)
            x = torch.cat([F.relu(joined[depth - 1 - i]), x], dim=1)
        return self.last(x).tanh()
