"""StyleGAN2's blocks as its paper describes them: upsampling by zeros, filters as explicit convolutions, gains applied
after the activation. For comparison: written without any module of the package, and not fast.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


def fir(x: Tensor, before: int, after: int, gain: float = 1.0) -> Tensor:
    """Zeros around the map, then the filter [1, 3, 3, 1] along both axes."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype, device=x.device)
    kernel = torch.outer(taps, taps) / 64 * gain
    x = F.pad(x, (before, after, before, after))
    return F.conv2d(x, kernel.expand(x.shape[1], 1, 4, 4), groups=x.shape[1])


def act(x: Tensor) -> Tensor:
    return math.sqrt(2) * torch.where(x >= 0, x, 0.2 * x)


def conv(state: State, name: str, x: Tensor, **options: int) -> Tensor:
    weight, bias = state[f"{name}.weight"], state.get(f"{name}.bias")
    return F.conv2d(x, weight / math.sqrt(weight[0].numel()), bias, **options)


def linear(state: State, name: str, x: Tensor) -> Tensor:
    weight = state[f"{name}.weight"]
    return x @ (weight / math.sqrt(weight.shape[1])).T + state[f"{name}.bias"]


def block(state: State, name: str, x: Tensor, down: bool) -> Tensor:
    y = act(conv(state, f"{name}.conv1", x, padding=1))
    if not down:
        return (act(conv(state, f"{name}.conv2", y, padding=1)) + x) / math.sqrt(2)
    y = act(conv(state, f"{name}.conv2", fir(y, 2, 2), stride=2))
    return (y + conv(state, f"{name}.skip", fir(x, 1, 1), stride=2)) / math.sqrt(2)


def up(state: State, x: Tensor, noise: Tensor | None = None) -> Tensor:
    """Modulated convolution with all scales one: demodulated, transposed with stride 2, blurred; noise, bias."""
    weight = state["up.weight"]
    weight = torch.stack([kernel / (kernel.square().sum() + 1e-8).sqrt() for kernel in weight])
    y = F.conv_transpose2d(x, weight.flip(2, 3).transpose(0, 1), stride=2)
    y = fir(y, 1, 1, gain=4.0)
    if noise is not None:
        y = y + state["up.noise_strength"] * noise
    return act(y + state["up.bias"][:, None, None])


def generator(state: State, x: Tensor, n_blocks: int, noise: Tensor | None = None) -> list[Tensor]:
    """Every feature layer; the last one is the image."""
    layers = [x, act(conv(state, "stem", x))]
    layers.append(block(state, "down", layers[-1], down=True))
    for i in range(n_blocks):
        layers.append(block(state, f"blocks.{i}", layers[-1], down=False))
    layers.append(up(state, layers[-1], noise))
    layers.append(conv(state, "head", layers[-1]))
    return layers


def discriminator(state: State, x: Tensor, n_blocks: int, stddev: bool) -> Tensor:
    x = act(conv(state, "stem", x))
    for i in range(n_blocks):
        x = block(state, f"blocks.{i}", x, down=True)
    if stddev:
        groups = len(x) // 4 if len(x) % 4 == 0 else 1
        spread = torch.zeros(len(x), 1, 4, 4, dtype=x.dtype)
        for first in range(groups):
            members = x[first::groups]
            spread[first::groups] = (members.var(0, unbiased=False) + 1e-8).sqrt().mean()
        x = torch.cat([x, spread], 1)
    x = act(conv(state, "conv", x, padding=1))
    return linear(state, "head", act(linear(state, "linear", x.flatten(1))))
