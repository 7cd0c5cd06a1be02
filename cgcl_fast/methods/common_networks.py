"""The networks that CUT, EnCo and CycleGAN have in common, by their options."""

from __future__ import annotations

from typing import Any

from cgcl_fast.networks import PatchDiscriminator, PixelDiscriminator, ResnetGenerator


def make_resnet(
    config: Any, input_nc: int, output_nc: int, *, dropout: bool = False, norm: str = "instance"
) -> ResnetGenerator:
    """G, or the one of the way back, from images of ``input_nc`` channels to those of ``output_nc``."""
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
    """D for images of ``channels``: a PatchGAN, or with ``net_d`` "pixel" a PixelGAN."""
    if config.net_d == "pixel":
        return PixelDiscriminator(channels, config.ndf, norm)
    return PatchDiscriminator(channels, config.ndf, config.d_layers, config.antialias, norm)


def least_size(config: Any) -> int:
    """The least side in pixels of images in training, for G and D."""
    of_d = 1 if config.net_d == "pixel" else PatchDiscriminator.least_size(config.d_layers)
    return max(ResnetGenerator.least_size(config.n_down), of_d)
