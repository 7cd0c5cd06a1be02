"""Reinhard's colour transfer: the statistics of its results, and the paper's matrices."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cgcl_fast.metrics import ColourStatistics, colour_statistics, colour_transfer

# As printed: RGB to LMS (Eq. 4), and LMS to RGB (Eq. 9), which is its inverse to one percent.
TO_LMS = [[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]]
TO_RGB = [[4.4679, -3.5873, 0.1193], [-1.2186, 2.3809, -0.1624], [0.0497, -0.2439, 1.2045]]


def muted(batch: int, seed: int, low: float = 0.3, high: float = 0.7) -> Tensor:
    """Colours from the middle of the range, which a transfer between them does not clip."""
    generator = torch.Generator().manual_seed(seed)
    grey = torch.rand(batch, 1, 20, 24, generator=generator, dtype=torch.float64)
    tint = 0.05 * torch.rand(batch, 3, 20, 24, generator=generator, dtype=torch.float64)
    return (low + (high - low) * grey + tint).mul(2).sub(1)


def slow_lab(rgb: list[float]) -> list[float]:
    log = [math.log10(sum(m * v for m, v in zip(row, rgb, strict=True))) for row in TO_LMS]
    long, medium, short = log
    return [
        (long + medium + short) / math.sqrt(3),
        (long + medium - 2 * short) / math.sqrt(6),
        (long - medium) / math.sqrt(2),
    ]


def slow_rgb(lab: list[float]) -> list[float]:
    l, a, b = lab[0] / math.sqrt(3), lab[1] / math.sqrt(6), lab[2] / math.sqrt(2)  # noqa: E741  as in the paper
    lms = [10 ** (l + a + b), 10 ** (l + a - b), 10 ** (l - 2 * a)]
    return [sum(m * v for m, v in zip(row, lms, strict=True)) for row in TO_RGB]


def slow_statistics(image: Tensor) -> list[tuple[float, float]]:
    pixels = [slow_lab(pixel) for pixel in ((image + 1) / 2).flatten(1).T.tolist()]
    found = []
    for axis in zip(*pixels, strict=True):
        mean = sum(axis) / len(axis)
        found.append((mean, math.sqrt(sum((v - mean) ** 2 for v in axis) / len(axis))))
    return found


def test_statistics_are_means_over_the_images() -> None:
    images = muted(3, seed=0)
    slow = [slow_statistics(image) for image in images]
    found = colour_statistics([images[:2], images[2:]])
    for axis in range(3):
        assert float(found.mean[axis]) == pytest.approx(sum(s[axis][0] for s in slow) / 3)
        assert float(found.std[axis]) == pytest.approx(sum(s[axis][1] for s in slow) / 3)


def test_is_the_slow_computation_with_the_printed_matrices() -> None:
    image, target = muted(1, seed=1)[0], muted(1, seed=2, low=0.4, high=0.6)[0]
    source, wanted = slow_statistics(image), slow_statistics(target)
    expected = []
    for pixel in ((image + 1) / 2).flatten(1).T.tolist():
        lab = [(v - ms) * st / ss + mt for v, (ms, ss), (mt, st) in zip(slow_lab(pixel), source, wanted, strict=True)]
        expected.append(slow_rgb(lab))
    result = colour_transfer(image[None], colour_statistics([target[None]]))[0]
    torch.testing.assert_close((result + 1) / 2, torch.tensor(expected).double().T.view_as(image), rtol=0.01, atol=0)


def test_the_result_has_the_statistics_of_the_target() -> None:
    target = colour_statistics([muted(4, seed=3, low=0.4, high=0.6)])
    result = colour_transfer(muted(2, seed=4), target)
    assert result.dtype == torch.float64
    for image in result:
        found = colour_statistics([image[None]])
        torch.testing.assert_close(found.mean, target.mean, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(found.std, target.std, rtol=1e-6, atol=1e-6)


def test_its_own_statistics_leave_an_image_as_it_is() -> None:
    image = muted(1, seed=5)
    torch.testing.assert_close(colour_transfer(image, colour_statistics([image])), image)


def test_black_and_flat_images_stay_finite() -> None:
    target = colour_statistics([muted(1, seed=6)])
    for value in (-1.0, 0.0, 1.0):
        result = colour_transfer(torch.full((1, 3, 8, 8), value), target)
        assert result.dtype == torch.float32 and bool(result.isfinite().all())
        expected = torch.tensor(slow_rgb(target.mean.tolist()))
        torch.testing.assert_close((result[0, :, 0, 0] + 1) / 2, expected, rtol=0.01, atol=0)


def test_colours_that_cannot_be_shown_are_clipped() -> None:
    bright = ColourStatistics(torch.tensor([3.0, 0.0, 0.0]).double(), torch.ones(3).double())
    result = colour_transfer(muted(1, seed=7), bright)
    assert result.max() == 1 and result.min() >= -1


def test_no_image_and_wrong_shapes_are_errors() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        colour_statistics([])
    with pytest.raises(ValueError, match=r"expected floats \(B, 3, H, W\)"):
        colour_statistics([torch.zeros(3, 8, 8)])
