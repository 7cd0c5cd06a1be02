"""A CUDA graph on the CPU: repeats a function's recorded operations on its original tensors, without the function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cgcl_fast.engine.graphs import R

UNDECLARED = (torch.ops.aten.native_batch_norm.default,)
"""Operations that change what their schemas do not say: the running averages."""


def tensors_in(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def storage_of(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


class Tape(TorchDispatchMode):
    """Records operations, and undoes what they have changed of the tensors that were there before."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, list[tuple[Tensor, bool]]]] = []
        self.held: list[Any] = []  # storages of the recording, whose addresses must not be used anew
        self.made: set[int] = set()
        self.before: dict[int, tuple[Any, Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = tensors_in((args, kwargs))
        if func._schema.is_mutable or func in UNDECLARED:
            for tensor in inputs:
                storage = tensor.untyped_storage()
                if storage._cdata not in self.made and storage._cdata not in self.before:
                    self.before[storage._cdata] = storage, storage.clone()
        out = func(*args, **kwargs)
        known = {storage_of(tensor) for tensor in inputs}
        results = []
        for tensor in tensors_in(out):
            new = storage_of(tensor) not in known  # else it is a view, or what the operation has changed
            results.append((tensor, new))
            if new:
                self.made.add(storage_of(tensor))
        self.held.append((tensors_in(out), inputs))
        self.operations.append((func, args, kwargs, results))
        return out

    def undo(self) -> None:
        for storage, content in self.before.values():
            storage.copy_(content)

    @torch.no_grad()
    def play(self) -> None:
        for func, args, kwargs, results in self.operations:
            out = tensors_in(func(*args, **kwargs))
            for (tensor, new), value in zip(results, out, strict=True):
                if new:
                    tensor.copy_(value)


class TapeRecorder:
    """As ``CudaRecorder``, for the CPU."""

    def warm_up(self, function: Callable[[], R]) -> R:
        return function()

    def record(self, function: Callable[[], R]) -> Callable[[], R]:
        tape, generator = Tape(), torch.get_rng_state()
        try:
            with tape:
                result = function()
        finally:
            tape.undo()
            torch.set_rng_state(generator)

        def replay() -> R:
            tape.play()
            return result

        return replay


class AgainRecorder:
    """Calls the function again, on the tensors and with the choices of the recording."""

    def warm_up(self, function: Callable[[], R]) -> R:
        return function()

    def record(self, function: Callable[[], R]) -> Callable[[], R]:
        return function
