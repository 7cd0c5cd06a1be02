"""Which positions of a feature map the contrastive losses look at."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from cgcl_fast.ops import _check, dag_select, sample_patch_ids


class PatchSampler(nn.Module):
    """Distinct random positions: :func:`cgcl_fast.ops.sample_patch_ids` of a map's size.

    Args:
        num_patches: positions drawn (P; 256 in CUT). A map with fewer gives all it has.
        per_image: draw for each image of the batch, instead of the same positions for all.

    Raises:
        ValueError, TypeError: ``num_patches`` is negative or no integer.

    Example:
        >>> import torch
        >>> from cgcl_fast import ops
        >>> from cgcl_fast.nn import PatchSampler
        >>> features = torch.randn(2, 64, 32, 32)
        >>> ids = PatchSampler(256)(features)
        >>> ids.shape, ops.gather_patches(features, ids).shape
        (torch.Size([256]), torch.Size([2, 256, 64]))
    """

    def __init__(self, num_patches: int = 256, *, per_image: bool = False) -> None:
        super().__init__()
        self.num_patches = _check.count("PatchSampler", "num_patches", num_patches)
        self.per_image = per_image

    def forward(self, features: Tensor) -> Tensor:
        """Positions of ``features`` (B, C, H, W): int64 (P,), with ``per_image`` (B, P)."""
        if not torch.jit.is_scripting() and torch.jit.is_tracing():
            return _scripted(_random_ids)(features, self.num_patches, self.per_image)
        return _random_ids(features, self.num_patches, self.per_image)

    def extra_repr(self) -> str:
        return f"{self.num_patches}, per_image={self.per_image}"


class DAGSampler(nn.Module):
    """Positions chosen by the discriminator's attention (EnCo, Algorithm 1): :func:`cgcl_fast.ops.dag_select`.

    Args:
        num_patches: positions chosen (P). A map with fewer gives all it has.
        oversample: k >= 1, candidates drawn for each position.
        importance: β in [0, 1], the share of the positions with the lowest scores, the most fake ones; the others have
            the highest.

    Raises:
        ValueError, TypeError: an option is out of range or no number.

    Example:
        >>> import torch
        >>> from cgcl_fast.nn import DAGSampler
        >>> features, score = torch.randn(2, 64, 32, 32), torch.randn(2, 1, 30, 30)  # score = D(G(x))
        >>> DAGSampler(256, oversample=4, importance=0.5)(features, score).shape
        torch.Size([2, 256])
    """

    def __init__(self, num_patches: int = 256, *, oversample: float = 4, importance: float = 0.5) -> None:
        super().__init__()
        name = type(self).__name__
        self.num_patches = _check.count(name, "num_patches", num_patches)
        self.oversample = _check.number(name, "oversample", oversample)
        self.importance = _check.number(name, "importance", importance)
        if not 1 <= self.oversample < float("inf"):
            raise ValueError(f"{name}: expected a finite oversample >= 1, got {oversample}")
        if not 0 <= self.importance <= 1:
            raise ValueError(f"{name}: expected importance in [0, 1], got {importance}")

    def forward(self, features: Tensor, score: Tensor) -> Tensor:
        """Choose positions of a map.

        Args:
            features: (B, C, H, W), of which only the size counts.
            score: (B, 1, h, w), raw outputs of the discriminator.

        Returns:
            int64 (B, P).
        """
        if not torch.jit.is_scripting() and torch.jit.is_tracing():
            return _scripted(_attended_ids)(features, score, self.num_patches, self.oversample, self.importance)
        return _attended_ids(features, score, self.num_patches, self.oversample, self.importance)

    def extra_repr(self) -> str:
        return f"{self.num_patches}, oversample={self.oversample}, importance={self.importance}"


def _random_ids(features: Tensor, num_patches: int, per_image: bool) -> Tensor:
    positions = features.shape[2] * features.shape[3]
    batch = features.shape[0] if per_image else None
    return sample_patch_ids(positions, num_patches, batch=batch, device=features.device)


def _attended_ids(features: Tensor, score: Tensor, num_patches: int, oversample: float, importance: float) -> Tensor:
    size = [features.shape[2], features.shape[3]]
    return dag_select(score, size, num_patches, oversample=oversample, importance=importance)


@functools.cache
def _scripted(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """For a trace, which would keep the size of the map that it was made with: TorchScript reads the size of each."""
    return torch.jit.script(function)
