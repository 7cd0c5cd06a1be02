"""The networks shared by CUT, EnCo and CycleGAN, built from their options."""

from __future__ import annotations

from typing import Any

from cgcl_fast.networks import PatchDiscriminator, PixelDiscriminator, ResnetGenerator


def make_resnet(
    config: Any, input_nc: int, output_nc: int, *, dropout: bool = False, norm: str = "instance"
) -> ResnetGenerator:
    """G, or the generator of the other direction, from ``input_nc`` to ``output_nc`` channels."""
    return ResnetGenerator(
        input_nc,
        output_nc,
        config.ngf,
        config.n_blocks,
        config.antialias,
        dropout,
        config.antialias_up,
        config.n_down,
        norm,
    )


def make_discriminator(config: Any, channels: int, norm: str = "instance") -> PatchDiscriminator | PixelDiscriminator:
    """D for images of ``channels``: a PatchGAN, or a PixelGAN if ``net_d`` is "pixel"."""
    if config.net_d == "pixel":
        return PixelDiscriminator(channels, config.ndf, norm)
    return PatchDiscriminator(channels, config.ndf, config.d_layers, config.antialias, norm)


def least_size(config: Any) -> int:
    """The smallest side in pixels of training images that G and D accept."""
    of_d = 1 if config.net_d == "pixel" else PatchDiscriminator.least_size(config.d_layers)
    return max(ResnetGenerator.least_size(config.n_down), of_d)
