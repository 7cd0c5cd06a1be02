from __future__ import annotations

from pathlib import Path

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="no CUDA device")
        for item in items:
            if item.path.parent == Path(__file__).parent and item.path.name != "test_gpu_cases.py":
                item.add_marker(skip)


@pytest.fixture(autouse=True)
def no_default_device():
    """Nothing of the package may rely on PyTorch's default device to find the GPU."""
    with torch.device("cpu"):
        yield
