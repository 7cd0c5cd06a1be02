"""Which implementation of an op runs: `reference` (plain PyTorch), `native` (C++ on the CPU, CUDA C++) or `triton`."""

from __future__ import annotations

import os
from types import TracebackType

import torch
from torch import Tensor

from . import _library

BACKENDS = ("auto", "native", "triton", "reference")
#: What the kernels take; other dtypes are the reference's, which float64 also is the truth of.
NATIVE_DTYPES = (torch.float32, torch.bfloat16)

#: (backend, device type) -> names of the ops that have a kernel there.
kernels: dict[tuple[str, str], set[str]] = {}


def _checked(name: str, origin: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"{origin}: expected one of {', '.join(BACKENDS)}, got {name!r}")
    return name


_current = _checked(os.environ.get("CGCL_FAST_BACKEND", "auto").lower(), "CGCL_FAST_BACKEND")


class backend:  # noqa: N801  a context manager with the name of what it sets
    """Choose the implementation of every op inside a `with` block.

    Args:
        name: "auto" (the fastest that is there), "native", "triton" or "reference". The environment variable
            `CGCL_FAST_BACKEND` sets the choice for a whole process. A dtype without a kernel takes the reference under
            every choice.

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
        global _current
        self._previous = _current
        _current = self.name

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _current
        _current = self._previous


def current_backend() -> str:
    """The backend asked for now: "auto", "native", "triton" or "reference"."""
    return _current


def has_kernel(op: str, backend_name: str, device: str) -> bool:
    return op in kernels.get((backend_name, device), ())


def choose(op: str, x: Tensor) -> str:
    """The implementation that `op` takes for `x`: "native", "triton" or "reference"."""
    return "reference" if x.dtype not in NATIVE_DTYPES else choose_on(op, x.device.type)


def choose_on(op: str, device: str) -> str:
    """The implementation that `op`, whatever the dtype of its arguments, takes on devices of type `device`."""
    wanted = _current
    if wanted == "reference" or device == "meta":
        return "reference"
    for name in ("triton", "native") if wanted == "auto" else (wanted,):
        if has_kernel(op, name, device):
            return name
    if wanted != "auto":
        reason = f": {_library.problem}" if wanted == "native" and device == "cpu" and _library.problem else ""
        raise RuntimeError(
            f"cgcl_fast.ops.{op}: backend {wanted!r} was asked for but has no kernel on {device}{reason}"
        )
    return "reference"
