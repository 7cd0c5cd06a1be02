"""Launch on the tensors' GPU or in Triton's interpreter, or only compile for an absent GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
    """In this context `launch` compiles for sm_`capability` (80 or 90) instead of running, so that it needs no GPU.

    Yields:
        A list to which each launch appends its compiled kernel. Results stay unwritten.
    """
    global _target
    _target = capability
    _compiled.clear()
    try:
        yield _compiled
    finally:
        _target = None


#: Everything about a launch's arguments that decides which compiled kernel fits -> that kernel.
_held: dict[tuple[Any, ...], _Held] = {}
_MOST_HELD = 4096  # a bound: programs rarely see so many shapes


class _Held:
    """A kernel on a device, compiled for arguments of certain dtypes, alignments and numbers.

    Triton's own launcher inspects every argument in Python on each call to select a compiled version: about 2
    microseconds per argument, and these kernels have up to 30. Here the numbers follow from shapes and strides and
    repeat from call to call, so they serve as a lookup key as they are, and the version that Triton selected the first
    time is started.
    """

    def __init__(self, compiled: Any, constants: tuple[Any, ...], device: int) -> None:
        self.run = compiled.run
        self.function, self.metadata = compiled.function, compiled.packed_metadata
        self.constants, self.device = constants, device

    def start(self, programs: int, pointers: list[Any], numbers: tuple[Any, ...]) -> None:
        stream = torch._C._cuda_getCurrentRawStream(self.device)
        self.run(
            programs, 1, 1, stream, self.function, self.metadata, None, None, None, *pointers, *numbers, *self.constants
        )


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
        programs: how many; 0 launches nothing.
        arguments: the kernel's leading arguments: first tensors, tuples of tensors of one dtype and None, then
            integers, floats and tuples of them.
        fp_fusion: whether a multiplication and an addition may be fused (one rounding).
        constants: its tl.constexpr arguments.
    """
    if programs == 0:
        return
    if _target is not None:
        options = {"num_warps": num_warps, "num_stages": num_stages, "enable_fp_fusion": fp_fusion}
        _compiled.append(_compile(kernel, _target, arguments, constants, options))
        return
    if INTERPRET and _first is _compile_and_run:
        kernel[(programs,)](*arguments, **constants)
        return
    pointers: list[Any] = []
    kinds: list[Any] = [kernel, num_warps, num_stages, fp_fusion]
    device = None
    for argument in arguments:
        if isinstance(argument, Tensor):
            pointer = argument.data_ptr()
            pointers.append(pointer)
            kinds += argument.dtype, pointer & 15
            device = argument.device
        elif argument is None:
            pointers.append(None)
            kinds.append(None)
        elif type(argument) is tuple and isinstance(argument[0], Tensor):
            several = [tensor.data_ptr() for tensor in argument]
            pointers.append(tuple(several))
            kinds += len(several), argument[0].dtype, *[pointer & 15 for pointer in several]
            device = argument[0].device
        else:
            break
    numbers = arguments[len(pointers) :]
    key = (*kinds, device, numbers, *constants.values())
    held = _held.get(key)
    if held is None or _is_watched():
        options = {"num_warps": num_warps, "num_stages": num_stages, "enable_fp_fusion": fp_fusion}
        if len(_held) >= _MOST_HELD:
            _held.clear()
        _held[key] = _first(kernel, programs, device, arguments, constants, options)
    elif held.device == _current_device():
        held.start(programs, pointers, numbers)
    else:
        with torch.cuda.device(device):
            held.start(programs, pointers, numbers)


def _compile_and_run(
    kernel: Any,
    programs: int,
    device: torch.device | None,
    arguments: tuple[Any, ...],
    constants: dict[str, Any],
    options: dict[str, Any],
) -> _Held:
    with torch.cuda.device(device):
        compiled = kernel[(programs,)](*arguments, **constants, **options)
    assert device is not None
    return _Held(compiled, tuple(constants[name] for name in kernel.arg_names[len(arguments) :]), device.index)


def _is_watched() -> bool:
    """Whether a profiler has hooked into Triton's launches."""
    hook = triton.knobs.runtime.launch_enter_hook
    return bool(getattr(hook, "calls", hook))


_first: Callable[..., _Held] = _compile_and_run
_current_device = getattr(torch._C, "_cuda_getDevice", lambda: -1)


@contextmanager
def launching_nothing() -> Iterator[None]:
    """In this context kernels are neither compiled nor run, on any device. What remains of a call is the host's work,
    which can thus be measured without a GPU."""

    class Nothing(_Held):
        def __init__(self) -> None:
            self.run = lambda *_: None
            self.function = self.metadata = None
            self.constants, self.device = (), -1

        def start(self, programs: int, pointers: list[Any], numbers: tuple[Any, ...]) -> None:
            self.run(programs, 1, 1, 0, None, None, None, None, None, *pointers, *numbers, *self.constants)

    def first(*_: Any) -> _Held:
        return Nothing()

    global _first, _current_device
    before = _first, _current_device
    _first, _current_device = first, lambda: -1
    _held.clear()
    try:
        yield
    finally:
        _first, _current_device = before
        _held.clear()


def _compile(
    kernel: Any, capability: int, arguments: tuple[Any, ...], constants: dict[str, Any], options: dict[str, Any]
) -> Compiled:
    """Specialise as Triton's launcher does: integers equal to 1 become constants, multiples of 16 are marked."""
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


def capability(device: torch.device) -> int:
    """The device's compute capability, 90 for 9.0; 0 in Triton's interpreter."""
    if _target is not None:
        return _target
    if INTERPRET or device.type != "cuda":
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def power_of_2(n: int) -> int:
    """The smallest power of 2 that is at least n, and at least 1."""
    return 1 << max(n - 1, 0).bit_length()


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)
