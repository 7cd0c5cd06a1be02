"""The domain classifier for inception scores: torchvision's Inception-v3 with one output per domain, and its files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import inception_v3

from cgcl_fast.networks.files import build_empty, fill, read_safetensors

KIND = "cgcl_fast.domain_classifier"

LEAST_SIZE = 75
"""Minimum side of images in pixels: below it, the network's poolings leave nothing."""


class DomainClassifier(nn.Module):
    """Inception-v3 (Szegedy et al. 2016) without its auxiliary output, which is only needed for training from scratch.

    Args:
        domains: names of the classes.
        size: side in pixels to which images are resized (bilinear, antialiased).

    Raises:
        ValueError: fewer than two domains, or duplicate names; a size below ``LEAST_SIZE``.
    """

    def __init__(self, domains: Sequence[str], size: int = 299) -> None:
        super().__init__()
        if len(domains) < 2 or len(set(domains)) < len(domains):
            raise ValueError(f"domains: expected two or more different names, got {', '.join(domains) or 'none'}")
        if size < LEAST_SIZE:
            raise ValueError(f"size: expected at least {LEAST_SIZE} pixels, got {size}")
        self.domains = tuple(domains)
        self.size = size
        self.network = inception_v3(weights=None, aux_logits=False, init_weights=False)
        self.network.fc = nn.Linear(self.network.fc.in_features, len(domains))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of images (B, 3, H, W) in [-1, 1], the range that ImageNet's weights were trained with."""
        if images.dim() != 4 or images.shape[1] != 3:
            raise ValueError(f"images: expected (B, 3, H, W), got {tuple(images.shape)}")
        if images.shape[2:] != (self.size, self.size):
            images = F.interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)
        return self.network(images)

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """p(z|y), (B, K), for :class:`cgcl_fast.metrics.inception_score.InceptionScores`. Call ``eval()`` before."""
        return self(images).float().softmax(1)

    def take_imagenet(self, weights: Mapping[str, Tensor]) -> None:
        """Initialise with the weights of torchvision's ``inception_v3``, except its outputs.

        Raises:
            ValueError: the weights are of another network.
        """
        own = self.network.state_dict()
        kept = {name: tensor for name, tensor in weights.items() if not name.startswith(("fc.", "AuxLogits."))}
        expected = {name for name in own if not name.startswith("fc.")}
        differing = sorted(expected ^ kept.keys()) or sorted(
            name for name, tensor in kept.items() if tensor.shape != own[name].shape
        )
        if differing:
            raise ValueError(f"weights: expected those of torchvision's inception_v3, which differ in {differing[0]}")
        self.network.load_state_dict(kept, strict=False)


def sha256_of(tensors: Mapping[str, Tensor]) -> str:
    """Hash of names, types, shapes and values, in order of names; identifies the classifier in results."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def classifier_bytes(classifier: DomainClassifier, notes: Mapping[str, object] | None = None) -> bytes:
    """The safetensors file of a classifier, with its domains, its size, its hash and ``notes`` in the metadata."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in classifier.state_dict().items()}
    metadata = {
        "kind": KIND,
        "domains": json.dumps(classifier.domains),
        "size": str(classifier.size),
        "sha256": sha256_of(tensors),
        "notes": json.dumps(dict(notes or {})),
    }
    return safetensors.torch.save(tensors, metadata)


def load_classifier(path: str | Path) -> tuple[DomainClassifier, str]:
    """The classifier in a file of :func:`classifier_bytes`, in evaluation mode, and its hash.

    Raises:
        ValueError: the file is of another kind or damaged; one line that names it.
        OSError: the file cannot be opened.
    """
    tensors, metadata = read_safetensors(path)
    if metadata.get("kind") != KIND:
        raise ValueError(f"{path}: expected a classifier of domains (python -m cgcl_fast.metrics.finetune writes one)")
    sha256 = sha256_of(tensors)
    if metadata.get("sha256") != sha256:
        raise ValueError(f"{path}: damaged (its content is not that of its hash)")
    try:
        domains, size = json.loads(metadata["domains"]), int(metadata["size"])
        classifier = fill(build_empty(lambda: DomainClassifier(domains, size)), tensors)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{path}: not a classifier of domains ({error})") from error
    return classifier.eval(), sha256
