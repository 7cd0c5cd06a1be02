"""SinCUT: CUT on one image of each domain (Park et al., "Contrastive Learning for Unpaired Image-to-Image
Translation", ECCV 2020, Sec. 4.3 and Appendix B).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cgcl_fast._renamed import takes_old_names
from cgcl_fast.methods.base import Batch, Crops, DataNeeds, Method, OptimizerSpec, Phase, Shared, widths_of
from cgcl_fast.methods.options import (
    Adversary,
    Beta,
    Blocks,
    Channels,
    Count,
    CountOrZero,
    DecayingConfig,
    InitType,
    Layers,
    Positive,
    Rate,
    Side,
    Temperature,
    Weight,
    Within,
)
from cgcl_fast.networks import StyleGAN2Discriminator, StyleGAN2Generator, init_weights
from cgcl_fast.nn import GANLoss, PatchNCE, Projector


@takes_old_names
@dataclass
class SinCUTConfig(DecayingConfig):
    """Options of SinCUT; the defaults are the paper's and, where it leaves something open, the authors' code's.

    Args:
        input_nc: channels of the images.
        ngf: an eighth of G's channels at full size.
        ndf: a quarter of D's channels at full size.
        n_blocks: residual blocks of G, the first half of them in the encoder.
        networks: "paper", or "published" as in the authors' code, which its weights need: D has at most 384 channels
            instead of 512, and a leaky ReLU follows G's last convolution.
        minibatch_stddev: StyleGAN2's channel in D that shows it how much the images of a minibatch differ; not in the
            authors' code.
        crops: "paper" (one zoom for width and height, 128x128 crops anywhere, split into tiles for D) or "published"
            (as in the authors' code: independent zooms of width and height, 64x64 crops from a grid with a random
            offset, which D sees whole).
        zoom: a new zoom for each "minibatch" or each "crop"; by default "minibatch" with the "paper" crops, "crop" with
            the "published" ones (the authors' code draws a zoom for 16 crops at a time, but then shuffles all crops).
        num_crops: crops of each image a step.
        crop_size: side of a crop; by default 128 ("paper") or 64 ("published").
        tile_size: side of the tiles that D sees, which bounds its receptive field; by default half of a crop ("paper")
            or all of it ("published"). A power of two.
        min_width: smallest width to which the image is scaled; by default 3/8 ("paper") or 1/3 ("published") of the
            largest.
        max_width: largest width; by default 1024 ("paper") or the image's own ("published").
        nce_layers: layers l of G whose features are contrasted.
        nce_dim: width of the projected features z_l.
        num_patches: positions S_l drawn in each layer of each crop.
        temperature: τ of Eq. 2.
        init_type: initialisation of H: "xavier", "normal", "kaiming" (normal) or "orthogonal".
        init_gain: gain of the initialisation, or the standard deviation of "normal"; "kaiming" does not use it.
        gan: adversarial loss, "lsgan", "vanilla" (the same as "nonsaturating"), "hinge" or "wgan".
        lambda_nce: λ_X and λ_Y, weight of the PatchNCE of x and G(x) and of that of y and G(y).
        lambda_idt: weight of |G(y) - y|₁.
        lambda_r1: weight of the gradient penalty R1 on real tiles.
        lr: learning rate of Adam.
        beta1: β₁ of Adam.
        beta2: β₂ of Adam.
        epochs: epochs, of 100,000 crops each, at the full learning rate.
        decay_epochs: epochs of linear decay to zero that follow.
    """

    input_nc: Channels = 3
    ngf: Channels = 10
    ndf: Channels = 8
    n_blocks: Blocks = 6
    networks: Literal["paper", "published"] = "paper"
    minibatch_stddev: bool = True
    crops: Literal["paper", "published"] = "paper"
    zoom: Literal["minibatch", "crop"] | None = None
    num_crops: Annotated[int, Within(1, 4096)] = 16
    crop_size: Annotated[int, Within(8, 4096)] | None = None
    tile_size: Annotated[int, Within(8, 4096)] | None = None
    min_width: Side | None = None
    max_width: Side | None = None
    nce_layers: Layers = (0, 2, 4)
    nce_dim: Channels = 256
    num_patches: Count = 1
    temperature: Temperature = 0.07
    init_type: InitType = "xavier"
    init_gain: Positive = 0.02
    gan: Adversary = "nonsaturating"
    lambda_nce: Weight = 4.0
    lambda_idt: Weight = 1.0
    lambda_r1: Weight = 1.0
    lr: Rate = 2e-3
    beta1: Beta = 0.0
    beta2: Beta = 0.99
    epochs: Count = 8
    decay_epochs: CountOrZero = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.nce_layers:
            raise ValueError("nce_layers: expected at least one layer, got none")
        crop, tile = sizes(self)
        if crop % tile:
            raise ValueError(f"tile_size: expected a divisor of crop_size {crop}, got {tile}")
        if tile < 8 or tile & (tile - 1):
            raise ValueError(f"tile_size: expected a power of two and at least 8, got {tile}")


def sizes(config: SinCUTConfig) -> tuple[int, int]:
    """Sides of a crop and of a tile."""
    paper = config.crops == "paper"
    crop = config.crop_size or (128 if paper else 64)
    return crop, config.tile_size or (crop // 2 if paper else crop)


def split_into_tiles(images: Tensor, size: int) -> Tensor:
    """(B, C, H, W) to (B · H/size · W/size, C, size, size): the tiles image by image, row by row."""
    tiles = images.unfold(2, size, size).unfold(3, size, size)  # (B, C, rows, columns, size, size)
    return tiles.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)


class SinCUT(Method):
    """G translates, D judges tiles, H projects the features that PatchNCE compares.

    L_D = (softplus(D(G(x))) + softplus(-D(y))) / 2 + λ_R1 / 2 · |∇_y D(y)|²

    L_G = softplus(-D(G(x))) + λ_NCE · (NCE(x, G(x)) + NCE(y, G(y))) / 2 + λ_idt · |G(y) - y|₁

    x and y are crops of one image each. The penalty is applied in every step. The factors 1/2, and λ_NCE for each term,
    are from the authors' code. A patch's negatives are the patches of all crops of its image: with a single image there
    are no external ones.

    A step runs G once, on x and y together, and the encoder once more, on G(x) and G(y) together: the keys are the
    features of G's own pass; the noise in G's decoder does not reach them.
    """

    Config = SinCUTConfig
    published = {"G": "G", "D": "D", "H": "F"}

    def __init__(self, config: SinCUTConfig) -> None:
        super().__init__(config)
        self.crop_size, self.tile_size = sizes(config)
        self.layers = tuple(config.nce_layers)
        published = config.networks == "published"
        self.G = StyleGAN2Generator(config.input_nc, config.input_nc, config.ngf, config.n_blocks, published)
        self.D = StyleGAN2Discriminator(
            config.input_nc, config.ndf, self.tile_size, config.minibatch_stddev, 384 if published else 512
        )
        self.H = Projector(widths_of(self.G, nce_layers=self.layers), config.nce_dim)
        init_weights(self.H, config.init_type, config.init_gain)
        self.gan = GANLoss(config.gan)
        self.nce = PatchNCE(config.num_patches, config.temperature, "batch")

    @classmethod
    def needs(cls, config: SinCUTConfig) -> DataNeeds:
        published = config.crops == "published"
        least, most = config.min_width, config.max_width
        if not published:
            most = most or 1024
            least = least or round(most * 3 / 8)
        per_crop = published if config.zoom is None else config.zoom == "crop"
        size, _ = sizes(config)
        return DataNeeds(
            crops=Crops(config.num_crops, size, least, most, per_crop=per_crop, independent=published, grid=published)
        )

    def phases(self) -> list[Phase]:
        adam = OptimizerSpec(self.config.lr, (self.config.beta1, self.config.beta2))
        return [
            Phase("discriminator", ("D",), self.discriminator_loss, adam),
            Phase("generator", ("G", "H"), self.generator_loss, adam, frozen=("D",)),
        ]

    def forward_generator(self, batch: Batch, shared: Shared) -> None:
        """Store G(x), G(y) and the features of x and y in ``shared``; once per step."""
        if "output" in shared:
            return
        shared["output"], features = self.G(torch.cat([batch["A"], batch["B"]]), self.layers)
        shared["source_features"] = [feature.detach() for feature in features]

    def discriminator_loss(self, batch: Batch, shared: Shared) -> dict[str, Tensor]:
        """L_D. D sees translations and real tiles in separate passes, because its output depends on the whole
        minibatch."""
        self.forward_generator(batch, shared)
        fake = shared["output"][: len(batch["A"])].detach()
        loss_fake = self.gan(self.D(split_into_tiles(fake, self.tile_size)), False)
        logits, penalty = self.gradient_penalty(split_into_tiles(batch["B"], self.tile_size))
        loss_real = self.gan(logits, True)
        losses = {"D_fake": loss_fake, "D_real": loss_real, "R1": self.config.lambda_r1 * 0.5 * penalty}
        total = (loss_fake + loss_real) * 0.5 + losses["R1"]
        return {"loss": total, **{name: value.detach() for name, value in losses.items()}}

    def gradient_penalty(self, real: Tensor) -> tuple[Tensor, Tensor]:
        """D(y), and |∇_y D(y)|², mean over the tiles (Mescheder et al. 2018, Eq. 9).

        In float32, because squares of gradients are small; and with D's plain forward, because a module compiled by
        ``torch.compile`` cannot be differentiated twice.
        """
        with torch.autocast(real.device.type, enabled=False):
            real = real.detach().requires_grad_()
            logits = self.D.forward(real)
            (gradient,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
        return logits, gradient.square().sum((1, 2, 3)).mean()

    def generator_loss(self, batch: Batch, shared: Shared) -> dict[str, Tensor]:
        """L_G."""
        self.forward_generator(batch, shared)
        config = self.config
        fake, same = shared["output"].chunk(2)
        losses = {"G_GAN": self.gan.generator(self.D(split_into_tiles(fake, self.tile_size)))}
        losses["NCE"], losses["NCE_Y"] = (config.lambda_nce * nce for nce in self.contrast(shared))
        losses["idt"] = config.lambda_idt * F.l1_loss(same, batch["B"])
        total = losses["G_GAN"] + (losses["NCE"] + losses["NCE_Y"]) * 0.5 + losses["idt"]
        return {"loss": total, **{name: value.detach() for name, value in losses.items()}}

    def contrast(self, shared: Shared) -> tuple[Tensor, Tensor]:
        """PatchNCE of G(x) against x and of G(y) against y; positions are drawn once for x and once for y."""
        sources = shared.pop("source_features")  # so that the backward pass does not hold it
        n = len(sources[0]) // 2
        draws = zip(self.nce.sample(sources), self.nce.sample(sources), strict=True)
        ids = [torch.cat([x.expand(n, -1), y.expand(n, -1)]) for x, y in draws]
        rows = self.H(self.G.encode(shared["output"], self.layers, ids))
        with torch.no_grad():  # after the queries: autocast must not cache weights without gradient
            keys = self.H(sources, ids)
        nce_x = self.nce([row[:n] for row in rows], [key[:n] for key in keys]).mean()
        nce_y = self.nce([row[n:] for row in rows], [key[n:] for key in keys]).mean()
        return nce_x, nce_y
