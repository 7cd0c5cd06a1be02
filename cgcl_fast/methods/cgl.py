"""CGL (Fu et al., "Cross-Granularity Learning for Multi-Domain Image-to-Image Translation", ACM MM 2020)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, distributed

from cgcl_fast._renamed import takes_old_names
from cgcl_fast.methods.base import Batch, DataNeeds, Method, OptimizerSpec, Phase, Shared, translate_any_size
from cgcl_fast.methods.options import (
    Beta,
    Channels,
    ClassNames,
    Config,
    Count,
    CountOrZero,
    Depth,
    Halvings,
    Names,
    Positive,
    Rate,
    Scale,
    Share,
    Side,
    Weight,
    Within,
)
from cgcl_fast.methods.sizes import check_sides, split_rows, stack, together
from cgcl_fast.networks import DisentangledGenerator, DomainDiscriminator, init_weights
from cgcl_fast.nn import GradientPenalty
from cgcl_fast.nn.map_mean import map_mean

DOMAINS = ("sunny", "night", "cloudy", "rainy")
"""The domains of INIT and BDD100K in the papers."""

GRANULARITIES = ("g", "o")


@takes_old_names
@dataclass
class CGLConfig(Config):
    """Options of CGL; the defaults are the paper's.

    Args:
        domains: names of the domains N_i; by default those of the data.
        object_size: side in pixels of the instance crops o.
        min_object: boxes with a side of fewer pixels are not used as instances.
        classes: annotated classes whose instances are translated; by default all.
        ngf: channels of the encoders' first convolution and of the decoders' last one.
        n_down: number of times E^c halves the size, 1 or 2; G doubles it as often.
        n_blocks: residual blocks of the content encoders E^c and of the decoders G.
        style_dim: length of the style codes s.
        mlp_dim: width of the perceptron M between style and AdaIN.
        ndf: channels of the discriminators D after their first convolution; each further one doubles them.
        d_layers: convolutions of stride 2 in D; sides of images must be at least 2 to the power of this.
        init_type: initialisation of encoders and decoders, "kaiming" (normal) or "kaiming_uniform".
        init_gain: standard deviation of the Gaussian initialisation of D.
        cgc_generator: which generator makes the instance in the global style, the "global" one (as CGL writes) or the
            "object" one (as CGCL writes).
        lambda_gan: α, weight of the adversarial loss.
        lambda_cls: β, weight of the domain classification.
        lambda_rec: λ_rec, weight of the reconstruction of images and instances and of the cross-cycle consistency.
        lambda_code: weight of the reconstruction of content and style codes.
        lambda_cgc: weight of the cross-granularity consistency, λ_rec in the paper; 0 leaves it out.
        frozen_reading: E^s reads translations in the style of an image with weights that take no gradient: it learns
            only from the images and the random styles. false: from all terms, which the equations can also mean; E^s
            then collapses to one code for all images.
        cross_from: fraction of the training after which the terms start for which E^s reads the style of a translation
            in the style of an image (L_cc, L_cgc and the reconstruction of that style); 0 in the paper. A short
            training needs a delay: while E^s cannot read styles yet, these terms teach G to ignore them.
        lambda_gp: λ_gp, weight of the gradient penalty at the beginning (Eq. 9).
        gp_every: number of steps between adaptations of λ_gp to the mean gradient norm; 0: λ_gp stays constant.
        gp_upper: λ_gp is doubled if the mean gradient norm is above this.
        gp_lower: λ_gp is halved if the mean gradient norm is below this.
        gp_min: lower bound of λ_gp; the papers give no bounds.
        gp_max: upper bound of λ_gp.
        lr: learning rate of Adam.
        beta1: β₁ of Adam.
        beta2: β₂ of Adam.
        halve_every: the learning rates are halved each time after this many steps.
        epochs: epochs of the training; the papers do not say how many.
    """

    domains: Names = ()
    object_size: Side = 128
    min_object: Side = 16
    classes: ClassNames = ()
    ngf: Channels = 64
    n_down: Halvings = 2
    n_blocks: Annotated[int, Within(1, 256)] = 4
    style_dim: Channels = 8
    mlp_dim: Channels = 256
    ndf: Channels = 64
    d_layers: Depth = 6
    init_type: Literal["kaiming", "kaiming_uniform"] = "kaiming"
    init_gain: Positive = 0.02
    cgc_generator: Literal["object", "global"] = "global"
    lambda_gan: Weight = 1.0
    lambda_cls: Weight = 1.0
    lambda_rec: Weight = 10.0
    lambda_code: Weight = 1.0
    lambda_cgc: Weight = 10.0
    frozen_reading: bool = True
    cross_from: Share = 0.0
    lambda_gp: Weight = 10.0
    gp_every: CountOrZero = 50
    gp_upper: Scale = 1.05
    gp_lower: Scale = 1.001
    gp_min: Positive = 0.1
    gp_max: Positive = 1000.0
    lr: Rate = 1e-4
    beta1: Beta = 0.5
    beta2: Beta = 0.999
    halve_every: Count = 100_000
    epochs: Count = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.domains) == 1:
            raise ValueError(f"domains: expected two or more different names, got {self.domains[0]}")
        if self.object_size < self.least_size() or self.object_size % 4:
            raise ValueError(
                f"object_size: expected a multiple of 4, at least {self.least_size()} for {self.d_layers} d_layers, "
                f"got {self.object_size}"
            )
        if self.gp_lower > self.gp_upper:
            raise ValueError(f"gp_lower: expected at most gp_upper {self.gp_upper}, got {self.gp_lower}")
        if self.gp_min > self.gp_max:
            raise ValueError(f"gp_min: expected at most gp_max {self.gp_max}, got {self.gp_min}")

    def least_size(self) -> int:
        return max(16, DomainDiscriminator.least_size(self.d_layers))


@dataclass(frozen=True)
class Counted:
    """Which images count in a mean.

    Attributes:
        rows: 1 for images that count and 0 for others, (B,).
        number: how many count, over all parts of the step and all processes, divided by the number of parts and
            processes. So the mean over parts and processes is the mean over all images that count.
    """

    rows: Tensor
    number: Tensor


@dataclass
class Granularity:
    """What a step computes for the global images, or for the instances. Rows: the n of domain i, then the n of domain
    j.

    Codes are one tensor of 2n rows. Images and maps are a list: of one such tensor or, if the images of the two domains
    differ in size, of two tensors with n rows each.

    Attributes:
        real: x or o, [(2n, 3, H, W)].
        label, target: z, one-hot, of the image's own domain and of the pair's other domain, (2n, number of domains).
        present, paired: the images that exist, and those whose counterpart exists, too.
        features: for each of ``real`` the outputs of the residual blocks of E^c.
        content, style: c, the last of ``features``, and s.
        drawn: s ~ N(0, I).
        rebuilt: G(c, s, z).
        swapped: u (or v): the content of ``real`` in the style and domain of its counterpart.
        random: the content of ``real`` in the style ``drawn`` and the same domain.
        swapped_features, swapped_content: ``features`` and ``content`` of ``swapped``.
        swapped_style, random_style: style codes of the translations.
        cycled: the contents of ``swapped`` with the styles swapped back.
    """

    real: list[Tensor]
    label: Tensor
    target: Tensor
    present: Counted
    paired: Counted
    features: list[list[Tensor]] = field(default_factory=list)
    style: Tensor = field(init=False)
    drawn: Tensor = field(init=False)
    rebuilt: list[Tensor] = field(init=False)
    swapped: list[Tensor] = field(init=False)
    random: list[Tensor] = field(init=False)
    swapped_features: list[list[Tensor]] = field(default_factory=list)
    swapped_style: Tensor = field(init=False)
    random_style: Tensor = field(init=False)
    cycled: list[Tensor] = field(init=False)

    @property
    def n(self) -> int:
        return len(self.label) // 2

    @property
    def content(self) -> list[Tensor]:
        return [features[-1] for features in self.features]

    @property
    def swapped_content(self) -> list[Tensor]:
        return [features[-1] for features in self.swapped_features]

    def rows(self, codes: Tensor) -> tuple[Tensor, ...]:
        """(2n, ...) split like the rows of ``real``."""
        return codes.split([len(images) for images in self.real])

    @property
    def counted_fakes(self) -> Counted:
        """Which images of ``swapped`` and ``random`` count."""
        return Counted(torch.cat([self.paired.rows, self.present.rows]), self.paired.number + self.present.number)


@dataclass
class Crossed:
    """What a step computes for n pairs of an image x^(k) and an instance o^(l): the cross-granularity consistency.

    Attributes:
        style, label: of the image, s_g and z^(k).
        content, instance_style, instance_label, instance: of the instance, c_o, s_o, z^(l) and o^(l).
        present: the pairs that have an instance.
        image: ô, the instance in the style and domain of the image.
        image_content, image_style: c and s of ô from the encoders of instances (Eq. 4).
        x_back: G_g(c_g, s(ô), z^(k)).
        o_back: G_o(c(ô), s_o, z^(l)).
    """

    style: Tensor
    label: Tensor
    content: Tensor
    instance_style: Tensor
    instance_label: Tensor
    instance: Tensor
    present: Counted
    image: Tensor = field(init=False)
    image_content: Tensor = field(init=False)
    image_style: Tensor = field(init=False)
    x_back: Tensor = field(init=False)
    o_back: Tensor = field(init=False)


def swap(x: Tensor) -> Tensor:
    """Exchange the rows of domains i and j."""
    return x.roll(len(x) // 2, 0)


def mean_of(values: Tensor, counted: Counted) -> Tensor:
    """Mean of (B, ...) over the images that count; zero if there are none."""
    return (map_mean(values, first=1) * counted.rows).sum() / counted.number.clamp(min=1e-6)


def means(stacked: Sequence[Tensor]) -> Tensor:
    """The mean of each image in several (b, ...) tensors, as one (B, 1)."""
    return torch.cat([map_mean(values, first=1) for values in stacked])[:, None]


def distances(outputs: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """The mean distance of each image in several (b, ...) tensors from its target, as one (B, 1)."""
    return means([(x - y).abs() for x, y in zip(outputs, wanted, strict=True)])


class CGL(Method):
    """G_g translates images and G_o instances, each with a content encoder E^c, a style encoder E^s and a decoder. D_g
    and D_o discriminate real from generated, and classify domains. One model serves all domains.

    L_D = α · (D(fake) - D(real) + λ_gp · (‖∇D(x̂)‖₂ - 1)²) + β · CE(D_cls(real), z)

    L_G = -α · D(fake) + β · CE(D_cls(fake), z) + λ_rec · (|G(c, s, z) - x|₁ + L_cc) + |ĉ - c|₁ + |ŝ - s|₁
    + λ_cgc · L_cgc

    (Eq. 2-9), each summed over images and instances. |·|₁ is the mean over all values, as everywhere in published code,
    and D of an image is the mean of its map. L_cc, the cross-cycle consistency, is a sum over the two domains (Eq. 6).
    Fakes are translations in the style of the counterpart and in a random style, both in the domain of the counterpart.
    The gradient penalty uses one of the two for each image, and the gradient of the sum of D's map, after StarGAN: with
    the mean, the larger the map, the more the critic would outweigh the reconstruction.

    Each network runs twice in a step: once on everything known at its beginning, once on everything that the first pass
    made. E^s runs once more, with weights that take no gradient, on the translations in the style of an image. The
    discriminators see the translations of the first pass. An image without an instance contributes to the global part
    only; its place in the batch of instances stays, with weight zero. If the two images differ in size, networks that
    run on both run once per size, and the gradient penalty uses fakes of the real image's own content.

    Three things keep E^s from collapsing to one code for all images, which would satisfy most terms: the targets of
    code reconstructions take no gradient; nor do the weights of E^s where it reads the style of an image from a
    translation (``frozen_reading``); and in a short training these terms start later (``cross_from``).
    """

    Config = CGLConfig
    generator_name = "G_g"
    named_domains = True

    def __init__(self, config: CGLConfig) -> None:
        super().__init__(config)
        self.domains = tuple(config.domains) or DOMAINS
        shape = {name: getattr(config, name) for name in ("ngf", "n_down", "n_blocks", "style_dim", "mlp_dim")}
        discriminator = {"ndf": config.ndf, "n_layers": config.d_layers}
        n = len(self.domains)
        self.G_g = DisentangledGenerator(self.domains, **shape)
        self.G_o = DisentangledGenerator(self.domains, **shape)
        self.D_g = DomainDiscriminator(n, **discriminator)
        self.D_o = DomainDiscriminator(n, **discriminator, map_size=min(4, config.object_size >> config.d_layers))
        for generator in (self.G_g, self.G_o):
            init_weights(generator, config.init_type)
        for critic in (self.D_g, self.D_o):
            init_weights(critic, "normal", config.init_gain)
        bounds = (config.gp_upper, config.gp_lower, config.gp_min, config.gp_max)
        self.penalty_g, self.penalty_o = (GradientPenalty(config.lambda_gp, config.gp_every, *bounds) for _ in range(2))

    @classmethod
    def needs(cls, config: CGLConfig) -> DataNeeds:
        return DataNeeds(
            random_pairs=True,
            classes=tuple(map(str, config.classes)) or None,
            object_size=config.object_size,
            min_object=config.min_object,
        )

    def schedule(self, steps: int) -> Callable[[int], float]:
        """Halves the learning rates every ``halve_every`` steps."""
        return lambda step: 0.5 ** (step // self.config.halve_every)

    def choose(self, progress: float) -> Shared:
        """Whether the terms of translations in the style of an image count in this step."""
        return {"crossing": progress >= self.config.cross_from}

    def phases(self) -> list[Phase]:
        config = self.config
        adam = OptimizerSpec(config.lr, (config.beta1, config.beta2))
        critics = ("D_g", "D_o")
        return [
            Phase(
                "discriminator",
                critics,
                self.discriminator_loss,
                adam,
                keeps=("norms_g", "norms_o"),
                after=self.adapt_penalties,
            ),
            Phase("generator", self.generators(), self.generator_loss, adam, frozen=critics),
        ]

    def generators(self) -> tuple[str, ...]:
        """The networks that the generator phase trains."""
        return "G_g", "G_o"

    def begin(self, batches: Sequence[Batch], shared: Sequence[Shared]) -> None:
        """Draw which instances are crossed with the images, and count the instances of the step.

        Stores in ``shared``: "same", (n,), whether the instance o^(l) is from the image's own domain; and "instances":
        which of the 2n instances exist, which of them have a counterpart, and which of the n crossed ones exist.
        """
        counts = []
        for batch, part in zip(batches, shared, strict=True):
            there = torch.cat([batch["A_has_object"], batch["B_has_object"]]).to(batch["A"].dtype)
            own, other = there.chunk(2)
            part["same"] = torch.rand(len(own), device=own.device) < 1 / len(self.domains)
            part["instances"] = there, there * swap(there), torch.where(part["same"], own, other)
            counts.append(torch.stack([rows.sum() for rows in part["instances"]]))
        numbers, sharing = torch.stack(counts).sum(0), len(batches)
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(numbers)
            sharing *= distributed.get_world_size()
        for part in shared:
            each = zip(part["instances"], numbers / sharing, strict=True)
            part["instances"] = [Counted(rows, number) for rows, number in each]

    # ------------------------------------------------------------------------------------------------- the two passes

    def first_pass(self, batch: Batch, shared: Shared) -> None:
        """Encode images and instances and decode every translation possible so far; once per step."""
        if "g" in shared:
            return
        labels = torch.cat([batch["A_domain"], batch["B_domain"]])
        real = {"g": stack([batch["A"], batch["B"]]), "o": stack([batch["A_object"], batch["B_object"]])}
        check_sides(batch, least=16)
        domains = torch.arange(len(self.domains), device=labels.device)
        label = (labels[:, None] == domains).to(batch["A"].dtype)  # F.one_hot would read the values on the host
        if "instances" not in shared:
            self.begin([batch], [shared])
        everywhere = torch.ones_like(label[:, 0])
        every = Counted(everywhere, everywhere.sum())
        counted = {"g": (every, every), "o": shared["instances"][:2]}
        for name in GRANULARITIES:
            part = shared[name] = Granularity(real[name], label, swap(label), *counted[name])
            generator = self.generator_of(name)
            part.features = [generator.content(images) for images in part.real]
            part.style = styles_of(generator, part, part.real, label)
            part.drawn = torch.randn_like(part.style)
            codes = [(part.style, label), (swap(part.style), part.target), (part.drawn, part.target)]
            jobs = [list(zip(part.content, part.rows(style), part.rows(z), strict=True)) for style, z in codes]
            crosses = name == "o" and self.config.lambda_cgc > 0 and shared.get("crossing", True)
            crossed = self.cross(shared) if crosses else None
            if crossed is not None and self.config.cgc_generator == "object":
                jobs.append([(crossed.content, crossed.style, crossed.label)])
            part.rebuilt, part.swapped, part.random, *more = decode(generator, jobs)
            if crossed is not None:
                with_global_style = (crossed.content, crossed.style, crossed.label)
                crossed.image = more[0][0] if more else self.G_g.decoder(*with_global_style)

    def cross(self, shared: Shared) -> Crossed:
        """Images x^(k) of domain i, and instances o^(l) of j or i, so that k and l are each drawn from all domains (Eq.
        7)."""
        g, o, same = shared["g"], shared["o"], shared["same"]

        def instance(values: Tensor) -> Tensor:
            own, other = values.split(o.n)
            return torch.where(same.view(-1, *[1] * (values.dim() - 1)), own, other)

        crossed = shared["crossed"] = Crossed(
            g.style[: o.n],
            g.label[: o.n],
            instance(o.content[0]),
            instance(o.style),
            instance(o.label),
            instance(o.real[0]),
            shared["instances"][2],
        )
        return crossed

    def second_pass(self, shared: Shared) -> None:
        """Encode the translations and decode them back."""
        g, o, crossed = shared["g"], shared["o"], shared.get("crossed")
        encode_translations(self.G_g, g)
        encode_translations(self.G_o, o, crossed)
        if not shared.get("crossing", True):
            return
        frozen = self.config.frozen_reading
        read_styles(self.G_g, g, frozen)
        read_styles(self.G_o, o, frozen, crossed)
        images, instances = (
            [list(zip(x.swapped_content, x.rows(swap(x.swapped_style)), x.rows(x.label), strict=True))] for x in (g, o)
        )
        if crossed is not None:
            of_first, *_ = split_rows(g.content[0], [g.n] * (len(g.content[0]) // g.n))
            images.append([(of_first, crossed.image_style, crossed.label)])
            instances.append([(crossed.image_content, crossed.instance_style, crossed.instance_label)])
        g.cycled, *g_back = decode(self.G_g, images)
        o.cycled, *o_back = decode(self.G_o, instances)
        if crossed is not None:
            crossed.x_back, crossed.o_back = g_back[0][0], o_back[0][0]

    def generator_of(self, granularity: str) -> DisentangledGenerator:
        return self.G_g if granularity == "g" else self.G_o

    # ------------------------------------------------------------------------------------------------------- the losses

    def discriminator_loss(self, batch: Batch, shared: Shared) -> dict[str, Tensor]:
        """L_D of images and instances: one pass of each D per size, and one for the penalty."""
        self.first_pass(batch, shared)
        config = self.config
        losses: dict[str, Tensor] = {}
        for name in GRANULARITIES:
            part: Granularity = shared[name]
            critic, penalty = (self.D_g, self.penalty_g) if name == "g" else (self.D_o, self.penalty_o)
            swapped, random = ([x.detach() for x in fakes] for fakes in (part.swapped, part.random))
            judged = together(critic, [*part.real, *swapped, *random])
            src, cls = zip(*judged, strict=True)
            real = len(part.real)
            losses[f"adv_{name}"] = config.lambda_gan * (
                mean_of(means(src[real:]), part.counted_fakes) - mean_of(means(src[:real]), part.present)
            )
            entropy = F.cross_entropy(torch.cat(cls[:real]), part.label, reduction="none")
            losses[f"cls_{name}"] = config.lambda_cls * mean_of(entropy[:, None], part.present)
            # For each real image one of the two fakes in its domain; if sizes differ, a fake of its own content.
            chosen = part.rows(torch.rand_like(part.paired.rows) < 0.5)
            fakes = [
                torch.where(of[:, None, None, None], a, b) for of, a, b in zip(chosen, swapped, random, strict=True)
            ]
            fakes = [swap(*fakes)] if real == 1 else fakes
            pairs = zip(part.real, fakes, strict=True)
            norms = torch.cat([penalty.gradient_norms(critic.realness, x, fake) for x, fake in pairs])
            deviation = mean_of((norms - 1).square()[:, None], part.paired)
            losses[f"gp_{name}"] = config.lambda_gan * penalty.weight * deviation
            shared[f"norms_{name}"] = norms.detach(), part.paired.rows
        total = torch.stack(list(losses.values())).sum()
        weights = {"lambda_gp_g": self.penalty_g.weight.clone(), "lambda_gp_o": self.penalty_o.weight.clone()}
        return {"loss": total, **{name: value.detach() for name, value in losses.items()}, **weights}

    def adapt_penalties(self, batches: Sequence[Batch], kept: Sequence[Shared]) -> None:
        """Every ``gp_every`` steps, adapt λ_gp to D's gradient norms since the last time."""
        for name, penalty in (("norms_g", self.penalty_g), ("norms_o", self.penalty_o)):
            norms, counted = zip(*(part[name] for part in kept), strict=True)
            penalty.update(torch.cat(norms), torch.cat(counted))

    def generator_loss(self, batch: Batch, shared: Shared) -> dict[str, Tensor]:
        """L_G."""
        self.first_pass(batch, shared)
        self.second_pass(shared)
        losses = self.generator_losses(shared)
        total = torch.stack(list(losses.values())).sum()
        return {"loss": total, **{name: value.detach() for name, value in losses.items()}}

    def generator_losses(self, shared: Shared) -> dict[str, Tensor]:
        """The terms of L_G, weighted."""
        config = self.config
        losses: dict[str, Tensor] = {}
        for name in GRANULARITIES:
            part: Granularity = shared[name]
            judged = together(self.D_g if name == "g" else self.D_o, [*part.swapped, *part.random])
            src, cls = zip(*judged, strict=True)
            entropy = F.cross_entropy(torch.cat(cls), torch.cat([part.target, part.target]), reduction="none")
            # Targets take no gradient: they would come closer by collapsing to one code.
            content = distances(part.swapped_content, [content.detach() for content in part.content])
            style = mean_of((part.random_style - part.drawn).abs(), part.present)
            crossing = shared.get("crossing", True)
            if crossing:
                style = style + mean_of((part.swapped_style - swap(part.style).detach()).abs(), part.paired)
            losses |= {
                f"adv_{name}": -config.lambda_gan * mean_of(means(src), part.counted_fakes),
                f"cls_{name}": config.lambda_cls * mean_of(entropy[:, None], part.counted_fakes),
                f"rec_{name}": config.lambda_rec * mean_of(distances(part.rebuilt, part.real), part.present),
                f"content_{name}": config.lambda_code * mean_of(content, part.paired),
                f"style_{name}": config.lambda_code * style,
            }
            if crossing:
                losses[f"cc_{name}"] = 2 * config.lambda_rec * mean_of(distances(part.cycled, part.real), part.paired)
        crossed = shared.get("crossed")
        if crossed is not None:
            counted, g = crossed.present, shared["g"]
            losses["cgc_g"] = config.lambda_cgc * mean_of((crossed.x_back - g.real[0][: g.n]).abs(), counted)
            losses["cgc_o"] = config.lambda_cgc * mean_of((crossed.o_back - crossed.instance).abs(), counted)
            content = (crossed.image_content - crossed.content.detach()).abs()
            losses["content_cgc"] = config.lambda_code * mean_of(content, counted)
            style = (crossed.image_style - crossed.style.detach()).abs()
            losses["style_cgc"] = config.lambda_code * mean_of(style, counted)
        return losses

    # -------------------------------------------------------------------------------------------------------- pictures

    @torch.no_grad()
    def translate(self, image: Tensor, domain: int = 1, style: Tensor | None = None) -> Tensor:
        """Translate images of any size, (B, 3, H, W), to a domain, in a style (None: the style of seed 0)."""
        return translate_any_size(lambda x: self.G_g(x, domain, style), image)

    @torch.no_grad()
    def samples(self, batch: Batch) -> dict[str, Tensor]:
        """One column per domain in the style of a reference, one in a random style, and the truth if known."""
        source = batch["A"]
        pictures = {"source": source}
        drawn = self.G_g.random_style(len(source), torch.Generator().manual_seed(0))
        for i, name in enumerate(self.domains):
            style = self.G_g.style_of(batch[f"reference_{name}"], i)
            pictures[name] = self.translate(source, i, style)
            pictures[f"{name} random"] = self.translate(source, i, drawn)
            if f"truth_{name}" in batch:
                pictures[f"{name} truth"] = batch[f"truth_{name}"]
        return pictures


def encode_translations(generator: DisentangledGenerator, part: Granularity, crossed: Crossed | None = None) -> None:
    """Encode the translations in the style of an image and those in a random style, and store the results in ``part``;
    store the content of the crossed image in ``crossed``."""
    more = [] if crossed is None else [crossed.image]  # an instance, like those of ``part``
    features = [generator.content(torch.cat([images, *more])) for images in part.swapped]
    if crossed is not None:
        last = [split_rows(f, [len(part.swapped[-1]), len(crossed.image)]) for f in features[-1]]
        features[-1] = [own for own, _ in last]
        crossed.image_content = last[-1][1]
    part.swapped_features = features
    part.random_style = styles_of(generator, part, part.random, part.target)


def read_styles(
    generator: DisentangledGenerator, part: Granularity, frozen: bool, crossed: Crossed | None = None
) -> None:
    """Read the styles of translations in the style of an image, into ``part`` and ``crossed``. With ``frozen``, E^s
    does not learn from them."""
    jobs = list(zip(part.swapped, part.rows(part.target), strict=True))
    if crossed is not None:
        jobs.append((crossed.image, crossed.label))
    styles = together(partial(generator.style, frozen=frozen), jobs)
    part.swapped_style = torch.cat(styles[: len(part.swapped)])
    if crossed is not None:
        crossed.image_style = styles[-1]


def styles_of(generator: DisentangledGenerator, part: Granularity, images: list[Tensor], label: Tensor) -> Tensor:
    """The style codes (2n, style_dim) of images of ``part``."""
    return torch.cat([generator.style(x, z) for x, z in zip(images, part.rows(label), strict=True)])


def decode(generator: DisentangledGenerator, jobs: list[list[tuple[Tensor, Tensor, Tensor]]]) -> list[list[Tensor]]:
    """Decode several lists of (content, style, label), in one pass per size; returns the images of each list."""
    images = iter(together(generator.decoder, [one for each in jobs for one in each]))
    return [list(islice(images, len(each))) for each in jobs]
