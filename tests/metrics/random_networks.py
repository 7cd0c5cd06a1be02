"""The metrics' networks with random weights, because the published ones need a download, and a small network."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor, nn
from torchvision.models import alexnet

from cgcl_fast.metrics.features import EfficientNetLite0
from cgcl_fast.metrics.weights import ALEXNET, INCEPTION


class Few(EfficientNetLite0):
    """Three features in place of 1280, whose Fréchet distance takes seconds: the mean of each colour."""

    widths = {"pooled": 3}

    def __init__(self, tensors: Mapping[str, Tensor], sha256: str) -> None:
        nn.Module.__init__(self)
        self.sha256 = sha256
        torch.rand(())  # networks draw their first weights

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        assert images.dtype == torch.uint8
        return {"pooled": images.float().mean((2, 3)) / 255}


def random_weights(network: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """Weights that keep the variance of what goes through, without which features of deep networks are all alike."""
    torch.manual_seed(seed)
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


@contextlib.contextmanager
def without_weights(kind: type[nn.Module]) -> Iterator[None]:
    """In which torch-fidelity's network can be built without a file."""
    with mock.patch.object(kind, "load_state_dict"), mock.patch("torch.load"):
        yield


def inception_weights() -> dict[str, Tensor]:
    from torch_fidelity import FeatureExtractorInceptionV3 as Extractor

    with without_weights(Extractor):
        network = Extractor("inception-v3-compat", ["64"], feature_extractor_weights_path="none")
    return random_weights(network)


def alexnet_weights() -> dict[str, Tensor]:
    """Of the convolutions, which are all that LPIPS has."""
    return {f"features.{name}": tensor for name, tensor in random_weights(alexnet(weights=None).features).items()}


def save_weights(folder: Path, *, inception: bool = True) -> Path:
    """A folder for ``--features``, with the published names."""
    folder.mkdir(exist_ok=True)
    if inception:
        torch.save(inception_weights(), folder / INCEPTION.name)
    torch.save(alexnet_weights(), folder / ALEXNET.name)
    return folder
