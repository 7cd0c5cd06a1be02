"""CUT and FastCUT (Park et al., "Contrastive Learning for Unpaired Image-to-Image Translation", ECCV 2020)."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from cgcl_fast.methods import common_networks
from cgcl_fast.methods.base import Batch, DataNeeds, Method, OptimizerSpec, Phase, Shared, widths_of
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
    Layers,
    Oversample,
    PatchNetwork,
    Positive,
    Rate,
    Rows,
    Share,
    Temperature,
    Weight,
)
from cgcl_fast.methods.sizes import check_sides, stack, together
from cgcl_fast.networks import init_weights
from cgcl_fast.nn import GANLoss, KeyQueue, PatchNCE, Projector, momentum_update


@dataclass
class CUTConfig(DecayingConfig):
    """Options of CUT; the defaults are the paper's (Appendix C.1), with the learning rate of the authors' code.

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
        dropout: dropout in the residual blocks of G.
        init_type: initialisation of G, D and H: "xavier", "normal", "kaiming" (normal) or "orthogonal".
        init_gain: gain of the initialisation, or the standard deviation of "normal"; "kaiming" does not use it.
        nce_layers: layers l of G whose features are contrasted (the row "last" of Fig. 4 is 16 alone).
        nce_dim: width of the projected features z_l.
        num_patches: positions S_l drawn in each layer.
        temperature: τ of Eq. 2.
        sampling: draw positions at "random", or by the discriminator's attention ("dag", EnCo's Algorithm 1).
        oversample: k of "dag", candidates drawn per position kept.
        importance: β of "dag", the share of positions with the most fake scores.
        negatives: other positions of the same image ("internal", Eq. 3), of all images of the batch ("batch"), of
            other images by a queue ("external", Eq. 4), or of the image and the queue ("both").
        queue_size: external negatives: number of keys per layer in the queue.
        momentum: momentum of the encoder that computes external negatives.
        gan: adversarial loss, "lsgan", "vanilla" (the same as "nonsaturating"), "hinge" or "wgan".
        lambda_gan: weight of the adversarial loss.
        lambda_x: λ_X, weight of the PatchNCE of x and G(x).
        lambda_y: λ_Y, weight of the PatchNCE of y and G(y), the identity term; 0 leaves it out.
        flip_equivariance: in half of the steps, flip G's input and compare the features flipped back.
        lr: learning rate of Adam.
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
    n_blocks: Blocks = 9
    n_down: Halvings = 2
    antialias: bool = True
    antialias_up: bool | None = None
    dropout: bool = False
    init_type: InitType = "xavier"
    init_gain: Positive = 0.02
    nce_layers: Layers = (0, 4, 8, 12, 16)
    nce_dim: Channels = 256
    num_patches: Count = 256
    temperature: Temperature = 0.07
    sampling: Literal["random", "dag"] = "random"
    oversample: Oversample = 4.0
    importance: Share = 0.5
    negatives: Literal["internal", "external", "both", "batch"] = "internal"
    queue_size: Rows = 16384
    momentum: Share = 0.999
    gan: Adversary = "lsgan"
    lambda_gan: Weight = 1.0
    lambda_x: Weight = 1.0
    lambda_y: Weight = 1.0
    flip_equivariance: bool = False
    lr: Rate = 2e-4
    beta1: Beta = 0.5
    beta2: Beta = 0.999
    epochs: Count = 200
    decay_epochs: CountOrZero = 200
    full_view_in_decay: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sampling == "dag" and self.lambda_gan == 0:
            raise ValueError("sampling: 'dag' needs a discriminator, so lambda_gan must not be 0")
        if not self.nce_layers:
            raise ValueError("nce_layers: expected at least one layer, got none")
        if self.output_nc != self.input_nc:
            raise ValueError(
                f"output_nc: translations are encoded like images, so expected input_nc {self.input_nc}, got "
                f"{self.output_nc}"
            )

    def least_size(self) -> int:
        return common_networks.least_size(self)


@dataclass
class FastCUTConfig(CUTConfig):
    __doc__ = (CUTConfig.__doc__ or "").replace("Options of CUT", "Options of FastCUT")

    lambda_x: Weight = 10.0
    lambda_y: Weight = 0.0
    flip_equivariance: bool = True
    epochs: Count = 150
    decay_epochs: CountOrZero = 50


class CUT(Method):
    """G translates, D judges, H projects the features that PatchNCE compares.

    L_D = (LSGAN on G(x) + LSGAN on y) / 2

    L_G = λ_GAN · GAN(G(x)) + (λ_X · NCE(x, G(x)) + λ_Y · NCE(y, G(y))) / 2

    The factor 1/2 is from the authors' code; Eq. 5 of the paper has none. Without the identity term (λ_Y = 0) the code
    has none either.

    A step runs G once, on x and y together, and the encoder once more, on G(x) and G(y) together (separately if x and y
    differ in size). The keys need no extra pass: they are the features of x and y in G's pass, with the same weights,
    and no gradient flows into keys. This does not hold if G's input was flipped, or with dropout; x and y are then
    encoded separately.
    """

    Config = CUTConfig
    published = {"G": "G", "D": "D", "H": "F"}

    def __init__(self, config: CUTConfig) -> None:
        super().__init__(config)
        self.layers = tuple(config.nce_layers)
        self.identity = config.lambda_y > 0
        self.G = common_networks.make_resnet(config, config.input_nc, config.output_nc, dropout=config.dropout)
        self.D = common_networks.make_discriminator(config, config.output_nc)
        self.H = Projector(widths_of(self.G, nce_layers=self.layers), config.nce_dim)
        for network in (self.G, self.D, self.H):
            init_weights(network, config.init_type, config.init_gain)
        self.gan = GANLoss(config.gan)
        self.nce = PatchNCE(
            config.num_patches, config.temperature, config.negatives, config.oversample, config.importance
        )
        self.external = config.negatives in ("external", "both")
        if self.external:
            self.momentum_G = copy.deepcopy(self.G).requires_grad_(False)
            self.momentum_H = copy.deepcopy(self.H).requires_grad_(False)
            self.queues = nn.ModuleDict(
                {
                    domain: nn.ModuleList(KeyQueue(config.queue_size, config.nce_dim) for _ in self.layers)
                    for domain in (("A", "B") if self.identity else ("A",))
                }
            )

    @classmethod
    def needs(cls, config: CUTConfig) -> DataNeeds:
        return DataNeeds(full_view_in_decay=config.full_view_in_decay)

    def weights_taken(self) -> None:
        if self.external:
            self.momentum_G.load_state_dict(self.G.state_dict())
            self.momentum_H.load_state_dict(self.H.state_dict())

    def phases(self) -> list[Phase]:
        adam = OptimizerSpec(self.config.lr, (self.config.beta1, self.config.beta2))
        generator = Phase(
            "generator",
            ("G", "H"),
            self.generator_loss,
            adam,
            frozen=("D",),
            after=self.update_queues if self.external else None,
        )
        if self.config.lambda_gan == 0:
            return [generator]
        return [Phase("discriminator", ("D",), self.discriminator_loss, adam), generator]

    def choose(self, progress: float) -> Shared:
        """Whether this step flips G's input."""
        return {"flipped": self.config.flip_equivariance and bool(torch.rand((), device="cpu") < 0.5)}

    def forward_generator(self, batch: Batch, shared: Shared) -> None:
        """Store G(x), the identity term's G(y), and the features of G's input in ``shared``; once per step. The
        features of a y of another size are in ``shared["of_y"]``."""
        if "output" in shared:
            return
        check_sides(batch)
        if not self.identity:
            self.run_generator(batch["A"], shared)
            return
        images, *of_y = stack([batch["A"], batch["B"]])
        self.run_generator(images, shared)
        for y in of_y:
            shared["of_y"] = {"flipped": shared["flipped"]}
            self.run_generator(y, shared["of_y"])

    def run_generator(self, images: Tensor, shared: Shared) -> None:
        """Store G's translations of images of one size, and its features of them, without biases, in ``shared``."""
        flipped = shared["flipped"]
        if flipped or self.config.dropout:
            shared["output"] = self.G(images.flip(3) if flipped else images)
            with torch.no_grad():
                features = self.G.encode(images, self.layers, add_biases=False)
        else:
            shared["output"], features = self.G(images, self.layers, add_biases=False)
        shared["source_features"] = [feature.detach() for feature in features]

    def discriminator_loss(self, batch: Batch, shared: Shared) -> dict[str, Tensor]:
        """L_D, with one pass of D for translations and real images if they have the same size."""
        self.forward_generator(batch, shared)
        fake = shared["output"][: len(batch["A"])].detach()
        logits_fake, logits_real = together(self.D, [fake, batch["B"]])
        loss_fake, loss_real = self.gan(logits_fake, False), self.gan(logits_real, True)
        return {"loss": (loss_fake + loss_real) * 0.5, "D_fake": loss_fake.detach(), "D_real": loss_real.detach()}

    def generator_loss(self, batch: Batch, shared: Shared) -> dict[str, Tensor]:
        """L_G."""
        self.forward_generator(batch, shared)
        config = self.config
        n = len(batch["A"])
        losses = {}
        total = shared["output"].new_zeros(())
        if config.lambda_gan > 0:
            logits = self.D(shared["output"][:n])
            shared["score"] = logits.detach()
            gan = self.gan.generator(logits)
            losses["G_GAN"] = gan
            total = total + config.lambda_gan * gan
        nce = self.contrast(shared, n)
        if "of_y" in shared:
            nce = torch.cat([nce, self.contrast(shared["of_y"], n, ("B",))])
        nce_x = config.lambda_x * nce[:n].mean()
        losses["NCE"] = nce_x
        if self.identity:
            nce_y = config.lambda_y * nce[n:].mean()
            losses["NCE_Y"] = nce_y
            total = total + (nce_x + nce_y) * 0.5
        else:
            total = total + nce_x
        return {"loss": total, **{name: value.detach() for name, value in losses.items()}}

    def contrast(self, shared: Shared, n: int, domains: Sequence[str] = ("A", "B")) -> Tensor:
        """PatchNCE of each of G's outputs against its input: (B,), or (2B,) with G(y) second. ``domains`` are those of
        its inputs, in order."""
        sources = shared.pop("source_features")  # so that the backward pass does not hold it
        ids = self.draw(sources, shared, n)
        where = (
            [flip(at, source.shape[3]) for at, source in zip(ids, sources, strict=True)] if shared["flipped"] else ids
        )
        rows = self.H(self.G.encode(shared["output"], self.layers, where))
        with torch.no_grad():  # after the queries: autocast must not cache weights without gradient
            keys = self.H(self.G.rows(sources, self.layers, ids))
        if self.config.negatives == "internal":
            return self.nce(rows, keys)
        parts = []  # x and y have separate negatives
        for i, domain in enumerate(domains[: len(rows[0]) // n]):
            part = slice(i * n, (i + 1) * n)
            external = [queue.rows for queue in self.queues[domain]] if self.external else None  # type: ignore[attr-defined]
            parts.append(self.nce([q[part] for q in rows], [k[part] for k in keys], external))
        return torch.cat(parts)

    def draw(self, features: Sequence[Tensor], shared: Shared, n: int) -> list[Tensor]:
        """Positions for each layer, (B, P) or (2B, P): a random draw for the images of x and another for those of y, or
        for each image the positions that D's attention picks."""
        if self.config.sampling == "random":
            draws = [self.nce.sample(features) for _ in range(len(features[0]) // n)]
            return [torch.cat([ids.expand(n, -1) for ids in layer]) for layer in zip(*draws, strict=True)]
        scores = [shared["score"]] if "score" in shared else []
        others = shared["output"][n * len(scores) :]
        if len(others):
            with torch.no_grad():
                scores.append(self.D(others))
        score = torch.cat(scores)
        return self.nce.sample(features, score.flip(3) if shared["flipped"] else score)

    def update_queues(self, batches: Sequence[Batch], kept: Sequence[Shared]) -> None:
        """Update the averaged encoder and enqueue ``num_patches`` of its keys for each image (Eq. 4)."""
        momentum_update(self.momentum_G, self.G, self.config.momentum)
        momentum_update(self.momentum_H, self.H, self.config.momentum)
        for batch, (domain, queues) in itertools.product(batches, self.queues.items()):
            features = self.momentum_G.encode(batch[domain], self.layers, add_biases=False)
            keys = self.momentum_H(self.momentum_G.rows(features, self.layers, self.nce.sample(features)))
            for queue, key in zip(queues, keys, strict=True):  # type: ignore[call-overload]
                queue.enqueue(key.flatten(0, 1))


def flip(ids: Tensor, width: int) -> Tensor:
    """Where the positions of a flattened map of this width lie after ``map.flip(3)``."""
    column = ids % width
    return ids - column + (width - 1 - column)


class FastCUT(CUT):
    """CUT without the identity term, λ_X = 10, and with flip equivariance: faster, lighter, half the epochs."""

    Config = FastCUTConfig
