"""Each module of an op family compiled, scripted, traced and exported: the same results and gradients as in eager mode,
also for maps of another size than those that it was made with."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from op_checks import DEVICE
from torch import Tensor, nn

from cgcl_fast.nn import (
    AdaIN,
    BlurDown,
    BlurUp,
    ClassMemory,
    DAGSampler,
    InstanceNorm,
    PatchNCE,
    PatchSampler,
    Projector,
)

Inputs = tuple[Tensor | list[Tensor], ...]


class Case(NamedTuple):
    module: Callable[[], nn.Module]
    inputs: Callable[[int], Inputs]
    """For maps of so many pixels a side."""


def maps(*shape: int) -> Tensor:
    return torch.randn(shape, device=DEVICE)


def rows(size: int) -> list[Tensor]:
    return [maps(2, size, 16), maps(2, size // 2, 16)]


class Losses(nn.Module):
    """`PatchNCE` with its samples and projections, as a training step puts them together."""

    def __init__(self) -> None:
        super().__init__()
        self.sampler, self.projector, self.nce = PatchSampler(8), Projector([6], dim=16), PatchNCE(8)

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        ids = [self.sampler(query)]
        return self.nce(self.projector([query], ids), self.projector([key], ids))


class MemoryLoss(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.memory = ClassMemory([3, 2], 8, 6)

    def forward(self, content: Tensor, pixel_class: Tensor) -> Tensor:
        return self.memory.loss(content, self.memory.keys, pixel_class)


class MemoryUpdate(nn.Module):
    """The keys and values after an update, which stay in the module."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = ClassMemory([3, 2], 8, 6)

    def forward(self, content: Tensor, style: Tensor, pixel_class: Tensor) -> tuple[Tensor, Tensor]:
        self.memory.update([content, content], [style, style * 2], [pixel_class, pixel_class])
        return self.memory.keys.clone(), self.memory.values.clone()


def classes(size: int) -> Tensor:
    return (torch.arange(2 * size * size, device=DEVICE) % 2).reshape(2, size, size)


CASES = {
    "adain": Case(lambda: AdaIN(activation="leaky_relu", pad=1), lambda n: (maps(2, 4, n, n), maps(2, 4), maps(2, 4))),
    "adain residual": Case(AdaIN, lambda n: (maps(2, 4, n, n), maps(2, 4), maps(2, 4), maps(2, 4, n, n))),
    "instance norm": Case(
        lambda: InstanceNorm(activation="relu", pad=2, pad_mode="replicate"), lambda n: (maps(2, 4, n, n),)
    ),
    "blur down": Case(BlurDown, lambda n: (maps(2, 4, n, n),)),
    "blur up": Case(BlurUp, lambda n: (maps(2, 4, n, n),)),
    "patch nce": Case(PatchNCE, lambda n: (rows(n), rows(n))),
    "patch nce of the batch": Case(lambda: PatchNCE(negatives="batch"), lambda n: (rows(n), rows(n))),
    "patch nce with a queue": Case(
        lambda: PatchNCE(negatives="both"), lambda n: (rows(n), rows(n), [maps(9, 16), maps(5, 16)])
    ),
    "patch sampler": Case(lambda: PatchSampler(16), lambda n: (maps(2, 4, n, n),)),
    "patch sampler per image": Case(lambda: PatchSampler(16, per_image=True), lambda n: (maps(2, 4, n, n),)),
    "dag sampler": Case(lambda: DAGSampler(4), lambda n: (maps(2, 4, n, n), maps(2, 1, 5, 5))),
    "projector": Case(
        lambda: Projector([4, 6], dim=16, predictor=True),
        lambda n: ([maps(2, 4, n, n), maps(2, 6, n, n)], [torch.arange(9, device=DEVICE)] * 2),
    ),
    "step": Case(Losses, lambda n: (maps(2, 6, n, n), maps(2, 6, n, n))),
    "memory read": Case(lambda: ClassMemory([3, 2], 8, 6), lambda n: (maps(2, 8, n, n), maps(5, 6), classes(n))),
    "memory loss": Case(MemoryLoss, lambda n: (maps(2, 8, n, n), classes(n))),
    "memory update": Case(MemoryUpdate, lambda n: (maps(2, 8, n, n), maps(2, 6, n, n), classes(n))),
}


def flat(values: object) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    return [tensor for value in values for tensor in flat(value)]  # type: ignore[attr-defined]


def with_gradients(inputs: Inputs) -> Inputs:
    for tensor in flat(inputs):
        tensor.requires_grad_(tensor.is_floating_point())
    return inputs


def compiled(module: nn.Module, inputs: Inputs) -> Callable[..., object]:
    torch._dynamo.reset()
    return torch.compile(module, fullgraph=True, backend="aot_eager")


def saved(module: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    file = io.BytesIO()
    torch.jit.save(module, file)
    return torch.jit.load(io.BytesIO(file.getvalue()), map_location=DEVICE)


def scripted(module: nn.Module, inputs: Inputs) -> Callable[..., object]:
    return saved(torch.jit.script(module))


def traced(module: nn.Module, inputs: Inputs) -> Callable[..., object]:
    state = copy.deepcopy(module.state_dict())
    trace = torch.jit.trace(module, inputs, check_trace=False)
    module.load_state_dict(state)  # tracing runs it
    return saved(trace)


def any_size(value: Tensor | list[Tensor]) -> object:
    """Maps and rows may have another size than the example; what depends on the weights stays as it is."""
    if isinstance(value, list):
        return [any_size(part) for part in value]
    return {i: torch.export.Dim.AUTO for i in range(value.dim())[-2:]} if value.dim() > 2 else None


def exported(module: nn.Module, inputs: Inputs) -> Callable[..., object]:
    program = torch.export.export(module, inputs, dynamic_shapes=tuple(map(any_size, inputs)))
    file = io.BytesIO()
    torch.export.save(program, file)
    return torch.export.load(io.BytesIO(file.getvalue())).module()


def results(function: Callable[..., object], inputs: Inputs) -> list[Tensor]:
    """What the function returns, and its gradients to those inputs that have one."""
    leaves = [tensor for tensor in flat(with_gradients(inputs)) if tensor.requires_grad]
    for leaf in leaves:
        leaf.grad = None
    torch.manual_seed(0)
    outputs = flat(function(*inputs))
    needed = [output for output in outputs if output.requires_grad]
    if needed:
        torch.manual_seed(1)
        torch.autograd.backward(needed, [torch.randn_like(output) for output in needed])
    gradients = [leaf.grad for leaf in leaves if leaf.grad is not None]
    return [output.detach() for output in outputs] + gradients


@pytest.mark.parametrize("make", [compiled, scripted, traced, exported], ids=lambda make: make.__name__)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_same_as_eager(name: str, make: Callable[[nn.Module, Inputs], Callable[..., object]]) -> None:
    case = CASES[name]
    module = case.module().to(DEVICE)
    # Whether a gradient is to be had of a loss is decided when a program is made of it.
    function = make(copy.deepcopy(module), with_gradients(case.inputs(6)))
    for size in (6, 10):
        inputs = case.inputs(size)
        expected, found = results(module, inputs), results(function, inputs)
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
