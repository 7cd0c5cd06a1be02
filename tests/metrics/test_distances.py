"""The distances against slow scalar computations in float64, and against numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cgcl_fast.metrics import DISTANCES, delta_e, gradient_distance, psnr, ssim


def images(height: int = 17, width: int = 14, batch: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    truth = torch.rand(batch, 3, height, width, generator=generator, dtype=torch.float64) * 2 - 1
    return (truth + 0.3 * torch.randn(truth.shape, generator=generator, dtype=torch.float64)).clamp(-1, 1), truth


def colour(red: float, green: float, blue: float, side: int = 12) -> Tensor:
    return torch.tensor([red, green, blue], dtype=torch.float64).mul(2).sub(1).view(1, 3, 1, 1).expand(1, 3, side, side)


def slow_psnr(x: Tensor, y: Tensor) -> float:
    errors = [(255 * (a - b) / 2) ** 2 for a, b in zip(x.flatten().tolist(), y.flatten().tolist(), strict=True)]
    return 10 * math.log10(255**2 / (sum(errors) / len(errors)))


def slow_ssim(x: Tensor, y: Tensor) -> float:
    """Each window by itself, with centred sums."""
    weights = torch.tensor([[math.exp(-(i * i + j * j) / 4.5) for j in range(-5, 6)] for i in range(-5, 6)]).double()
    weights /= weights.sum()
    values = []
    for a, b in zip((x + 1) / 2, (y + 1) / 2, strict=True):
        for top in range(a.shape[0] - 10):
            for left in range(a.shape[1] - 10):
                p, q = a[top : top + 11, left : left + 11], b[top : top + 11, left : left + 11]
                mp, mq = (weights * p).sum(), (weights * q).sum()
                vp, vq = (weights * (p - mp) ** 2).sum(), (weights * (q - mq) ** 2).sum()
                cov = (weights * (p - mp) * (q - mq)).sum()
                luminance = (2 * mp * mq + 1e-4) / (mp**2 + mq**2 + 1e-4)
                values.append(float(luminance * (2 * cov + 9e-4) / (vp + vq + 9e-4)))
    return sum(values) / len(values)


def slow_lab(rgb: list[float]) -> tuple[float, float, float]:
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in rgb]
    r, g, b = linear
    x = (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.9505
    y = 0.2126 * r + 0.7152 * g + 0.0722 * b
    z = (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.089
    fx, fy, fz = (t ** (1 / 3) if t > 216 / 24389 else (24389 / 27 * t + 16) / 116 for t in (x, y, z))
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


def slow_delta_e(x: Tensor, y: Tensor) -> float:
    pixels = zip(((x + 1) / 2).flatten(1).T.tolist(), ((y + 1) / 2).flatten(1).T.tolist(), strict=True)
    return sum(math.dist(slow_lab(p), slow_lab(q)) for p, q in pixels) / (x.shape[1] * x.shape[2])


def slow_gradient_distance(x: Tensor, y: Tensor) -> float:
    def luma(image: Tensor) -> list[list[float]]:
        return (255 * (0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2] + 1) / 2).tolist()

    def halved(rows: list[list[float]]) -> list[list[float]]:
        return [
            [(rows[i][j] + rows[i][j + 1] + rows[i + 1][j] + rows[i + 1][j + 1]) / 4 for j in range(0, width, 2)]
            for i in range(0, len(rows) // 2 * 2, 2)
            for width in [len(rows[0]) // 2 * 2]
        ]

    def magnitude(rows: list[list[float]], i: int, j: int) -> float:
        across = sum(rows[i + k][j - 1] - rows[i + k][j + 1] for k in (-1, 0, 1)) / 3
        down = sum(rows[i - 1][j + k] - rows[i + 1][j + k] for k in (-1, 0, 1)) / 3
        return math.hypot(across, down)

    a, b = luma(x), luma(y)
    scales = []
    for scale in range(3):
        if scale:
            a, b = halved(a), halved(b)
        values = []
        for i in range(1, len(a) - 1):
            for j in range(1, len(a[0]) - 1):
                p, q = magnitude(a, i, j), magnitude(b, i, j)
                values.append((2 * p * q + 170) / (p * p + q * q + 170))
        scales.append(sum(values) / len(values))
    return 1 - sum(scales) / 3


SLOW = {"psnr": slow_psnr, "ssim": slow_ssim, "delta_e": slow_delta_e, "gradient": slow_gradient_distance}


@pytest.mark.parametrize("name", DISTANCES)
def test_is_the_slow_computation(name: str) -> None:
    image, truth = images()
    expected = torch.tensor([SLOW[name](x, y) for x, y in zip(image, truth, strict=True)], dtype=torch.float64)
    measure = DISTANCES[name].measure
    result = measure(image, truth)
    assert result.dtype == torch.float64 and result.shape == (2,)
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)
    single = measure(image.float(), truth.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", DISTANCES)
def test_a_closer_image_is_closer(name: str) -> None:
    image, truth = images(32, 32)
    better = DISTANCES[name].measure((image + truth) / 2, truth)
    worse = DISTANCES[name].measure(image, truth)
    assert bool((better > worse if DISTANCES[name].higher_is_better else better < worse).all())


def test_equal_images() -> None:
    image, _ = images()
    assert psnr(image, image).tolist() == [100.0, 100.0]
    torch.testing.assert_close(ssim(image, image), torch.ones(2, dtype=torch.float64))
    assert delta_e(image, image).tolist() == [0.0, 0.0]
    torch.testing.assert_close(gradient_distance(image, image), torch.zeros(2, dtype=torch.float64))


def test_torchmetrics_finds_the_same() -> None:
    """Of its map of SSIM what is at least half a window from the border, as the authors' program has it."""
    library = pytest.importorskip("torchmetrics.functional.image")
    image, truth = images(33, 40, 3)
    found, wanted = (image + 1) / 2, (truth + 1) / 2
    expected = library.peak_signal_noise_ratio(found, wanted, data_range=1.0, dim=(1, 2, 3), reduction="none")
    torch.testing.assert_close(psnr(image, truth), expected.double(), rtol=1e-6, atol=0)
    _, full = library.structural_similarity_index_measure(found, wanted, data_range=1.0, return_full_image=True)
    torch.testing.assert_close(ssim(image, truth), full[..., 5:-5, 5:-5].mean((1, 2, 3)), rtol=1e-9, atol=1e-9)


def test_numbers_worked_by_hand() -> None:
    black, white, red = colour(0, 0, 0), colour(1, 1, 1), colour(1, 0, 0)
    assert psnr(black, white).item() == pytest.approx(0, abs=1e-9)
    assert psnr(colour(0.1, 0.1, 0.1), black).item() == pytest.approx(20)
    assert ssim(black, white).item() == pytest.approx(1e-4 / (1 + 1e-4))  # no structure: the luminance term alone
    assert delta_e(black, white).item() == pytest.approx(100)
    # sRGB red is L* 53.24, a* 80.09, b* 67.20.
    assert delta_e(red, black).item() == pytest.approx(math.hypot(53.24, 80.09, 67.20), rel=1e-3)
    assert gradient_distance(black, white).item() == pytest.approx(0)  # neither has an edge


def test_values_that_cannot_be_shown_are_clipped() -> None:
    for distance in DISTANCES.values():
        truth = images()[1]
        assert torch.equal(distance.measure(truth * 3, truth), distance.measure((truth * 3).clamp(-1, 1), truth))


@pytest.mark.parametrize(
    ("image", "truth", "said"),
    [
        (torch.zeros(3, 16, 16), torch.zeros(3, 16, 16), r"image: expected floats \(B, 3, H, W\)"),
        (torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 16), "image: expected floats"),
        (torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16, dtype=torch.uint8), "truth: expected floats"),
        (torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 18), "truth: expected the shape of image"),
    ],
)
def test_wrong_arguments(image: Tensor, truth: Tensor, said: str) -> None:
    for distance in DISTANCES.values():
        with pytest.raises(ValueError, match=said):
            distance.measure(image, truth)


def test_too_small_images_are_an_error() -> None:
    small = torch.zeros(1, 3, 10, 10)
    for measure, least in ((ssim, 11), (gradient_distance, 12)):
        with pytest.raises(ValueError, match=f"sides of at least {least} pixels"):
            measure(small, small)
    assert psnr(small, small).item() == 100
