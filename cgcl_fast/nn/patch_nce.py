"""PatchNCE over several feature layers (CUT, Eq. 2-4), from projected features to a loss for each image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cgcl_fast.ops import dag_select, patch_nce_layers, sample_patch_ids


class PatchNCE(nn.Module):
    """Which patch of the source is this patch of the translation? Cross entropy over the patches of an image.

    Args:
        num_patches: positions drawn in each layer (P; 256 in the paper). A map with fewer gives all it has.
        temperature: τ of Eq. 2.
        negatives: "internal" (the other positions of the same image, Eq. 3), "batch" (the other positions of all
            images of the batch, as SinCUT), "external" (only rows of other images, Eq. 4) or "both" ("internal" and
            "external").
        oversample: k of EnCo's Algorithm 1, candidates for each position, where a score is given.
        importance: β, the share of the positions that are the most fake ones.
    """

    def __init__(
        self,
        num_patches: int = 256,
        temperature: float = 0.07,
        negatives: str = "internal",
        oversample: float = 4,
        importance: float = 0.5,
    ) -> None:
        super().__init__()
        if negatives not in ("internal", "batch", "external", "both"):
            raise ValueError(f"negatives: expected 'internal', 'batch', 'external' or 'both', got {negatives!r}")
        self.num_patches = num_patches
        self.temperature = temperature
        self.negatives = negatives
        self.oversample = oversample
        self.importance = importance

    def sample(self, features: Sequence[Tensor], score: Tensor | None = None) -> list[Tensor]:
        """Positions for each layer.

        Args:
            features: one (B, C, H, W) a layer.
            score: (B, 1, h, w) raw outputs of the discriminator, for the choice by its attention (EnCo, Algorithm 1).

        Returns:
            One int64 a layer: (P,), random and the same for every image of the batch; with ``score`` (B, P).
        """
        if score is not None:
            return [
                dag_select(score, f.shape[2:], self.num_patches, oversample=self.oversample, importance=self.importance)
                for f in features
            ]
        return [sample_patch_ids(f.shape[2] * f.shape[3], self.num_patches, device=f.device) for f in features]

    def forward(
        self, queries: Sequence[Tensor], keys: Sequence[Tensor], external: Sequence[Tensor] | None = None
    ) -> Tensor:
        """Loss of each image.

        Args:
            queries: one (B, P, dim) a layer; gradients flow into them.
            keys: the same shapes; detached, as the paper has it.
            external: one (M, dim) a layer, for "external" and "both".

        Returns:
            (B,): mean over the positions of a layer, then over the layers.

        Raises:
            ValueError: ``external`` is missing where it is needed, or given where it is not used.
        """
        if (external is None) != (self.negatives in ("internal", "batch")):
            raise ValueError(f"external: {'expected rows' if external is None else 'unused'} for {self.negatives!r}")
        losses = patch_nce_layers(
            queries,
            [key.detach() for key in keys],
            temperature=self.temperature,
            negatives={"external": "none", "batch": "batch"}.get(self.negatives, "image"),
            extra_negatives=external,
            normalize=True,
            reduction="none",
        )
        if all(loss.shape == losses[0].shape for loss in losses):
            return torch.stack(losses).mean((0, 2))
        return torch.stack([loss.mean(1) for loss in losses]).mean(0)
