"""Style codes, memory, Grad-CAM, styles and instances: the numbers that the figures show."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cgcl_fast.data import open_dataset, to_tensor
from cgcl_fast.data.unpaired import cut_object
from cgcl_fast.figures import (
    Assignments,
    DoesNotFitError,
    between,
    find_instances,
    grad_cam,
    grad_cam_figure,
    in_styles,
    instances_figure,
    memory_assignments,
    memory_figure,
    style_codes,
    style_codes_figure,
    styles_figure,
    translate_instances,
    tsne,
)
from cgcl_fast.figures.grad_cam import layer_of
from cgcl_fast.methods import METHODS, Method

OPTIONS = {
    "cgl": {
        **{"domains": ("sunny", "night", "rainy"), "ngf": 4, "ndf": 4, "n_blocks": 1, "d_layers": 3, "style_dim": 3},
        **{"object_size": 16, "min_object": 4, "mlp_dim": 8},
    },
    "mguit": {"ngf": 4, "ndf": 4, "n_blocks": 1, "style_nc": 6, "d_layers": 3, "n_scales": 2, "content_layers": 1},
    "cut": {"ngf": 4, "ndf": 4, "n_blocks": 5, "nce_dim": 8},
}


def build(name: str) -> Method:
    torch.manual_seed(0)
    kind = METHODS[name]
    return kind(kind.Config(**OPTIONS[name])).eval().requires_grad_(False)


def streets(method: Method, **more: object):
    needs = type(method).needs(method.config)
    return open_dataset(None, domains=method.domains, train=False, size=32, flip=False, needs=needs, limit=6, **more)


def images(count: int = 2, size: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("function", [style_codes, grad_cam, memory_assignments, translate_instances])
def test_what_a_method_has_not_is_said(function):
    argument = [images()] if function is memory_assignments else images()
    with pytest.raises(DoesNotFitError):
        function(build("cut"), argument)


def test_style_codes_are_the_encoders():
    method = build("cgl")
    dataset = streets(method)
    found = style_codes(method, dataset, 4)
    assert found.domains == ("sunny", "night", "rainy")
    assert [int((found.domain[~found.instance] == n).sum()) for n in range(3)] == [4, 4, 4]
    rows = []
    for domain, name in enumerate(found.domains):
        for index in range(4):
            picture = dataset.picture(name, index)
            rows.append(method.G_g.style_of(dataset.preprocess(picture.image)[None], domain))
            crop = cut_object(picture.image, picture.boxes, 16, 0, least=4)
            if crop is not None:
                rows.append(method.G_o.style_of(to_tensor(crop)[None], domain))
    torch.testing.assert_close(found.codes, torch.cat(rows))
    assert 0 < found.instance.sum() < len(rows)
    pytest.importorskip("sklearn")
    assert len(style_codes_figure(found).axes[0].collections) == 6


def test_clusters_stay_apart_in_the_plane():
    pytest.importorskip("sklearn")
    draw = np.random.RandomState(0)
    points = np.concatenate([draw.randn(12, 5), draw.randn(12, 5) + 50])
    found = tsne(points)
    assert found.shape == (24, 2) and np.array_equal(found, tsne(points))
    centres = found[:12].mean(0), found[12:].mean(0)
    for own, other, cluster in ((*centres, found[:12]), (*centres[::-1], found[12:])):
        assert (np.linalg.norm(cluster - own, axis=1) < np.linalg.norm(cluster - other, axis=1)).all()
    assert (tsne(np.ones((5, 3))) == 0).all()
    with pytest.raises(ValueError, match="points: expected at least 4, got 3"):
        tsne(np.ones((3, 2)))


def test_pixels_address_the_nearest_key():
    method = build("mguit")
    both = [images(2), -images(2)]
    found = memory_assignments(method, both, pixels=40)
    assert len(found.contents) == 80 and found.domain.tolist() == [0] * 40 + [1] * 40
    assert found.item_class[0] == "1" and found.item_class[-1] == "background" and len(found.item_class) == 20
    distances = torch.cdist(found.contents, F.normalize(method.G.memory.keys, dim=1))
    assert torch.equal(found.item, distances.argmin(1))
    for domain, batch in enumerate(both):  # each is a pixel of the domain's encoder
        rows = F.normalize(method.G.encode([batch], [domain]), dim=1).transpose(0, 1).flatten(1).T
        own = found.contents[found.domain == domain]
        assert (own @ rows.T).max(1).values.min() > 1 - 1e-5
    four = Assignments(found.contents[:4], torch.tensor([0, 2, 2, 1]), torch.zeros(4), tuple("abcd"), ("A", "B"))
    assert four.share().tolist() == [0.25, 0.25, 0.5, 0]
    pytest.importorskip("sklearn")
    assert len(memory_figure(found).axes[1].patches) == 20


@pytest.mark.parametrize("layer", [0, 2])
def test_grad_cam_is_computed_directly(layer: int):
    """ReLU of the sum over channels of activations times the mean of their gradients."""
    pytest.importorskip("captum")
    method, x = build("cgl"), images()
    found = grad_cam(method, x, layer)
    convs = method.D_g.convs
    torch.testing.assert_close(found.probabilities, method.D_g(x)[1].softmax(1))
    for domain in range(3):
        hidden = x
        for number in range(layer + 1):
            hidden = convs[number](F.leaky_relu(hidden, 0.2) if number else hidden)
        hidden = hidden.detach().requires_grad_()
        after = F.leaky_relu(hidden, 0.2)
        for conv in convs[layer + 1 :]:
            after = F.leaky_relu(conv(after), 0.2)
        side = method.D_g.config["map_size"] - after.shape[-1]
        padded = F.pad(after, (side // 2, side - side // 2) * 2) if side > 0 else after
        score = method.D_g.cls(padded).mean((2, 3))[:, domain].sum()
        (gradient,) = torch.autograd.grad(score, hidden)
        expected = (gradient.mean((2, 3), keepdim=True) * hidden).sum(1).relu()
        torch.testing.assert_close(found.maps[:, domain], expected.detach())
    assert float(found.maps.max()) > 0
    assert layer_of(method.D_g, x) == 1  # 8x8 of 32x32
    assert sum(bool(axes.images) for axes in grad_cam_figure(found).axes) == 2 * 4


@pytest.mark.parametrize("name", ["cgl", "mguit"])
def test_translations_in_styles(name: str):
    method, x = build(name), images(2, 30)  # padded to 32
    generator = getattr(method, method.generator_name)
    styles = generator.random_style(3, torch.Generator().manual_seed(0))
    found = in_styles(generator, x, 1, styles)
    assert found.shape == (2, 3, 3, 30, 30)
    padded = F.pad(x, (0, 2, 0, 2), mode="reflect")
    for n in range(3):
        torch.testing.assert_close(found[:, n], generator(padded, 1, styles[n : n + 1])[..., :30, :30])
    assert sum(bool(axes.images) for axes in styles_figure(x, found).axes) == 2 * 4


def test_between_two_styles():
    found = between(torch.tensor([0.0, 4.0]), torch.tensor([2.0, 0.0]), 5)
    assert found.tolist() == [[0, 4], [0.5, 3], [1, 2], [1.5, 1], [2, 0]]
    with pytest.raises(ValueError, match="steps: expected at least 2, got 1"):
        between(torch.zeros(2), torch.ones(2), 1)
    with pytest.raises(ValueError, match="end: expected the shape of start"):
        between(torch.zeros(2), torch.ones(3), 3)


def test_instances_are_translated_by_the_generator_of_instances():
    method = build("cgl")
    instances, names = find_instances(streets(method), count=1)
    assert names == ["sunny", "night", "rainy"] and instances.shape == (3, 3, 16, 16)
    found = translate_instances(method, instances)
    for domain in range(3):
        torch.testing.assert_close(found[:, domain], method.G_o(instances, domain))
    assert sum(bool(axes.images) for axes in instances_figure(instances, found, names, names).axes) == 3 * 4
