"""The ops in a training loop of your own: networks, losses and optimisers are plain PyTorch.

Run `python examples/own_training_loop.py [STEPS]`: on the built-in street scenes, sunny to night.
"""

import sys
from itertools import chain, islice, repeat

import torch
from torch import nn

from cgcl_fast import ops
from cgcl_fast.data import build_loader, open_dataset


class Generator(nn.Module):
    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 7, padding=3)
        self.down = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.middle = nn.Conv2d(2 * width, 2 * width, 3)  # without padding: the norm before it writes a padded map
        self.up = nn.Conv2d(2 * width, width, 3, padding=1)
        self.last = nn.Conv2d(width, 3, 7, padding=3)

    def encode(self, x: torch.Tensor) -> list[torch.Tensor]:
        full = ops.instance_norm(self.first(x), activation="relu")
        return [full, ops.blur_down(self.down(full))]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        half = self.encode(x)[-1]
        y = ops.instance_norm(self.middle(ops.instance_norm(half, activation="relu", pad=1)), residual=half)
        return torch.tanh(self.last(ops.instance_norm(self.up(ops.blur_up(y)), activation="relu")))


def main(steps: int = 30) -> list[float]:
    torch.manual_seed(0)
    G, losses = Generator(), []
    D = nn.Sequential(nn.Conv2d(3, 32, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(32, 1, 4, 2, 1))
    adam_G, adam_D = (torch.optim.Adam(network.parameters(), 1e-3, (0.5, 0.999)) for network in (G, D))
    epochs = repeat(build_loader(open_dataset(size=64), batch_size=2))
    for batch in islice(chain.from_iterable(epochs), steps):
        x, y, fake = batch["A"], batch["B"], G(batch["A"])
        adam_D.zero_grad()
        ((1 - D(y)).relu().mean() + (1 + D(fake.detach())).relu().mean()).backward()
        adam_D.step()
        ids = [ops.sample_patch_ids(side**2, 128) for side in (64, 32)]  # the same places of source and translation
        queries, keys = ([ops.gather_patches(f, i) for f, i in zip(G.encode(z), ids, strict=True)] for z in (fake, x))
        nce = torch.stack(ops.patch_nce_layers(queries, [key.detach() for key in keys], normalize=True)).mean()
        adam_G.zero_grad()
        (nce - D(fake).mean()).backward()
        adam_G.step()
        losses.append(nce.item())
        print("step", len(losses), "PatchNCE", losses[-1])
    return losses


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
