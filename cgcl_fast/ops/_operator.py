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
    with_gradient = None if backward is None or setup_context is None else _function(backward, setup_context, results)

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
        if not torch.is_grad_enabled() or not _is_wanted(tensors, arguments, places):
            return kernel(*arguments)
        if with_gradient is None:
            with _backend.backend(backend):
                return overload(*arguments)
        if not lists:
            return with_gradient(backend, kernel, None, *arguments)
        count = len(lists)  # an operator with a gradient has its lists first
        return with_gradient(backend, kernel, [len(part) for part in arguments[:count]], *tensors, *arguments[count:])

    return call


def _is_wanted(tensors: Sequence[Tensor], arguments: Sequence[Any], places: Sequence[int]) -> bool:
    """Whether one of `tensors`, or of the arguments at `places`, takes a gradient."""
    for place in places:
        argument = arguments[place]
        if argument is not None and argument.requires_grad:
            return True
    return any([tensor.requires_grad for tensor in tensors])


def _function(backward: Backward, setup_context: SetupContext, results: int) -> Callable[..., Any]:
    """A gradient around a kernel, of (backend, kernel, lengths, *the operator's arguments).

    An autograd.Function sees no tensors in lists: `lengths` are those of the lists, which come first, laid out flat.
    """

    class Gradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, backend: str, kernel: Callable[..., Any], lengths: list[int] | None, *inputs: Any) -> Any:
            ctx.backend, ctx.lists = backend, lengths
            arguments = inputs if lengths is None else _in_lists(inputs, lengths)
            output = kernel(*arguments)
            setup_context(ctx, arguments, output)
            return output[0] if results == 1 else output[:results] if results else output

        @staticmethod
        def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
            needs, lengths = ctx.needs_input_grad[3:], ctx.lists
            if lengths is None:
                return (None, None, None, *backward(ctx, needs, *grads))
            found = backward(ctx, _in_lists(needs, lengths), *grads)
            flat = [gradient for part in found[: len(lengths)] for gradient in part]
            return (None, None, None, *flat, *found[len(lengths) :])

    if results != 1:
        return Gradient.apply
    return lambda *arguments: (Gradient.apply(*arguments),)


def _in_lists(flat: Sequence[Any], lengths: Sequence[int]) -> list[Any]:
    """The first of `flat` in lists of these lengths, then the rest."""
    found: list[Any] = []
    start = 0
    for length in lengths:
        found.append(list(flat[start : start + length]))
        start += length
    return [*found, *flat[start:]]
