"""CycleGAN (Zhu et al., "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks", ICCV 2017):
the baseline that the papers compare with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgcl_fast.methods import common_networks
from cgcl_fast.methods.base import Batch, DataNeeds, Method, OptimizerSpec, Phase, Shared
from cgcl_fast.methods.options import (
    Adversary,
    Beta,
    Blocks,
    Channels,
    Count,
    CountOrZero,
    DecayingConfig,
    Depth,
    Halvings,
    InitType,
    NormName,
    PatchNetwork,
    Positive,
    Rate,
    Weight,
)
from cgcl_fast.methods.sizes import check_sides, together
from cgcl_fast.networks import ResnetGenerator, UnetGenerator, init_weights
from cgcl_fast.nn import GANLoss, ImagePool

UNETS = {"unet_128": 128, "unet_256": 256}
"""For each U-Net, the number that sides of images must be a multiple of."""


@dataclass
class CycleGANConfig(DecayingConfig):
    """Options of CycleGAN; the defaults are the paper's.

    Args:
        input_nc: channels of the images of domain A.
        output_nc: channels of the images of domain B.
        ngf: channels of the generators after their first convolution.
        ndf: channels of the discriminators after their first convolution.
        net_g: generators: "resnet", or the U-Nets of pix2pix, "unet_256" and "unet_128", for images whose sides are
            multiples of 256 or 128; n_blocks, n_down and antialias_up apply to "resnet" only.
        net_d: "n_layers" (PatchGAN) or "pixel" (PixelGAN, which judges each pixel by itself).
        d_layers: halvings in D, which set the size of the patches it judges: 70x70 pixels for three, 34x34 for two.
        n_blocks: residual blocks of the generators.
        n_down: halvings in the generators, 2 as in the paper, or 1 for images of 64x64 pixels.
        antialias: blur pools instead of strided convolutions.
        antialias_up: blur pools instead of transposed convolutions where generators double the size; by default as
            antialias.
        dropout: dropout in the residual blocks, or in the middle of a U-Net.
        norm_g: norm in the generators, "instance", "batch" or "none".
        norm_d: norm in the discriminators.
        init_type: initialisation of all networks: "xavier", "normal", "kaiming" (normal) or "orthogonal".
        init_gain: gain of the initialisation, or the standard deviation of "normal"; "kaiming" does not use it.
        gan: adversarial loss, "lsgan", "vanilla" (the same as "nonsaturating"), "hinge" or "wgan".
        lambda_cycle: λ, weight of the cycle consistency (Eq. 3).
        lambda_idt: weight of the identity term, as a share of λ (Sec. 5.2); 0 leaves it out.
        pool_size: size of the pools of past translations that the discriminators see.
        lr: learning rate of Adam.
        beta1: β₁ of Adam.
        beta2: β₂ of Adam.
        epochs: epochs at the full learning rate.
        decay_epochs: epochs of linear decay to zero that follow.
    """

    input_nc: Channels = 3
    output_nc: Channels = 3
    ngf: Channels = 64
    ndf: Channels = 64
    net_g: Literal["resnet", "unet_128", "unet_256"] = "resnet"
    net_d: PatchNetwork = "n_layers"
    d_layers: Depth = 3
    n_blocks: Blocks = 9
    n_down: Halvings = 2
    antialias: bool = False
    antialias_up: bool | None = None
    dropout: bool = False
    norm_g: NormName = "instance"
    norm_d: NormName = "instance"
    init_type: InitType = "normal"
    init_gain: Positive = 0.02
    gan: Adversary = "lsgan"
    lambda_cycle: Weight = 10.0
    lambda_idt: Weight = 0.5
    pool_size: CountOrZero = 50
    lr: Rate = 2e-4
    beta1: Beta = 0.5
    beta2: Beta = 0.999
    epochs: Count = 100
    decay_epochs: CountOrZero = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lambda_idt > 0 and self.input_nc != self.output_nc:
            raise ValueError(
                f"lambda_idt: the identity term needs as many input as output channels, got {self.input_nc} and "
                f"{self.output_nc}"
            )

    def least_size(self) -> int:
        return max(UNETS.get(self.net_g, 1), common_networks.least_size(self))


def make_generator(config: CycleGANConfig, input_nc: int, output_nc: int) -> ResnetGenerator | UnetGenerator:
    """One of the generators."""
    if config.net_g in UNETS:
        n_down = int(math.log2(UNETS[config.net_g]))
        return UnetGenerator(input_nc, output_nc, config.ngf, n_down, config.norm_g, config.dropout)
    return common_networks.make_resnet(config, input_nc, output_nc, dropout=config.dropout, norm=config.norm_g)


class CycleGAN(Method):
    """G translates X to Y and F translates back; D_Y judges G(x) and D_X judges F(y).

    L = GAN(G, D_Y) + GAN(F, D_X) + λ · (|F(G(x)) - x|₁ + |G(F(y)) - y|₁) + λ · λ_idt · (|G(y) - y|₁ + |F(x) - x|₁)

    (Eq. 3 and Sec. 5.2). The discriminators also see translations of earlier steps, and their loss is halved.
    """

    Config = CycleGANConfig
    backward_name = "F"
    published = {"G": "G_A", "F": "G_B", "D_Y": "D_A", "D_X": "D_B"}

    def __init__(self, config: CycleGANConfig) -> None:
        super().__init__(config)
        self.G = make_generator(config, config.input_nc, config.output_nc)
        self.F = make_generator(config, config.output_nc, config.input_nc)
        self.D_X = common_networks.make_discriminator(config, config.input_nc, config.norm_d)
        self.D_Y = common_networks.make_discriminator(config, config.output_nc, config.norm_d)
        for network in (self.G, self.F, self.D_X, self.D_Y):
            init_weights(network, config.init_type, config.init_gain)
        self.gan = GANLoss(config.gan)
        self.pool_X, self.pool_Y = ImagePool(config.pool_size), ImagePool(config.pool_size)

    @classmethod
    def needs(cls, config: CycleGANConfig) -> DataNeeds:
        return DataNeeds(multiple=UNETS.get(config.net_g, 4))

    def phases(self) -> list[Phase]:
        adam = OptimizerSpec(self.config.lr, (self.config.beta1, self.config.beta2))
        return [
            Phase(
                "generators", ("G", "F"), self.generator_loss, adam, frozen=("D_X", "D_Y"), keeps=("fake_y", "fake_x")
            ),
            Phase("discriminators", ("D_X", "D_Y"), self.discriminator_loss, adam),
        ]

    def generator_loss(self, batch: Batch, shared: Shared) -> dict[str, Tensor]:
        """L. Each generator runs on its source and, for the identity term, on its target: in one pass if both have the
        same size and there is no batch norm that would mix them."""
        x, y = batch["A"], batch["B"]
        check_sides(batch, multiple=self.G.multiple)
        config = self.config
        identity = config.lambda_idt > 0
        fake_y, *same_y = self.run(self.G, [x, y] if identity else [x])
        fake_x, *same_x = self.run(self.F, [y, x] if identity else [y])
        shared["fake_y"], shared["fake_x"] = fake_y.detach(), fake_x.detach()
        losses = {
            "G_GAN": self.gan.generator(self.D_Y(fake_y)),
            "F_GAN": self.gan.generator(self.D_X(fake_x)),
            "cycle_x": config.lambda_cycle * F.l1_loss(self.F(fake_y), x),
            "cycle_y": config.lambda_cycle * F.l1_loss(self.G(fake_x), y),
        }
        if identity:
            weight = config.lambda_cycle * config.lambda_idt
            losses["idt_y"] = weight * F.l1_loss(same_y[0], y)
            losses["idt_x"] = weight * F.l1_loss(same_x[0], x)
        total = torch.stack(list(losses.values())).sum()
        return {"loss": total, **{name: value.detach() for name, value in losses.items()}}

    def run(self, generator: nn.Module, images: list[Tensor]) -> list[Tensor]:
        """The generator's outputs for several batches."""
        if self.config.norm_g == "batch":
            return [generator(image) for image in images]
        return together(generator, images)

    def discriminator_loss(self, batch: Batch, shared: Shared) -> dict[str, Tensor]:
        """Half of the adversarial losses, on translations from the pools."""
        loss_y = self.gan.discriminator(self.D_Y(batch["B"]), self.D_Y(self.pool_Y.query(shared["fake_y"])))
        loss_x = self.gan.discriminator(self.D_X(batch["A"]), self.D_X(self.pool_X.query(shared["fake_x"])))
        return {"loss": loss_x + loss_y, "D_X": loss_x.detach(), "D_Y": loss_y.detach()}
