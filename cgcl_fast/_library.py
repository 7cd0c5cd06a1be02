"""Loads the native library `_C`, if it was built, and remembers why not otherwise."""

from __future__ import annotations

from pathlib import Path

import torch

PATH = Path(__file__).with_name("_C.so")

#: Why the native library is not in use, or None if it is.
problem: str | None = None


def _load() -> str | None:
    if not PATH.exists():
        return f"not built: {PATH.name} is missing (no C++ compiler when the package was installed?)"
    try:
        torch.ops.load_library(str(PATH))
    except OSError as error:
        return f"built, but does not load: {error}"
    return None


problem = _load()
