"""H of CUT and EnCo: a two-layer perceptron for each feature layer (CUT, Sec. 3 and Appendix C.1)."""

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
        batch_norm: normalise over all positions of the batch after each layer, which then has no bias; the last one
            without scale and shift (EnCo's later code).
        predictor: a further perceptron for each layer, through half the width, on the queries' side only.
        predictor_norm: normalise the hidden layer of that too, which then has no bias (EnCo's later code).

    Example:
        >>> import torch
        >>> from cgcl_fast.nn import PatchSampler, Projector
        >>> features = [torch.randn(2, 64, 32, 32), torch.randn(2, 128, 8, 8)]
        >>> ids = [PatchSampler(256)(layer) for layer in features]
        >>> [tuple(rows.shape) for rows in Projector([64, 128], dim=256)(features, ids)]
        [(2, 256, 256), (2, 64, 256)]
    """

    __jit_unused_properties__ = ("channels",)
    casts_together = True
    """Layers are called under autocast only, see ``engine.casting``."""

    def __init__(
        self,
        channels: Sequence[int],
        dim: int = 256,
        batch_norm: bool = False,
        predictor: bool = False,
        predictor_norm: bool = False,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.mlps = nn.ModuleList(_perceptron(width, dim, batch_norm) for width in channels)
        self.predictors = nn.ModuleList(
            nn.Sequential(
                nn.Linear(dim, dim // 2, bias=not predictor_norm),
                *([_RowNorm(dim // 2)] if predictor_norm else []),
                nn.ReLU(),
                nn.Linear(dim // 2, dim),
            )
            for _ in (channels if predictor else ())
        )

    @property
    def channels(self) -> tuple[int, ...]:
        """Width of each feature layer."""
        return tuple(mlp[0].in_features for mlp in self.mlps)  # type: ignore[index,union-attr,misc]

    def forward(self, features: list[Tensor], ids: list[Tensor] | None = None, predict: bool = False) -> list[Tensor]:
        """Project the features at some positions. The results are *not* normalised: the loss does it.

        Args:
            features: one (B, C, H, W) a layer, or without ``ids`` one (B, P, C): rows that are gathered already.
            ids: one (P,) or (B, P) int64 a layer, positions in the flattened map.
            predict: apply the predictors, if there are any.

        Returns:
            One (B, P, dim) a layer.

        Raises:
            ValueError: as many features or ids as layers were not given.
        """
        given = len(features) if ids is None else len(ids)
        if len(features) != len(self.mlps) or given != len(self.mlps):
            raise ValueError(
                f"features and ids: expected {len(self.mlps)} layers of each, got {len(features)} and {given}"
            )
        rows: list[Tensor] = []  # by loops that TorchScript unrolls
        for layer, mlp in enumerate(self.mlps):
            rows.append(mlp(features[layer] if ids is None else gather_patches(features[layer], ids[layer])))
        if predict:
            for layer, predictor in enumerate(self.predictors):
                rows[layer] = predictor(rows[layer])
        return rows


class _RowNorm(nn.BatchNorm1d):
    """BatchNorm over the rows (B, P, C) of all images."""

    def forward(self, rows: Tensor) -> Tensor:
        return super().forward(rows.flatten(0, 1)).view_as(rows)


def _perceptron(width: int, dim: int, batch_norm: bool) -> nn.Sequential:
    if not batch_norm:
        return nn.Sequential(nn.Linear(width, dim), nn.ReLU(), nn.Linear(dim, dim))
    return nn.Sequential(
        nn.Linear(width, dim, bias=False),
        _RowNorm(dim),
        nn.ReLU(),
        nn.Linear(dim, dim, bias=False),
        _RowNorm(dim, affine=False),
    )
