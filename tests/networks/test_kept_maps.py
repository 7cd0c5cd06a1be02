"""What the generator keeps for its backward pass, and what that needs at its most, in bytes of tensors."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cgcl_fast.networks import ResnetGenerator, memory_format
from cgcl_fast.ops import gather_patches

WIDTH, SIDE, BLOCKS = 16, 32, 3
MAP = 4 * WIDTH * SIDE**2  # bytes of a map of the first convolution


class Live(TorchDispatchMode):
    """Counts the bytes of tensors that are made within it and still there."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        result = function(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, Tensor) and x.untyped_storage()._cdata not in self.known | given:
                self._add(x.untyped_storage())
        self.most = max(self.most, self.now)
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self.known.add(key)
        self.now += size

        def gone() -> None:
            self.known.discard(key)
            self.now -= size

        weakref.finalize(storage, gone)


@pytest.mark.parametrize("contiguous", [False, True])
def test_a_map_is_kept_once(contiguous: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The output of each convolution, which its norm needs, and what blurs and blocks begin with; no norm's result, no
    blurred one of twice the size, and no padded one but between blocks."""
    monkeypatch.setattr(memory_format, "CONTIGUOUS_TRAINING_ON_CPU", contiguous)
    generator = ResnetGenerator(ngf=WIDTH, n_blocks=BLOCKS)
    live = Live()
    with live:
        image = generator(torch.rand(1, 3, SIDE, SIDE))
        kept = live.now - image.untyped_storage().nbytes()
    block = 4 * 4 * WIDTH * (SIDE // 4) ** 2
    padded = 4 * 4 * WIDTH * (SIDE // 4 + 2) ** 2
    encoder = MAP + 2 * MAP + MAP // 2 + MAP  # stem, first convolution, its blurred result, second convolution
    blocks = BLOCKS * (2 * block + padded) + block  # two convolutions and the input of each block, and the last result
    decoder = MAP // 2 + MAP  # two convolutions
    images = 3 * 4 * (3 * (SIDE + 6) ** 2)  # padded input, and the image before tanh and what that keeps
    assert encoder + blocks + decoder < kept < encoder + blocks + decoder + images + 2**14


@pytest.mark.parametrize("contiguous", [False, True])
def test_gradients_of_rows_become_maps_one_after_the_other(contiguous: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_format, "CONTIGUOUS_TRAINING_ON_CPU", contiguous)
    generator, layers = ResnetGenerator(ngf=WIDTH, n_blocks=BLOCKS), (4, 8, 12)
    x = torch.rand(1, 3, SIDE, SIDE)
    ids = [torch.arange(7)] * 3
    most = {}
    for way in ("within", "after"):
        live = Live()
        with live:
            if way == "within":
                rows = generator.encode(x, layers, ids)
            else:
                rows = [gather_patches(f, at) for f, at in zip(generator.encode(x, layers), ids, strict=True)]
            torch.stack([row.sum() for row in rows]).sum().backward()
        most[way] = live.most
        generator.zero_grad()
    assert most["after"] - most["within"] > 1.5 * MAP  # layer 4, of two such maps, is not copied for its bias
