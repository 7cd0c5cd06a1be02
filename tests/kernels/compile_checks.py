"""Kernels compiled for GPUs that are not here: registers spilled and shared memory, as the assembler reports them."""

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
    return [kernel.name for kernel in kernels]


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
