"""PatchNCE: with the gradient of the queries only (detached keys, as CUT trains), and with both gradients."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from cgcl_fast import ops

from . import floors
from .case import BOTH, FORWARD, Case, op_case, unit

TEMPERATURE = 0.07


def eager_published(query: Tensor, key: Tensor) -> Tensor:
    """As published: positives separate, the masked diagonal of the negatives at -10, cross entropy with class 0."""
    B, P, C = query.shape
    positive = torch.bmm(query.reshape(B * P, 1, C), key.reshape(B * P, C, 1)).view(B * P, 1)
    negative = torch.bmm(query, key.transpose(2, 1))
    diagonal = torch.eye(P, device=query.device, dtype=torch.bool)[None]
    negative.masked_fill_(diagonal, -10.0)
    logits = torch.cat((positive, negative.view(-1, P)), dim=1) / TEMPERATURE
    target = torch.zeros(B * P, dtype=torch.long, device=query.device)
    return F.cross_entropy(logits, target, reduction="none").mean()


def eager_cross_entropy(query: Tensor, key: Tensor) -> Tensor:
    """The same with the fewest calls: cross entropy over all keys, with the row's own key as class."""
    B, P, _ = query.shape
    logits = torch.bmm(query, key.transpose(1, 2)).flatten(0, 1) / TEMPERATURE
    return F.cross_entropy(logits, torch.arange(P, device=query.device).repeat(B))


def fast(query: Tensor, key: Tensor) -> Tensor:
    return ops.patch_nce(query, key, temperature=TEMPERATURE)


def inputs(shape: tuple[int, int, int], generator: torch.Generator) -> list[Tensor]:
    """Unit vectors, each query near its key, as in training."""
    key = unit(generator, *shape)
    return [F.normalize(key + unit(generator, *shape), dim=-1), key]


def make(shape: tuple[int, int, int], direction: str, key_gradient: bool = False) -> Case:
    gradients = "" if direction == FORWARD else " dQ dK" if key_gradient else " dQ"
    return op_case(
        "patch_nce",
        f"{shape}{gradients}",
        direction,
        {"eager": eager_published, "eager_cross_entropy": eager_cross_entropy, "cgcl_fast": fast},
        partial(inputs, shape),
        wrt=(0, 1) if key_gradient else (0,),
        work=floors.patch_nce(shape, direction, key_gradient=key_gradient),
        slow=shape[1] > 1024 or direction == FORWARD,
    )


CASES = [
    make(shape, direction, key_gradient)
    for shape in ((1, 256, 256), (16, 256, 256), (1, 4096, 256))
    for direction, key_gradient in ((FORWARD, False), (BOTH, False), (BOTH, True))
]


def test_patch_nce(case: Case, implementation: str, measure: Callable[[Case, str], None]) -> None:
    measure(case, implementation)
