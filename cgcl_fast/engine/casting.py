"""Weights in the dtype of autocast, cast together.

Autocast casts the weight of each layer by itself, and its gradient back: two kernels a tensor and phase, most of which
take longer to start than to run. Here all of a phase are cast by a few kernels, and so are their gradients, to the same
numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
"""Layers whose weights autocast casts as they are."""


class _Cast(torch.autograd.Function):
    """Tensors of one dtype in another one; their gradients are cast back together when the last of them is there."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.dtype = tensors[0].dtype
        ctx.set_materialize_grads(False)
        cast = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
        torch._foreach_copy_(cast, list(tensors))
        return tuple(cast)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        there = [grad for grad in grads if grad is not None]
        cast = iter(_Cast.apply(ctx.dtype, *there) if there else ())
        return None, *(None if grad is None else next(cast) for grad in grads)


@contextmanager
def cast_together(networks: Iterable[nn.Module], dtype: torch.dtype) -> Iterator[None]:
    """Within it the layers of the networks have their float32 weights in a lower dtype, and gradients flow back.

    For networks that call their layers under autocast only, and on one process: DDP would wait for the gradients of all
    weights, also of those that no loss depends on.

    Args:
        networks: those that name themselves by ``casts_together`` are cast.
        dtype: of autocast.
    """
    layers = [
        layer
        for network in networks
        if getattr(network, "casts_together", False)
        for layer in network.modules()
        if isinstance(layer, LAYERS)
    ]
    found = [
        (layer, name, weight)
        for layer in layers
        for name, weight in layer._parameters.items()
        if weight is not None and weight.dtype == torch.float32
    ]
    try:
        for needed in (True, False):  # a gradient
            group = [entry for entry in found if entry[2].requires_grad is needed]
            if group:
                cast = _Cast.apply(dtype, *(weight for *_, weight in group))
                for (layer, name, _), weight in zip(group, cast, strict=True):
                    layer._parameters[name] = weight
        yield
    finally:
        for layer, name, weight in found:
            layer._parameters[name] = weight
