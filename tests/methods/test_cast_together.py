"""A phase whose weights are cast together is, bit for bit, the phase in which autocast casts each of them."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from cgcl_fast.engine.casting import cast_together
from cgcl_fast.methods import Method, Phase

from .graph_cases import batch_of, method_of

HERE = [
    "cut",
    "cut, all negatives, attention, dropout",
    "fastcut",
    "sincut",
    "enco, as its later code",
    "mguit",
    "cgl",
    "cgcl",
    "cyclegan",
]


class Casts(TorchDispatchMode):
    """Counts the casts to and from bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


@contextmanager
def frozen(method: Method, phase: Phase) -> Iterator[None]:
    networks = [getattr(method, name) for name in phase.frozen]
    for network in networks:
        network.requires_grad_(False)
    yield
    for network in networks:
        network.requires_grad_(True)


def trained(method: Method, case: str, together: bool) -> tuple[list[dict[str, Tensor]], Counter[str]]:
    """Losses and gradients of each phase of a step in bfloat16, with all weights moved after each phase."""
    torch.manual_seed(1)
    choices, shared = method.choose(0.9), {}
    batch = {k: v for k, v in method.prepare(batch_of(case)).items() if isinstance(v, Tensor)}
    shared.update(choices)
    method.begin([batch], [shared])
    found = []
    with Casts() as casts:
        for phase in method.phases():
            method.zero_grad()
            with frozen(method, phase):
                with torch.autocast("cpu", torch.bfloat16):
                    if together:
                        with cast_together(method.children(), torch.bfloat16):
                            losses = phase.loss(batch, shared)
                    else:
                        losses = phase.loss(batch, shared)
                losses["loss"].backward()
            gradients = {n: p.grad for n, p in method.named_parameters() if p.grad is not None}
            found.append({**{n: x.detach() for n, x in losses.items()}, **copy.deepcopy(gradients)})
            with torch.no_grad():
                for parameter in method.parameters():
                    if parameter.grad is not None:
                        parameter -= 1e-3 * parameter.grad
    return found, casts.count


@pytest.mark.parametrize("case", HERE)
def test_losses_and_gradients_are_the_same_bits(case: str) -> None:
    method = method_of(case)
    own = [copy.deepcopy(method) for _ in range(2)]
    (expected, separate), (found, together) = (trained(each, case, i > 0) for i, each in enumerate(own))
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]), name
    opted = [name for name, network in method.named_children() if getattr(network, "casts_together", False)]
    assert together["_to_copy"] < separate["_to_copy"] * (0.6 if "D" in opted else 1) or not opted
    assert all(
        isinstance(p, nn.Parameter) for layer in own[1].modules() for p in layer._parameters.values() if p is not None
    )
