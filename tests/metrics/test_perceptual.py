"""LPIPS against the package called directly, with random weights of AlexNet; the papers' diversity."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.models import alexnet

from cgcl_fast.engine import make_accelerator
from cgcl_fast.metrics.perceptual import LPIPS, load_lpips, real_diversity, style_diversity
from cgcl_fast.metrics.weights import LPIPS_LINEAR, MeasureError, Read, WeightFiles

lpips = pytest.importorskip("lpips")

from random_networks import alexnet_weights  # noqa: E402

CPU = make_accelerator(device="cpu")


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return alexnet_weights()


@pytest.fixture(scope="module")
def judge(weights: dict[str, Tensor]) -> LPIPS:
    return LPIPS(Read(weights, "random"), WeightFiles().read(LPIPS_LINEAR))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed)).div(127.5).sub(1)


def test_equal_to_the_package_called_directly(
    judge: LPIPS, weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which would download AlexNet: it gets the same random weights where torchvision would give it those."""
    network = alexnet(weights=None)
    network.load_state_dict(weights, strict=False)
    monkeypatch.setattr("torchvision.models.alexnet", lambda pretrained: network)
    direct = lpips.LPIPS(net="alex", verbose=False).requires_grad_(False)
    first, second = noise(3, 3, 40, 33), noise(3, 3, 40, 33, seed=1)
    expected = direct(first, second).flatten()
    torch.testing.assert_close(judge(first, second), expected)
    assert float(expected.min()) > 0.01 and not judge.published
    assert float(judge(first, first).abs().max()) == 0


@pytest.mark.parametrize(
    ("first", "second", "line"),
    [
        ((1, 3, 30, 40), (1, 3, 30, 40), "needs images of at least 31 pixels a side, got 40x30"),
        ((1, 3, 40, 40), (1, 3, 40, 44), "needs two images of one size, got 40x40 and 44x40"),
    ],
)
def test_images_that_do_not_do_are_named(
    judge: LPIPS, first: tuple[int, ...], second: tuple[int, ...], line: str
) -> None:
    with pytest.raises(MeasureError, match=line):
        judge(noise(*first), noise(*second))


def test_weights_of_another_network_are_refused(weights: dict[str, Tensor]) -> None:
    linear = WeightFiles().read(LPIPS_LINEAR)
    for trunk in ({}, {**weights, "features.0.weight": torch.zeros(1)}):
        with pytest.raises(MeasureError, match="another network"):
            LPIPS(Read(trunk, ""), linear)
    with pytest.raises(MeasureError, match="another network"):
        LPIPS(Read(weights, ""), Read({}, ""))


def test_diversity_is_the_mean_over_pairs_of_styles_of_each_image(judge: LPIPS) -> None:
    images = [noise(3, 32, 32, seed=seed) for seed in range(5)]
    asked: list[list[str]] = []

    def in_styles(image: Tensor, names: list[str]) -> Tensor:
        asked.append(list(names))
        assert len(image) == len(names)
        brightness = torch.tensor([float(sum(map(int, name.split()))) for name in names])
        return image * 0.5 + brightness.view(-1, 1, 1, 1) / 20

    found = style_diversity(judge, images, in_styles, CPU, inputs=2, pairs=3, batch_size=2)
    assert asked == [
        [f"{place} {pair} {which}" for which in (0, 1) for pair in pairs]
        for place in (0, 2)
        for pairs in ((0, 1), (2,))
    ]
    means = []
    for place in (0, 2):
        pairs = [[images[place] * 0.5 + (place + pair + which) / 20 for which in (0, 1)] for pair in range(3)]
        means.append(sum(float(judge(a[None], b[None])) for a, b in pairs) / 3)
    assert found.mean == pytest.approx(sum(means) / 2, rel=1e-4)
    assert found.std == pytest.approx(abs(means[0] - means[1]) / 2, rel=1e-3)


def test_real_images_are_compared_in_pairs_of_different_ones(judge: LPIPS) -> None:
    images = [noise(3, 32, 32, seed=seed) for seed in range(2)]
    distance = float(judge(images[0][None], images[1][None]))
    assert real_diversity(judge, images, CPU, count=4) == (pytest.approx(distance), pytest.approx(0, abs=1e-7))
    with pytest.raises(MeasureError, match="at least 2 images, got 1"):
        real_diversity(judge, images[:1], CPU)


def test_without_alexnet_one_line_says_what_to_get(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fails)
    with pytest.raises(MeasureError, match=r"alexnet.*cannot be downloaded \(no network\).*--features"):
        load_lpips(WeightFiles())
