"""H of CUT: a two-layer perceptron for each feature layer (paper, Sec. 3 and Appendix C.1)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from cgcl_fast.ops import gather_patches


class Projector(nn.Module):
    """Linear - ReLU - Linear on the features of single positions, one perceptron a layer.

    All parameters exist after construction: the widths of the feature layers are given, not found at the first call.

    Args:
        channels: width of each feature layer.
        dim: width of the hidden layer and of the result (256 in the paper).
    """

    def __init__(self, channels: Sequence[int], dim: int = 256) -> None:
        super().__init__()
        self.dim = dim
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(width, dim), nn.ReLU(), nn.Linear(dim, dim)) for width in channels
        )

    @property
    def channels(self) -> tuple[int, ...]:
        """Width of each feature layer."""
        return tuple(mlp[0].in_features for mlp in self.mlps)  # type: ignore[index,union-attr,misc]

    def forward(self, features: Sequence[Tensor], ids: Sequence[Tensor]) -> list[Tensor]:
        """Project the features at some positions. The results are *not* normalised: the loss does it.

        Args:
            features: one (B, C, H, W) a layer.
            ids: one (P,) or (B, P) int64 a layer, positions in the flattened map.

        Returns:
            One (B, P, dim) a layer.

        Raises:
            ValueError: as many features or ids as layers were not given.
        """
        if not len(features) == len(ids) == len(self.mlps):
            raise ValueError(
                f"features and ids: expected {len(self.mlps)} layers of each, got {len(features)} and {len(ids)}"
            )
        return [mlp(gather_patches(f, i)) for mlp, f, i in zip(self.mlps, features, ids, strict=True)]
