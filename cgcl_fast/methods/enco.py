"""EnCo (Cai et al., "Constraining Multi-scale Pairwise Features between Encoder and Decoder Using Contrastive Learning
for Unpaired Image-to-Image Translation", 2022).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cgcl_fast.methods import common_networks
from cgcl_fast.methods.base import Batch, DataNeeds, Method, OptimizerSpec, Phase, Shared
from cgcl_fast.methods.options import (
    Adversary,
    Beta,
    Channels,
    Count,
    CountOrZero,
    DecayingConfig,
    Depth,
    Halvings,
    InitType,
    Oversample,
    PatchNetwork,
    Positive,
    Rate,
    Share,
    Temperature,
    Weight,
    Within,
)
from cgcl_fast.methods.sizes import check_sides, stack, together
from cgcl_fast.networks import init_weights
from cgcl_fast.nn import GANLoss, Projector
from cgcl_fast.ops import dag_select, gather_patches, patch_nce_layers, sample_patch_ids


@dataclass
class EnCoConfig(DecayingConfig):
    """Options of EnCo; the defaults are the paper's.

    Args:
        input_nc: channels of the images of domain A.
        output_nc: channels of the images of domain B.
        ngf: channels of G after its first convolution.
        ndf: channels of D after its first convolution.
        net_d: "n_layers" (PatchGAN) or "pixel" (PixelGAN, which judges each pixel by itself).
        d_layers: halvings in D, which set the size of the patches it judges: 70x70 pixels for three, 34x34 for two.
        n_blocks: residual blocks of G.
        n_down: halvings in G, 2 as in the paper, or 1 for images of 64x64 pixels.
        antialias: blur pools in G and D instead of strided convolutions.
        antialias_up: blur pools instead of transposed convolutions where G doubles the size; by default as antialias.
        init_type: initialisation of G, D and H: "xavier", "normal", "kaiming" (normal) or "orthogonal".
        init_gain: gain of the initialisation, or the standard deviation of "normal"; "kaiming" does not use it.
        scales: which pairs of layers, given by their reduction of the image's sides: 1, 2 or 4 (Table 3, rows A to C).
        shared_projector: one H for the features of encoder and decoder; else each has its own (Table 3, row E).
        nce_dim: width of the projected features.
        num_patches: K, positions per layer.
        temperature: τ of Eq. 1.
        sampling: positions chosen by the discriminator's attention ("dag", Algorithm 1) or at "random".
        oversample: k, candidates drawn per position kept (Table 4).
        importance: β, the share of positions with the most fake scores (Table 4).
        fresh_random: draw the other (1 - β)K positions at random instead of taking the least fake candidates, as in the
            authors' later code.
        loss: "infonce" (Eq. 1), "decoupled" (without the positive in the denominator, the authors' code) or "cosine"
            (2 - 2cos of query and key, with a predictor and BatchNorm in H, the authors' later code).
        predictor_norm: BatchNorm within the predictor of "cosine", as in the authors' later code.
        gan: adversarial loss, "lsgan", "vanilla" (the same as "nonsaturating"), "hinge" or "wgan".
        lambda_gan: weight of the adversarial loss.
        lambda_nce: λ_NCE of Eq. 5.
        lambda_idt: λ_IDT of Eq. 5.
        idt_share: share of the training, from its start, that has the identity term; half in the paper.
        weights: "paper" (λ_NCE and λ_IDT as given) or "published": as in the authors' code, half of both while there is
            the identity term, that is 1 and 5, and then λ_NCE = 2.
        lr_g: learning rate of G.
        lr_d: learning rate of D.
        lr_h: learning rate of H, and of K if there is one.
        beta1: β₁ of Adam.
        beta2: β₂ of Adam.
        epochs: epochs at the full learning rate.
        decay_epochs: epochs of linear decay to zero that follow.
        full_view_in_decay: in the epochs of decay, resize images without the random crop, as the authors' code does.
    """

    input_nc: Channels = 3
    output_nc: Channels = 3
    ngf: Channels = 64
    ndf: Channels = 64
    net_d: PatchNetwork = "n_layers"
    d_layers: Depth = 3
    n_blocks: Annotated[int, Within(5, 256)] = 9  # two layers are within them
    n_down: Halvings = 2
    antialias: bool = True
    antialias_up: bool | None = None
    init_type: InitType = "xavier"
    init_gain: Positive = 0.02
    scales: tuple[int, ...] = (1, 2, 4)
    shared_projector: bool = True
    nce_dim: Channels = 256
    num_patches: Count = 256
    temperature: Temperature = 0.07
    sampling: Literal["dag", "random"] = "dag"
    oversample: Oversample = 4.0
    importance: Share = 0.5
    fresh_random: bool = False
    loss: Literal["infonce", "decoupled", "cosine"] = "infonce"
    predictor_norm: bool = False
    gan: Adversary = "lsgan"
    lambda_gan: Weight = 1.0
    lambda_nce: Weight = 2.0
    lambda_idt: Weight = 10.0
    idt_share: Share = 0.5
    weights: Literal["paper", "published"] = "paper"
    lr_g: Rate = 5e-5
    lr_d: Rate = 2e-4
    lr_h: Rate = 5e-5
    beta1: Beta = 0.5
    beta2: Beta = 0.999
    epochs: Count = 100
    decay_epochs: CountOrZero = 100
    full_view_in_decay: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sampling == "dag" and self.lambda_gan == 0:
            raise ValueError("sampling: 'dag' needs a discriminator, so lambda_gan must not be 0")
        if self.loss == "cosine" and self.num_patches < 2:
            raise ValueError(f"num_patches: the norms of 'cosine' need at least 2, got {self.num_patches}")
        if self.lambda_idt > 0 and self.input_nc != self.output_nc:
            raise ValueError(
                f"lambda_idt: the identity term needs as many input as output channels, got {self.input_nc} and "
                f"{self.output_nc}"
            )
        known = [2**i for i in range(self.n_down + 1)]
        if not self.scales or list(self.scales) != [scale for scale in known if scale in self.scales]:
            raise ValueError(f"scales: expected some of {', '.join(map(str, known))}, in order, got {self.scales}")

    def least_size(self) -> int:
        return common_networks.least_size(self)


def layer_pairs(
    n_blocks: int, antialias: bool = True, n_down: int = 2, antialias_up: bool | None = None
) -> dict[int, tuple[int, int]]:
    """For each reduction of the sides, the layers of encoder and decoder at that size (Table 5).

    With nine blocks and anti-aliasing these are the paper's pairs (3, 28), (7, 24), (13, 18) at 1, 2 and 4.
    """
    antialias_up = antialias if antialias_up is None else antialias_up
    down, up = (4 if blurred else 3 for blurred in (antialias, antialias_up))  # layers per halving, and per doubling
    blocks = 4 + down * n_down  # the first block's number; norm and activation of the stem end at 3
    pairs = {2**i: (3 + down * i, blocks + n_blocks - 1 + up * (n_down - i)) for i in range(n_down)}
    return {**pairs, 2**n_down: (blocks + 1, blocks + n_blocks - 3)}


class EnCo(Method):
    """G translates, D judges, H projects the features of encoder and decoder into a common space. If H is not shared,
    it projects the decoder's features, and K the encoder's.

    L = λ_GAN · GAN(G(x)) + λ_NCE · NCE(decoder features of G(x), encoder features of x) + λ_IDT · |G(y) - y|₁

    (Eq. 5), the last term only in the first half of the training (``idt_share``). The content constraint compares
    encoder and decoder features of the same forward pass: no translation is encoded again.
    """

    Config = EnCoConfig
    published = {"G": "G", "D": "D", "H": "F"}

    def __init__(self, config: EnCoConfig) -> None:
        super().__init__(config)
        pairs = layer_pairs(config.n_blocks, config.antialias, config.n_down, config.antialias_up)
        self.encoder_layers = tuple(pairs[scale][0] for scale in config.scales)
        self.decoder_layers = tuple(pairs[scale][1] for scale in config.scales)
        self.G = common_networks.make_resnet(config, config.input_nc, config.output_nc)
        self.D = common_networks.make_discriminator(config, config.output_nc)
        cosine = config.loss == "cosine"
        self.H = Projector(
            self.G.layer_channels(self.encoder_layers),
            config.nce_dim,
            batch_norm=cosine,
            predictor=cosine,
            predictor_norm=config.predictor_norm,
        )
        self.projectors = ("H",) if config.shared_projector else ("H", "K")
        if not config.shared_projector:
            self.K = Projector(self.H.channels, config.nce_dim, batch_norm=cosine)
        for name in ("G", "D", *self.projectors):
            init_weights(getattr(self, name), config.init_type, config.init_gain)
        self.gan = GANLoss(config.gan)

    @classmethod
    def needs(cls, config: EnCoConfig) -> DataNeeds:
        return DataNeeds(full_view_in_decay=config.full_view_in_decay)

    def choose(self, progress: float) -> Shared:
        """Whether this step has the identity term: yes in the first half of the training."""
        return {"identity": self.config.lambda_idt > 0 and progress < self.config.idt_share}

    def phases(self) -> list[Phase]:
        config = self.config
        betas = (config.beta1, config.beta2)
        adam = OptimizerSpec(config.lr_g, betas, dict.fromkeys(self.projectors, config.lr_h))
        generator = Phase("generator", ("G", *self.projectors), self.generator_loss, adam, frozen=("D",))
        if config.lambda_gan == 0:
            return [generator]
        return [Phase("discriminator", ("D",), self.discriminator_loss, OptimizerSpec(config.lr_d, betas)), generator]

    def forward_generator(self, batch: Batch, shared: Shared) -> None:
        """Store G(x), the identity term's G(y), and the features of that pass in ``shared``; once per step."""
        if "output" in shared:
            return
        check_sides(batch)
        images, *of_y = stack([batch["A"], batch["B"]]) if shared["identity"] else [batch["A"]]
        layers = (*self.encoder_layers, *reversed(self.decoder_layers))
        shared["output"], features = self.G(images, layers)
        n, pairs = len(batch["A"]), len(self.encoder_layers)
        shared["keys"] = [feature[:n].detach() for feature in features[:pairs]]
        shared["queries"] = features[pairs:][::-1]
        if shared["identity"]:  # G(y) separately if y has another size
            shared["same"] = self.G(*of_y) if of_y else shared["output"][n:]

    def discriminator_loss(self, batch: Batch, shared: Shared) -> dict[str, Tensor]:
        """L_D, with one pass of D for translations and real images if they have the same size."""
        self.forward_generator(batch, shared)
        fake = shared["output"][: len(batch["A"])].detach()
        logits_fake, logits_real = together(self.D, [fake, batch["B"]])
        loss_fake, loss_real = self.gan(logits_fake, False), self.gan(logits_real, True)
        return {"loss": (loss_fake + loss_real) * 0.5, "D_fake": loss_fake.detach(), "D_real": loss_real.detach()}

    def generator_loss(self, batch: Batch, shared: Shared) -> dict[str, Tensor]:
        """Eq. 5."""
        self.forward_generator(batch, shared)
        config = self.config
        n = len(batch["A"])
        losses = {}
        total = shared["output"].new_zeros(())
        if config.lambda_gan > 0:
            logits = self.D(shared["output"][:n])
            shared["score"] = logits.detach()
            losses["G_GAN"] = self.gan.generator(logits)
            total = total + config.lambda_gan * losses["G_GAN"]
        share = 0.5 if config.weights == "published" and shared["identity"] else 1.0
        losses["NCE"] = share * config.lambda_nce * self.contrast(shared)
        total = total + losses["NCE"]
        if shared["identity"]:
            losses["idt"] = share * config.lambda_idt * F.l1_loss(shared["same"], batch["B"])
            total = total + losses["idt"]
        return {"loss": total, **{name: value.detach() for name, value in losses.items()}}

    def contrast(self, shared: Shared) -> Tensor:
        """The constraint between decoder and encoder, mean over positions, layers and images (Eq. 2)."""
        keys, queries = shared.pop("keys"), shared.pop("queries")
        ids = [self.draw(feature, shared) for feature in keys]
        rows = self.H([first_rows(query, at) for query, at in zip(queries, ids, strict=True)], predict=True)
        if self.config.shared_projector:
            with torch.no_grad():  # after the queries: autocast must not cache weights without gradient
                targets = self.H(keys, ids)
        else:  # K only sees keys, and learns from them
            targets = self.K(keys, ids)
        return torch.stack(self.distances(rows, targets)).mean()

    def draw(self, feature: Tensor, shared: Shared) -> Tensor:
        """(B, K) positions of a layer, drawn for each image separately (Algorithm 1)."""
        config = self.config
        batch, _, height, width = feature.shape
        count = min(config.num_patches, height * width)
        if config.sampling == "random":
            return sample_patch_ids(height * width, count, batch=batch, device=feature.device)
        if not config.fresh_random:
            return dag_select(
                shared["score"], (height, width), count, oversample=config.oversample, importance=config.importance
            )
        fakest = round(config.importance * count)
        candidates = sample_patch_ids(
            height * width, int(config.oversample * count), batch=batch, device=feature.device
        )
        chosen = dag_select(shared["score"], (height, width), fakest, importance=1.0, candidates=candidates)
        fresh = sample_patch_ids(height * width, count - fakest, batch=batch, device=feature.device)
        return torch.cat([chosen, fresh], dim=1)

    def distances(self, queries: list[Tensor], keys: list[Tensor]) -> list[Tensor]:
        """The loss per layer of projected queries (B, K, C) against their keys."""
        if self.config.loss == "cosine":
            return [
                (2 - 2 * F.cosine_similarity(query, key, dim=2)).mean()
                for query, key in zip(queries, keys, strict=True)
            ]
        return patch_nce_layers(
            queries, keys, temperature=self.config.temperature, normalize=True, loss=self.config.loss
        )


def first_rows(feature: Tensor, ids: Tensor) -> Tensor:
    """Rows (N, P, C) of the first N images of a map (B, C, H, W) at positions (N, P).

    Of all images at those positions, and then cut: the gradient of a part of a map would be one more map, and in
    PyTorch's own memory format.
    """
    images, n = len(feature), len(ids)
    return gather_patches(feature, ids.repeat(-(-images // n), 1)[:images])[:n]
