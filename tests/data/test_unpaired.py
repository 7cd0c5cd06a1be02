"""Pairs of random domains, object crops, batches."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from cgcl_fast.data import Preprocess, build_loader
from cgcl_fast.data.needs import DataNeeds
from cgcl_fast.data.unpaired import Picture, UnpairedDataset, collate, cut_object

SIZES = {"red": 3, "green": 5, "blue": 2}
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
BOXES = torch.tensor([[2.0, 3, 20, 30], [5, 5, 12, 40], [30, 10, 60, 40]])  # the second is too narrow for an object


class Plain(UnpairedDataset):
    """A domain is a colour; two objects are white and gray."""

    def count(self, domain):
        return SIZES[domain]

    def picture(self, domain, index):
        values = np.zeros((48, 64, 3), np.uint8)
        values[:] = COLOURS[domain]
        values[3:30, 2:20] = 255
        values[10:40, 30:60] = 128
        return Picture(Image.fromarray(values), f"{domain}/{index}", BOXES, ("car", "pole", "bus"))

    def sample_batch(self, count=4):
        return {}


def make(domains=("red", "green", "blue"), preprocess=None, seed=0, **more):
    return Plain(domains, preprocess or Preprocess("none", train=False, multiple=1), seed, needs=DataNeeds(**more))


def test_pairs_are_of_two_different_domains():
    data = make(random_pairs=True)
    seen = Counter()
    for epoch in range(60):
        for index in range(len(data)):
            item = data[epoch, index]
            assert set(item) == {"A", "B", "A_domain", "B_domain", "A_paths", "B_paths"}
            pair = (int(item["A_domain"]), int(item["B_domain"]))
            seen[pair] += 1
            for name, which in zip("AB", pair, strict=True):
                domain = data.domains[which]
                assert item[f"{name}_paths"].split("/")[0] == domain
                assert torch.equal(item[name][:, 0, 0], torch.tensor(COLOURS[domain]) / 127.5 - 1)
    assert set(seen) == {(i, j) for i in range(3) for j in range(3) if i != j}
    assert min(seen.values()) > 0.6 * max(seen.values())


def test_every_image_of_every_domain_is_drawn():
    data = make(random_pairs=True)
    seen = {data[epoch, 0][f"{name}_paths"] for epoch in range(200) for name in "AB"}
    assert seen == {f"{domain}/{index}" for domain, count in SIZES.items() for index in range(count)}


def test_pairs_are_a_function_of_seed_epoch_and_index():
    one, two = make(random_pairs=True, object_size=8), make(random_pairs=True, object_size=8)
    keys = [(epoch, index) for epoch in range(4) for index in range(5)]
    backwards = {key: two[key] for key in reversed(keys)}
    for key in keys:
        item = one[key]
        for name, value in item.items():
            same = backwards[key][name]
            assert torch.equal(value, same) if isinstance(value, torch.Tensor) else value == same
    other = make(random_pairs=True, seed=1)
    assert [other[key]["A_paths"] for key in keys] != [one[key]["A_paths"] for key in keys]


def test_images_are_the_same_with_boxes_and_without():
    transform = Preprocess("resize_and_crop", size=32)
    plain = make(preprocess=transform)
    full = make(preprocess=transform, classes=("car",), object_size=8)
    for index in range(5):
        for name in plain.domains:
            assert torch.equal(plain[1, index][name], full[1, index][name])


def test_boxes_and_classes():
    data = make(classes=("bus", "car"))
    item = data[0]
    assert item["red_boxes"].dtype == torch.float32 and item["red_boxes"].tolist() == [[2, 3, 20, 30], [30, 10, 60, 40]]
    assert item["red_classes"].dtype == torch.int64 and item["red_classes"].tolist() == [1, 0]


def test_classes_of_boxes_that_a_crop_leaves():
    data = make(classes=("car", "pole", "bus"), preprocess=Preprocess("crop", size=24, train=True, flip=False))
    lost = 0
    for epoch in range(20):
        item = data[epoch, 0]
        image, boxes, labels = item["red"], item["red_boxes"], item["red_classes"].tolist()
        assert len(boxes) == len(labels)
        lost += 3 - len(boxes)
        for box, label in zip(boxes, labels, strict=True):
            x0, y0, x1, y1 = (int(side) for side in box)
            assert 0 <= x0 < x1 <= 24 and 0 <= y0 < y1 <= 24
            shade = {0: 1.0, 2: 128 / 127.5 - 1}.get(label)
            if shade is not None:
                assert torch.allclose(image[:, y0:y1, x0:x1], torch.tensor(shade), atol=1e-5)
    assert lost > 10


def test_objects_are_cut_from_boxes_that_are_large_enough():
    data = make(object_size=8)
    seen = Counter()
    for epoch in range(40):
        item = data[epoch, 0]
        assert item["red_object"].shape == (3, 8, 8) and item["red_has_object"].dtype == torch.bool
        assert item["red_has_object"]
        value = round((item["red_object"].mean().item() + 1) * 127.5)
        assert item["red_object"].std() < 1e-6
        seen[value] += 1
    assert set(seen) == {255, 128} and min(seen.values()) > 8  # white and gray, and never the narrow one


def test_least_object():
    item = make(object_size=8, min_object=28)[0]
    assert item["red_has_object"] and torch.allclose(item["red_object"], torch.tensor(128 / 127.5 - 1), atol=1e-5)
    item = make(object_size=8, min_object=31)[0]
    assert not item["red_has_object"] and item["red_object"].count_nonzero() == 0


def test_objects_are_of_the_classes_asked_for():
    data = make(object_size=8, classes=("bus",))
    assert all(abs(data[epoch, 0]["red_object"].mean() - 128 / 127.5 + 1) < 1e-6 for epoch in range(20))
    assert not make(object_size=8, classes=("pole",))[0]["red_has_object"]


def test_objects_are_flipped_with_the_image():
    values = np.zeros((32, 32, 3), np.uint8)
    values[:, 16:] = 255

    class Halves(Plain):
        def picture(self, domain, index):
            return Picture(Image.fromarray(values), "", torch.tensor([[0.0, 0, 32, 32]]), ("car",))

    data = Halves(("red",), Preprocess("none", train=True), 0, DataNeeds(object_size=32))
    flips = 0
    for epoch in range(20):
        item = data[epoch, 0]
        assert torch.equal(item["red"], item["red_object"])
        flips += bool(item["red"][0, 0, 0] > 0)
    assert 4 < flips < 16


def test_cut_object():
    image = Image.fromarray(np.random.RandomState(0).randint(0, 256, (40, 60, 3)).astype(np.uint8))
    boxes = torch.tensor([[-10.0, 4, 16, 20], [40, 20, 90, 70], [50, 30, 60, 40], [1e30, 0, 2e30, 20]])
    assert np.array_equal(cut_object(image, boxes, 16, 0.0), np.asarray(image.crop((0, 4, 16, 20))))
    second = cut_object(image, boxes, 20, 0.999)
    assert np.array_equal(second, np.asarray(image.crop((40, 20, 60, 40))))
    assert cut_object(image, boxes[2:], 16, 0.0) is None
    assert cut_object(image, torch.zeros(0, 4), 16, 0.0) is None
    assert cut_object(image, boxes, 7, 0.5).size == (7, 7)


def test_batches():
    data = make(random_pairs=True, classes=("car", "pole", "bus"), object_size=8)
    (batch, *_) = list(build_loader(data, batch_size=3, num_workers=1))
    assert batch["A"].shape == (3, 3, 48, 64) and batch["A_domain"].shape == (3,)
    assert batch["A_domain"].dtype == torch.int64 and batch["A_has_object"].shape == (3,)
    assert batch["B_object"].shape == (3, 3, 8, 8)
    assert isinstance(batch["A_boxes"], list) and [tuple(boxes.shape) for boxes in batch["A_boxes"]] == [(3, 4)] * 3
    assert [tuple(labels.shape) for labels in batch["B_classes"]] == [(3,)] * 3


def test_boxes_of_one_batch_may_differ_in_number():
    items = [{"A": torch.zeros(3, 4, 4), "A_boxes": torch.zeros(n, 4), "A_classes": torch.zeros(n)} for n in (0, 2)]
    assert [len(boxes) for boxes in collate(items)["A_boxes"]] == [0, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"domains": ("red",), "random_pairs": True}, "random_pairs needs two or more different domains, got red"),
        ({"domains": ("red", "red"), "random_pairs": True}, "two or more different domains"),
        ({"object_size": 0}, "object_size must be at least 1, got 0"),
        ({"min_object": 0}, "min_object must be at least 1, got 0"),
        ({"classes": ()}, "classes must be one or more names"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
