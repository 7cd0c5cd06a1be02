"""A step as the engine runs it, phase by phase, for tests of what each phase leaves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from cgcl_fast.methods import Method
from cgcl_fast.methods.base import Phase


def phases_of_a_step(
    method: Method, batch: dict[str, Any], shared: dict[str, Any]
) -> Iterator[tuple[Phase, dict[str, Tensor]]]:
    """Each phase with its losses, when their gradients are there. The update is the caller's; what the phase does
    ``after`` it follows."""
    for phase in method.phases():
        for name in phase.networks:
            getattr(method, name).zero_grad()
        frozen = [p for name in phase.frozen for p in getattr(method, name).parameters() if p.requires_grad]
        for parameter in frozen:
            parameter.requires_grad_(False)
        losses = phase.loss(batch, shared)
        losses["loss"].backward()
        for parameter in frozen:
            parameter.requires_grad_(True)
        yield phase, losses
        if phase.after is not None:
            with torch.no_grad():
                phase.after([batch], [shared])
