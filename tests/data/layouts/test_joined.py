"""Split and domain in a single folder name."""

from __future__ import annotations

import pytest
from PIL import Image

from cgcl_fast.data import find_domains, open_dataset


def image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (24, 20)).save(path)


@pytest.mark.parametrize("form", ["train{}", "Train{}", "TRAIN_{}", "train_{}", "train-{}", "training{}"])
def test_spellings(tmp_path, form):
    for name in "AB":
        image(tmp_path / form.format(name) / "0.png")
        image(tmp_path / f"val_{name}" / "1.png")
    assert find_domains(tmp_path) == ("A", "B")
    data = open_dataset(tmp_path, size=16)
    assert {name: data.paths[name] for name in "AB"} == {n: [tmp_path / form.format(n) / "0.png"] for n in "AB"}
    assert data.sample_batch(1)["B_paths"] == [str(tmp_path / "val_B" / "1.png")]
    assert data.summary() == [f"{n}: 1 images in {tmp_path / form.format(n)}" for n in "AB"]


def test_two_other_names_are_a_and_b(tmp_path):
    for folder in ("trainHorse", "trainZebra", "testZebra", "testHorse", "testGnu"):
        image(tmp_path / folder / "0.png")
    data = open_dataset(tmp_path, size=16)
    assert data.summary() == [
        f"A is Horse: 1 images in {tmp_path}/trainHorse",
        f"B is Zebra: 1 images in {tmp_path}/trainZebra",
    ]
    # The test images are those of the same names, though there are three.
    assert data.sample_batch(1)["B_paths"] == [str(tmp_path / "testZebra" / "0.png")]


def test_the_same_domain_twice_is_refused(tmp_path):
    for folder in ("trainA", "train_A", "trainB"):
        image(tmp_path / folder / "0.png")
    with pytest.raises(ValueError, match="train_A are both train images of domain A; leave only one there"):
        open_dataset(tmp_path)


def test_pictures_about_images_are_no_domains(tmp_path):
    for folder in ("trainA", "trainB", "trainA_masks", "trainB_labels", "train_labels", "training"):
        image(tmp_path / folder / "0.png")
    assert find_domains(tmp_path) == ("A", "B")
