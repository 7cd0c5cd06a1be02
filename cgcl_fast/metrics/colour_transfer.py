"""Reinhard et al., "Color Transfer between Images", IEEE Computer Graphics and Applications 2001: the classical method
of giving an image the colours of a domain, without learning. A translation that is no closer to the truth than this
baseline has learned little.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

# Eq. 4 of the paper (RGB to the cones' LMS) and Eq. 6 (log LMS to lαβ, decorrelated axes of natural images).
RGB_TO_LMS = ((0.3811, 0.5783, 0.0402), (0.1967, 0.7244, 0.0782), (0.0241, 0.1288, 0.8444))
LMS_TO_LAB = (
    (3**-0.5, 3**-0.5, 3**-0.5),
    (6**-0.5, 6**-0.5, -2 * 6**-0.5),
    (2**-0.5, -(2**-0.5), 0.0),
)
LEAST = 1 / 255
"""Lower bound of values before the logarithm; the paper does not say how to treat black."""


@dataclass(frozen=True)
class ColourStatistics:
    """Mean and standard deviation of l, α and β: (3,) each, float64, on the CPU."""

    mean: Tensor
    std: Tensor


def _matrices(like: Tensor) -> tuple[Tensor, Tensor]:
    return tuple(torch.tensor(m, dtype=like.dtype, device=like.device) for m in (RGB_TO_LMS, LMS_TO_LAB))  # type: ignore[return-value]


def _lab(image: Tensor) -> Tensor:
    """lαβ of RGB in [-1, 1], (B, 3, H, W)."""
    if image.dim() != 4 or image.shape[1] != 3 or not image.is_floating_point():
        raise ValueError(f"image: expected floats (B, 3, H, W), got {image.dtype} {tuple(image.shape)}")
    rgb = image.double().clamp(-1, 1).add(1).div(2).clamp_min(LEAST)
    to_lms, to_lab = _matrices(rgb)
    logarithms = torch.einsum("ij,bjhw->bihw", to_lms, rgb).log10()
    return torch.einsum("ij,bjhw->bihw", to_lab, logarithms)


def colour_statistics(batches: Iterable[Tensor]) -> ColourStatistics:
    """The statistics of a domain: means over its images of each image's mean and standard deviation.

    Args:
        batches: each (B, 3, H, W) in [-1, 1]; sizes may differ between batches.

    Raises:
        ValueError: there is no image, or one of another shape.
    """
    images = 0
    mean, std = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for batch in batches:
        pixels = _lab(batch).flatten(2)
        mean += pixels.mean(2).sum(0).cpu()
        std += pixels.std(2, correction=0).sum(0).cpu()
        images += len(batch)
    if not images:
        raise ValueError("batches: expected at least one image, got none")
    return ColourStatistics(mean / images, std / images)


def colour_transfer(image: Tensor, target: ColourStatistics) -> Tensor:
    """Give each image the mean and standard deviation of the target in lαβ (Eqs. 10 and 11).

    Args:
        image: (B, 3, H, W) in [-1, 1].
        target: of the domain whose colours to apply.

        Returns:
            (B, 3, H, W) in [-1, 1], in the dtype of ``image``; out-of-gamut colours are clipped.
    """
    lab = _lab(image)
    mean = lab.mean((2, 3), keepdim=True)
    std = lab.std((2, 3), correction=0, keepdim=True).clamp_min(1e-6)  # a single colour: nothing to scale
    wanted_mean, wanted_std = (values.to(lab).view(1, 3, 1, 1) for values in (target.mean, target.std))
    lab = (lab - mean) * (wanted_std / std) + wanted_mean
    to_lms, to_lab = _matrices(lab)
    lms = 10 ** torch.einsum("ji,bjhw->bihw", to_lab, lab)  # the axes are orthonormal
    rgb = torch.einsum("ij,bjhw->bihw", torch.linalg.inv(to_lms), lms)
    return rgb.clamp(0, 1).mul(2).sub(1).to(image.dtype)
