"""A case: one op at one shape, forward or forward and backward, in several implementations.

Every case has the implementations "eager" (plain PyTorch, as in published code), "compile" (`torch.compile` of "eager")
and "cgcl_fast". Further eager implementations have names that start with "eager_".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .floors import Work

FORWARD, BOTH = "forward", "forward+backward"
Function = Callable[..., Any]
Run = Callable[[], list[Tensor]]


@dataclass(frozen=True)
class Case:
    """A case of a benchmark.

    Args:
        op: public name of the op, or of the method for a step.
        shape: distinguishes this case from the op's others: shape and options.
        direction: "forward" or "forward+backward".
        implementations: names, in the order in which they run.
        build: (implementation, compile backend, device) -> a function without arguments that does the work once and
            returns its results: outputs, then gradients.
        work: the minimum bytes and FLOPs, or None.
        agree: whether the implementations return the same numbers (not if they draw at random).
        rounds: fixed number of timed rounds, if one takes seconds; None: as many as time allows.
        slow: skip with --benchmark-disable.
        memory: "extra" (peak bytes of an op beyond its inputs and outputs), "step" (peak resident bytes of a training
            step) or None (not measured).
        images: number of images per call, if its results are counted in images.
    """

    op: str
    shape: str
    direction: str
    implementations: tuple[str, ...]
    build: Callable[[str, str, str], Run]
    work: Work | None = None
    agree: bool = True
    rounds: int | None = None
    slow: bool = False
    memory: str | None = None
    images: int | None = None

    @property
    def name(self) -> str:
        return f"{self.op} {self.shape} {self.direction}"

    def info(self, implementation: str) -> dict[str, Any]:
        """The entries of `benchmark.extra_info`."""
        info = {"op": self.op, "shape": self.shape, "impl": implementation, "pass": self.direction}
        if self.work is not None:
            info |= {"bytes": self.work.bytes, "flops": self.work.flops, "rate": self.work.rate}
        if self.images is not None:
            info["images"] = self.images
        return info


def op_case(
    op: str,
    shape: str,
    direction: str,
    functions: Mapping[str, Function],
    inputs: Callable[[torch.Generator], Sequence[Any]],
    wrt: Sequence[int] = (),
    **options: Any,
) -> Case:
    """A case of functions with the same arguments.

    Args:
        functions: at least "eager" and "cgcl_fast"; "compile" is derived from "eager".
        inputs: creates the arguments from a seeded generator, on its device or the CPU.
        wrt: indices of the arguments that take a gradient, if direction is "forward+backward".
        options: the other fields of `Case`.
    """
    eager = [name for name in functions if name.startswith("eager")]
    names = (*eager, "compile", "cgcl_fast")
    directions = (FORWARD, BOTH)
    if direction not in directions:
        raise ValueError(f"direction: expected one of {directions}, got {direction!r}")

    def build(implementation: str, compile_backend: str, device: str) -> Run:
        values = inputs(torch.Generator(device).manual_seed(0))
        arguments = [value.to(device) if isinstance(value, Tensor) else value for value in values]
        if implementation == "compile":
            function = compiled(functions["eager"], compile_backend)
        else:
            function = functions[implementation]
        if direction == FORWARD:
            return forward(function, arguments)
        return forward_backward(function, arguments, wrt)

    options.setdefault("memory", "extra" if direction == BOTH or not wrt else None)
    return Case(op, shape, direction, names, build, **options)


def compiled(function: Function, backend: str) -> Function:
    """`torch.compile` of a function for the shapes of its first call, like a user with fixed shapes."""
    torch._dynamo.reset()  # otherwise shapes of earlier cases of the same function would become dynamic
    return torch.compile(function, fullgraph=True, dynamic=False, backend=backend)


def forward(function: Function, arguments: Sequence[Any]) -> Run:
    def run() -> list[Tensor]:
        with torch.no_grad():
            return flat(function(*arguments))

    return run


def forward_backward(function: Function, arguments: Sequence[Any], wrt: Sequence[int]) -> Run:
    """Outputs, and the gradients of a fixed random combination of them (or of the output itself, if it is a scalar)."""
    variables = [arguments[i].requires_grad_() for i in wrt]
    with torch.no_grad():
        shaped = flat(function(*arguments))
    generator = torch.Generator(shaped[0].device).manual_seed(1)
    upstream = [
        torch.empty_like(y).copy_(normal(generator, *y.shape)) if y.dim() else torch.ones_like(y) for y in shaped
    ]
    del shaped

    def run() -> list[Tensor]:
        outputs = flat(function(*arguments))
        gradients = torch.autograd.grad(outputs, variables, upstream)
        return [*(y.detach() for y in outputs), *gradients]

    return run


def flat(output: Any) -> list[Tensor]:
    return [output] if isinstance(output, Tensor) else list(output)


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device)


def unit(generator: torch.Generator, *shape: int) -> Tensor:
    """Random vectors of length 1 along the last dimension."""
    return torch.nn.functional.normalize(normal(generator, *shape), dim=-1)
