"""One folder per split, with the domains inside."""

from __future__ import annotations

import pytest
from PIL import Image

from cgcl_fast.data import find_domains, open_dataset


def image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (24, 20)).save(path)


@pytest.mark.parametrize(("train", "test"), [("train", "val"), ("train", "test"), ("Training", "Validation")])
def test_domains_and_their_test_images(tmp_path, train, test):
    for name in ("wild", "cat", "dog"):
        image(tmp_path / train / name / "0.jpg")
        image(tmp_path / train / name / "litter" / "1.jpg")
        image(tmp_path / test / name / "2.jpg")
    names = find_domains(tmp_path)
    assert names == ("cat", "dog", "wild")
    data = open_dataset(tmp_path, domains=names, size=16, random_pairs=True)
    assert {name: [path.parent for path in data.paths[name]] for name in names} == {
        name: [tmp_path / train / name, tmp_path / train / name / "litter"] for name in names
    }
    assert data.sample_batch(3)["A_paths"] == [str(tmp_path / test / name / "2.jpg") for name in names]
    with pytest.raises(ValueError, match="with trainA trainB, .* train/A train/B, .* with domains cat, dog, wild$"):
        open_dataset(tmp_path)


def test_two_domains_are_a_and_b(tmp_path):
    for name in ("female", "male"):
        image(tmp_path / "train" / name / "0.jpg")
    assert open_dataset(tmp_path, size=16).summary()[1] == f"B is male: 1 images in {tmp_path}/train/male"


def test_annotations_of_the_other_domain_are_left_alone(tmp_path):
    for name, box in (("cat", "0 0.5 0.5 0.5 0.5"), ("dog", "0 0.25 0.25 0.5 0.5")):
        image(tmp_path / "train" / name / "0.jpg")
        (tmp_path / "labels" / "train" / name).mkdir(parents=True)
        (tmp_path / "labels" / "train" / name / "0.txt").write_text(box)
    data = open_dataset(tmp_path, domains=("cat", "dog"), size=16, classes=("0",))
    assert data.picture("cat", 0).boxes.tolist() == [[6, 5, 18, 15]]
    assert data.picture("dog", 0).boxes.tolist() == [[0, 0, 12, 10]]


def test_a_data_set_with_labels_beside_its_images_is_no_two_domains(tmp_path):
    for name in ("images", "labels", "image_2", "masks"):
        image(tmp_path / "train" / name / "0.jpg")
    with pytest.raises(ValueError, match="two or more domains"):
        find_domains(tmp_path)
