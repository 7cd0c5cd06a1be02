"""A step of MGUIT as the paper prints it, term by term and pixel by pixel, on the weights of a method.

Every translation runs its own encoder, memory and generator; nothing is batched or reused; style and content are
concatenated before each convolution.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def norm(x: Tensor) -> Tensor:
    mean = x.mean(dim=(2, 3), keepdim=True)
    return (x - mean) / (x.var(dim=(2, 3), keepdim=True, unbiased=False) + 1e-5).sqrt()


def pad(x: Tensor, size: int) -> Tensor:
    return F.pad(x, (size,) * 4, mode="reflect")


class PlainMGUIT:
    """
    Args:
        weights: state dict of the method, in float64.
        config: its config.
        random_values: r, (N, V).
    """

    def __init__(self, weights: dict[str, Tensor], config: Any, random_values: Tensor) -> None:
        self.w, self.config, self.r = weights, config, random_values
        self.keys, self.values = weights["G.memory.keys"], weights["G.memory.values"]
        counts = (*config.items, config.background_items)
        self.item_class = [k for k, count in enumerate(counts) for _ in range(count)]

    # ------------------------------------------------------------------------------------------------------- networks

    def conv(self, name: str, x: Tensor, **options: Any) -> Tensor:
        return F.conv2d(x, self.w[f"{name}.weight"], self.w.get(f"{name}.bias"), **options)

    def block(self, name: str, x: Tensor) -> Tensor:
        y = norm(self.conv(f"{name}.conv1", pad(x, 1))).relu()
        return x + norm(self.conv(f"{name}.conv2", pad(y, 1)))

    def encode(self, d: int, image: Tensor) -> Tensor:
        name = f"G.encoders.{d}"
        x = F.leaky_relu(self.conv(f"{name}.stem", pad(image, 3)), 0.01)
        for i in (0, 1):
            x = norm(self.conv(f"{name}.down.{i}", x, stride=2, padding=1)).relu()
        for i in range(self.config.n_blocks):
            x = self.block(f"{name}.blocks.{i}", x)
        return self.block("G.last_encoder_block", x)

    def style(self, d: int, image: Tensor) -> Tensor:
        name = f"E_s.{d}"
        x = F.leaky_relu(self.conv(f"{name}.stem", pad(image, 3)), 0.01)
        for i in (0, 1):
            x = F.leaky_relu(self.conv(f"{name}.down.{i}", x, stride=2, padding=1), 0.01)
        return self.conv(f"{name}.head", F.leaky_relu(self.conv(f"{name}.inner", x, padding=1), 0.01))

    def decode(self, d: int, content: Tensor, style: Tensor) -> Tensor:
        name = f"G.decoders.{d}"
        x = self.block("G.first_decoder_block", content)
        # One 3x3 convolution of both, whose part for the style has its centre only.
        of_style = F.pad(self.w[f"{name}.styles.0.weight"], (1, 1, 1, 1))
        kernel = torch.cat([self.w[f"{name}.content.weight"], of_style], dim=1)
        x = F.conv2d(pad(torch.cat([x, style], dim=1), 1), kernel, self.w[f"{name}.content.bias"])
        for i in range(self.config.n_blocks):
            x = self.block(f"{name}.blocks.{i}", x)
        for i in (0, 1):
            x = self.conv(f"{name}.up.{i}", pad(x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3), 1))
            wide = F.interpolate(style, scale_factor=2 ** (i + 1), mode="bilinear")
            x = x + self.conv(f"{name}.styles.{i + 1}", wide)
            mean, var = x.mean((1, 2, 3), keepdim=True), x.var((1, 2, 3), keepdim=True, unbiased=False)
            scale, shift = (self.w[f"{name}.norms.{i}.{part}"].view(-1, 1, 1) for part in ("weight", "bias"))
            x = ((x - mean) / (var + 1e-5).sqrt() * scale + shift).relu()
        of_style = F.pad(self.w[f"{name}.styles.3.weight"], (3, 3, 3, 3))
        kernel = torch.cat([self.w[f"{name}.head.weight"], of_style], dim=1)
        both = torch.cat([x, F.interpolate(style, scale_factor=4, mode="bilinear")], dim=1)
        return F.conv2d(pad(both, 3), kernel, self.w[f"{name}.head.bias"]).tanh()

    def judge(self, d: int, image: Tensor) -> list[Tensor]:
        outputs = []
        for scale in range(self.config.n_scales):
            if scale:
                image = F.avg_pool2d(image, 3, 2, 1, count_include_pad=False)
            x, layers = image, self.config.d_layers
            for i in range(layers):
                x = F.leaky_relu(self.conv(f"D.{d}.scales.{scale}.{2 * i}", x, stride=2, padding=1), 0.01)
            outputs.append(self.conv(f"D.{d}.scales.{scale}.{2 * layers}", x))
        return outputs

    def judge_content(self, content: Tensor) -> Tensor:
        layers = self.config.content_layers
        for i in range(layers):
            content = F.leaky_relu(self.conv(f"D_c.layers.{2 * i}", content, stride=2, padding=3), 0.01)
        content = F.leaky_relu(self.conv(f"D_c.layers.{2 * layers}", content, padding=2), 0.01)
        return self.conv(f"D_c.layers.{2 * layers + 2}", content)

    # --------------------------------------------------------------------------------------------------------- memory

    def items_of(self, label: int) -> list[int]:
        if self.config.memory == "single":
            return list(range(len(self.item_class)))
        return [n for n, k in enumerate(self.item_class) if k == label]

    def read(self, content: Tensor, values: Tensor, labels: Tensor) -> Tensor:
        """Eq. 2-4, pixel by pixel."""
        batch, _, height, width = content.shape
        pixels = []
        for b in range(batch):
            for i in range(height):
                for j in range(width):
                    items = self.items_of(int(labels[b, i, j]))
                    c = content[b, :, i, j]
                    d = torch.stack([c @ self.keys[n] / (c.norm() * self.keys[n].norm()) for n in items])
                    e = (d / self.config.memory_temperature).exp()
                    pixels.append((e / e.sum()) @ values[items])
        return torch.stack(pixels).view(batch, height, width, -1).permute(0, 3, 1, 2)

    def contrast(self, features: Tensor, items: Tensor, labels: Tensor) -> Tensor:
        """Eq. 8, or the triplet loss, pixel by pixel; the mean."""
        losses = []
        if self.config.memory_loss == "published":
            return self.published_contrast(features, items, labels)
        for b, i, j in torch.cartesian_prod(*(torch.arange(n) for n in labels.shape)).tolist():
            own = items[self.items_of(int(labels[b, i, j]))]
            f = features[b, :, i, j]
            if self.config.memory_loss == "contrastive":
                logits = own @ f / self.config.temperature
                losses.append(logits.logsumexp(0) - logits.max())
            elif len(own) > 1:
                distances = (f - own).norm(dim=1).sort().values
                losses.append((distances[0] - distances[1] + self.config.margin).clamp(min=0))
        return torch.stack(losses).mean()

    def published_contrast(self, features: Tensor, items: Tensor, labels: Tensor) -> Tensor:
        """0.1 exp(-mean probability), class by class; a single memory is one class."""
        rows, found = features.permute(0, 2, 3, 1).flatten(0, 2), []
        of_pixels = labels.flatten().tolist() if self.config.memory == "class" else [-1] * len(rows)
        for label in sorted(set(of_pixels)):
            own = rows[[p for p, k in enumerate(of_pixels) if k == label]]
            scores = own @ items[self.items_of(label) if label >= 0 else slice(None)].T
            e = scores.exp()
            found.append(0.1 * (-(e / e.sum(dim=0)).gather(1, scores.argmax(dim=1, keepdim=True)).mean()).exp())
        return torch.stack(found).sum()

    def updated(self, contents: list[Tensor], styles: list[Tensor], labels: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Eq. 5-6, or the update of the authors' code, item by item and pixel by pixel."""
        keys, values = self.keys.clone(), self.values.clone()
        rows = [c.permute(0, 2, 3, 1).flatten(0, 2) for c in contents]
        shown = [s.permute(0, 2, 3, 1).flatten(0, 2) for s in styles]
        logits = [
            (F.cosine_similarity(r[:, None], self.keys, dim=2) / self.config.memory_temperature).tolist() for r in rows
        ]
        for n in range(len(keys)):
            picked = []
            for d in (0, 1):
                own = [p for p, k in enumerate(labels[d].flatten().tolist()) if n in self.items_of(k)]
                total = sum(math.exp(logits[d][p][n]) for p in own)
                kept = own
                if self.config.update == "published":
                    rivals = self.items_of(self.item_class[n])
                    kept = [p for p in own if max(rivals, key=lambda m: logits[d][p][m]) == n]
                beta = {p: math.exp(logits[d][p][n]) / total for p in kept}
                sum_c = sum((beta[p] * rows[d][p] for p in kept), torch.zeros_like(rows[d][0]))
                sum_s = sum((beta[p] * shown[d][p] for p in kept), torch.zeros_like(shown[d][0]))
                picked.append((bool(own), bool(kept), sum_c, sum_s))
            if self.config.update == "paper":
                if any(here for here, *_ in picked):
                    key = self.keys[n] + picked[0][2] + picked[1][2]
                    keys[n] = key / key.norm()
                for d, (here, _, _, sum_s) in enumerate(picked):
                    if here:
                        value = self.values[d, n] + sum_s
                        values[d, n] = value / value.norm()
            elif all(here for here, *_ in picked):
                key = 0.5 * self.keys[n] + sum(0.25 * sum_c / sum_c.norm() for _, hit, sum_c, _ in picked if hit)
                keys[n] = key / key.norm()
                for d, (_, hit, _, sum_s) in enumerate(picked):
                    if hit:
                        sum_s = sum_s / sum_s.norm()
                        unit = (sum_s - sum_s.mean()) / (sum_s.var(unbiased=False) + 1e-5).sqrt()
                        values[d, n] = 0.5 * self.values[d, n] + 0.5 * unit
        return keys, values

    # --------------------------------------------------------------------------------------------------------- losses

    def losses(self, images: list[Tensor], labels: list[Tensor]) -> dict[str, Tensor]:
        """The terms of Eq. 9 with their weights, of both phases, each a sum over the domains."""
        config, terms = self.config, {}
        contents = [self.encode(d, images[d]) for d in (0, 1)]
        styles = [self.style(d, images[d]) for d in (0, 1)]
        units = [c / c.norm(dim=1, keepdim=True) for c in contents]
        add: dict[str, list[Tensor]] = {}

        def put(name: str, value: Tensor) -> None:
            add.setdefault(name, []).append(value)

        for d, other in ((0, 1), (1, 0)):
            put(
                "self",
                self.l1(self.decode(d, contents[d], self.read(contents[d], self.values[d], labels[d])), images[d]),
            )
            # Into domain d, and back into the other one.
            fake = self.decode(d, contents[other], self.read(contents[other], self.values[d], labels[other]))
            content = self.encode(d, fake)
            if config.lambda_content_l1:
                unit = content / content.norm(dim=1, keepdim=True)
                put("content_l1", self.l1(unit, units[other].detach()))
            if config.lambda_content_kl:
                put("content_kl", contents[d].square().mean())
            back = self.decode(other, content, self.read(content, self.values[other], labels[other]))
            put("cycle", self.l1(back, images[other]))
            random_style = self.read(contents[other], self.r, labels[other])
            random = self.decode(d, contents[other], random_style)
            put("latent", self.l1(self.style(d, random), random_style.detach()))
            real, shown, drawn = self.judge(d, images[d]), self.judge(d, fake), self.judge(d, random)
            for a, b, c in zip(real, shown, drawn, strict=True):
                put("domain", self.bce(torch.cat([b, c]), 1.0))
                put(f"D_{'AB'[d]}", self.bce(a, 1.0) + self.bce(torch.cat([b, c]), 0.0))
            put("content", self.bce(self.judge_content(contents[d]), 0.5))
            put("D_content", self.bce(self.judge_content(contents[d]), 1.0 - d))
            put("KL", styles[d].square().mean())
            put("keys", self.contrast(units[d], self.keys, labels[d]))
            if config.memory_loss == "published":  # and with all items
                e = (units[d].permute(0, 2, 3, 1).flatten(0, 2) @ self.keys.T).exp()
                add["keys"].append(0.1 * (-(e / e.sum(dim=0)).gather(1, e.argmax(dim=1, keepdim=True)).mean()).exp())
            put("values", self.contrast(styles[d], self.values[d], labels[d]))
        weights = {
            "self": config.lambda_self,
            "cycle": config.lambda_cycle,
            "content": config.lambda_content,
            "domain": config.lambda_gan,
            "KL": config.lambda_kl,
            "latent": config.lambda_latent,
            "content_l1": config.lambda_content_l1,
            "content_kl": config.lambda_content_kl,
            "keys": config.lambda_key,
            "values": config.lambda_value,
        }
        terms = {name: weights.get(name, 1.0) * torch.stack(values).sum() for name, values in add.items()}
        self.memory_after = self.updated([c.detach() for c in units], [s.detach() for s in styles], labels)
        return terms

    @staticmethod
    def l1(a: Tensor, b: Tensor) -> Tensor:
        return (a - b).abs().mean()

    @staticmethod
    def bce(logits: Tensor, target: float) -> Tensor:
        p = logits.sigmoid()
        return -(target * p.log() + (1 - target) * (1 - p).log()).mean()


def labels_of(boxes: list[Tensor], classes: list[Tensor], size: tuple[int, int], background: int) -> Tensor:
    """The class of each pixel of a map at quarter size: that of the smallest box that its centre is in."""
    result = torch.full((len(boxes), size[0] // 4, size[1] // 4), background, device="cpu")
    for b, i, j in torch.cartesian_prod(*(torch.arange(n) for n in result.shape)).tolist():
        x, y = 4 * j + 2, 4 * i + 2
        inside = [
            ((x2 - x1) * (y2 - y1), int(label))
            for (x1, y1, x2, y2), label in zip(boxes[b].tolist(), classes[b], strict=True)
            if x1 <= x < x2 and y1 <= y < y2
        ]
        if inside:
            result[b, i, j] = min(inside)[1]
    return result
