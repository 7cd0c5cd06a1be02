"""External negatives (CUT, Eq. 4): a dictionary of past keys and the moving average that computes them, after MoCo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cgcl_fast.nn.per_process import PerProcess, State


class KeyQueue(PerProcess):
    """The last ``size`` keys, first in first out; begins with random unit vectors, as MoCo does.

    The queue is part of the state dict, so a resumed run has the same negatives. Each process of a training has a queue
    of its own.

    Args:
        size: rows kept (16384 a layer in CUT).
        dim: width of a key.

    Example:
        >>> import torch
        >>> from cgcl_fast.nn import KeyQueue, PatchNCE
        >>> queue, nce = KeyQueue(size=4096, dim=64), PatchNCE(negatives="external")
        >>> query, key = torch.randn(2, 256, 64), torch.randn(2, 256, 64)
        >>> loss = nce([query], [key], [queue.rows])
        >>> queue.enqueue(key.flatten(0, 1))  # after the backward pass
        >>> int(queue.position)
        512
    """

    rows: Tensor
    position: Tensor

    def __init__(self, size: int = 16384, dim: int = 256) -> None:
        super().__init__()
        if size < 1 or dim < 1:
            raise ValueError(f"size and dim: expected positive numbers, got {size} and {dim}")
        self.register_buffer("rows", torch.nn.functional.normalize(torch.randn(size, dim)))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Replace the oldest rows by ``keys`` (N, dim), normalised on the way in; after the backward pass only."""
        size, dim = self.rows.shape
        if keys.dim() != 2 or keys.shape[1] != dim:
            raise ValueError(f"keys: expected (N, {dim}), got {tuple(keys.shape)}")
        total = keys.shape[0]
        keys = keys[-size:].to(self.rows)
        keys = keys / (keys.norm(dim=1, keepdim=True) + 1e-7)
        skipped = total - keys.shape[0]
        places = (self.position + skipped + torch.arange(keys.shape[0], device=keys.device)) % size
        self.rows.index_copy_(0, places, keys)
        self.position.copy_((self.position + total) % size)

    def merged(self, states: Sequence[State]) -> dict[str, Any]:
        """The newest ``size`` rows of all queues, in the order of their age; of rows of one age those of the later
        processes count as newer. So all queues give the same number of rows, up to one."""
        by_age = [torch.roll(state["rows"], -int(state["position"]), dims=0) for state in states]
        together = torch.stack(by_age, dim=1).flatten(0, 1)
        return {"rows": together[-len(self.rows) :], "position": torch.zeros_like(states[0]["position"])}


@torch.no_grad()
def momentum_update(average: nn.Module, module: nn.Module, momentum: float = 0.999) -> None:
    """average ← momentum · average + (1 - momentum) · module, for each parameter; buffers are copied.

    Example:
        >>> import torch
        >>> from cgcl_fast.nn import momentum_update
        >>> average, encoder = torch.nn.PReLU(init=0.0), torch.nn.PReLU(init=1.0)  # of one weight
        >>> momentum_update(average, encoder, momentum=0.75)  # after each step of the encoder's optimiser
        >>> average.weight.item()
        0.25
    """
    for old, new in zip(average.parameters(), module.parameters(), strict=True):
        old.lerp_(new.to(old.dtype), 1 - momentum)
    for old_buffer, new_buffer in zip(average.buffers(), module.buffers(), strict=True):
        old_buffer.copy_(new_buffer)
