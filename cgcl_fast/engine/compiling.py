"""``torch.compile`` for everything that a step runs.

``nn.Module.compile`` only compiles a network's forward. A step may call more: a generator's encoder alone, or parts of
a network. A network lists these methods and parts by name in ``entry_points``; without them it is ``forward``. What a
step calls as ``forward(...)`` stays uncompiled, because compiled code cannot be differentiated twice (gradient
penalties).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def compile_networks(method: nn.Module, **options: Any) -> None:
    """Compile, in place, every network of a method that has weights.

    Args:
        method: its children are the networks.
        options: of ``torch.compile``.
    """
    for network in method.children():
        if next(network.parameters(), None) is not None:
            _compile(network, options)


def _compile(network: nn.Module, options: dict[str, Any]) -> None:
    if isinstance(network, nn.ModuleList):
        for member in network:
            _compile(member, options)
        return
    for name in getattr(network, "entry_points", ("forward",)):
        called = getattr(network, name)
        if name == "forward":
            network.compile(**options)
        elif isinstance(called, nn.Module):
            _compile(called, options)
        else:
            setattr(network, name, torch.compile(called, **options))
