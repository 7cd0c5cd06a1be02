"""MGUIT (Jeong et al., "Memory-guided Unsupervised Image-to-image Translation", CVPR 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgcl_fast.methods.base import Batch, DataNeeds, Method, OptimizerSpec, Phase, Shared, translate_any_size
from cgcl_fast.methods.options import (
    Adversary,
    Beta,
    Blocks,
    Channels,
    ClassNames,
    Count,
    CountOrZero,
    DecayingConfig,
    Depth,
    Positive,
    Rate,
    Rows,
    Scale,
    Temperature,
    Weight,
    Within,
)
from cgcl_fast.methods.sizes import check_sides, split_rows, stack, together
from cgcl_fast.networks import (
    ContentDiscriminator,
    MGUITGenerator,
    MultiScaleDiscriminator,
    StyleMapEncoder,
    init_weights,
)
from cgcl_fast.nn import GANLoss, class_map
from cgcl_fast.nn.map_mean import map_mean


@dataclass
class MGUITConfig(DecayingConfig):
    """Options of MGUIT; the defaults are the paper's (Sec. 4.1, with DRIT's weights), for images scaled to a
    short side of 360 pixels and cut to 360x360 (preprocess scale_shortside_and_crop, size 360), and batch size 1.

    Args:
        input_nc: channels of the images.
        ngf: channels of encoders and generators after their first convolution; the keys have C = 4 ngf.
        ndf: channels of the domain discriminators after their first convolution.
        n_blocks: residual blocks of each domain's content encoder, and of its generator.
        style_nc: channels of the style s and the values v (the authors' code: 128).
        d_layers: halvings in a scale of the domain discriminators.
        n_scales: scales of the domain discriminators.
        content_layers: halvings in the content discriminator.
        noise: standard deviation of the noise added to the content c in training (the authors' code: 0.1).
        noise_in: whether the noise is in the "content" for all its uses, or only in the input of the "decoder" (the
            authors' code).
        init_gain: standard deviation of the Gaussian initialisation (the authors' code: 0.02, which suits few steps and
            narrow networks better).
        classes: classes of the boxes, names or numbers as in the labels; pixels outside all of them are background. The
            defaults are INIT's numbers.
        items: N_k, memory items per class. The defaults are the authors' for INIT's classes 1, 2 and 3, and the paper's
            for car, sign and person.
        background_items: memory items of the background.
        memory: "class": pixels use the items of their class (Table 4, "cm"); "single": one memory for all, without
            boxes ("sm").
        memory_loss: "contrastive" (Eq. 8; Table 4, "cl"), "triplet" ("tl"), or "published", from the authors' code: 0.1
            exp(-mean of a softmax over the pixels), for the keys once by class and once with all items.
        update: the memory's update rule: "paper" (Eq. 5-6), with which the items of a class become alike, or
            "published", from the authors' code, which keeps them apart.
        memory_temperature: τ of the softmax over cosines in reading (Eq. 2) and updating (Eq. 5). With 1, as in the
            paper, a pixel reads nearly all items equally: effectively 19.2 of 20 even if its content is one of 20
            orthonormal keys; 6.5 at τ = 0.3, 2.0 at 0.2, 1.01 at 0.1.
        temperature: τ of Eq. 8; the paper prints none.
        margin: margin of the triplet loss.
        gan: domain adversarial loss, "nonsaturating" (the same as "vanilla"), "lsgan", "hinge" or "wgan".
        lambda_self: λ^self, weight of the self reconstruction (Eq. 7).
        lambda_cycle: λ^cyc, weight of the cycle reconstruction (Eq. 7; the authors' code: 50).
        lambda_content: λ_c^adv, weight of the content adversarial loss.
        lambda_gan: λ_d^adv, weight of the domain adversarial loss.
        lambda_kl: λ^KL, weight of the distance of the style from a standard Gaussian.
        lambda_latent: λ^latent, weight of the latent regression (the authors' code has none).
        lambda_content_l1: weight of the L1 distance between the contents of a translation and of its source, both of
            unit length; not in the paper (the authors' code: 1).
        lambda_content_kl: weight of the mean of c²; not in the paper (the authors' code: 0.01, on contents of unit
            length, whose mean square never changes; here before they are normalised).
        lambda_key: λ_k^con, weight of the feature contrastive loss of the keys.
        lambda_value: λ_v^con, weight of the feature contrastive loss of the values.
        lr: learning rate of Adam.
        lr_content: learning rate of the content discriminator; DRIT's, which keeps it from winning.
        clip_content: maximum gradient norm of the content discriminator; 0: none (the authors' code: 5).
        weight_decay: weight decay of Adam, for all networks (the authors' code: 0.0001).
        beta1: β₁ of Adam.
        beta2: β₂ of Adam.
        epochs: epochs at the full learning rate.
        decay_epochs: epochs of linear decay to zero that follow.
    """

    input_nc: Channels = 3
    ngf: Channels = 64
    ndf: Channels = 64
    n_blocks: Blocks = 3
    style_nc: Channels = 256
    d_layers: Depth = 4
    n_scales: Depth = 3
    content_layers: Depth = 3
    noise: Scale = 1.0
    noise_in: Literal["content", "decoder"] = "content"
    init_gain: Positive = 0.001
    classes: ClassNames = ("1", "2", "3")
    items: tuple[Rows, ...] = (5, 2, 3)
    background_items: Rows = 10
    memory: Literal["class", "single"] = "class"
    memory_loss: Literal["contrastive", "triplet", "published"] = "contrastive"
    update: Literal["paper", "published"] = "paper"
    memory_temperature: Annotated[float, Within(0.02, 1e6)] = 1.0
    temperature: Temperature = 0.07
    margin: Scale = 1.0
    gan: Adversary = "nonsaturating"
    lambda_self: Weight = 10.0
    lambda_cycle: Weight = 10.0
    lambda_content: Weight = 1.0
    lambda_gan: Weight = 1.0
    lambda_kl: Weight = 0.01
    lambda_latent: Weight = 10.0
    lambda_content_l1: Weight = 0.0
    lambda_content_kl: Weight = 0.0
    lambda_key: Weight = 1.0
    lambda_value: Weight = 0.5
    lr: Rate = 1e-4
    lr_content: Rate = 4e-5
    clip_content: Scale = 0.0
    weight_decay: Scale = 0.0
    beta1: Beta = 0.9
    beta2: Beta = 0.999
    epochs: Count = 30
    decay_epochs: CountOrZero = 30

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.items) != len(self.classes):
            raise ValueError(
                f"items: expected a number for each of the {len(self.classes)} classes, got {len(self.items)}"
            )

    def least_size(self) -> int:
        return max(8, MultiScaleDiscriminator.least_size(self.d_layers, self.n_scales))


class MGUIT(Method):
    """An image's content c addresses a memory, from whose values for the other domain it reads its translation's style.

    With I^x and I^y of the domains A and B, ŝ read from the memory (Eq. 2-4), I the image and Î its translation:

    ==========  ====================================================================================================
    self        \\|G^x(c^x, ŝ^x) - I^x\\|₁, with ŝ^x the values of x read by c^x itself
    cycle       \\|G^x(ĉ^y, ŝ^x) - I^x\\|₁, with ĉ^y the content of Î^y = G^y(c^x, ŝ^y), which also reads ŝ^x
    content     D_c must not know whose content it sees: its target is ½ for both
    domain      D^y must take Î^y for real, and G^y(c^x, r), whose style is read from random values
    KL          mean of s²: the distance of N(s, 1) from N(0, 1), apart from a factor
    latent      \\|E_s^y(G^y(c^x, r)) - r\\|₁, with r the random style
    keys        Eq. 8 for the contents, at unit length, and the keys
    values      Eq. 8 for the styles and the values of their domain
    ==========  ====================================================================================================

    each for both domains, and summed (Eq. 9). Options add two terms of the authors' code: \\|ĉ^y - c^x\\|₁ at unit
    length, whose target c^x takes no gradient, and the mean of c². Eq. 8 is a mean over the pixels here; the paper
    prints a sum. Keys and values take no gradient: after the step they are updated with its contents (at unit length)
    and styles. Styles are used as they are, since Eq. 8 bounds them; contents have no such bound.

    In training each pixel uses the items of its class, given by the boxes; a translation has the classes of its source.

    A step runs each content encoder on its image and on the translation into its domain, each generator on what its
    domain needs (self, translation and random style together, then the cycle), and the style encoder on image and
    random translation together; networks shared by the domains run on both at once. If the images of the two domains
    differ in size, each of these joint passes is split by size.
    """

    Config = MGUITConfig
    named_domains = True

    def __init__(self, config: MGUITConfig) -> None:
        super().__init__(config)
        self.class_aware = config.memory == "class"
        self.G = MGUITGenerator(
            config.input_nc,
            config.ngf,
            config.n_blocks,
            config.style_nc,
            (*config.items, config.background_items),
            self.class_aware,
            config.update,
            config.noise,
            self.domains,
            config.memory_temperature,
            config.noise_in,
        )
        self.E_s = nn.ModuleList(StyleMapEncoder(config.input_nc, config.ngf, config.style_nc) for _ in self.domains)
        self.D = nn.ModuleList(
            MultiScaleDiscriminator(config.input_nc, config.ndf, config.d_layers, config.n_scales) for _ in self.domains
        )
        self.D_c = ContentDiscriminator(4 * config.ngf, config.content_layers)
        for network in (self.G, self.E_s, self.D, self.D_c):
            init_weights(network, "normal", config.init_gain)
        self.gan = GANLoss(config.gan)

    @classmethod
    def needs(cls, config: MGUITConfig) -> DataNeeds:
        return DataNeeds(classes=tuple(map(str, config.classes))) if config.memory == "class" else DataNeeds()

    def phases(self) -> list[Phase]:
        config = self.config
        adam = OptimizerSpec(config.lr, (config.beta1, config.beta2), weight_decay=config.weight_decay)
        clip = {"D_c": config.clip_content} if config.clip_content else {}
        judges = replace(adam, lrs={"D_c": config.lr_content}, clip=clip)
        return [
            Phase("discriminator", ("D", "D_c"), self.discriminator_loss, judges),
            Phase(
                "generator",
                ("G", "E_s"),
                self.generator_loss,
                adam,
                frozen=("D", "D_c"),
                keeps=("contents", "styles", "classes"),
                after=self.update_memory,
            ),
        ]

    def prepare(self, batch: Batch) -> Batch:
        """Replace boxes by the class of each pixel of the contents: "A_class_map" and "B_class_map", (B, h, w) int64. A
        single memory needs none.

        Raises:
            ValueError: the batch has no boxes.
        """
        if not self.class_aware:
            return batch
        maps = {}
        for name in self.domains:
            if f"{name}_boxes" not in batch:
                raise ValueError(f"{name}_boxes: the class-aware memory needs boxes; memory 'single' does without")
            size = batch[name].shape[2:]
            classes = class_map(batch[f"{name}_boxes"], batch[f"{name}_classes"], size, len(self.config.classes))
            maps[f"{name}_class_map"] = classes.to(batch[name].device)
        return {**batch, **maps}

    # ------------------------------------------------------------------------------------------------------- the losses

    def forward_generator(self, batch: Batch, shared: Shared) -> None:
        """Store in ``shared`` what both phases need; once per step.

        "classes": for each domain (B, h, w), or None. "content": [(2B, C, h, w)], c^x before c^y, or [c^x, c^y] if they
        differ in size. For each domain: in "self" its image reconstructed, in "fake" the other's image translated into
        it, in "random" the same in the random style, and in "random_style" that style, (B, V, h, w).
        """
        if "content" in shared:
            return
        check_sides(batch)
        G, n = self.G, len(batch["A"])
        images = [batch[name] for name in self.domains]
        shared["content"] = contents = self.encode(images)
        shared["classes"] = [batch[f"{name}_class_map"] if self.class_aware else None for name in self.domains]
        classes = stack(shared["classes"]) if self.class_aware else [None] * len(contents)
        # A single read gives the style of x, that of y and the random one for every content.
        values = torch.cat([*G.memory.values, G.memory.random_values(1)[0]], dim=1)
        read = [G.memory.read(c, values, k).chunk(3, dim=1) for c, k in zip(contents, classes, strict=True)]
        styles = list(zip(*read, strict=True))
        prepared = by_domain([G.prepare(content) for content in contents], n)
        shared["self"], shared["fake"], shared["random"], shared["random_style"] = [], [], [], []
        for d, other in ((0, 1), (1, 0)):
            own_style, cross_style = (by_domain(styles[d], n)[i] for i in (d, other))
            random_style = by_domain(styles[2], n)[other]
            jobs = [(prepared[d], own_style), (prepared[other], cross_style), (prepared[other], random_style)]
            for name, image in zip(("self", "fake", "random"), together(G.decoders[d], jobs), strict=True):
                shared[name].append(image)
            shared["random_style"].append(random_style.detach())

    def encode(self, images: list[Tensor]) -> list[Tensor]:
        """Contents of the images of A and of B: (2B, C, h, w) in one pass, or separately if they differ in size."""
        if images[0].shape[2:] == images[1].shape[2:]:
            return [self.G.encode(images)]
        return [self.G.encode([image], [d]) for d, image in enumerate(images)]

    def discriminator_loss(self, batch: Batch, shared: Shared) -> dict[str, Tensor]:
        """Adversarial losses of D^x, D^y and D_c, each in one pass per size."""
        self.forward_generator(batch, shared)
        n, losses = len(batch["A"]), {}
        for d, name in enumerate(self.domains):
            fakes = torch.cat([shared["fake"][d], shared["random"][d]]).detach()
            scales = zip(*together(self.D[d], [batch[name], fakes]), strict=True)
            terms = [self.gan(of_real, True) + self.gan(of_fakes, False) for of_real, of_fakes in scales]
            losses[f"D_{name}"] = torch.stack(terms).sum()
        logits_x, logits_y = by_domain([self.D_c(content.detach()) for content in shared["content"]], n)
        losses["D_content"] = F.softplus(-logits_x).mean() + F.softplus(logits_y).mean()
        return _with_total(losses, dict.fromkeys(losses, 1.0))

    def generator_loss(self, batch: Batch, shared: Shared) -> dict[str, Tensor]:
        """Eq. 9 for encoders and generators."""
        self.forward_generator(batch, shared)
        config, memory = self.config, self.G.memory
        images = [batch[name] for name in self.domains]
        n, pixel_classes, contents = len(images[0]), shared["classes"], shared["content"]
        cycles, of_fakes = self.cycle(shared["fake"], pixel_classes)
        styles, regressed = self.styles(images, shared["random"])
        unit = [F.normalize(content, dim=1) for content in contents]
        shared["contents"] = by_domain([c.detach() for c in unit], n)
        shared["styles"] = [style.detach() for style in styles]

        def contrast(features: Tensor, items: Tensor, pixel_class: Tensor | None) -> Tensor:
            return memory.loss(
                features,
                items,
                pixel_class,
                kind=config.memory_loss,
                temperature=config.temperature,
                margin=config.margin,
            )

        logits_c = by_domain([self.D_c(content) for content in contents], n)
        losses: dict[str, list[Tensor]] = {
            "self": [F.l1_loss(rebuilt, image) for rebuilt, image in zip(shared["self"], images, strict=True)],
            "cycle": [F.l1_loss(rebuilt, image) for rebuilt, image in zip(cycles, images, strict=True)],
            # Cross-entropy with target ½.
            "content": [(F.softplus(part) - 0.5 * part).mean() for part in logits_c],
            "domain": [
                self.gan.generator(logits)
                for d in (0, 1)
                for logits in self.D[d](torch.cat([shared["fake"][d], shared["random"][d]]))
            ],
            "KL": [map_mean(style.square()) for style in styles],
            "latent": [map_mean((z - r).abs()) for z, r in zip(regressed, shared["random_style"], strict=True)],
            "keys": [contrast(c, memory.keys, k) for c, k in zip(by_domain(unit, n), pixel_classes, strict=True)],
            "values": [contrast(styles[d], memory.values[d], pixel_classes[d]) for d in (0, 1)],
        }
        weights = {
            "self": config.lambda_self,
            "cycle": config.lambda_cycle,
            "content": config.lambda_content,
            "domain": config.lambda_gan,
            "KL": config.lambda_kl,
            "latent": config.lambda_latent,
            "keys": config.lambda_key,
            "values": config.lambda_value,
        }
        if config.memory_loss == "published":
            losses["keys"] += [contrast(c, memory.keys, None) for c in by_domain(unit, n)]
        if config.lambda_content_l1:
            # First comes the content of the translation into A, which shows the scene of B.
            of_fakes = by_domain([F.normalize(content, dim=1) for content in of_fakes], n)
            kept = zip(of_fakes, reversed(shared["contents"]), strict=True)
            losses["content_l1"] = [map_mean((rebuilt - c).abs()) for rebuilt, c in kept]
        if config.lambda_content_kl:
            losses["content_kl"] = [map_mean(c.square()) for c in by_domain(contents, n)]
        weights |= {"content_l1": config.lambda_content_l1, "content_kl": config.lambda_content_kl}
        return _with_total({name: torch.stack(terms).sum() for name, terms in losses.items()}, weights)

    def cycle(self, fakes: list[Tensor], pixel_classes: Any) -> tuple[list[Tensor], list[Tensor]]:
        """Translate the translations back: images of A and of B (Eq. 7). Also returns the contents of the translations,
        that of the translation into A first, in the form of ``encode``."""
        G, n = self.G, len(fakes[0])
        contents = self.encode(fakes)  # the translation into A shows the scene of B
        prepared = by_domain([G.prepare(content) for content in contents], n)
        back = []
        for d, other in ((0, 1), (1, 0)):
            style = G.memory.read(by_domain(contents, n)[other], G.memory.values[d], pixel_classes[d])
            back.append(G.decoders[d](prepared[other], style))
        return back, contents

    def styles(self, images: list[Tensor], randoms: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """For each domain, the styles of its images, and of the translations into it in random styles."""
        pairs = [together(E_s, pair) for E_s, *pair in zip(self.E_s, images, randoms, strict=True)]
        return [own for own, _ in pairs], [regressed for _, regressed in pairs]

    def update_memory(self, batches: Sequence[Batch], kept: Sequence[Shared]) -> None:
        """Update by Eq. 5-6, or by the rule of the authors' code, with this step's features: one softmax over the
        pixels of all its images."""

        def of_domains(name: str) -> list[Tensor]:
            return [_joined(maps) for maps in zip(*(part[name] for part in kept), strict=True)]

        classes = of_domains("classes") if self.class_aware else None
        self.G.memory.update(of_domains("contents"), of_domains("styles"), classes)

    # -------------------------------------------------------------------------------------------------------- pictures

    @torch.no_grad()
    def samples(self, batch: Batch) -> dict[str, Tensor]:
        """Besides source, translation and truth: the translation in one fixed random style."""
        pictures = super().samples(batch)
        style = self.G.random_style(1, torch.Generator().manual_seed(0))
        pictures["random style"] = translate_any_size(lambda image: self.G(image, 1, style), batch["A"])
        return pictures


def by_domain(stacked: Sequence[Tensor], n: int) -> list[Tensor]:
    """The n rows of each domain, from the output of :func:`stack`."""
    return [rows for each in stacked for rows in split_rows(each, [n] * (len(each) // n))]


def _joined(maps: Sequence[Tensor]) -> Tensor:
    """The pixels of maps (B, C, h, w), or of class maps (B, h, w), whose sizes may differ, as one map of one image."""
    if len(maps) == 1:
        return maps[0]
    if maps[0].dim() == 3:
        return torch.cat([classes.flatten() for classes in maps])[None, None]
    return torch.cat([image for features in maps for image in features.flatten(2)], dim=1)[None, :, None]


def _with_total(losses: dict[str, Tensor], weights: dict[str, float]) -> dict[str, Tensor]:
    """Each loss times its weight, detached, and their sum as "loss"."""
    weighted = {name: weights[name] * value for name, value in losses.items()}
    total = torch.stack(list(weighted.values())).sum()
    return {"loss": total, **{name: value.detach() for name, value in weighted.items()}}
