"""Files of weights that others wrote: read without running what they may contain."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from cgcl_fast._weights import read_torch_file
from cgcl_fast.networks.files import read_safetensors

StateDict = Mapping[str, Tensor]


def read_weights(source: str | Path | Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, str], str]:
    """The tensors of a file or state dict, without the prefix ``module.`` that a parallel wrapper leaves.

    Args:
        source: a file written by ``torch.save`` or safetensors, or a state dict.

    Returns:
        The tensors, the metadata of a safetensors file (else empty), and the file's name for messages.

    Raises:
        ValueError: the file is damaged, would run code, claims more than it holds, or holds something else than named
            tensors; one line.
        OSError: the file cannot be opened.
    """
    metadata: dict[str, str] = {}
    if isinstance(source, Mapping):
        name, state = "state dict", dict(source)
    else:
        name = str(source)
        if Path(source).suffix == ".safetensors":
            state, metadata = read_safetensors(source)
        else:
            state = _unpickle(Path(source))
    if not state:
        raise ValueError(f"{name}: holds no weights")
    wrong = [key for key, value in state.items() if not isinstance(key, str) or not isinstance(value, Tensor)]
    if wrong:
        raise ValueError(f"{name}: expected a state dict of tensors, got {type(state[wrong[0]]).__name__} {wrong[0]!r}")
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state, metadata, name


def _unpickle(path: Path) -> dict[Any, Any]:
    state = read_torch_file(path)
    if not isinstance(state, Mapping):
        raise ValueError(f"{path}: expected a state dict, got {type(state).__name__}")
    return dict(state)
