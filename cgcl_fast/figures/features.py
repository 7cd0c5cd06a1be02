"""Features of a source and of its translation at every position, as the methods compare them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cgcl_fast.methods import Method
from cgcl_fast.methods.base import pad_to_multiple
from cgcl_fast.methods.cgcl import CGCL
from cgcl_fast.methods.cgl import CGL
from cgcl_fast.methods.cut import CUT
from cgcl_fast.methods.cyclegan import CycleGAN
from cgcl_fast.methods.enco import EnCo, layer_pairs
from cgcl_fast.methods.mguit import MGUIT
from cgcl_fast.methods.sincut import SinCUT
from cgcl_fast.networks import ResnetGenerator
from cgcl_fast.nn import Projector


class DoesNotFitError(ValueError):
    """The method, or how it was trained, lacks what a figure shows; the message says what, in a few words."""


@dataclass(frozen=True)
class Layer:
    """Features of one layer.

    Attributes:
        name: which one.
        query: of the translation, (B, C, h, w).
        key: of the source, the same shape.
    """

    name: str
    query: Tensor
    key: Tensor


@dataclass(frozen=True)
class Compared:
    """A source, its translation, and their features.

    Attributes:
        source, translation: (B, C, H, W) in [-1, 1].
        layers: from the first to the last.
        temperature: τ of the method's PatchNCE; None if it has none.
    """

    source: Tensor
    translation: Tensor
    layers: list[Layer]
    temperature: float | None


@torch.no_grad()
def features(method: Method, images: Tensor, domain: int = 1) -> Compared:
    """The features that a method computes, before any projection. EnCo's queries are from the decoder and its keys from
    the encoder; for all other methods both are the encoder's, of the translation and of the source.

    Args:
        method: in evaluation mode.
        images: (B, C, H, W) in [-1, 1], of the first domain, or for CGL and CGCL of any domain; padded to sides that
            the generator accepts.
        domain: index of CGL's and CGCL's target domain.

    Raises:
        DoesNotFitError: a CycleGAN with U-Nets.
    """
    x = pad_to_multiple(images)
    temperature = getattr(method.config, "temperature", None)
    if isinstance(method, EnCo):
        translation, extracted = method.G(x, (*method.encoder_layers, *reversed(method.decoder_layers)))
        pairs = len(method.encoder_layers)
        keys, queries = extracted[:pairs], extracted[pairs:][::-1]
        names = [f"layers {k}, {q}" for k, q in zip(method.encoder_layers, method.decoder_layers, strict=True)]
    elif isinstance(method, (CUT, SinCUT)):
        translation, keys = method.G(x, method.layers)
        queries = method.G.encode(translation, method.layers)
        names = [f"layer {number}" for number in method.layers]
    elif isinstance(method, CGL):
        translation = method.G_g(x, domain)
        keys, queries = method.G_g.content(x), method.G_g.content(translation)
        names = [f"block {number}" for number in range(1, len(keys) + 1)]
        temperature = method.config.temperature if isinstance(method, CGCL) else None
    elif isinstance(method, MGUIT):
        translation = method.G(x, 1)
        keys, queries = [method.G.encode([x], [0])], [method.G.encode([translation], [1])]
        names, temperature = ["content"], None
    elif isinstance(method, CycleGAN) and isinstance(method.G, ResnetGenerator):
        config = method.config
        pairs_of = layer_pairs(config.n_blocks, config.antialias, config.n_down, config.antialias_up)
        chosen = [number for number, _ in pairs_of.values()]  # of the encoder, as EnCo uses them
        translation = method.G(x)
        keys, queries = method.G.encode(x, chosen), method.G.encode(translation, chosen)
        names = [f"layer {number}" for number in chosen]
    else:
        raise DoesNotFitError("an encoder")
    layers = [Layer(name, q.float(), k.float()) for name, q, k in zip(names, queries, keys, strict=True)]
    return Compared(x, translation.float(), layers, temperature)


@torch.no_grad()
def projected_features(method: Method, images: Tensor, domain: int = 1) -> Compared:
    """What PatchNCE compares: :func:`features` after H, at unit length.

    Raises:
        DoesNotFitError: the method has no PatchNCE.
    """
    of_queries, of_keys = _projectors(method)
    extracted = features(method, images, domain)
    queries = _project(of_queries, [layer.query for layer in extracted.layers], predict=True)
    keys = _project(of_keys, [layer.key for layer in extracted.layers], predict=False)
    layers = [Layer(layer.name, q, k) for layer, q, k in zip(extracted.layers, queries, keys, strict=True)]
    return Compared(extracted.source, extracted.translation, layers, extracted.temperature)


def _projectors(method: Method) -> tuple[Projector, Projector]:
    """H of the queries, and H of the keys."""
    if isinstance(method, EnCo):
        return method.H, method.H if method.config.shared_projector else method.K
    if isinstance(method, (CUT, SinCUT)):
        return method.H, method.H
    if isinstance(method, CGCL) and method.config.lambda_mdc > 0:
        return method.H_g, method.H_g
    raise DoesNotFitError("a PatchNCE loss")


def _project(projector: Projector, maps: Sequence[Tensor], predict: bool) -> list[Tensor]:
    """(B, C, h, w) per layer to (B, dim, h, w) at unit length, v/(‖v‖₂ + 1e-7) as in the loss."""
    ids = [torch.arange(each.shape[2] * each.shape[3]) for each in maps]
    rows = projector(maps, ids, predict=predict)
    return [
        (row / (row.norm(dim=2, keepdim=True) + 1e-7)).transpose(1, 2).unflatten(2, each.shape[2:]).contiguous()
        for row, each in zip(rows, maps, strict=True)
    ]
