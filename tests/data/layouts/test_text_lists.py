"""Lists of files."""

from __future__ import annotations

import logging

import pytest
from PIL import Image

from cgcl_fast.data import find_domains, open_dataset


def image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (24, 20)).save(path)


@pytest.fixture
def root(tmp_path):
    for name in ("a", "b", "c", "a day", "night 1"):
        image(tmp_path / "data" / "photos" / f"{name}.jpg")
    return tmp_path / "data"


def stems(data):
    return {domain: [path.stem for path in data.paths[domain]] for domain in data.domains}


def test_paths_in_the_order_of_the_list(root):
    (root / "train_A.txt").write_text("photos/c.jpg\r\n\r\n# of a rainy day\r\nphotos/a day.jpg 3\r\nphotos/c.jpg\r\n")
    (root / "trainB.txt").write_text(f"{root}/photos/night 1.jpg\tnight\n")
    (root / "test_A.txt").write_text("photos/a.jpg\n")
    (root / "test_B.txt").write_text("photos/b.jpg\n")
    (root / "train_notes.txt").write_text("taken in May\nphotos/a.jpg\n")
    assert find_domains(root) == ("A", "B")
    data = open_dataset(root, size=16)
    assert stems(data) == {"A": ["c", "a day"], "B": ["night 1"]}
    assert data.summary()[0] == f"A: 2 images in the list {root}/train_A.txt"
    assert data.sample_batch(1)["B_paths"] == [str(root / "photos" / "b.jpg")]


def test_boxes_are_those_beside_the_images(root):
    for name in "AB":
        (root / f"train_{name}.txt").write_text(f"photos/{name.lower()}.jpg\n")
    (root / "photos" / "a.txt").write_text("0 0.5 0.5 0.5 0.5")
    data = open_dataset(root, size=16, classes=("0",))
    assert data.summary() == [
        f"A: 1 images in the list {root}/train_A.txt, 1 with boxes",
        f"B: 1 images in the list {root}/train_B.txt, 0 with boxes",
    ]
    assert data.picture("A", 0).boxes.tolist() == [[6, 5, 18, 15]]


def test_images_anywhere(root, tmp_path, monkeypatch):
    image(tmp_path / "elsewhere" / "x.jpg")
    image(tmp_path / "further" / "y.jpg")
    (root / "train_A.txt").write_text(f"../elsewhere/x.jpg\n{root}/photos/a.jpg\n")
    (root / "train_B.txt").write_text(f"{tmp_path}/further/y.jpg\nphotos/b.jpg\n")
    monkeypatch.chdir(tmp_path)
    for where in (root, "data"):
        assert stems(open_dataset(where, size=16)) == {"A": ["x", "a"], "B": ["y", "b"]}
        with pytest.raises(ValueError, match="train_A.txt: images with boxes must be in one folder"):
            open_dataset(where, size=16, classes=("car",))


def test_files_that_are_not_there_are_named(root, caplog):
    (root / "train_A.txt").write_text("photos/a.jpg\nphotos/gone.jpg\nnothing\n")
    (root / "train_B.txt").write_text("photos/b.jpg\n")
    with caplog.at_level(logging.WARNING):
        assert stems(open_dataset(root, size=16))["A"] == ["a"]
    assert "photos/gone.jpg: No such file" in caplog.text and "data/nothing: No such file" in caplog.text
    assert "skipped 2 of 3 image files" in caplog.text
    (root / "train_A.txt").write_text("gone.jpg\n")
    with pytest.raises(ValueError, match="none of the 1 image files in .* gone.jpg: No such file"):
        open_dataset(root, size=16)


def test_lists_beside_folders_of_the_same_domains_are_refused(root):
    for name in "AB":
        (root / f"train_{name}.txt").write_text("photos/a.jpg\n")
        image(root / f"train{name}" / "0.png")
    with pytest.raises(ValueError, match="as trainA trainB and as train_A.txt train_B.txt; leave only one"):
        open_dataset(root)
    with pytest.raises(ValueError, match="leave only one"):
        find_domains(root)


def test_one_list_twice_is_refused(root):
    for name in ("train_A.txt", "trainA.txt", "train_B.txt"):
        (root / name).write_text("photos/a.jpg\n")
    with pytest.raises(ValueError, match="are both train images of domain A"):
        open_dataset(root)


def test_lists_in_the_folders_of_the_domains(tmp_path):
    for name in ("day", "night"):
        for number in range(3):
            image(tmp_path / name / "obj" / f"{number}.jpg")
        (tmp_path / name / "train.txt").write_text("obj/0.jpg\nobj/2.jpg\n")
        (tmp_path / name / "valid.txt").write_text("obj/1.jpg\n")
    assert find_domains(tmp_path) == ("day", "night")
    data = open_dataset(tmp_path, size=16)
    assert stems(data) == {"A": ["0", "2"], "B": ["0", "2"]}
    assert data.sample_batch(3)["B_paths"] == [str(tmp_path / "night" / "obj" / "1.jpg")]
    assert stems(open_dataset(tmp_path / "day", domains=("alone",), size=16)) == {"alone": ["0", "2"]}
