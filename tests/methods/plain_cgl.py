"""CGL's networks and losses from the papers' equations, one image at a time, using only the weights of the package.

Label maps are concatenated, sizes are doubled before the convolution, every network runs as often as the equations name
it, and instead of masks, missing instances are simply not computed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from op_checks import DEVICE
from torch import Tensor

Weights = Mapping[str, Tensor]


def weights_of(module: torch.nn.Module, prefix: str = "") -> dict[str, Tensor]:
    return {name.removeprefix(prefix): p for name, p in module.named_parameters() if name.startswith(prefix)}


def conv(w: Weights, name: str, x: Tensor, stride: int = 1, padding: int = 0, mode: str = "reflect") -> Tensor:
    if padding:
        x = F.pad(x, (padding,) * 4, mode=mode)
    return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], stride=stride)


def instance_norm(x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
    mean, variance = x.mean((2, 3), keepdim=True), x.var((2, 3), unbiased=False, keepdim=True)
    y = (x - mean) / (variance + 1e-5).sqrt()
    if scale is None or shift is None:
        return y
    return y * scale[None, :, None, None] + shift[None, :, None, None]


def content(w: Weights, x: Tensor, n_blocks: int) -> list[Tensor]:
    x = F.relu(instance_norm(conv(w, "content.stem", x, 1, 3)))
    for i in range(sum(name.startswith("content.down.") for name in w) // 2):
        x = F.relu(instance_norm(conv(w, f"content.down.{i}", x, 2, 1)))
    features = []
    for i in range(n_blocks):
        y = F.relu(instance_norm(conv(w, f"content.blocks.{i}.conv1", x, 1, 1)))
        x = x + instance_norm(conv(w, f"content.blocks.{i}.conv2", y, 1, 1))
        features.append(x)
    return features


def style(w: Weights, x: Tensor, domain: int, n_domains: int) -> Tensor:
    """(style_dim,)"""
    maps = torch.zeros(1, n_domains, *x.shape[2:], dtype=x.dtype, device=x.device)
    maps[:, domain] = 1
    x = F.relu(conv(w, "style.stem", torch.cat([x, maps], 1), 1, 3))
    for i in range(4):
        x = F.relu(conv(w, f"style.down.{i}", x, 2, 1))
    return F.linear(x.mean((2, 3)), w["style.head.weight"], w["style.head.bias"])[0]


def decoder(w: Weights, c: Tensor, s: Tensor, domain: int, n_domains: int, n_blocks: int) -> Tensor:
    y = torch.cat([s, F.one_hot(torch.tensor(domain, device=s.device), n_domains).to(s)])
    for i in (0, 2, 4):
        y = F.linear(y, w[f"decoder.mlp.{i}.weight"], w[f"decoder.mlp.{i}.bias"])
        y = F.relu(y) if i < 4 else y
    rows = iter(y.split(c.shape[1]))  # block by block: scale and shift of the first norm, then of the second
    x = c
    for i in range(n_blocks):
        h = F.relu(instance_norm(conv(w, f"decoder.blocks.{i}.conv1", x, 1, 1), next(rows), next(rows)))
        x = x + instance_norm(conv(w, f"decoder.blocks.{i}.conv2", h, 1, 1), next(rows), next(rows))
    for i in range(sum(name.startswith("decoder.up.") for name in w) // 2):
        x = conv(w, f"decoder.up.{i}", F.interpolate(x, scale_factor=2), 1, 2, "replicate")
        x = (x - x.mean()) / (x.var(unbiased=False) + 1e-5).sqrt()
        gain, bias = (w[f"decoder.norms.{i}.{kind}"][None, :, None, None] for kind in ("weight", "bias"))
        x = F.relu(x * gain + bias)
    return torch.tanh(conv(w, "decoder.head", x, 1, 3))


def discriminator(w: Weights, x: Tensor, n_layers: int) -> tuple[Tensor, Tensor]:
    """The map's values, and the logits of the domains."""
    for i in range(n_layers):
        x = F.leaky_relu(conv(w, f"convs.{i}", x, 2, 1, "constant"), 0.2)
    src = conv(w, "src", x).flatten()
    rows, columns = (max(0, w["cls.weight"].shape[2] - side) for side in x.shape[2:])
    x = F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
    return src, conv(w, "cls", x)[0].mean((1, 2))


def l1(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().mean()


def nce(q: Tensor, k: Tensor, negatives: Sequence[int], temperature: float) -> Tensor:
    """Eq. 1 of CGCL for each of (P, C), the negatives of s being the keys s + o."""
    q, k = (v / (v.norm(dim=1, keepdim=True) + 1e-7) for v in (q, k))
    total = q.new_zeros(())
    for s in range(len(q)):
        logits = [q[s] @ k[s] / temperature, *(q[s] @ k[(s + o) % len(k)] / temperature for o in negatives)]
        total = total + torch.logsumexp(torch.stack(logits), 0) - logits[0]
    return total / len(q)


def mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean() if values else torch.zeros((), dtype=torch.float64, device=DEVICE)


def norm(x: Tensor) -> float:
    return math.sqrt(float(x.square().sum()))
