"""Layer norm of channels_last maps over channels and positions, with ReLU and the padding of the next convolution: the
norms of the decoders of CGL, CGCL and MGUIT. eager is PyTorch's group norm of one group.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from cgcl_fast import ops

from . import floors
from .case import BOTH, FORWARD, Case, normal, op_case

Map = tuple[int, int, int, int]
INNER, LAST, SMALL = (2, 128, 128, 128), (2, 64, 256, 256), (4, 64, 64, 64)


def eager_layer_norm(x: Tensor, weight: Tensor, bias: Tensor, pad: int) -> Tensor:
    y = F.relu(F.group_norm(x, 1, weight.to(x.dtype), bias.to(x.dtype)))
    return F.pad(y, (pad,) * 4, mode="reflect") if pad else y


def fast_layer_norm(x: Tensor, weight: Tensor, bias: Tensor, pad: int) -> Tensor:
    # Looked up when called: bench_host imports this beside other checkouts, which may lack it.
    return ops.layer_norm(x, weight, bias, activation="relu", pad=pad)


def inputs(shape: Map, generator: torch.Generator) -> list[Tensor]:
    x = (normal(generator, *shape) * 3 + 1).to(memory_format=torch.channels_last)
    return [x, normal(generator, shape[1]), normal(generator, shape[1])]


def make(shape: Map, pad: int, direction: str) -> Case:
    return op_case(
        "layer_norm",
        f"{shape} relu" + (f" pad {pad}" if pad else "") + " channels_last",
        direction,
        {"eager": partial(eager_layer_norm, pad=pad), "cgcl_fast": partial(fast_layer_norm, pad=pad)},
        partial(inputs, shape),
        wrt=(0, 1, 2),
        work=floors.adain(shape, direction, pad=pad),
        slow=shape != SMALL,
        memory="extra" if direction == BOTH and shape != SMALL else None,
    )


CASES = [make(shape, pad, d) for shape, pad in ((LAST, 3), (INNER, 1), (SMALL, 0)) for d in (FORWARD, BOTH)]


def test_layer_norm(case: Case, implementation: str, measure: Callable[[Case, str], None]) -> None:
    measure(case, implementation)
