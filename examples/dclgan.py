"""A method of your own: DCLGAN (Han et al., "Dual Contrastive Learning for Unsupervised Image-to-Image Translation",
CVPR workshops 2021), CUT in both directions at once, on the networks, the ops and the engine of the package.

Run `python examples/dclgan.py OUTPUT [STEPS]`: on the built-in street scenes, sunny to night and back.
"""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from cgcl_fast.data import build_loader, open_dataset
from cgcl_fast.engine import Options, Outcome, Trainer, linear_decay, seed_all
from cgcl_fast.methods import Method, OptimizerSpec, Phase
from cgcl_fast.methods.options import Config
from cgcl_fast.networks import PatchDiscriminator, ResnetGenerator, generator_bytes, init_weights
from cgcl_fast.nn import GANLoss, PatchNCE, Projector


@dataclass
class DCLGANConfig(Config):
    width: int = 64
    nce_layers: tuple[int, ...] = (4, 8, 12, 16)
    lambda_nce: float = 2.0
    lambda_idt: float = 1.0


class DCLGAN(Method):
    """G translates A to B and F translates B to A; a domain's images, real or not, go through its encoder and its H."""

    def __init__(self, config: DCLGANConfig) -> None:
        super().__init__(config)
        self.G, self.F = (ResnetGenerator(ngf=config.width) for _ in "AB")
        self.D = nn.ModuleDict({domain: PatchDiscriminator(ndf=config.width) for domain in "AB"})
        self.H = nn.ModuleDict({domain: Projector(self.G.layer_channels(config.nce_layers)) for domain in "AB"})
        for network in self.children():
            init_weights(network, "xavier", 0.02)
        self.reading = {"A": self.G, "B": self.F}  # the generator that reads images of a domain
        self.gan, self.nce = GANLoss("lsgan"), PatchNCE(num_patches=256, temperature=0.07)

    def phases(self) -> list[Phase]:
        adam = OptimizerSpec(lr=1e-4, betas=(0.5, 0.999))
        discriminators = Phase("discriminators", ("D",), self.discriminator_loss, adam)
        return [discriminators, Phase("generators", ("G", "F", "H"), self.generator_loss, adam, frozen=("D",))]

    def ways(self, batch: dict, shared: dict):
        """Both ways, a to b: what one pass of the generator, once a step, makes of the images of a and b together."""
        for a, b in ("AB", "BA"):
            if a not in shared:
                shared[a] = self.reading[a](torch.cat([batch[a], batch[b]]), self.config.nce_layers)
            yield a, b, *shared[a]

    def discriminator_loss(self, batch: dict, shared: dict) -> dict[str, Tensor]:
        n, ways = len(batch["A"]), self.ways(batch, shared)
        judged = [(self.D[b](batch[b]), self.D[b](images[:n].detach())) for _, b, images, _ in ways]
        return {"loss": sum(self.gan.discriminator(*logits) for logits in judged)}

    def generator_loss(self, batch: dict, shared: dict) -> dict[str, Tensor]:
        n, config, losses = len(batch["A"]), self.config, []
        for a, b, images, features in self.ways(batch, shared):
            ids = self.nce.sample(features)
            queries = self.H[b](self.reading[b].encode(images[:n], config.nce_layers, ids))
            nce = self.nce(queries, self.H[a]([feature[:n] for feature in features], ids)).mean()
            losses += [self.gan.generator(self.D[b](images[:n])), config.lambda_nce * nce]
            losses.append(config.lambda_idt * (images[n:] - batch[b]).abs().mean())
        return {"loss": sum(losses) / 2}  # the half is that of the authors' code


def main(output: str, steps: int = 200, size: int = 64, width: int = 64) -> Outcome:
    seed_all(0)
    config, dataset = DCLGANConfig(width=width), open_dataset(size=size)
    more = {"config": {"method": "dclgan", "config": asdict(config)}, "generator_file": generator_bytes}
    more |= {"sample_batch": dataset.sample_batch(4), "schedule": linear_decay(steps, steps // 2)}
    return Trainer(DCLGAN(config), build_loader(dataset), Path(output), Options(steps), **more).fit()


if __name__ == "__main__":
    print(main(sys.argv[1], *map(int, sys.argv[2:])).grid)
