"""Kernels compiled for absent GPUs: spilled registers and shared memory, as reported by the assembler."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

from cgcl_fast.kernels import _launch  # noqa: E402

#: Compute capability -> bytes of shared memory that one block may ask for (CUDA programming guide).
MOST_SHARED = {80: 163 * 1024, 90: 227 * 1024}
CAPABILITIES = tuple(MOST_SHARED)


#: Bytes a thread: two addresses. None with the newest Triton; an older one may spill one where a newer does not.
MOST_SPILLED = 16


def assert_fits(
    function: Callable[..., Any], *arguments: Any, capability: int, most_spilled: int = MOST_SPILLED
) -> list[str]:
    """Compile every kernel that `function(*arguments)` launches, at the block sizes that it picks.

    Args:
        function: a function of cgcl_fast.kernels; the tensors among its arguments are on the CPU and may be empty of
            meaning (torch.empty): nothing runs.
        most_spilled: bytes a thread that registers may spill.

    Returns:
        The names of the kernels.
    """
    with _launch.compile_only(capability) as compiled:
        function(*arguments)
        kernels = list(compiled)
    assert kernels, "no kernel was launched"
    for kernel in kernels:
        assert kernel.cubin[:4] == b"\x7fELF"
        assert kernel.shared <= MOST_SHARED[capability], f"{kernel.name}: {kernel.shared} bytes of shared memory"
        spilled = spilled_bytes(kernel.cubin)
        assert spilled <= most_spilled, f"{kernel.name} {kernel.constants}: {spilled} bytes of registers spilled"
        unlike = sums_unlike(kernel.ptx)
        assert not unlike, f"{kernel.name} {kernel.constants}: lanes come to different sums: {unlike[0]}"
    return [kernel.name for kernel in kernels]


def sums_unlike(ptx: str) -> list[str]:
    """Instructions that add another lane's product, which is rounded, to this lane's, which is not or need not be.

    The lanes of a sum come to different last bits then and write them to one place: a race, which `racecheck` reports;
    see cgcl_fast/kernels/_sums.py.
    """
    products = {target: {a, b} for target, a, b in re.findall(r"\bmul\.f32\s+(%\w+), (%\w+), (%\w+);", ptx)}
    shuffled = dict(re.findall(r"\bshfl\.sync\.bfly\.b32\s+(%\w+), (%\w+),", ptx))
    fused = re.findall(r"\b(fma\.rn\.f32\s+%\w+, (%\w+), (%\w+), (%\w+);)", ptx)
    found = [line for line, a, b, addend in fused if products.get(shuffled.get(addend, "")) == {a, b}]
    added = re.findall(r"\b(add\.f32\s+%\w+, (%\w+), (%\w+);)", ptx)  # which the assembler may fuse
    return found + [line for line, a, b in added if shuffled.get(b, shuffled.get(a)) in products.keys() & {a, b}]


def spilled_bytes(cubin: bytes) -> int:
    """Bytes of local memory a thread, where registers go that do not fit: the kernels have no arrays of their own."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"  # Triton brings it along
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        report = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = re.findall(r"STACK:(\d+) .*LOCAL:(\d+)", report)
    assert found, f"cuobjdump reports no usage: {report}"
    return sum(int(number) for pair in found for number in pair)
