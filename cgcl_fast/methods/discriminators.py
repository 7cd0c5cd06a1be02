"""The discriminators that CUT, EnCo and CycleGAN have in common, by their options."""

from __future__ import annotations

from typing import Any

from cgcl_fast.networks import PatchDiscriminator, PixelDiscriminator


def make_discriminator(config: Any, channels: int, norm: str = "instance") -> PatchDiscriminator | PixelDiscriminator:
    """D for images of ``channels``: a PatchGAN, or with ``net_d`` "pixel" a PixelGAN."""
    if config.net_d == "pixel":
        return PixelDiscriminator(channels, config.ndf, norm)
    return PatchDiscriminator(channels, config.ndf, config.d_layers, config.antialias, norm)


def least_size(config: Any) -> int:
    """The least side in pixels of images in training."""
    return 1 if config.net_d == "pixel" else PatchDiscriminator.least_size(config.d_layers)
