"""Loads the native libraries `_C` and `_C_cuda` if they were built, and otherwise records why not."""

from __future__ import annotations

import os
from pathlib import Path

import torch

#: `CGCL_FAST_LIBRARY` selects another build of the library, for example one with sanitizers.
PATH = Path(os.environ.get("CGCL_FAST_LIBRARY") or Path(__file__).with_name("_C.so"))
#: setup.py writes the reason of a failed build here.
PROBLEM_PATH = Path(__file__).with_name("_C.problem.txt")
#: The CUDA C++ kernels of the same build.
CUDA_PATH = PATH.with_name("_C_cuda.so")
CUDA_PROBLEM_PATH = PROBLEM_PATH.with_name("_C_cuda.problem.txt")


def _load(path: Path, problem_path: Path, likely: str) -> str | None:
    """Why the library is not in use; None if it is."""
    if not path.exists():
        if problem_path.exists():
            return f"not built: {problem_path.read_text(encoding='utf-8').strip()}"
        return f"not built: {path} is missing ({likely} when the package was installed)"
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        return f"built, but does not load: {error}"
    return None


def _load_cuda() -> str | None:
    if torch.version.cuda is None:
        return "torch is built without CUDA"
    if problem is not None:  # the CUDA kernels use its schemas
        return "the native library _C is not in use"
    return _load(CUDA_PATH, CUDA_PROBLEM_PATH, "no nvcc")


#: Why the native library is not in use, or None if it is; then the same for its CUDA kernels.
problem = _load(PATH, PROBLEM_PATH, "no torch or no C++ compiler")
cuda_problem = _load_cuda()
