"""Distances of images to their true counterparts, without downloaded weights.

Each function takes two batches (B, 3, H, W) of RGB in [-1, 1] and returns (B,) numbers, one per image, in float32
(float64 for float64). Values beyond [-1, 1] are clipped, as when a picture is saved.

Implemented here because torchmetrics, which the tests compare with, would be a large dependency of every training just
for PSNR, and its SSIM includes windows beyond the border; no library needed otherwise has floating-point CIELAB.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
SSIM_WINDOW, SSIM_SIGMA, SSIM_K1, SSIM_K2 = 11, 1.5, 0.01, 0.03
GRADIENT_SCALES = 3
GRADIENT_C = 170 / 255**2

# IEC 61966-2-1: linear sRGB to CIE XYZ, and the D65 white point, to which it maps (1, 1, 1).
SRGB_TO_XYZ = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
WHITE = tuple(sum(row) for row in SRGB_TO_XYZ)


def _in_unit(name: str, image: Tensor, least: int = 1) -> Tensor:
    """A batch in [0, 1]."""
    if image.dim() != 4 or image.shape[1] != 3 or not image.is_floating_point():
        raise ValueError(f"{name}: expected floats (B, 3, H, W), got {image.dtype} {tuple(image.shape)}")
    if min(image.shape[2:]) < least:
        raise ValueError(f"{name}: expected sides of at least {least} pixels, got {tuple(image.shape[2:])}")
    return (image if image.dtype == torch.float64 else image.float()).clamp(-1, 1).add(1).div(2)


def _pair(image: Tensor, truth: Tensor, least: int = 1) -> tuple[Tensor, Tensor]:
    first, second = _in_unit("image", image, least), _in_unit("truth", truth, least)
    if first.shape != second.shape:
        raise ValueError(f"truth: expected the shape of image, {tuple(first.shape)}, got {tuple(second.shape)}")
    return first, second


def psnr(image: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, 10·log₁₀(1 / mean squared error) of values in [0, 1]; 100 for equal images.

    Raises:
        ValueError: not two batches of one shape (B, 3, H, W).
    """
    first, second = _pair(image, truth)
    return -10 * (first - second).square().mean((1, 2, 3)).clamp_min(1e-10).log10()


def ssim(image: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity of Wang et al., "Image quality assessment: from error visibility to structural similarity",
    IEEE TIP 2004, Eq. 13: 11x11 Gaussian window, σ 1.5, K₁ 0.01, K₂ 0.03, of each of R, G and B.

    Windows lie entirely within the image, as in the authors' program. The mean over windows and channels; 1 for equal
    images.

    Raises:
        ValueError: not two batches of one shape (B, 3, H, W), or sides under 11 pixels.
    """
    x, y = _pair(image, truth, least=SSIM_WINDOW)
    offsets = torch.arange(SSIM_WINDOW, dtype=x.dtype, device=x.device) - SSIM_WINDOW // 2
    line = torch.exp(-offsets.square() / (2 * SSIM_SIGMA**2))
    line = line / line.sum()

    def smooth(maps: Tensor) -> Tensor:
        """The window is separable."""
        planes = maps.flatten(0, 1)[:, None]
        return F.conv2d(F.conv2d(planes, line.view(1, 1, 1, -1)), line.view(1, 1, -1, 1)).view(*maps.shape[:2], -1)

    mean_x, mean_y = smooth(x), smooth(y)
    variance_x, variance_y = smooth(x * x) - mean_x.square(), smooth(y * y) - mean_y.square()
    covariance = smooth(x * y) - mean_x * mean_y
    c1, c2 = SSIM_K1**2, SSIM_K2**2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity = similarity / ((mean_x.square() + mean_y.square() + c1) * (variance_x + variance_y + c2))
    return similarity.mean((1, 2))


def _lab(rgb: Tensor) -> Tensor:
    """CIELAB (D65) of sRGB in [0, 1]: (B, 3, H, W) with L* in [0, 100]."""
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    matrix = torch.tensor(SRGB_TO_XYZ, dtype=rgb.dtype, device=rgb.device)
    white = torch.tensor(WHITE, dtype=rgb.dtype, device=rgb.device)
    xyz = torch.einsum("ij,bjhw->bihw", matrix / white[:, None], linear)
    delta = 6 / 29
    root = torch.where(xyz > delta**3, xyz.clamp_min(delta**3) ** (1 / 3), xyz / (3 * delta**2) + 4 / 29)
    x, y, z = root.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def delta_e(image: Tensor, truth: Tensor) -> Tensor:
    """Mean colour difference ΔE*ab of the pixels (CIE 1976): their Euclidean distance in CIELAB. About 2.3 is just
    noticeable; black and white differ by 100.

    Raises:
        ValueError: not two batches of one shape (B, 3, H, W).
    """
    first, second = _pair(image, truth)
    return (_lab(first) - _lab(second)).norm(dim=1).mean((1, 2))


def delta_e_of_all(images: Tensor, truths: Tensor) -> Tensor:
    """:func:`delta_e` of each image (N, 3, H, W) to each truth (M, 3, H, W): (N, M).

    Raises:
        ValueError: not two batches of images of one size.
    """
    first, second = _in_unit("images", images), _in_unit("truths", truths)
    if first.shape[1:] != second.shape[1:]:
        raise ValueError(f"truths: expected images {tuple(first.shape[1:])}, got {tuple(second.shape[1:])}")
    wanted = _lab(second)
    return torch.stack([(lab - wanted).norm(dim=1).mean((1, 2)) for lab in _lab(first)])


def gradient_distance(image: Tensor, truth: Tensor) -> Tensor:
    """Difference of edges: 1 - gradient magnitude similarity, mean over pixels and three scales, in [0, 1].

    The similarity is (2·m₁·m₂ + c) / (m₁² + m₂² + c) of the Prewitt gradient magnitudes of the luma, with c = 170 for
    values up to 255 (Xue et al., "Gradient Magnitude Similarity Deviation", IEEE TIP 2014, Eq. 4). It is pooled by the
    mean (their GMSM): the deviation is zero if all edges are lost alike. The scales are full size, half and a quarter,
    each by averaging 2x2 pixels of the previous one, as the authors halve images before the gradient.

    Raises:
        ValueError: not two batches of one shape (B, 3, H, W), or sides under 12 pixels.
    """
    x, y = _pair(image, truth, least=3 * 2 ** (GRADIENT_SCALES - 1))
    luma = torch.tensor(LUMA, dtype=x.dtype, device=x.device).view(1, 3, 1, 1)
    maps = torch.cat([(x * luma).sum(1, keepdim=True), (y * luma).sum(1, keepdim=True)])
    across = torch.tensor([[1.0, 0.0, -1.0]] * 3, dtype=x.dtype, device=x.device) / 3
    prewitt = torch.stack([across, across.T])[:, None]
    similarities = []
    for scale in range(GRADIENT_SCALES):
        if scale:
            maps = F.avg_pool2d(maps, 2)
        squares = F.conv2d(maps, prewitt).square().sum(1)
        first, second = squares.split(len(x))
        product = (first * second).sqrt()
        similarity = (2 * product + GRADIENT_C) / (first + second + GRADIENT_C)
        similarities.append(similarity.mean((1, 2)))
    return 1 - torch.stack(similarities).mean(0)


@dataclass(frozen=True)
class Distance:
    """A distance as shown in reports.

    Args:
        measure: (image, truth) -> (B,).
        title: its name and unit.
        higher_is_better: whether it increases as images approach the truth.
        digits: number of decimals.
    """

    measure: Callable[[Tensor, Tensor], Tensor]
    title: str
    higher_is_better: bool
    digits: int


DISTANCES = {
    "psnr": Distance(psnr, "PSNR, dB", True, 2),
    "ssim": Distance(ssim, "SSIM", True, 3),
    "delta_e": Distance(delta_e, "colour difference ΔE*ab", False, 2),
    "gradient": Distance(gradient_distance, "gradient distance", False, 3),
}
"""By their names in a run's metrics."""
