"""A case: one op at one shape, forward or forward and backward, in several implementations.

The implementations "eager" (plain PyTorch, as published code writes it), "compile" (`torch.compile` of "eager") and
"cgcl_fast" are in every case; a second way to write it in eager PyTorch is called "eager_" and something.
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
    """What is measured.

    Args:
        op: public name of the op, or of the method for a step.
        shape: what tells this case from the op's others: shape and options.
        direction: "forward" or "forward+backward".
        implementations: names, in the order in which they run.
        build: (implementation, compile backend, device) -> a function without arguments that does the work once and
            returns its results: outputs, then gradients.
        work: the bytes and FLOPs that it cannot do without, or None.
        agree: the implementations return the same numbers (false where they draw at random).
        rounds: fixed number of timed rounds, for what takes seconds; None: as many as the time allows.
        slow: not run with --benchmark-disable.
        memory: "extra" (peak bytes of an op beyond its inputs and outputs), "step" (peak resident bytes of a training
            step) or None (not measured).
        images: how many images a call makes, where it is images that a user counts.
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
    """A case of functions of the same arguments.

    Args:
        functions: at least "eager" and "cgcl_fast"; "compile" is made from "eager".
        inputs: builds the arguments from a seeded generator, on its device or the CPU.
        wrt: which arguments take a gradient, if direction is "forward+backward".
        options: the remaining fields of `Case`.
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
    """`torch.compile` of a function for the shapes of its first call, as a user with fixed shapes would write it."""
    torch._dynamo.reset()  # cases share functions; without this the shapes seen before would make them dynamic
    return torch.compile(function, fullgraph=True, dynamic=False, backend=backend)


def forward(function: Function, arguments: Sequence[Any]) -> Run:
    def run() -> list[Tensor]:
        with torch.no_grad():
            return flat(function(*arguments))

    return run


def forward_backward(function: Function, arguments: Sequence[Any], wrt: Sequence[int]) -> Run:
    """Outputs and the gradients of a fixed random combination of them (of the output itself, if it is a scalar)."""
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
