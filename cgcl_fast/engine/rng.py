"""The state of a process's random number generators as plain data, so that a run can continue exactly.

Accelerate saves it as pickled objects, which cannot be read safely.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def rng_state() -> dict[str, Any]:
    """State of the generators of Python, NumPy and torch (CPU and every CUDA device), as tensors and plain containers,
    which ``torch.load(weights_only=True)`` can read."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": {"version": version, "words": torch.tensor(words, dtype=torch.int64), "gauss": gauss},
        "numpy": {
            "name": str(name),
            "keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def check_rng_state(state: dict[str, Any]) -> None:
    """Raise a ValueError (or TypeError, KeyError, ...) if :func:`set_rng_state` cannot use ``state``."""
    random.Random().setstate(_python_state(state))
    np.random.RandomState().set_state(_numpy_state(state))
    torch.Generator().set_state(state["torch"])
    if not 0 <= state["numpy"]["position"] <= 624:  # NumPy would read beyond its keys
        raise ValueError(f"numpy: position: expected 0 to 624, got {state['numpy']['position']}")
    if any(not isinstance(one, torch.Tensor) or one.dtype != torch.uint8 for one in list(state["cuda"])):
        raise ValueError("cuda: expected tensors of bytes")


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore the result of :func:`rng_state`. CUDA states only if the number of devices is the same."""
    random.setstate(_python_state(state))
    np.random.set_state(_numpy_state(state))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def _python_state(state: dict[str, Any]) -> tuple[Any, ...]:
    python = state["python"]
    return python["version"], tuple(python["words"].tolist()), python["gauss"]


def _numpy_state(state: dict[str, Any]) -> tuple[Any, ...]:
    numpy = state["numpy"]
    keys = numpy["keys"].numpy().astype(np.uint32)
    return numpy["name"], keys, numpy["position"], numpy["has_gauss"], numpy["cached"]


def seed_all(*parts: int) -> None:
    """Seed the generators of Python, NumPy and torch. A single number is used as it is; several (a seed, a step, a
    process) are combined to one."""
    seed = parts[0]
    if len(parts) > 1:
        digest = hashlib.sha256(":".join(map(str, parts)).encode()).digest()
        seed = int.from_bytes(digest[:4], "little")
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Restore the generators afterwards: drawing sample grids, for example, must not change the training."""
    state = rng_state()
    try:
        yield
    finally:
        set_rng_state(state)
