"""The tests of the ops again, with the Triton kernels in Triton's interpreter, in a separate process, because Triton
reads TRITON_INTERPRET when a kernel is decorated.

The interpreter computes bfloat16 wrongly, so bfloat16 runs other kernels there; it is tested on a GPU.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip("triton")
numpy = pytest.importorskip("numpy")

OLD_TRITON = tuple(map(int, triton.__version__.split(".")[:2])) < (3, 8)
NEW_NUMPY = tuple(map(int, numpy.__version__.split(".")[:2])) >= (2, 4)
pytestmark = pytest.mark.skipif(
    OLD_TRITON and NEW_NUMPY,
    reason=f"the interpreter of Triton {triton.__version__} cannot loop to a bound known at run time with NumPy 2.4",
)
OPS = Path(__file__).parent.parent / "ops"
FILES = sorted(path.name for path in OPS.glob("test_*.py"))


@pytest.mark.parametrize("file", FILES)
def test_ops(file):
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(OPS / file)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
