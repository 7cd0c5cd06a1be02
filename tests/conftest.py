"""The device of the tests: `CGCL_FAST_TEST_DEVICE=cuda pytest tests/ops tests/nn tests/methods` runs them on a GPU.

It becomes PyTorch's default device before the tests are collected, since some of their tensors are made then.
Generators stay on the CPU: what is drawn from one goes through the helpers of tests/ops/op_checks.py.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "ops"))  # op_checks, for the tests beside those of the ops

if device := os.environ.get("CGCL_FAST_TEST_DEVICE"):
    torch.set_default_device(device)

if importlib.util.find_spec("hypothesis") is None:  # an image with PyTorch and little else
    sys.path.insert(0, str(HERE / "without_hypothesis"))


@pytest.fixture
def hide(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Makes a folder one that its permissions do not let be listed, also for root, whom they do not bind."""
    hidden: set[str] = set()
    scandir = os.scandir

    def checked(path: str | os.PathLike[str] = ".") -> object:
        if os.path.realpath(path) in hidden:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", checked)
    return lambda folder: hidden.add(os.path.realpath(folder))
