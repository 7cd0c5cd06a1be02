"""Registration of the ops with PyTorch: schemas, shapes for `torch.compile`, gradients, public names for TorchScript.

An op has two parts. The public function (`cgcl_fast.ops.adain`) checks its arguments and chooses an implementation.
The operator behind it (`torch.ops.cgcl_fast._adain`) is what the kernels implement; its outputs include everything that
its backward needs. `torch.ops.cgcl_fast.adain` is the public function again, under a name for TorchScript and
`torch.export`.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.jit import _builtins

from .. import _backend, _library
from ..kernels import INTERPRET
from . import _operator
from ._operator import Backward, SetupContext, operator
from ._schemas import SCHEMAS


class _Fragment(torch.library.Library):
    """Makes every gradient registered here refuse forward mode, which PyTorch's registered gradients ignore."""

    def impl(self, op_name: str, fn: Callable[..., Any], dispatch_key: str = "", **options: Any) -> None:
        if dispatch_key == "Autograd":
            fn = _without_forward_mode(op_name, fn)
        super().impl(op_name, fn, dispatch_key, **options)


def _without_forward_mode(name: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
    def run(keys: Any, *arguments: Any) -> Any:
        if forward_ad._current_level >= 0 and any(map(_has_tangent, _tensors(arguments))):
            raise _unsupported("forward-mode derivatives", name, "to differentiate in forward mode")
        return kernel(keys, *arguments)

    return run


def _has_tangent(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and forward_ad.unpack_dual(tensor).tangent is not None


def _tensors(arguments: tuple[Any, ...]) -> list[Tensor]:
    return [t for a in arguments for t in (a if isinstance(a, (list, tuple)) else (a,)) if isinstance(t, Tensor)]


def _unsupported(what: str, operator: str, aim: str) -> RuntimeError:
    public = operator.removeprefix("_").removesuffix("_backward")
    return RuntimeError(
        f"cgcl_fast.ops.{public}: {what} are not implemented by its kernels; "
        f'compute it inside `with cgcl_fast.backend("reference"):` {aim}'
    )


_fragment = _Fragment("cgcl_fast", "FRAGMENT")


def _defined(schema: str) -> str | None:
    """The schema with which the library defined the operator, None if it did not."""
    try:
        return str(torch._C._get_schema(f"cgcl_fast::{schema.split('(')[0]}", ""))
    except RuntimeError:
        return None


def _define_what_the_library_did_not() -> None:
    other = []
    for schema in SCHEMAS:
        defined = _defined(schema)
        if defined is None:
            _fragment.define(schema)
        if defined != str(torch._C.parse_schema(f"cgcl_fast::{schema}")):
            other.append(schema.split("(")[0])
    if other and _library.problem is None:
        _library.problem = (
            f"built from other sources: {_library.PATH} has other or no {', '.join(other)}; build it again"
        )
        _library.cuda_problem = _library.cuda_problem or "the native library _C is not in use"


_define_what_the_library_did_not()


def native_on_cpu(op: str) -> None:
    """Record that public op `op` has a C++ CPU kernel, if the library is loaded."""
    if _library.problem is None:
        _backend.add_kernels("native", "cpu", op)
    else:
        _backend.problems["native", "cpu"] = _library.problem


def native_on_cuda(op: str) -> None:
    """Record that public op `op` has a CUDA C++ kernel, if the CUDA library is loaded."""
    if _library.cuda_problem is None:
        _backend.add_kernels("native", "cuda", op)
    else:
        _backend.problems["native", "cuda"] = _library.cuda_problem


_HAS_TRITON = importlib.util.find_spec("triton") is not None
_TRITON_DEVICES = ("cuda", "cpu") if INTERPRET else ("cuda",)
if not _HAS_TRITON:
    _backend.problems["triton", "cuda"] = "Triton is not installed"


def triton(ops: tuple[str, ...], module: str, **operators: str) -> None:
    """Record the Triton kernels of public ops.

    Args:
        ops: public names.
        module: file in cgcl_fast/kernels, imported at the first call.
        operators: operator name -> function in that file with the operator's arguments and results.
    """
    if not _HAS_TRITON:
        return
    _operator.triton_functions.update({name: (module, function) for name, function in operators.items()})
    for device in _TRITON_DEVICES:
        _backend.add_kernels("triton", device, *ops)
        for name in operators:
            _register_triton(ops[0], name, device)


def _register_triton(op: str, name: str, device: str) -> None:
    key = device.upper()
    # The library's kernel of the same operator stays reachable: for the backend "native", and for C++ programs, which
    # load the library without Python.
    in_use = _library.cuda_problem is None if device == "cuda" else _library.problem is None
    if in_use and torch._C._dispatch_has_kernel_for_dispatch_key(f"cgcl_fast::{name}", key):
        _operator.native_kernels[name, device] = torch.library.get_kernel(f"cgcl_fast::{name}", key)

    def run(keys: Any, *arguments: Any) -> Any:
        dtypes = {tensor.dtype for tensor in _tensors(arguments) if tensor.is_floating_point()}
        # If neither backend supports the dtypes, the library's kernel raises the error that names them.
        triton = _backend.kernel_backend(op, device, *dtypes) == "triton"
        backend = "triton" if triton or (name, device) not in _operator.native_kernels else "native"
        return _operator.find_kernel(name, backend, device)(*arguments)

    with warnings.catch_warnings():  # torch 2.11 warns in spite of allow_override
        warnings.filterwarnings("ignore", message="(?s).*Overriding a previously registered kernel")
        _fragment.impl(name, run, key, with_keyset=True, allow_override=True)


def fake(name: str, shapes: Callable[..., Any]) -> None:
    """Register `shapes`, which returns empty tensors like the results of operator `name`."""
    torch.library.register_fake(f"cgcl_fast::{name}", shapes, lib=_fragment)


def gradient(name: str, backward: Backward, setup_context: SetupContext, results: int = 0) -> Callable[..., Any]:
    """Give operator `name` its gradient. The backward runs on the backend of the forward, whatever its thread.

    Returns:
        The function with which the package calls the operator, see :func:`operator`.
    """

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.choice = _backend.current_backend()
        setup_context(ctx, inputs, output)
        if isinstance(output, tuple):  # only its first element has a gradient
            ctx.mark_non_differentiable(*output[1:])
            ctx.set_materialize_grads(False)
        ctx.backend = None

    def run(ctx: Any, *grads: Any) -> Any:
        with _backend.backend(ctx.choice):
            return backward(ctx, ctx.needs_input_grad, *grads)

    torch.library.register_autograd(f"cgcl_fast::{name}", run, setup_context=setup, lib=_fragment)
    return operator(name, backward, setup_context, results)


def once_differentiable(name: str) -> None:
    """For backward operators: differentiating `name` again raises, and is never silently zero."""

    def backward(ctx: Any, *grads: Any) -> Any:
        raise _unsupported("second derivatives", name, "to differentiate twice")

    torch.library.register_autograd(f"cgcl_fast::{name}", backward, lib=_fragment)


def public(schema: str, function: Callable[..., Any]) -> None:
    """Give the public `function` the operator name of `schema`, made of the operators that it calls.

    Where `torch.jit.script` meets a call of the function it takes that operator: TorchScript cannot read the checks.
    """
    name = schema.split("(")[0]
    _fragment.define(schema)
    _fragment.impl(name, function, "CompositeImplicitAutograd")
    _builtins._register_builtin(function, f"cgcl_fast::{name}")
