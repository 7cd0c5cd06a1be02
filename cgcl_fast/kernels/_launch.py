"""Launching a kernel: on the GPU of its tensors, in Triton's interpreter, or not at all but compiling it for a GPU that
is not here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from . import INTERPRET

_POINTERS = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.int8: "*i8",
    torch.uint8: "*u8",
    torch.bool: "*i1",
}


@dataclass(frozen=True)
class Compiled:
    """A kernel that was compiled instead of launched: its name, constants, bytes of shared memory, PTX and cubin."""

    name: str
    constants: dict[str, Any]
    num_warps: int
    shared: int
    ptx: str
    cubin: bytes


_target: int | None = None
_compiled: list[Compiled] = []


@contextmanager
def compile_only(capability: int) -> Iterator[list[Compiled]]:
    """Inside the block `launch` compiles for sm_`capability` (80, 90) and does not run: works without a GPU.

    Yields:
        The kernels compiled so far, in the order of their launches. What they would have written is not.
    """
    global _target
    _target = capability
    _compiled.clear()
    try:
        yield _compiled
    finally:
        _target = None


def launch(
    kernel: Any,
    programs: int,
    *arguments: Any,
    num_warps: int = 4,
    num_stages: int = 2,
    fp_fusion: bool = True,
    **constants: Any,
) -> None:
    """Run `programs` programs of a kernel, on the device of its first tensor.

    Args:
        kernel: decorated with @triton.jit; its grid has one axis.
        programs: nothing happens for 0.
        arguments: the kernel's leading arguments: tensors, None, integers, floats and tuples of them.
        fp_fusion: whether a product and a sum may share one rounding.
        constants: its tl.constexpr arguments.
    """
    if programs == 0:
        return
    options = {"num_warps": num_warps, "num_stages": num_stages, "enable_fp_fusion": fp_fusion}
    if _target is not None:
        _compiled.append(_compile(kernel, _target, arguments, constants, options))
        return
    if INTERPRET:
        options = {}
    device = next(argument.device for argument in _flat(arguments) if isinstance(argument, Tensor))
    if device.type == "cuda":
        with torch.cuda.device(device):
            kernel[(programs,)](*arguments, **constants, **options)
    else:
        kernel[(programs,)](*arguments, **constants, **options)


def _flat(arguments: tuple[Any, ...]) -> Iterator[Any]:
    for argument in arguments:
        if isinstance(argument, tuple):
            yield from _flat(argument)
        else:
            yield argument


def _compile(
    kernel: Any, capability: int, arguments: tuple[Any, ...], constants: dict[str, Any], options: dict[str, Any]
) -> Compiled:
    """As Triton's own launch specialises: integers that are 1 are constants, multiples of 16 are known as such."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature: dict[str, Any] = {}
    fixed: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}

    def specialise(value: Any, path: tuple[int, ...], constant: bool) -> Any:
        if isinstance(value, tuple) and not constant:
            return tuple(specialise(element, (*path, i), False) for i, element in enumerate(value))
        if constant or value is None or isinstance(value, bool) or (isinstance(value, int) and value == 1):
            fixed[path] = value
            return "constexpr"
        if isinstance(value, Tensor) or (isinstance(value, int) and value % 16 == 0):
            attributes[path] = [["tt.divisibility", 16]]
        if isinstance(value, Tensor):
            return _POINTERS[value.dtype]
        if isinstance(value, int):
            return "i32" if -(2**31) <= value < 2**31 else "i64"
        return "fp32"

    for index, name in enumerate(kernel.arg_names):
        value = arguments[index] if index < len(arguments) else constants[name]
        signature[name] = specialise(value, (index,), name in constants)
    result = triton.compile(
        ASTSource(kernel, signature, fixed, attributes),
        target=GPUTarget("cuda", capability, 32),
        options=options,
    )
    ptx, cubin = result.asm["ptx"], result.asm["cubin"]
    return Compiled(kernel.__name__, dict(constants), options["num_warps"], result.metadata.shared, ptx, cubin)


def power_of_2(n: int) -> int:
    """The least power of 2 that is at least n, and at least 1."""
    return 1 << max(n - 1, 0).bit_length()


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)
