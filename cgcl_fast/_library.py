"""Loads the native library `_C`, if it was built, and remembers why not otherwise."""

from __future__ import annotations

import os
from pathlib import Path

import torch

#: `CGCL_FAST_LIBRARY` names another build of the library, for example one with sanitizers.
PATH = Path(os.environ.get("CGCL_FAST_LIBRARY") or Path(__file__).with_name("_C.so"))
#: Where setup.py leaves the reason of a build that failed.
PROBLEM_PATH = Path(__file__).with_name("_C.problem.txt")

#: Why the native library is not in use, or None if it is.
problem: str | None = None


def _load() -> str | None:
    if not PATH.exists():
        if PROBLEM_PATH.exists():
            return f"not built: {PROBLEM_PATH.read_text(encoding='utf-8').strip()}"
        return f"not built: {PATH} is missing (no torch or no C++ compiler when the package was installed)"
    try:
        torch.ops.load_library(str(PATH))
    except OSError as error:
        return f"built, but does not load: {error}"
    return None


problem = _load()
