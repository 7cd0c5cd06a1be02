"""Which implementation of an op runs: `reference` (plain PyTorch), `native` (C++ on the CPU, CUDA C++) or `triton`."""

from __future__ import annotations

import os
import threading
from types import TracebackType

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .kernels import INTERPRET

BACKENDS = ("auto", "native", "triton", "reference")
#: What the kernels take; other dtypes are the reference's, which float64 also is the truth of.
DTYPES = {
    ("native", "cpu"): (torch.float32, torch.bfloat16),
    ("native", "cuda"): (torch.float32, torch.float16, torch.bfloat16),
    ("triton", "cpu"): (torch.float32, torch.float16),  # the interpreter computes wrongly with bfloat16
    ("triton", "cuda"): (torch.float32, torch.float16, torch.bfloat16),
}
#: What "auto" tries, in this order.
PREFERENCE = {"cpu": ("triton", "native") if INTERPRET else ("native",), "cuda": ("triton", "native")}

#: (backend, device type) -> names of the ops that have a kernel there.
kernels: dict[tuple[str, str], set[str]] = {}
#: (backend, device type) -> why it has none.
problems: dict[tuple[str, str], str] = {}


def _checked(name: str, origin: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"{origin}: expected one of {', '.join(BACKENDS)}, got {name!r}")
    return name


_DEFAULT = _checked(os.environ.get("CGCL_FAST_BACKEND", "auto").lower(), "CGCL_FAST_BACKEND")


class _Choice(threading.local):
    """What a thread asked for, and what the `with` blocks that it is in will restore.

    Not a context variable, which torch.compile cannot set, and no attribute of the class, which it would read instead.
    """

    def __init__(self) -> None:
        self.name = _DEFAULT
        self.outer: tuple[str, ...] = ()


_choice = _Choice()


class backend:  # noqa: N801  a context manager with the name of what it sets
    """Choose the implementation of every op inside a `with` block, for the thread that runs the block.

    The backward pass of an op takes the choice of its forward pass, in whatever thread it runs (compiled by
    `torch.compile` that of its thread: either can run after the other).

    Args:
        name: "auto" (the fastest that is there), "native", "triton" or "reference". The environment variable
            `CGCL_FAST_BACKEND` sets the choice of every thread that makes none. A dtype without a kernel takes the
            reference under every choice, and so do forward-mode differentiation and the transformations of
            `torch.func`, of which the kernels know nothing.

    Raises:
        ValueError: for another name.
        RuntimeError: by an op, when the backend asked for has no kernel on the tensor's device.

    Example:
        >>> with cgcl_fast.backend("reference"):
        ...     y = cgcl_fast.ops.instance_norm(x)
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
    """The backend that this thread asks for now: "auto", "native", "triton" or "reference"."""
    return _choice.name


def has_kernel(op: str, backend_name: str, device: str) -> bool:
    return op in kernels.get((backend_name, device), ())


def order(device: str) -> tuple[str, ...]:
    """The backends to try on devices of type `device` as things stand, best first."""
    wanted = _choice.name
    return PREFERENCE.get(device, ()) if wanted in ("auto", "reference") else (wanted,)


def choose(op: str, *tensors: Tensor) -> str:
    """The implementation that `op` takes for `tensors`, all on one device: "native", "triton" or "reference"."""
    return choose_on(op, tensors[0].device.type, *(tensor.dtype for tensor in tensors))


def choose_on(op: str, device: str, *dtypes: torch.dtype) -> str:
    """The implementation that `op` takes on devices of type `device` for arguments of `dtypes`."""
    wanted = _choice.name
    if wanted == "reference" or device == "meta":
        return "reference"
    # What the kernels do not see: a tangent, or a level of torch.func.
    if forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active():
        return "reference"
    for name in order(device):
        if has_kernel(op, name, device):
            if all(dtype in DTYPES[name, device] for dtype in dtypes):
                return name
        elif wanted != "auto":
            reason = problems.get((name, device))
            raise RuntimeError(
                f"cgcl_fast.ops.{op}: backend {wanted!r} was asked for but has no kernel on {device}"
                + (f": {reason}" if reason else "")
            )
    return "reference"
