"""Every op once, with the arguments of the GPU tests. Nothing here needs a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgcl_fast import ops
from cgcl_fast.nn import PatchNCE, Projector


@dataclass(frozen=True)
class OpCase:
    """An op as a function of tensors alone.

    Args:
        op: its public name.
        function: of `inputs`; returns a tensor or several.
        inputs: float32 and integer tensors of the CPU, from a generator.
        wrt: which of them take a gradient.
        upstream: how large the gradient of the results is: sums of it over a large plane must fit float16.
    """

    op: str
    function: Callable[..., Any]
    inputs: Callable[[torch.Generator], list[Tensor]]
    wrt: tuple[int, ...] = ()
    upstream: float = 1.0

    def arguments(self, device: torch.device | str, dtype: torch.dtype = torch.float32, seed: int = 0) -> list[Tensor]:
        tensors = self.inputs(torch.Generator().manual_seed(seed))
        return [t.to(device, dtype) if t.is_floating_point() else t.to(device) for t in tensors]

    def run(self, arguments: Sequence[Tensor], function: Callable[..., Any] | None = None) -> list[Tensor]:
        """Results, then the gradients of a sum of them in which each element counts differently."""
        leaves = [t.detach().requires_grad_() if i in self.wrt else t for i, t in enumerate(arguments)]
        found = (function or self.function)(*leaves)
        results = [found] if isinstance(found, Tensor) else list(found)
        if not self.wrt:
            return results
        upstream = [self.upstream * weights(result) for result in results]
        return [
            *(result.detach() for result in results),
            *torch.autograd.grad(results, [leaves[i] for i in self.wrt], upstream),
        ]


def weights(like: Tensor) -> Tensor:
    """1 to 2, the same on every device, made there."""
    count = torch.arange(like.numel(), device=like.device, dtype=torch.float32)
    return (1 + (count * 0.618) % 1).to(like.dtype).reshape(like.shape)


def normal(g: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=g)


def unit(g: torch.Generator, *shape: int) -> Tensor:
    return F.normalize(normal(g, *shape), dim=-1)


def ids(g: torch.Generator, positions: int, *shape: int) -> Tensor:
    rows = torch.rand(*shape[:-1], positions, generator=g).argsort(dim=-1)
    return rows[..., : shape[-1]].contiguous()


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def layers(*maps: Tensor) -> list[Tensor]:
    half = len(maps) // 2
    return ops.patch_nce_layers(maps[:half], maps[half:], normalize=True)


def update(keys: Tensor, values: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    return ops.memory_update(keys, values, [a, b], [c, d])


CASES = [
    OpCase(
        "adain",
        lambda x, scale, shift, r: ops.adain(x, scale, shift, activation="leaky_relu", residual=r),
        lambda g: [normal(g, 2, 48, 40, 36), normal(g, 2, 48), normal(g, 2, 48), normal(g, 2, 48, 40, 36)],
        (0, 1, 2),
    ),
    OpCase(
        "adain",
        lambda x, scale, shift: ops.adain(x, scale, shift, activation="none"),
        lambda g: [normal(g, 1, 3, 300, 301), normal(g, 1, 3), normal(g, 1, 3)],
        (0, 1, 2),
        upstream=1 / 16,
    ),
    OpCase(
        "instance_norm",
        lambda x: ops.instance_norm(channels_last(x)),
        lambda g: [normal(g, 2, 64, 33, 32)],
        (0,),
    ),
    OpCase(
        "adain",
        lambda x, scale, shift: ops.adain(channels_last(x), scale, shift, activation="leaky_relu", pad=3),
        lambda g: [normal(g, 2, 48, 40, 36), normal(g, 2, 48), normal(g, 2, 48)],
        (0, 1, 2),
    ),
    OpCase(
        "instance_norm",
        lambda x, r: ops.instance_norm(x, residual=r, pad=1, pad_mode="replicate"),
        lambda g: [normal(g, 2, 16, 33, 32), normal(g, 2, 16, 33, 32)],
        (0, 1),
    ),
    OpCase(
        "layer_norm",
        lambda x, weight, bias: ops.layer_norm(channels_last(x), weight, bias, activation="leaky_relu", pad=3),
        lambda g: [normal(g, 2, 48, 40, 36), normal(g, 48), normal(g, 48)],
        (0, 1, 2),
    ),
    OpCase(
        "layer_norm",
        lambda x, weight, bias: ops.layer_norm(channels_last(x), weight, bias, pad=1, pad_mode="replicate"),
        lambda g: [normal(g, 3, 70, 33, 1), normal(g, 70), normal(g, 70)],
        (0, 1, 2),
    ),
    OpCase("gather_patches", ops.gather_patches, lambda g: [normal(g, 2, 37, 40, 41), ids(g, 1640, 200)], (0,)),
    OpCase(
        "gather_patches",
        lambda x, i: ops.gather_patches(channels_last(x), i),
        lambda g: [normal(g, 2, 64, 32, 32), ids(g, 1024, 2, 100)],
        (0,),
    ),
    OpCase("blur_down", ops.blur_down, lambda g: [normal(g, 2, 37, 41, 70)], (0,)),
    OpCase("blur_down", lambda x: ops.blur_down(channels_last(x)), lambda g: [normal(g, 2, 64, 33, 32)], (0,)),
    OpCase("blur_up", ops.blur_up, lambda g: [normal(g, 2, 37, 20, 35)], (0,)),
    OpCase("blur_up", lambda x: ops.blur_up(channels_last(x)), lambda g: [normal(g, 2, 64, 17, 16)], (0,)),
    OpCase(
        "patch_nce",
        lambda q, k, extra: ops.patch_nce(q, k, extra_negatives=extra, normalize=True, reduction="none"),
        lambda g: [normal(g, 2, 200, 64), normal(g, 2, 200, 64), normal(g, 90, 64)],
        (0, 1, 2),
    ),
    OpCase(
        "patch_nce",
        lambda q, k: ops.patch_nce(q, k.detach(), negatives="batch", loss="decoupled"),
        lambda g: [unit(g, 3, 70, 40), unit(g, 3, 70, 40)],
        (0,),
    ),
    OpCase(
        "patch_nce",
        lambda q, k, offsets: ops.patch_nce(q, k, offsets=offsets),
        lambda g: [unit(g, 2, 64, 32), unit(g, 2, 64, 32), torch.tensor([1, 5, 30, 63])],
        (0, 1),
    ),
    OpCase(
        "patch_nce_layers",
        layers,
        lambda g: [normal(g, 1, p, c) for p, c in ((256, 64), (100, 256), (16, 32)) * 2],
        (0, 1, 2),
    ),
    OpCase(
        "dag_select",
        lambda score, candidates: ops.dag_select(score, (64, 60), 100, candidates=candidates, importance=0.6),
        lambda g: [normal(g, 3, 1, 30, 29), ids(g, 3840, 3, 400)],
    ),
    OpCase(
        "memory_read",
        ops.memory_read,
        lambda g: [normal(g, 2, 96, 31, 30), normal(g, 20, 96), normal(g, 20, 64)],
        (0, 1, 2),
    ),
    OpCase(
        "memory_read",
        lambda x, k, v, p, i: ops.memory_read(channels_last(x), k, v, pixel_class=p, item_class=i),
        lambda g: [
            *(normal(g, 1, 64, 24, 25), normal(g, 12, 64), normal(g, 12, 64)),
            *(torch.randint(0, 4, (1, 24, 25), generator=g), torch.randint(0, 4, (12,), generator=g)),
        ],
        (0, 1, 2),
    ),
    OpCase(
        "memory_update",
        update,
        lambda g: [
            *(unit(g, 20, 96), unit(g, 2, 20, 64)),
            *(normal(g, 1, c, h, 31) for c, h in ((96, 30), (96, 21), (64, 30), (64, 21))),
        ],
    ),
    OpCase(
        "memory_contrast",
        lambda f, i: ops.memory_contrast(f, i, temperature=0.2),
        lambda g: [F.normalize(normal(g, 2, 64, 30, 31), dim=1), unit(g, 20, 64)],
        (0, 1),
    ),
]
NAMES = [f"{case.op}-{sum(c.op == case.op for c in CASES[:i])}" for i, case in enumerate(CASES)]

TOLERANCE = {torch.float32: 2e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def close(results: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    """In the norm: single gradients differ where a value lies at the kink of an activation."""
    assert len(results) == len(expected)
    for result, truth in zip(results, expected, strict=True):
        assert result.shape == truth.shape and result.dtype == truth.dtype
        if not truth.is_floating_point():
            assert torch.equal(result, truth)
        else:
            error, size = (result.double() - truth.double()).norm(), truth.double().norm()
            assert error <= tolerance * size + 1e-6, f"{float(error / size):.2g} of the norm"


class Loss(nn.Module):
    """A convolution, its norm, the projector and PatchNCE: the modules as a method puts them together."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 32, 3, padding=1)
        self.project = Projector([32], 64)
        self.nce = PatchNCE(64)

    def forward(self, a: Tensor, b: Tensor, ids: Tensor) -> Tensor:
        features = [ops.instance_norm(self.conv(image), activation="relu") for image in (a, b)]
        (query,), (key,) = (self.project([feature], [ids]) for feature in features)
        return self.nce([query], [key]).mean()


def loss_and_images() -> tuple[Loss, list[Tensor]]:
    torch.manual_seed(0)
    module = Loss().to("cuda")
    images = [torch.rand(2, 3, 64, 64, device="cuda") for _ in range(2)]
    return module, [*images, ops.sample_patch_ids(4096, 64, device="cuda")]
