"""PatchNCE over several feature layers (CUT, Eq. 2-4), from projected features to a loss for each image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cgcl_fast.nn.sampler import DAGSampler, PatchSampler
from cgcl_fast.ops import patch_nce_layers


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

    A trace or an exported program of it has the gradients that the tensors it was made with required.

    Example:
        >>> import torch
        >>> from cgcl_fast.nn import PatchNCE, Projector
        >>> H, nce = Projector([64, 128], dim=256), PatchNCE(num_patches=256, temperature=0.07)
        >>> of_source = [torch.randn(2, 64, 32, 32), torch.randn(2, 128, 16, 16)]  # two layers of the encoder
        >>> of_translation = [torch.randn_like(layer) for layer in of_source]
        >>> ids = nce.sample(of_source)
        >>> loss = nce(H(of_translation, ids), H(of_source, ids))
        >>> loss.shape
        torch.Size([2])
        >>> loss.mean().backward()
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
        self.temperature = float(temperature)
        self.negatives = negatives
        self.among_keys = {"external": "none", "batch": "batch"}.get(negatives, "image")
        self.anywhere = PatchSampler(num_patches)
        self.attended = DAGSampler(num_patches, oversample=oversample, importance=importance)

    def sample(self, features: Sequence[Tensor], score: Tensor | None = None) -> list[Tensor]:
        """Positions for each layer.

        Args:
            features: one (B, C, H, W) a layer.
            score: (B, 1, h, w) raw outputs of the discriminator, for the choice by its attention (EnCo, Algorithm 1).

        Returns:
            One int64 a layer: (P,), random and the same for every image of the batch; with ``score`` (B, P).
        """
        if score is not None:
            return [self.attended(layer, score) for layer in features]
        return [self.anywhere(layer) for layer in features]

    def forward(self, queries: list[Tensor], keys: list[Tensor], external: list[Tensor] | None = None) -> Tensor:
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
        needed = self.negatives in ("external", "both")
        if (external is not None) != needed:
            what = "expected rows" if needed else "unused"
            raise ValueError(f"external: {what} for '{self.negatives}'")
        keys = [key.detach() for key in keys]
        losses = patch_nce_layers(
            queries,
            keys,
            temperature=self.temperature,
            negatives=self.among_keys,
            extra_negatives=external,
            normalize=True,
            reduction="none",
        )
        # Without a launch for each layer; TorchScript knows no `all`.
        if not torch.jit.is_scripting() and all(loss.shape == losses[0].shape for loss in losses):
            return torch.stack(losses).mean((0, 2))
        return torch.stack([loss.mean(1) for loss in losses]).mean(0)
