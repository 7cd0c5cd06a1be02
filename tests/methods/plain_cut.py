"""The plain CUT step: stock PyTorch modules in the published order, four encoder passes, nothing fused or reused.

Written only from the description of the published training loop, without any module of the package, so that the tests
can compare the package's networks, losses and gradients with it, and the benchmark its time and memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Blur(nn.Module):
    """Depthwise binomial filter: [1, 2, 1] reflect-padded with stride 2, or x2 with [1, 3, 3, 1] replicate-padded."""

    def __init__(self, channels: int, up: bool) -> None:
        super().__init__()
        self.up = up
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0] if up else [1.0, 2.0, 1.0])
        kernel = torch.outer(taps, taps)
        kernel = kernel / kernel.sum() * (4 if up else 1)
        self.register_buffer("filt", kernel.expand(channels, 1, *kernel.shape).clone())

    def forward(self, x: Tensor) -> Tensor:
        if not self.up:
            return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), self.filt, stride=2, groups=x.shape[1])
        y = F.conv_transpose2d(
            F.pad(x, (1, 1, 1, 1), mode="replicate"), self.filt, stride=2, padding=2, groups=x.shape[1]
        )
        return y[:, :, 1:-1, 1:-1]


class InstanceNorm(nn.InstanceNorm2d):
    """PyTorch's, with a contiguous gradient at batch 1 on a CPU: of a channels_last one, as that of patches is, it
    makes a wrong one there (2.11 to 2.14.1; see tests/ops/test_instance_norm_gradient.py). Compiled it is right."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        if y.requires_grad and len(x) == 1 and x.device.type == "cpu" and not torch.compiler.is_compiling():
            y.register_hook(Tensor.contiguous)
        return y


NORMS = {"instance": InstanceNorm, "batch": nn.BatchNorm2d, "none": nn.Identity}


class Block(nn.Module):
    def __init__(self, channels: int, dropout: bool, norm: str = "instance") -> None:
        super().__init__()
        bias = norm == "instance"
        layers: list[nn.Module] = [nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3, bias=bias)]
        layers += [NORMS[norm](channels), nn.ReLU(True)]
        layers += [nn.Dropout(0.5)] if dropout else []
        layers += [nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3, bias=bias), NORMS[norm](channels)]
        self.conv_block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


class Generator(nn.Module):
    """The generator as one ``nn.Sequential`` called ``model``, whose indices are the published layer numbers."""

    def __init__(
        self,
        input_nc: int = 3,
        output_nc: int = 3,
        ngf: int = 64,
        n_blocks: int = 9,
        antialias: bool = True,
        dropout: bool = False,
        antialias_up: bool | None = None,
        n_down: int = 2,
        norm: str = "instance",
    ) -> None:
        super().__init__()
        up_blur = antialias if antialias_up is None else antialias_up
        bias = norm == "instance"
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(input_nc, ngf, 7, bias=bias)]
        layers += [NORMS[norm](ngf), nn.ReLU(True)]
        widths = [ngf, 2 * ngf][:n_down]
        for c in widths:
            layers += [nn.Conv2d(c, 2 * c, 3, stride=1 if antialias else 2, padding=1, bias=bias)]
            layers += [NORMS[norm](2 * c), nn.ReLU(True)]
            layers += [Blur(2 * c, up=False)] if antialias else []
        layers += [Block(2 * widths[-1], dropout, norm) for _ in range(n_blocks)]
        for c in [2 * width for width in widths[::-1]]:
            if up_blur:
                layers += [Blur(c, up=True), nn.Conv2d(c, c // 2, 3, padding=1, bias=bias)]
            else:
                layers += [nn.ConvTranspose2d(c, c // 2, 3, stride=2, padding=1, output_padding=1, bias=bias)]
            layers += [NORMS[norm](c // 2), nn.ReLU(True)]
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(ngf, output_nc, 7), nn.Tanh()]
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def encode(self, x: Tensor, layers: Sequence[int]) -> list[Tensor]:
        features = []
        for index, layer in enumerate(self.model):
            x = layer(x)
            if index in layers:
                features.append(x)
            if index == layers[-1]:
                break
        return features


class Discriminator(nn.Module):
    def __init__(
        self, input_nc: int = 3, ndf: int = 64, n_layers: int = 3, antialias: bool = True, norm: str = "instance"
    ) -> None:
        super().__init__()
        stride, bias = 1 if antialias else 2, norm == "instance"
        layers: list[nn.Module] = [nn.Conv2d(input_nc, ndf, 4, stride, 1), nn.LeakyReLU(0.2, True)]
        layers += [Blur(ndf, up=False)] if antialias else []
        c = ndf
        for i in range(1, n_layers + 1):
            last = i == n_layers
            width = ndf * min(2**i, 8)
            layers += [nn.Conv2d(c, width, 4, 1 if last else stride, 1, bias=bias), NORMS[norm](width)]
            layers += [nn.LeakyReLU(0.2, True)]
            layers += [Blur(width, up=False)] if antialias and not last else []
            c = width
        layers += [nn.Conv2d(c, 1, 4, 1, 1)]
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class Heads(nn.Module):
    def __init__(self, widths: Sequence[int], nc: int = 256) -> None:
        super().__init__()
        for i, width in enumerate(widths):
            self.add_module(f"mlp_{i}", nn.Sequential(nn.Linear(width, nc), nn.ReLU(), nn.Linear(nc, nc)))

    def forward(self, features: Sequence[Tensor], ids: Sequence[Tensor]) -> list[Tensor]:
        out = []
        for i, (feature, index) in enumerate(zip(features, ids, strict=True)):
            rows = feature.permute(0, 2, 3, 1).flatten(1, 2)[:, index, :].flatten(0, 1)
            rows = getattr(self, f"mlp_{i}")(rows)
            out.append(rows / (rows.pow(2).sum(1, keepdim=True).sqrt() + 1e-7))
        return out


def patch_nce(query: Tensor, key: Tensor, batch: int, temperature: float) -> Tensor:
    """(B*P,) cross entropy of each query row among the keys of its image (``batch`` groups of rows)."""
    key = key.detach()
    positive = (query * key).sum(1, keepdim=True)
    q, k = query.view(batch, -1, query.shape[1]), key.view(batch, -1, key.shape[1])
    negative = torch.bmm(q, k.transpose(1, 2))
    diagonal = torch.eye(q.shape[1], dtype=torch.bool, device=q.device)[None]
    negative = negative.masked_fill(diagonal, -10.0).flatten(0, 1)
    logits = torch.cat([positive, negative], 1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=q.device), reduction="none")


def nce(
    G: Generator,
    H: Heads,
    source: Tensor,
    target: Tensor,
    layers: Sequence[int],
    ids: Sequence[Tensor],
    temperature: float,
    flipped: bool = False,
) -> Tensor:
    queries = G.encode(target, layers)
    if flipped:
        queries = [torch.flip(q, [3]) for q in queries]
    keys = H(G.encode(source, layers), ids)
    rows = H(queries, ids)
    losses = [patch_nce(q, k, len(source), temperature).mean() for q, k in zip(rows, keys, strict=True)]
    return torch.stack(losses).mean()


def set_trainable(module: nn.Module, flag: bool) -> None:
    for parameter in module.parameters():
        parameter.requires_grad_(flag)


class PlainCUT:
    """Networks, Adam optimisers and the step; ``lambda_y=0`` and ``lambda_x=10`` give FastCUT."""

    def __init__(
        self,
        G: Generator,
        D: Discriminator,
        H: Heads,
        layers: Sequence[int] = (0, 4, 8, 12, 16),
        lambda_x: float = 1.0,
        lambda_y: float = 1.0,
        temperature: float = 0.07,
        num_patches: int = 256,
    ) -> None:
        self.G, self.D, self.H, self.layers = G, D, H, list(layers)
        self.lambda_x, self.lambda_y, self.temperature, self.num_patches = lambda_x, lambda_y, temperature, num_patches
        self.optimizers = {
            name: torch.optim.Adam(module.parameters(), 2e-4, (0.5, 0.999))
            for name, module in (("G", G), ("D", D), ("H", H))
        }

    def draw(self, size: tuple[int, int]) -> list[Tensor]:
        """Positions per layer for an image of ``size``."""
        with torch.no_grad():
            shapes = [f.shape for f in self.G.encode(torch.zeros(1, 3, *size), self.layers)]
        return [torch.randperm(s[2] * s[3])[: self.num_patches] for s in shapes]

    def step(
        self,
        a: Tensor,
        b: Tensor,
        ids: tuple[Sequence[Tensor], Sequence[Tensor]],
        flipped: bool = False,
        update: bool = True,
    ) -> dict[str, Tensor]:
        """One step; ``ids`` are the positions of the two losses. Gradients are left in the parameters."""
        sources = [torch.flip(x, [3]) if flipped else x for x in ([a, b] if self.lambda_y > 0 else [a])]
        if a.shape == b.shape:
            fake, *identity = self.G(torch.cat(sources)).split(len(a))
        else:
            fake, *identity = map(self.G, sources)

        set_trainable(self.D, True)
        self.optimizers["D"].zero_grad()
        fake_loss = self.D(fake.detach()).square().mean()
        real_loss = (self.D(b) - 1).square().mean()
        loss_d = (fake_loss + real_loss) * 0.5
        loss_d.backward()
        if update:
            self.optimizers["D"].step()

        set_trainable(self.D, False)
        self.optimizers["G"].zero_grad()
        self.optimizers["H"].zero_grad()
        gan = (self.D(fake) - 1).square().mean()
        args = (self.layers, ids[0], self.temperature, flipped)
        nce_x = nce(self.G, self.H, a, fake, *args) * self.lambda_x
        if self.lambda_y > 0:
            args = (self.layers, ids[1], self.temperature, flipped)
            nce_y = nce(self.G, self.H, b, *identity, *args) * self.lambda_y
            total = gan + (nce_x + nce_y) * 0.5
        else:
            nce_y = torch.zeros(())
            total = gan + nce_x
        total.backward()
        if update:
            self.optimizers["G"].step()
            self.optimizers["H"].step()
        set_trainable(self.D, True)
        losses = {"D": loss_d, "G_GAN": gan, "NCE": nce_x, "NCE_Y": nce_y, "G": total}
        return {name: value.detach() for name, value in losses.items()}
