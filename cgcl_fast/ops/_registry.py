"""Registration of the ops with PyTorch: schemas, shapes for `torch.compile`, gradients, public names for TorchScript.

An op has two faces. The public function (`cgcl_fast.ops.adain`) checks its arguments and chooses an implementation.
The operator behind it (`torch.ops.cgcl_fast._adain`) is what the kernels implement, with everything that its backward
needs among its outputs. `torch.ops.cgcl_fast.adain` is the public function again, under a name that TorchScript and
`torch.export` know.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .. import _library
from .._backend import kernels
from ._schemas import SCHEMAS

_fragment = torch.library.Library("cgcl_fast", "FRAGMENT")


def _defined(schema: str) -> str | None:
    """The schema under which the library defined the operator of `schema`, None if it did not."""
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


_define_what_the_library_did_not()


def native_on_cpu(op: str) -> None:
    """Record that public op `op` has a C++ kernel on the CPU, if the library is loaded."""
    if _library.problem is None:
        kernels.setdefault(("native", "cpu"), set()).add(op)


def fake(name: str, shapes: Callable[..., Any]) -> None:
    """`shapes` returns empty tensors like those that operator `name` returns."""
    torch.library.register_fake(f"cgcl_fast::{name}", shapes, lib=_fragment)


def gradient(name: str, backward: Callable[..., Any], setup_context: Callable[..., None]) -> None:
    torch.library.register_autograd(f"cgcl_fast::{name}", backward, setup_context=setup_context, lib=_fragment)


def once_differentiable(name: str, public: str) -> None:
    """Operator `name` is a backward: differentiating it again raises, it is never silently zero."""

    def backward(ctx: Any, *grads: Any) -> Any:
        raise RuntimeError(
            f"cgcl_fast.ops.{public}: second derivatives are not implemented by its kernels; "
            'compute it inside `with cgcl_fast.backend("reference"):` to differentiate twice'
        )

    torch.library.register_autograd(f"cgcl_fast::{name}", backward, lib=_fragment)


def public(schema: str, function: Callable[..., Any]) -> None:
    """Give the public `function` the operator name of `schema`, made of the operators that it calls."""
    _fragment.define(schema)
    _fragment.impl(schema.split("(")[0], function, "CompositeImplicitAutograd")
