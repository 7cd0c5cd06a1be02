"""The history of translated images from which CycleGAN's discriminators learn (Shrivastava et al. 2017)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cgcl_fast._weights import is_finite


class ImagePool(nn.Module):
    """Keeps images; once full, gives back an older one in half of the cases and keeps the new one in its place.

    A part of the state dict, so that a resumed run has the same history.

    Args:
        size: images kept (50 in CycleGAN); 0 gives every image back at once.
    """

    def __init__(self, size: int = 50) -> None:
        super().__init__()
        if size < 0:
            raise ValueError(f"size: expected at least 0, got {size}")
        self.size = size
        self.images: list[Tensor] = []

    @torch.no_grad()
    def query(self, images: Tensor) -> Tensor:
        """Put images in, take as many out.

        Args:
            images: (B, C, H, W), detached from here on.

        Returns:
            (B, C, H, W): each either the image itself or one of earlier calls.
        """
        if self.size == 0:
            return images.detach()
        out = []
        for image in images.detach():
            if len(self.images) < self.size:
                self.images.append(image.clone())
                out.append(image)
            elif torch.rand(()) < 0.5:
                place = int(torch.randint(self.size, ()))
                out.append(self.images[place])
                self.images[place] = image.clone()
            else:
                out.append(image)
        return torch.stack(out)

    def get_extra_state(self) -> dict[str, Any]:
        return {"images": list(self.images)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        images = list(state["images"])
        if len(images) > self.size:
            raise ValueError(f"images: expected at most {self.size}, got {len(images)}")
        for image in images:
            if not isinstance(image, Tensor) or image.dim() != 3 or image.shape != images[0].shape:
                raise ValueError("images: expected tensors (C, H, W) of one size")
            if not image.is_floating_point() or not is_finite(image):
                raise ValueError("images: expected finite numbers of floating point")
        self.images = images
