"""LPIPS (Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018): the
perceptual distance of two images, by the package ``lpips``, AlexNet, version 0.1.

It is also the papers' measure of diversity of styles: the mean distance between translations of an image in pairs of
random styles (MUNIT and all later ones: 100 images, 19 pairs each).
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from cgcl_fast.data.random import item_random
from cgcl_fast.metrics.feature_distances import Spread
from cgcl_fast.metrics.image_sets import Images, gathered, pixels
from cgcl_fast.metrics.weights import ALEXNET, LPIPS_LINEAR, MeasureError, Read, WeightFiles, package

LEAST_SIDE = 31
"""Minimum side in pixels: below it, AlexNet's poolings leave nothing."""


class LPIPS(nn.Module):
    """Distances of pairs of images (B, 3, H, W) in [-1, 1]: (B,), float32.

    Args:
        trunk: tensors of torchvision's AlexNet.
        linear: those of LPIPS' own weights.
    """

    def __init__(self, trunk: Read, linear: Read) -> None:
        super().__init__()
        self.trunk_sha256, self.linear_sha256 = trunk.sha256, linear.sha256
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # lpips uses an old interface of torchvision
            self.network = package("lpips").LPIPS(net="alex", pnet_rand=True, pretrained=False, verbose=False)
        try:
            self.network.net.load_state_dict(_slices(self.network.net, trunk.tensors))
            unknown = self.network.load_state_dict(linear.tensors, strict=False).unexpected_keys
        except (KeyError, RuntimeError) as error:
            raise MeasureError(f"{ALEXNET.name}: the weights are of another network") from error
        if unknown or len(linear.tensors) != len(self.network.lins):
            raise MeasureError(f"{LPIPS_LINEAR.name}: the weights are of another network")
        self.requires_grad_(False).eval()

    @property
    def published(self) -> bool:
        """Whether the weights are the published ones."""
        return self.trunk_sha256 == ALEXNET.sha256 and self.linear_sha256 == LPIPS_LINEAR.sha256

    def protocol(self) -> dict[str, object]:
        """Everything that determines the distances, as JSON."""
        return {
            "network": "LPIPS 0.1, AlexNet",
            "resize": "none",
            "weights": [ALEXNET.name, LPIPS_LINEAR.name],
            "sha256": [self.trunk_sha256, self.linear_sha256],
            "published_weights": self.published,
        }

    @torch.no_grad()
    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Raises MeasureError: images with sides of fewer than 31 pixels, or of different sizes."""
        if first.shape != second.shape:
            raise MeasureError(f"needs two images of one size, got {_size(first)} and {_size(second)}; --size N")
        if min(first.shape[-2:]) < LEAST_SIDE:
            raise MeasureError(f"needs images of at least {LEAST_SIDE} pixels a side, got {_size(first)}")
        device = next(self.network.net.parameters()).device
        # Quantised as in image files, from which papers compute it.
        saved = [pixels(each).to(device).float().div(127.5).sub(1) for each in (first, second)]
        return self.network(*saved).flatten()


def _slices(net: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """AlexNet's convolutions under the names in lpips' copy of it: in slices that keep the numbers."""
    return {name: tensors[f"features.{name.split('.', 1)[1]}"] for name in net.state_dict()}


def _size(images: Tensor) -> str:
    return f"{images.shape[-1]}x{images.shape[-2]}"


def load_lpips(files: WeightFiles) -> LPIPS:
    """LPIPS with AlexNet, on the CPU.

    Raises:
        MeasureError: the package or weights are missing, or the weights are not the expected ones.
    """
    package("lpips")
    linear = files.read(LPIPS_LINEAR)
    return LPIPS(files.read(ALEXNET), linear)


INPUTS, PAIRS = 100, 19
"""As in the papers' diversity: images, and pairs of styles per image."""

InStyles = Callable[[Tensor, Sequence[str]], Tensor]
"""Maps an image (1, C, H, W) and names of styles to translations (S, C', H, W)."""


def style_diversity(
    lpips: LPIPS,
    images: Images,
    in_styles: InStyles,
    accelerator: Accelerator,
    *,
    inputs: int = INPUTS,
    pairs: int = PAIRS,
    batch_size: int = 8,
) -> Spread:
    """Mean LPIPS between translations of an image in pairs of random styles, and its standard deviation over images.

    Args:
        images: ``inputs`` of them are used, spread evenly.
        in_styles: called with distinct names of styles: "PLACE PAIR 0" and "PLACE PAIR 1".
        batch_size: pairs at once.

    Raises:
        MeasureError: images are too small.
    """
    count = min(inputs, len(images))
    places = [number * len(images) // count for number in range(count)]

    def own() -> list[float]:
        means = []
        for place in places[accelerator.process_index :: accelerator.num_processes]:
            image = images[place][None]
            distances = []
            for start in range(0, pairs, batch_size):
                numbers = range(start, min(start + batch_size, pairs))
                names = [f"{place} {pair} {which}" for which in (0, 1) for pair in numbers]
                first, second = in_styles(image.expand(len(names), -1, -1, -1), names).chunk(2)
                distances += lpips(first, second).double().tolist()
            means.append(statistics.fmean(distances))
        return means

    return _spread(gathered(own))


def real_diversity(
    lpips: LPIPS, images: Images, accelerator: Accelerator, *, count: int = INPUTS * PAIRS, seed: int = 0
) -> Spread:
    """Mean LPIPS between random pairs of real images of a domain: the reference for the diversity of translations.

    Raises:
        MeasureError: fewer than two images, different sizes, or too small.
    """
    if len(images) < 2:
        raise MeasureError(f"needs at least 2 images, got {len(images)}")

    def own() -> list[float]:
        distances = []
        for number in range(accelerator.process_index, count, accelerator.num_processes):
            random = item_random(seed, "real pair", number)
            first = int(random.random() * len(images))
            second = (first + 1 + int(random.random() * (len(images) - 1))) % len(images)
            distances.append(float(lpips(images[first][None], images[second][None])))
        return distances

    return _spread(gathered(own))


def _spread(values: list[float]) -> Spread:
    return Spread(statistics.fmean(values), statistics.pstdev(values))
