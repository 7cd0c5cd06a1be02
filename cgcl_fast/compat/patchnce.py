"""``PatchNCELoss`` and ``PatchSampleF`` with the published signatures, for training scripts written for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cgcl_fast.networks import init_weights
from cgcl_fast.ops import gather_patches, patch_nce, sample_patch_ids

_MASKED = -10.0  # the published value on the diagonal of the negatives, before division by the temperature


class PatchNCELoss(nn.Module):
    """PatchNCE with the published interface; never stores the matrix of logits.

    Args:
        opt: an object with ``nce_T`` (temperature), ``batch_size`` (images in a batch) and
            ``nce_includes_all_negatives_from_minibatch`` (negatives from all images instead of the same image). They
            are read at each call.
    """

    def __init__(self, opt: Any) -> None:
        super().__init__()
        self.opt = opt

    def forward(self, feat_q: Tensor, feat_k: Tensor) -> Tensor:
        """Cross entropy of each query: its key against the negatives.

        Args:
            feat_q: (B·P, C) queries, image by image, not normalised here.
            feat_k: (B·P, C) keys; detached.

        Returns:
            (B·P,).

        Raises:
            ValueError: the shapes differ, or the number of rows is not a multiple of ``opt.batch_size``.
        """
        if feat_q.dim() != 2 or feat_q.shape != feat_k.shape:
            raise ValueError(
                f"feat_q and feat_k: expected the same (B*P, C), got {tuple(feat_q.shape)} and {tuple(feat_k.shape)}"
            )
        images = 1 if self.opt.nce_includes_all_negatives_from_minibatch else self.opt.batch_size
        if feat_q.shape[0] % images:
            raise ValueError(f"feat_q: expected a multiple of batch_size {images} rows, got {feat_q.shape[0]}")
        feat_k = feat_k.detach()
        shape = (images, feat_q.shape[0] // images, feat_q.shape[1])
        loss = patch_nce(
            feat_q.reshape(shape), feat_k.reshape(shape), temperature=self.opt.nce_T, reduction="none"
        ).flatten()
        # The published sum of exponentials has an additional term, for the masked diagonal. For normalised features it
        # is lost in rounding, but not for arbitrary ones.
        positive = (feat_q * feat_k).sum(1)
        return torch.logaddexp(loss, (_MASKED - positive.to(loss.dtype)) / self.opt.nce_T)


class PatchSampleF(nn.Module):
    """H with the published interface: samples positions, projects, normalises.

    The perceptrons ``mlp_0``, ``mlp_1``, ... are created in the first call or by ``create_mlp``, so create the
    optimiser after that. Positions are drawn from torch's generator in time proportional to their number.

    Args:
        use_mlp: project; otherwise the features themselves are normalised.
        init_type: as ``kind`` of ``networks.init_weights``.
        init_gain: its gain.
        nc: width of the projections.
        gpu_ids: kept for the signature; the perceptrons are created on the device of the features.
    """

    def __init__(
        self,
        use_mlp: bool = False,
        init_type: str = "normal",
        init_gain: float = 0.02,
        nc: int = 256,
        gpu_ids: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.use_mlp = use_mlp
        self.init_type = init_type
        self.init_gain = init_gain
        self.nc = nc
        self.gpu_ids = gpu_ids
        self.mlp_init = False

    def create_mlp(self, feats: Sequence[Tensor]) -> None:
        """Create a perceptron for each of the (B, C, H, W) features, and initialise them."""
        for i, feat in enumerate(feats):
            mlp = nn.Sequential(nn.Linear(feat.shape[1], self.nc), nn.ReLU(), nn.Linear(self.nc, self.nc))
            self.add_module(f"mlp_{i}", mlp.to(feat.device))
        init_weights(self, self.init_type, self.init_gain)
        self.mlp_init = True

    def forward(
        self, feats: Sequence[Tensor], num_patches: int = 64, patch_ids: Sequence[Any] | None = None
    ) -> tuple[list[Tensor], list[Any]]:
        """Sample, project and normalise each layer.

        Args:
            feats: one (B, C, H, W) per layer.
            num_patches: positions to draw in each layer, the same for all images; 0 takes all.
            patch_ids: use these positions instead, one (P,) per layer, as returned by an earlier call.

        Returns:
            The features, one (B·P, nc) per layer with rows of unit length, and the positions, one (P,) per layer. If
            ``num_patches`` is 0, the features are maps (B, nc, H, W) in which each channel has unit length over its
            positions, as in the published code, and the positions are empty lists.
        """
        if self.use_mlp and not self.mlp_init:
            self.create_mlp(feats)
        out: list[Tensor] = []
        used: list[Any] = []
        for i, feat in enumerate(feats):
            mlp = getattr(self, f"mlp_{i}") if self.use_mlp else nn.Identity()
            batch, _, height, width = feat.shape
            if num_patches == 0:
                rows = _unit(mlp(feat.permute(0, 2, 3, 1).flatten(1, 2)))
                out.append(rows.permute(0, 2, 1).reshape(batch, -1, height, width))
                used.append([])
                continue
            if patch_ids is None:
                ids = sample_patch_ids(height * width, num_patches, device=feat.device)
            else:
                ids = torch.as_tensor(patch_ids[i], dtype=torch.long, device=feat.device)
            out.append(_unit(mlp(gather_patches(feat, ids).flatten(0, 1))))
            used.append(ids)
        return out, used


def _unit(x: Tensor) -> Tensor:
    """x / (‖x‖₂ + 1e-7) along dimension 1."""
    return x / (x.pow(2).sum(1, keepdim=True).sqrt() + 1e-7)
