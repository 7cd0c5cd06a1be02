"""The history of translated images from which CycleGAN's discriminators learn (Shrivastava et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice, zip_longest
from typing import Any

import torch
from torch import Tensor

from cgcl_fast._weights import is_finite
from cgcl_fast.nn.per_process import PerProcess, State

MOST_SIZES = 8
"""Sizes that have a history at most, since each takes the memory of all its images; as many as the engine records CUDA
graphs for."""


class ImagePool(PerProcess):
    """A pool of past images: once full, it returns an older one with probability ½ and keeps the new one in its place.

    Each of the first eight image sizes has a pool of its own; images of further sizes are returned unchanged. The pools
    are part of the state dict, so a resumed run continues with them. Each process of a training has its own. Random
    draws stay on the device of the images, because reading a count on the host would wait for the device.

    Args:
        size: images kept (50 in CycleGAN) of a size; 0 gives every image back at once.

    Example:
        >>> import torch
        >>> from cgcl_fast.nn import ImagePool
        >>> fakes = torch.rand(2, 3, 64, 64)
        >>> torch.equal(ImagePool(50).query(fakes), fakes)  # not yet full: the images themselves
        True
    """

    def __init__(self, size: int = 50) -> None:
        super().__init__()
        if size < 0:
            raise ValueError(f"size: expected at least 0, got {size}")
        self.size = size
        self._kept: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}
        """(C, H, W) -> (size, C, H, W), of which the first are images, and how many those are, int64 (1,)."""

    @torch.no_grad()
    def query(self, images: Tensor) -> Tensor:
        """Put images in, take as many out.

        Args:
            images: (B, C, H, W), detached from here on.

        Returns:
            (B, C, H, W): each either the image itself or one of earlier calls.
        """
        images = images.detach()
        known = tuple(images.shape[1:]) in self._kept or len(self._kept) < MOST_SIZES
        if self.size == 0 or not known:
            return images
        kept, count = self._history_of(images)
        older = torch.rand(len(images), device=images.device) < 0.5
        drawn = torch.randint(self.size, (len(images),), device=images.device)
        out = []
        for i, image in enumerate(images.split(1)):
            full = count >= self.size
            place = torch.where(full, drawn[i], count)
            given_back = full & older[i]
            held = kept.index_select(0, place)
            out.append(torch.where(given_back, held, image))
            kept.index_copy_(0, place, torch.where(given_back | ~full, image, held))
            count += ~full
        return torch.cat(out)

    def _history_of(self, images: Tensor) -> tuple[Tensor, Tensor]:
        shape = tuple(images.shape[1:])
        if shape not in self._kept:
            kept = images.new_zeros(self.size, *shape)
            self._kept[shape] = kept, torch.zeros(1, dtype=torch.int64, device=images.device)
        kept, count = self._kept[shape]
        if kept.device != images.device or kept.dtype != images.dtype:  # as they were saved
            self._kept[shape] = kept, count = kept.to(images), count.to(images.device)
        return kept, count

    def get_extra_state(self) -> dict[str, Any]:
        return {"images": [image.clone() for kept, count in self._kept.values() for image in kept[: int(count)]]}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        by_shape: dict[tuple[int, ...], list[Tensor]] = {}
        for image in list(state["images"]):
            if not isinstance(image, Tensor) or image.dim() != 3:
                raise ValueError("images: expected tensors (C, H, W)")
            if not image.is_floating_point() or not is_finite(image):
                raise ValueError("images: expected finite numbers of floating point")
            by_shape.setdefault(tuple(image.shape), []).append(image)
        most = max(map(len, by_shape.values()), default=0)
        if most > self.size:
            raise ValueError(f"images: expected at most {self.size} of a size, got {most}")
        self._kept = {}
        for shape, images in by_shape.items():
            kept = images[0].new_zeros(self.size, *shape)
            kept[: len(images)] = torch.stack(images)
            self._kept[shape] = kept, torch.tensor([len(images)], device=kept.device)

    def merged(self, states: Sequence[State]) -> dict[str, Any]:
        """Of each size of image, those of all pools in turn, one of each at a time, until there are ``size``."""
        pools: dict[tuple[int, ...], list[list[Tensor]]] = {}
        for number, state in enumerate(states):
            for image in state["_extra_state"]["images"]:
                pools.setdefault(tuple(image.shape), [[] for _ in states])[number].append(image)
        kept: list[Tensor] = []
        for of_size in islice(pools.values(), MOST_SIZES):
            in_turn = (image for turn in zip_longest(*of_size) for image in turn if image is not None)
            kept += islice(in_turn, self.size)
        return {"_extra_state": {"images": kept}}
