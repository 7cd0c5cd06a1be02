"""With ``--compile`` every convolution of a step is in a compiled region, apart from those of gradient penalties, and
the step computes the same."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cgcl_fast.engine.compiling import compile_networks
from cgcl_fast.methods import Method

from .graph_cases import batch_of, method_of
from .one_step import phases_of_a_step

HERE = [
    "cut",
    "cut, all negatives, attention, dropout",
    "fastcut",
    "sincut",
    "enco",
    "mguit",
    "cgl",
    "cgcl",
    "cyclegan",
]
"""Of the cases, those whose steps call networks in ways of their own."""
CONVOLUTIONS = ("conv2d", "conv_transpose2d")
TWICE = {"gradient_penalty", "realness"}
"""Functions whose result is differentiated twice, which compiled code cannot be."""


class Eager:
    """Counts the convolutions that Python runs, rather than compiled code: traced, a call leaves nothing here."""

    def __init__(self) -> None:
        self.plain: list[str] = []
        self.twice = 0

    def watch(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def watched(*arguments: Any, **more: Any) -> Tensor:
            if not torch.compiler.is_compiling():
                names = [frame.function for frame in inspect.stack(0)]
                if TWICE.intersection(names):
                    self.twice += 1
                else:
                    self.plain.append(" < ".join(names[1:8]))
            return function(*arguments, **more)

        return watched


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> Eager:
    found = Eager()
    for name in CONVOLUTIONS:
        monkeypatch.setattr(F, name, found.watch(getattr(F, name)))
    return found


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        yield
    torch._dynamo.reset()


def steps(method: Method, case: str) -> dict[str, Tensor]:
    """Losses of two steps, and every gradient of the second. In float64, so that nothing depends on the order of sums:
    a compiled blur is another sum."""
    method.double().train()
    found: dict[str, Tensor] = {}
    for number in (1, 2):
        torch.manual_seed(number)
        shared = method.choose(0.0)
        batch = {k: v for k, v in method.prepare(batch_of(case, number)).items() if isinstance(v, Tensor)}
        batch = {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}
        for phase, losses in phases_of_a_step(method, batch, shared):
            found |= {f"step {number} {phase.name} {name}": value.detach() for name, value in losses.items()}
            for name, parameter in method.named_parameters():
                if parameter.grad is not None:
                    found[f"{phase.name} gradient of {name}"] = parameter.grad.clone()
    return found


@pytest.mark.compile
@pytest.mark.parametrize("case", HERE)
def test_every_convolution_of_a_step_is_compiled(case: str, eager: Eager) -> None:
    expected = steps(method_of(case), case)
    assert eager.plain, "the plain step has convolutions that Python runs"
    twice = eager.twice
    eager.plain, eager.twice = [], 0
    method = method_of(case)
    compile_networks(method, backend="eager")
    found = steps(method, case)
    assert not eager.plain, eager.plain
    assert eager.twice == twice
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=1e-6, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_weights_keep_their_names_when_compiled() -> None:
    method = method_of("mguit")
    names = list(method.state_dict())
    compile_networks(method, backend="eager")
    assert list(method.state_dict()) == names
