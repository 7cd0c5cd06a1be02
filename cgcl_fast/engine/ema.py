"""The exponential moving average (EMA) of a generator's weights.

Adversarial training moves the weights to and fro around a solution; their average over the last steps translates more
steadily than the weights of any one step (Yazıcı et al., "The Unusual Effectiveness of Averaging in GAN Training", ICLR
2019).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

if TYPE_CHECKING:
    from cgcl_fast.methods.base import Method


class GeneratorAverage:
    """The averages of a method's generators, that of the way back too where there is one.

    θ̄ ← decay · θ̄ + (1 - decay) · θ for each weight, after each step; θ̄ begins as the weights are then. The buffers (the
    memory of MGUIT, the running averages of a batch norm) are copied: they are averages of many steps already.

    It is PyTorch's average without its ``AveragedModel``, which counts the steps on the host and asks for that count in
    each of them: a CUDA graph that replays the step would leave the count as it was.

    Args:
        method: its networks are on their device and stay the tensors that they are.
        decay: above 0 and below 1; the average is mostly of the last 1 / (1 - decay) steps.

    Attributes:
        networks: the generators with the averages as their weights, by their names in the method; for evaluation.
    """

    def __init__(self, method: Method, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"ema_decay: expected a number above 0 and below 1, got {decay}")
        names = [name for name in (method.generator_name, method.backward_name) if name is not None]
        live = nn.ModuleDict({name: getattr(method, name) for name in names})
        self.networks = copy.deepcopy(live).eval().requires_grad_(False)
        self._step = get_ema_multi_avg_fn(decay)
        self._weights = list(self.networks.parameters()), list(live.parameters())
        self._buffers = list(zip(self.networks.buffers(), live.buffers(), strict=True))

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights of a step that is done. In place and without a look at any value, so that the update can
        be a part of a CUDA graph."""
        self._step(*self._weights, 0)
        self._copy_buffers()

    @torch.no_grad()
    def restart(self) -> None:
        """Begin anew with the weights of now."""
        for average, weight in zip(*self._weights, strict=True):
            average.copy_(weight)
        self._copy_buffers()

    def _copy_buffers(self) -> None:
        for own, live in self._buffers:
            own.copy_(live)

    @contextmanager
    def in_place_of_weights(self, method: Method) -> Iterator[None]:
        """Within it the averages are the method's generators. The networks in training are not touched."""
        live = {name: getattr(method, name) for name in self.networks}
        for name, network in self.networks.items():
            setattr(method, name, network)
        try:
            yield
        finally:
            for name, network in live.items():
                setattr(method, name, network)
