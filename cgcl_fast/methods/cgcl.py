"""CGCL (Fu et al., "Multi-Domain Image-to-Image Translation with Cross-Granularity Contrastive Learning", ACM TOMM
2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cgcl_fast._renamed import takes_old_names
from cgcl_fast.methods.base import Shared
from cgcl_fast.methods.cgl import CGL, GRANULARITIES, CGLConfig, Granularity, mean_of, means
from cgcl_fast.methods.options import Channels, Count, Temperature, Weight
from cgcl_fast.networks import init_weights
from cgcl_fast.nn import Projector
from cgcl_fast.ops import patch_nce_layers, sample_patch_ids


@takes_old_names
@dataclass
class CGCLConfig(CGLConfig):
    __doc__ = (
        (CGLConfig.__doc__ or "")
        .replace("Options of CGL;", "Options of CGCL;")
        .replace("β, weight of the domain classification", "weight of the domain classification, also α")
        .replace("λ_rec, weight of the reconstruction of images", "β, weight of the reconstruction of images")
        .replace("content and style codes.", "content and style codes, also β.")
        .replace("λ_rec in the paper; 0 leaves", "also β (Eq. 5); 0 leaves")
        .replace("Eq. 9", "Eq. 8")
        + """    lambda_mdc: λ, weight of the multilayer dual contrastive loss (Eq. 6); 0 leaves it out.
        num_patches_g: S, positions of an image that are contrasted.
        num_patches_o: P, positions of an instance.
        num_negatives_g: M for images (Sec. 4.1), negatives of each position at the same random offsets; "all" takes the
            S - 1 others of Eq. 6.
        num_negatives_o: M for instances.
        temperature: τ of Eq. 6.
        nce_dim: width of H.
    """
    )

    init_type: Literal["kaiming", "kaiming_uniform"] = "kaiming_uniform"
    cgc_generator: Literal["object", "global"] = "object"
    lambda_code: Weight = 10.0
    lambda_mdc: Weight = 1.0
    num_patches_g: Count = 256
    num_patches_o: Count = 64
    num_negatives_g: Count | Literal["all"] = 64
    num_negatives_o: Count | Literal["all"] = 16
    temperature: Temperature = 0.07
    nce_dim: Channels = 256


class CGCL(CGL):
    """CGL with the multilayer dual contrastive loss

    L_mdc = E[NCE(q_s, k_s)] over layers l and positions s of images, and the same for instances (Eq. 6),

    q_s = H^l(E^c(translation)), k_s = H^l(E^c(source)) at position s of the l-th residual block of the content encoder.
    As in CUT's code, the sums over layers and positions are means, and keys are detached. Only H is computed in
    addition: the features come from CGL's two passes.
    """

    Config = CGCLConfig

    def __init__(self, config: CGCLConfig) -> None:
        super().__init__(config)
        if config.lambda_mdc > 0:
            channels = [config.ngf * 2**config.n_down] * config.n_blocks
            self.H_g, self.H_o = Projector(channels, config.nce_dim), Projector(channels, config.nce_dim)
            for projector in (self.H_g, self.H_o):
                init_weights(projector, config.init_type)

    def generators(self) -> tuple[str, ...]:
        return (*super().generators(), *(("H_g", "H_o") if self.config.lambda_mdc > 0 else ()))

    def generator_losses(self, shared: Shared) -> dict[str, Tensor]:
        losses = super().generator_losses(shared)
        if self.config.lambda_mdc > 0:
            for name in GRANULARITIES:
                losses[f"mdc_{name}"] = self.config.lambda_mdc * self.contrast(name, shared[name])
        return losses

    def contrast(self, name: str, part: Granularity) -> Tensor:
        """L_mdc of images or of instances: mean over positions, layers and images with a valid translation."""
        config = self.config
        H, count, negatives = (
            (self.H_g, config.num_patches_g, config.num_negatives_g)
            if name == "g"
            else (self.H_o, config.num_patches_o, config.num_negatives_o)
        )
        losses = []
        for translation, source in zip(part.swapped_features, part.features, strict=True):  # each of one size
            ids, offsets = self.draw(source[-1], count, negatives)
            rows = H(translation, ids)
            with torch.no_grad():  # after the queries: autocast must not cache weights without gradient
                keys = H([feature.detach() for feature in source], ids)
            layers = patch_nce_layers(
                rows, keys, temperature=config.temperature, offsets=offsets, normalize=True, reduction="none"
            )
            losses.append(torch.stack(layers, 1))
        return mean_of(means(losses), part.paired)

    def draw(self, content: Tensor, count: int, negatives: int | str) -> tuple[Sequence[Tensor], Tensor | None]:
        """Positions for each layer, and the offsets of the negatives: the same for all queries of one size in a
        step."""
        positions = content.shape[2] * content.shape[3]
        ids = [sample_patch_ids(positions, count, device=content.device) for _ in range(self.config.n_blocks)]
        others = min(count, positions) - 1
        if negatives == "all" or int(negatives) >= others:
            return ids, None
        return ids, torch.randperm(others, device=content.device)[: int(negatives)] + 1
