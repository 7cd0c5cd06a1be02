"""Every op at least once, small, as a function of its floating-point tensors: for properties that all ops share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from op_checks import randint, randn
from torch import Tensor

from cgcl_fast import ops


@dataclass(frozen=True)
class Case:
    """An op with all of its arguments.

    Args:
        op: its public name.
        function: (namespace, *tensors) -> a tensor, or several. The namespace is `cgcl_fast.ops` or
            `torch.ops.cgcl_fast`.
        shapes: of the tensors.
        gradient: whether it has one, to all of the tensors.
        loss: whether its result is float32 under autocast, whatever the dtype of the tensors.
    """

    name: str
    function: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]
    gradient: bool = True
    loss: bool = False

    @property
    def op(self) -> str:
        return self.name.split()[0]

    def tensors(self, seed: int = 0, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return [randn(*shape, generator=generator).to(dtype) for shape in self.shapes]

    def __call__(self, *tensors: Tensor, namespace: Any = ops) -> tuple[Tensor, ...]:
        found = self.function(namespace, *tensors)
        return (found,) if isinstance(found, Tensor) else tuple(found)


def _integers(high: int, *shape: int, seed: int = 0) -> Tensor:
    return randint(0, high, shape, generator=torch.Generator().manual_seed(seed))


def channels_last(x: Tensor) -> Tensor:
    """What the op has kernels for; torch.vmap knows no memory formats."""
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


PIXELS, ITEMS, OFFSETS = _integers(3, 2, 3, 4), _integers(3, 5, seed=1), torch.tensor([1, 3])
ROW, ROWS = torch.tensor([3, 0, 11, 7]), torch.tensor([[3, 0, 11, 7], [5, 4, 1, 2]])
CANDIDATES = torch.tensor([[9, 3, 0, 7, 30, 21], [5, 4, 1, 2, 19, 40]])

CASES = [
    Case(
        "adain",
        lambda o, x, s, t, r: o.adain(x, s, t, eps=1e-3, activation="leaky_relu", residual=r),
        ((2, 3, 3, 4), (2, 3), (2, 3), (2, 3, 3, 4)),
    ),
    Case("adain plain", lambda o, x, s, t: o.adain(x, s, t), ((1, 2, 3, 4), (1, 2), (1, 2))),
    Case(
        "instance_norm",
        lambda o, x, r: o.instance_norm(x, activation="relu", residual=r),
        ((2, 3, 3, 4), (2, 3, 3, 4)),
    ),
    Case(
        "adain padded",
        lambda o, x, s, t, r: o.adain(x, s, t, eps=1e-3, activation="leaky_relu", residual=r, pad=2),
        ((2, 3, 3, 4), (2, 3), (2, 3), (2, 3, 3, 4)),
    ),
    Case(
        "instance_norm padded",
        lambda o, x: o.instance_norm(x, activation="relu", pad=1, pad_mode="replicate"),
        ((2, 3, 3, 4),),
    ),
    Case(
        "layer_norm",
        lambda o, x, w, b: o.layer_norm(channels_last(x), w, b, eps=1e-3, activation="leaky_relu"),
        ((2, 3, 3, 4), (3,), (3,)),
    ),
    Case(
        "layer_norm padded",
        lambda o, x, w, b: o.layer_norm(channels_last(x), w, b, activation="relu", pad=1, pad_mode="replicate"),
        ((2, 3, 3, 4), (3,), (3,)),
    ),
    Case("gather_patches", lambda o, x: o.gather_patches(x, ROW), ((2, 3, 3, 4),)),
    Case("gather_patches rows", lambda o, x: o.gather_patches(x, ROWS), ((2, 3, 3, 4),)),
    Case("blur_down", lambda o, x: o.blur_down(x), ((2, 3, 3, 4),)),
    Case("blur_up", lambda o, x: o.blur_up(x), ((2, 3, 3, 4),)),
    Case(
        "patch_nce",
        lambda o, q, k, e: o.patch_nce(q, k, temperature=0.5, extra_negatives=e, reduction="none"),
        ((2, 5, 3), (2, 5, 3), (4, 3)),
        loss=True,
    ),
    Case(
        "patch_nce batch",
        lambda o, q, k: o.patch_nce(q, k, negatives="batch", normalize=True, loss="decoupled"),
        ((2, 5, 3), (2, 5, 3)),
        loss=True,
    ),
    Case(
        "patch_nce offsets",
        lambda o, q, k: o.patch_nce(q, k, temperature=1.0, offsets=OFFSETS, reduction="sum"),
        ((2, 5, 3), (2, 5, 3)),
        loss=True,
    ),
    Case(
        "patch_nce_layers",
        lambda o, a, b, c, d, e: o.patch_nce_layers(
            [a, b], [c, d], temperature=0.5, extra_negatives=[e, e], normalize=True
        ),
        ((2, 5, 3), (2, 4, 3), (2, 5, 3), (2, 4, 3), (4, 3)),
        loss=True,
    ),
    Case("memory_read", lambda o, c, k, v: o.memory_read(c, k, v), ((2, 4, 3, 4), (5, 4), (5, 2))),
    Case(
        "memory_read classes",
        lambda o, c, k, v: o.memory_read(c, k, v, pixel_class=PIXELS, item_class=ITEMS),
        ((2, 4, 3, 4), (5, 4), (5, 2)),
    ),
    Case(
        "memory_contrast",
        lambda o, f, i: o.memory_contrast(f, i, temperature=0.5, reduction="none"),
        ((2, 4, 3, 4), (5, 4)),
        loss=True,
    ),
    Case(
        "memory_contrast classes",
        lambda o, f, i: o.memory_contrast(f, i, temperature=1.0, pixel_class=PIXELS, item_class=ITEMS),
        ((2, 4, 3, 4), (5, 4)),
        loss=True,
    ),
    Case(
        "memory_update",
        lambda o, k, v, a, b, c, d: o.memory_update(k, v, [a, b], [c, d]),
        ((5, 4), (2, 5, 2), (2, 4, 3, 4), (1, 4, 2, 2), (2, 2, 3, 4), (1, 2, 2, 2)),
        gradient=False,
    ),
    Case(
        "memory_update classes",
        lambda o, k, v, a, b: o.memory_update(k, v, [a], [b], pixel_classes=[PIXELS], item_class=ITEMS),
        ((5, 4), (1, 5, 2), (2, 4, 3, 4), (2, 2, 3, 4)),
        gradient=False,
    ),
    Case(
        "dag_select",
        lambda o, s: o.dag_select(s, (6, 8), 4, candidates=CANDIDATES),
        ((2, 1, 3, 4),),
        gradient=False,
    ),
]
DIFFERENTIABLE = [case for case in CASES if case.gradient]
NOT_DIFFERENTIABLE = [case for case in CASES if not case.gradient]


def by_name(case: Case) -> str:
    return case.name
