"""One folder per domain, without splits."""

from __future__ import annotations

import pytest
from PIL import Image

from cgcl_fast.data import find_domains, open_dataset


def image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (24, 20)).save(path)


def test_all_images_are_for_training(tmp_path):
    for name in ("A", "B", "masks", "A_labels"):
        image(tmp_path / name / "0.png")
    (tmp_path / "notes").mkdir()
    assert find_domains(tmp_path) == ("A", "B")
    data = open_dataset(tmp_path, size=16)
    assert data.summary() == [f"{name}: 1 images in {tmp_path / name}" for name in "AB"]
    assert data.sample_batch(1)["A_paths"] == [str(tmp_path / "A" / "0.png")]
    with pytest.raises(ValueError, match="with testA testB"):
        open_dataset(tmp_path, train=False)


@pytest.mark.parametrize("stray", ["test/0.png", "A/train/0.png", "B/testA/0.png", "validation/A/0.png", "Test2/0.png"])
def test_what_has_splits_is_something_else(tmp_path, stray):
    for path in ("A/0.png", "B/0.png", stray):
        image(tmp_path / path)
    with pytest.raises(ValueError, match="must be a folder with trainA trainB"):
        open_dataset(tmp_path)


def test_names_that_only_begin_like_splits(tmp_path):
    for name in ("valley", "trains"):
        image(tmp_path / name / "0.png")
    with pytest.raises(ValueError, match="two or more domains"):  # trains may be a split
        find_domains(tmp_path)
    (tmp_path / "trains").rename(tmp_path / "trainers")
    assert open_dataset(tmp_path, domains=("valley", "trainers"), size=16).count("valley") == 1
