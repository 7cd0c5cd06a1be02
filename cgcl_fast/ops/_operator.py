"""Calls of the operators: in eager mode straight to the kernel, with a thin gradient around it.

The gradients that are registered with PyTorch are for who looks on: `torch.compile`, `torch.export`, TorchScript, a
dispatch mode, tensors of another class. They pass through several layers of Python on the way to a kernel, which takes
the host longer than PyTorch itself needs for the whole op. Where nobody looks on, a call goes to the kernel itself, and
where a gradient is wanted through a `torch.autograd.Function`.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from .. import _backend

#: (ctx, which inputs need a gradient, gradients of the results) -> gradients of the inputs.
Backward = Callable[..., Sequence[Any]]
#: (ctx, inputs, results): what the backward pass will need.
SetupContext = Callable[[Any, Any, Any], None]

#: Operator -> file in cgcl_fast/kernels and function in it: its Triton kernel.
triton_functions: dict[str, tuple[str, str]] = {}
#: (operator, device type) -> its kernel in the library, where another one has taken its place in PyTorch's dispatcher.
native_kernels: dict[tuple[str, str], Any] = {}

#: (operator, backend, device) -> its kernel.
_found: dict[tuple[str, str, torch.device], Callable[..., Any]] = {}
#: Classes of arguments that are what they seem: a subclass of Tensor has a say in what is done with it.
_PLAIN = frozenset((Tensor, nn.Parameter, list, type(None), bool, int, float, str))


def find_kernel(name: str, backend: str, device: str) -> Callable[..., Any]:
    """The kernel of operator `name` of `backend` ("native" or "triton") on devices of type `device`, which takes the
    operator's arguments."""
    if backend == "triton":
        module, function = triton_functions[name]
        return getattr(importlib.import_module(f"cgcl_fast.kernels.{module}"), function)
    key = device.upper()
    kernel = native_kernels.get((name, device)) or torch.library.get_kernel(f"cgcl_fast::{name}", key)
    return functools.partial(kernel.call_boxed, torch._C.DispatchKeySet(torch._C.DispatchKey.__members__[key]))


def operator(
    name: str, backward: Backward | None = None, setup_context: SetupContext | None = None, results: int = 0
) -> Callable[..., Any]:
    """How the package itself calls operator `name`.

    Args:
        name: of the operator in `torch.ops.cgcl_fast`.
        backward, setup_context: its gradient; None where it has none, or one so rarely asked for that the registered
            one does.
        results: how many of the operator's results callers use, from the first; 0 for a single result that is no tuple.
            The others do not become results of the gradient's function, each of which takes the host a microsecond.

    Returns:
        A function of the backend ("native" or "triton", as `_backend.choose` says; None: the operator itself chooses)
        and of the operator's arguments.
    """
    overload = getattr(torch.ops.cgcl_fast, name).default
    kinds = [str(argument.type) for argument in overload._schema.arguments]
    lists = [index for index, kind in enumerate(kinds) if kind == "List[Tensor]"]
    places = [index for index, kind in enumerate(kinds) if kind in ("Tensor", "Optional[Tensor]")]
    gradient = None
    if backward is not None and setup_context is not None:
        gradient = _function(backward, setup_context, results, lists, places)

    def call(backend: str | None, *arguments: Any) -> Any:
        if backend is None or torch.compiler.is_compiling():
            return overload(*arguments)
        if (
            torch._C._len_torch_dispatch_stack()
            or torch._C._get_tracing_state() is not None
            or forward_ad._current_level >= 0
        ):
            return overload(*arguments)
        tensors = [tensor for place in lists for tensor in arguments[place]] if lists else ()
        if not (_PLAIN.issuperset(map(type, arguments)) and _PLAIN.issuperset(map(type, tensors))):
            return overload(*arguments)
        device = (tensors or arguments)[0].device
        kernel = _found.get((name, backend, device))
        if kernel is None:
            kernel = _found[name, backend, device] = find_kernel(name, backend, device.type)
        if not torch.is_grad_enabled():
            return kernel(*arguments)
        if places:
            tensors = [*tensors, *[arguments[place] for place in places]]
        if not any([tensor is not None and tensor.requires_grad for tensor in tensors]):
            return kernel(*arguments)
        if gradient is None:
            with _backend.backend(backend):
                return overload(*arguments)
        found = gradient.apply((backend, kernel, arguments), *tensors)
        return (found,) if results == 1 else found

    return call


def _function(
    backward: Backward, setup_context: SetupContext, results: int, lists: Sequence[int], places: Sequence[int]
) -> type[torch.autograd.Function]:
    """A gradient around a kernel, of (backend, kernel, the operator's arguments) and all tensors among those: first the
    ones in `lists`, then those at `places`."""

    class Gradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, made: tuple[str, Callable[..., Any], Sequence[Any]], *tensors: Tensor | None) -> Any:
            ctx.backend, kernel, arguments = made
            ctx.lengths = [len(arguments[place]) for place in lists]
            output = kernel(*arguments)
            setup_context(ctx, arguments, output)
            if results == 1:
                return output[0]
            if results == 0:
                return output
            ctx.mark_non_differentiable(*output[1:results])
            ctx.set_materialize_grads(False)
            return output[:results]

        @staticmethod
        def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
            needs = ctx.needs_input_grad[1:]
            if not lists:
                found = backward(ctx, needs, *grads)
                return (None, *[found[place] for place in places])
            starts = accumulate(ctx.lengths, initial=0)
            found = backward(
                ctx, [needs[start : start + n] for start, n in zip(starts, ctx.lengths, strict=False)], *grads
            )
            return (None, *[gradient for part in found[: len(lists)] for gradient in part])

    return Gradient
