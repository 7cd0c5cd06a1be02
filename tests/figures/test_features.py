"""Similarity, principal components and the discriminator's attention: the numbers that the figures show."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cgcl_fast.figures import (
    DoesNotFitError,
    Layer,
    attention,
    attention_figure,
    components_figure,
    features,
    principal_components,
    projected_features,
    selection_frequency,
    similarity_figure,
    similarity_map,
)
from cgcl_fast.figures.components import as_colours
from cgcl_fast.figures.similarity import position_of
from cgcl_fast.methods import METHODS, Method
from cgcl_fast.ops import dag_select

SMALL = {"ngf": 4, "ndf": 4, "n_blocks": 5, "init_gain": 0.5}
OPTIONS = {
    "cut": {**SMALL, "nce_dim": 8, "sampling": "dag", "num_patches": 6},
    "enco": {**SMALL, "nce_dim": 8, "num_patches": 6},
    "enco, own projector": {**SMALL, "nce_dim": 8, "shared_projector": False, "loss": "cosine"},
    "sincut": {"ngf": 1, "ndf": 1, "num_crops": 1, "crop_size": 16, "nce_dim": 8, "init_gain": 0.5},
    "cgcl": {"ngf": 4, "ndf": 4, "n_blocks": 2, "object_size": 16, "d_layers": 3, "nce_dim": 8},
    "cgl": {"ngf": 4, "ndf": 4, "n_blocks": 2, "object_size": 16, "d_layers": 3},
    "mguit": {"ngf": 4, "ndf": 4, "n_blocks": 1, "style_nc": 6, "d_layers": 3, "n_scales": 2, "content_layers": 1},
    "cyclegan": SMALL,
}


def build(name: str) -> Method:
    torch.manual_seed(0)
    kind = METHODS[name.partition(",")[0]]
    return kind(kind.Config(**OPTIONS[name])).eval().requires_grad_(False)


def image(size: int = 32) -> torch.Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("name", OPTIONS)
def test_features_are_those_of_source_and_translation(name: str):
    method, x = build(name), image()
    found = features(method, x)
    torch.testing.assert_close(found.translation, method.translate(x))
    assert found.source is x and found.layers
    for layer in found.layers:
        assert layer.query.shape == layer.key.shape and layer.query.shape[0] == 2
    if name in ("cut", "sincut", "cyclegan"):  # the encoder of both
        again = features(method, found.translation)
        for layer, of_translation in zip(found.layers, again.layers, strict=True):
            torch.testing.assert_close(layer.query, of_translation.key)
    if name.startswith("enco"):
        with torch.no_grad():  # which may compute in another memory format, and round otherwise
            keys = method.G.encode(x, method.encoder_layers)
            queries = method.G.encode(x, method.decoder_layers[::-1])[::-1]
        for layer, key, query in zip(found.layers, keys, queries, strict=True):
            torch.testing.assert_close(layer.key, key)
            torch.testing.assert_close(layer.query, query)


@pytest.mark.parametrize("name", ["cut", "enco", "enco, own projector", "sincut", "cgcl"])
def test_the_similarity_of_a_query_is_computed_directly(name: str):
    """At one place of one image, with the perceptrons of H called by themselves."""
    method, x = build(name), image()
    plain, found = features(method, x), projected_features(method, x)
    temperature = method.config.temperature
    assert found.temperature == temperature
    H = method.H_g if name == "cgcl" else method.H
    K = method.K if name.endswith("projector") else H
    for number, (layer, projected) in enumerate(zip(plain.layers, found.layers, strict=True)):
        height, width = layer.key.shape[2:]
        row, column = position_of((0.4, 0.8), (height, width))
        assert (row, column) == (int(0.8 * height), int(0.4 * width))
        query = H.mlps[number](layer.query[1:, :, row, column][:, None])[0]
        if len(H.predictors):
            query = H.predictors[number](query)
        keys = K.mlps[number](layer.key[1:].flatten(2).mT)[0]
        lengths = (query.norm() + 1e-7) * (keys.norm(dim=1) + 1e-7)
        expected = ((keys @ query[0] / lengths).double() / temperature).exp().view(height, width)
        actual = similarity_map(projected, (0.4, 0.8), temperature)[1]
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)


def test_a_query_is_most_like_itself():
    unit = F.normalize(torch.randn(1, 8, 4, 5, generator=torch.Generator().manual_seed(0)), dim=1)
    found = similarity_map(Layer("", unit, unit), (0.5, 0.99), 0.1)[0]
    assert found.flatten().argmax() == 3 * 5 + 2
    assert float(found.max()) == pytest.approx(math.exp(10), rel=1e-5)


@pytest.mark.parametrize("name", ["cgl", "mguit", "cyclegan"])
def test_without_patchnce_there_is_no_similarity(name: str):
    with pytest.raises(DoesNotFitError, match="a PatchNCE loss"):
        projected_features(build(name), image())


def test_components_are_those_of_the_covariance():
    """Variances are the eigenvalues of the covariance of both images' features; no direction varies with another."""
    pytest.importorskip("sklearn")
    query, key = torch.randn(2, 1, 6, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = np.concatenate([each.reshape(-1, 3) for each in principal_components(Layer("", query, key))])
    rows = torch.cat([query[0].flatten(1).T, key[0].flatten(1).T])
    eigenvalues = torch.linalg.eigvalsh(torch.cov(rows.T)).flip(0)[:3]
    assert np.cov(found.T) == pytest.approx(np.diag(eigenvalues.numpy()), abs=1e-10)
    two, _ = principal_components(Layer("", query[:, :2], key[:, :2]))
    assert two.shape == (5, 4, 2)


def test_colours_are_on_one_scale():
    first, second = np.linspace(0, 1, 101).reshape(101, 1, 1), np.full((3, 1, 1), 0.5)
    low, high = np.percentile([*first.flat, *second.flat], (1, 99))
    coloured, other = as_colours([first, second])
    assert coloured[..., 0].min() == 0 and coloured[..., 0].max() == 1 and (coloured[..., 1:] == 0.5).all()
    assert other[..., 0] == pytest.approx(np.full((3, 1), (0.5 - low) / (high - low)))


def test_frequencies_are_counts():
    draws = [torch.tensor([[0, 5], [1, 2]]), torch.tensor([[5, 3], [1, 0]])]
    given = iter(draws)
    found = selection_frequency(lambda: next(given), (2, 3), draws=2)
    assert found.tolist() == [[[0.5, 0, 0], [0.5, 0, 1]], [[0.5, 1, 0.5], [0, 0, 0]]]


@pytest.mark.parametrize("name", ["cut", "enco"])
def test_attention_is_the_methods_own_draw(name: str):
    """As often as dag_select draws each position by D's score of the translation."""
    method, x = build(name), image()
    config = method.config
    before = torch.get_rng_state()
    found = attention(method, x, draws=5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(found.score, method.D(method.G(x)))
    torch.manual_seed(0)
    for layer, frequency in zip(found.compared.layers, found.frequency, strict=True):
        size = layer.key.shape[2:]
        count = torch.zeros(2, size[0] * size[1], dtype=torch.float64)
        for _ in range(5):
            ids = dag_select(
                found.score, size, config.num_patches, oversample=config.oversample, importance=config.importance
            )
            count[torch.arange(2)[:, None], ids] += 1
        assert torch.equal(frequency.flatten(1), count / 5)
        assert frequency.sum((1, 2)).tolist() == pytest.approx([config.num_patches] * 2)


def test_random_sampling_has_no_attention():
    method = METHODS["cut"](METHODS["cut"].Config(**SMALL))
    with pytest.raises(DoesNotFitError, match="sampling by the discriminator's attention"):
        attention(method, image())


def test_they_are_drawn():
    """As many panels as there are pictures and maps."""
    pytest.importorskip("matplotlib")
    method, x = build("enco"), image()
    layers = len(method.config.scales)
    figure = similarity_figure(projected_features(method, x), [(0.1, 0.2)])
    assert sum(bool(axes.images) for axes in figure.axes) == 2 + layers
    figure = attention_figure(attention(method, x, draws=2))
    assert sum(bool(axes.images) for axes in figure.axes) == 2 * (2 + layers)
    pytest.importorskip("sklearn")
    figure = components_figure(features(method, x), images=1)
    assert sum(bool(axes.images) for axes in figure.axes) == 2 * (1 + layers)
