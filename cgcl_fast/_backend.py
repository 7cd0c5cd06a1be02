"""Which implementation of an op runs: `reference` (plain PyTorch), `native` (C++ on the CPU, CUDA C++) or `triton`."""

from __future__ import annotations

import os
import threading
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .kernels import INTERPRET

BACKENDS = ("auto", "native", "triton", "reference")
#: Dtypes with kernels. All others, including float64 (the tests' ground truth), run the reference.
DTYPES = {
    ("native", "cpu"): (torch.float32, torch.bfloat16),
    ("native", "cuda"): (torch.float32, torch.float16, torch.bfloat16),
    ("triton", "cpu"): (torch.float32, torch.float16),  # the interpreter computes bfloat16 wrongly
    ("triton", "cuda"): (torch.float32, torch.float16, torch.bfloat16),
}
#: Backends that "auto" tries, in this order.
PREFERENCE = {"cpu": ("triton", "native") if INTERPRET else ("native",), "cuda": ("triton", "native")}

#: (backend, device type) -> names of the ops with a kernel there.
kernels: dict[tuple[str, str], set[str]] = {}
#: (backend, device type) -> why there are no kernels.
problems: dict[tuple[str, str], str] = {}
#: Cached decisions: (op, device or its type, choice, dtypes) -> backend.
_decided: dict[tuple[Any, ...], str] = {}


def add_kernels(backend_name: str, device: str, *ops: str) -> None:
    """Record that public `ops` have a kernel of the backend on devices of type `device`."""
    kernels.setdefault((backend_name, device), set()).update(ops)
    _decided.clear()


def _checked(name: str, origin: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"{origin}: expected one of {', '.join(BACKENDS)}, got {name!r}")
    return name


_DEFAULT = _checked(os.environ.get("CGCL_FAST_BACKEND", "auto").lower(), "CGCL_FAST_BACKEND")


class _Choice(threading.local):
    """A thread's choice, and what its enclosing `with` blocks will restore.

    Not a context variable, which torch.compile cannot set, and not a class attribute, which it would read instead.
    """

    def __init__(self) -> None:
        self.name = _DEFAULT
        self.outer: tuple[str, ...] = ()


_choice = _Choice()


class backend:  # noqa: N801  a context manager with the name of what it sets
    """Choose the implementation of every op inside a `with` block, for the thread that runs the block.

    The backward pass of an op runs on the backend of its forward pass, in whatever thread. (Compiled by `torch.compile`
    it follows its own thread's choice; either backend can run after the other.)

    Args:
        name: "auto" (the fastest available), "native", "triton" or "reference". The environment variable
            `CGCL_FAST_BACKEND` is the choice of threads that make none. Dtypes without a kernel always run the
            reference, and so do forward-mode differentiation and the transformations of `torch.func`, which the kernels
            do not support.

    Raises:
        ValueError: for another name.
        RuntimeError: raised by an op if the chosen backend has no kernel on the tensor's device.

    Example:
        >>> import cgcl_fast, torch
        >>> with cgcl_fast.backend("reference"):
        ...     y = cgcl_fast.ops.instance_norm(torch.randn(1, 3, 8, 8))
        ...     print(cgcl_fast.current_backend())
        reference
    """

    def __init__(self, name: str) -> None:
        self.name = _checked(name, "backend")

    def __enter__(self) -> None:
        _choice.outer = (*_choice.outer, _choice.name)
        _choice.name = self.name

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _choice.name = _choice.outer[-1]
        _choice.outer = _choice.outer[:-1]


def current_backend() -> str:
    """This thread's current choice: "auto", "native", "triton" or "reference"."""
    return _choice.name


def has_kernel(op: str, backend_name: str, device: str) -> bool:
    return op in kernels.get((backend_name, device), ())


def choose(op: str, tensor: Tensor) -> str:
    """The backend that `op` runs on for a map like `tensor`: "native", "triton" or "reference"."""
    return choose_on(op, tensor.device, tensor.dtype)


def choose_on(op: str, device: torch.device | str, *dtypes: torch.dtype) -> str:
    """The backend that `op` runs on, on `device` (or devices of that type), for arguments of `dtypes`.

    Raises:
        RuntimeError: the chosen backend has no kernel there.
    """
    if _choice.name == "reference":
        return "reference"
    # The kernels would not see a tangent, or a level of torch.func.
    if forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active():
        return "reference"
    return kernel_backend(op, device, *dtypes)


def kernel_backend(op: str, device: torch.device | str, *dtypes: torch.dtype) -> str:
    """As :func:`choose_on`, if only device and dtypes matter."""
    if torch.compiler.is_compiling():  # it would recompile after every new entry of the cache
        return _decide(op, device, dtypes)
    key = op, device, _choice.name, dtypes
    backend = _decided.get(key)
    if backend is None:
        backend = _decided[key] = _decide(op, device, dtypes)
    return backend


def _decide(op: str, device: torch.device | str, dtypes: tuple[torch.dtype, ...]) -> str:
    wanted, device = _choice.name, device if isinstance(device, str) else device.type
    if device == "meta":
        return "reference"
    for name in PREFERENCE.get(device, ()) if wanted in ("auto", "reference") else (wanted,):
        if has_kernel(op, name, device):
            if all(dtype in DTYPES[name, device] for dtype in dtypes):
                return name
        elif wanted not in ("auto", "reference"):
            reason = problems.get((name, device))
            raise RuntimeError(
                f"cgcl_fast.ops.{op}: backend {wanted!r} was asked for but has no kernel on {device}"
                + (f": {reason}" if reason else "")
            )
    return "reference"
