"""Unpaired data sets in folders."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from PIL import Image

from cgcl_fast.data import FolderDataset, Preprocess, open_dataset
from cgcl_fast.data import images as images_module


def fill(folder, count, shade=0, size=(24, 20), suffix="png"):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        values = np.random.RandomState(shade + number).randint(0, 256, (size[1], size[0], 3)).astype(np.uint8)
        Image.fromarray(values).save(folder / f"{number}.{suffix}")


@pytest.fixture
def root(tmp_path):
    for number, (name, count) in enumerate((("trainA", 6), ("trainB", 4), ("testA", 3), ("testB", 5))):
        fill(tmp_path / name, count, 100 * number)
    return tmp_path


def test_items(root):
    data = open_dataset(root, size=16)
    assert len(data) == 6
    item = data[0]
    assert set(item) == {"A", "B", "A_paths", "B_paths"}
    for domain in "AB":
        assert item[domain].shape == (3, 16, 16) and item[domain].dtype == torch.float32
        assert -1 <= item[domain].min() < item[domain].max() <= 1
    assert item["A_paths"] == str(root / "trainA" / "0.png")
    assert item["B_paths"].startswith(str(root / "trainB"))
    with pytest.raises(IndexError, match="index must be from 0 to 5, got 6"):
        data[6]


def test_items_are_a_function_of_seed_epoch_and_index(root):
    one, two, other = (open_dataset(root, size=16, seed=seed) for seed in (1, 1, 2))
    keys = [(epoch, index) for epoch in range(3) for index in range(6)]
    for key in reversed(keys):  # in another order
        two[key]
    for key in keys:
        a, b = one[key], two[key]
        assert a["B_paths"] == b["B_paths"]
        assert torch.equal(a["A"], b["A"]) and torch.equal(a["B"], b["B"])
    assert torch.equal(one[4]["A"], one[0, 4]["A"])
    assert any(not torch.equal(one[key]["A"], other[key]["A"]) for key in keys)
    assert any(not torch.equal(one[0, i]["A"], one[1, i]["A"]) for i in range(6))


def test_b_is_drawn_independently_of_a(root):
    data = open_dataset(root, size=16)
    drawn = [[data[epoch, index]["B_paths"] for index in range(6)] for epoch in range(30)]
    for index in range(6):
        assert len({row[index] for row in drawn}) == 4


def test_the_shorter_first_domain_is_repeated(root):
    for path in list((root / "trainA").iterdir())[2:]:
        path.unlink()
    data = open_dataset(root, size=16)
    assert len(data) == 4
    assert data[0]["A_paths"] == data[2]["A_paths"] != data[1]["A_paths"]


def test_full_view_from_an_epoch_on(root):
    data = open_dataset(root, size=16, flip=False)
    data.full_view_epoch = 2
    whole = Preprocess("resize_and_crop", size=16, train=False)
    expected = whole(Image.open(root / "trainA" / "0.png"))
    assert not torch.equal(data[1, 0]["A"], expected)
    assert torch.equal(data[2, 0]["A"], expected) and torch.equal(data[7, 0]["A"], expected)


def test_testing_is_fixed_and_unflipped(root):
    data = open_dataset(root, size=16, train=False)
    assert len(data) == 5
    assert torch.equal(data[0, 1]["A"], data[9, 1]["A"])


def test_limit(root):
    data = open_dataset(root, size=16, limit=2)
    assert len(data) == 2 and data.count("A") == data.count("B") == 2
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        open_dataset(root, limit=0)


def test_sample_batch_is_fixed_and_from_the_test_folders(root):
    data = open_dataset(root, size=16)
    batch = data.sample_batch(2)
    assert batch["A"].shape == batch["B"].shape == (2, 3, 16, 16)
    assert all("testA" in path for path in batch["A_paths"]) and "truth" not in batch
    assert torch.equal(batch["A"], data.sample_batch(2)["A"])
    assert data.sample_batch(9)["A"].shape[0] == 3


def test_sample_batch_of_whole_images_is_of_one_size(root):
    fill(root / "testA", 2, 900, size=(50, 30))
    assert open_dataset(root, size=16, preprocess="none").sample_batch(3)["A"].shape == (3, 3, 16, 16)


def test_sample_batch_takes_training_images_without_test_folders(root):
    for name in ("testA", "testB"):
        for path in (root / name).iterdir():
            path.unlink()
        (root / name).rmdir()
    assert all("trainA" in path for path in open_dataset(root, size=16).sample_batch()["A_paths"])


def test_sample_batch_takes_training_images_when_no_test_image_can_be_read(root):
    for path in (root / "testB").iterdir():
        path.write_bytes(b"no image")
    assert all("trainA" in path for path in open_dataset(root, size=16).sample_batch()["A_paths"])


def test_truth_folder(root):
    fill(root / "truth", 3, 500)
    batch = open_dataset(root, size=16).sample_batch(3)
    shown = Preprocess("resize_and_crop", size=16, train=False)
    assert torch.equal(batch["truth"][1], shown(Image.open(root / "truth" / "1.png")))
    (root / "truth" / "1.png").write_bytes(b"no image")
    assert "truth" not in open_dataset(root, size=16).sample_batch(3)


def test_unreadable_files_are_left_out(root, caplog):
    (root / "trainA" / "0.png").write_bytes(b"no image")
    with caplog.at_level(logging.WARNING):
        data = open_dataset(root, size=16)
    assert len(data) == 5
    assert "0.png: not a JPEG" in caplog.text and "skipped 1 of 6" in caplog.text


def test_a_file_that_breaks_later_is_replaced_and_named_once(root, caplog, monkeypatch):
    monkeypatch.setattr(images_module, "FULL_CHECK_BYTES", 0)
    path = root / "trainA" / "2.png"
    path.write_bytes(path.read_bytes()[:-400])
    data = open_dataset(root, size=16)
    assert len(data) == 6
    with caplog.at_level(logging.WARNING):
        first, again = data[2], data[2]
    assert first["A_paths"] == str(root / "trainA" / "3.png") and torch.equal(first["A"], again["A"])
    assert caplog.text.count("2.png") == 1
    for other in (root / "trainA").iterdir():
        other.write_bytes(b"")
    with pytest.raises(ValueError, match="none of the 6 image files .* can be read any more"):
        data[0]


def test_no_readable_image_is_an_error(root):
    for path in (root / "trainB").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(ValueError, match="none of the 4 image files in .*trainB can be read"):
        open_dataset(root)


def test_missing_folders_name_what_was_expected_and_what_is_there(tmp_path):
    with pytest.raises(ValueError, match="must be a folder with trainA trainB.*nowhere is missing"):
        open_dataset(tmp_path / "nowhere")
    fill(tmp_path / "trainA", 1)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match="with trainA trainB.* holds notes.txt, trainA/") as caught:
        open_dataset(tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="with testA testB"):
        open_dataset(tmp_path, train=False)


def test_a_folder_for_each_domain(tmp_path, caplog):
    for number, name in enumerate(("autumn", "summer")):
        fill(tmp_path / name / "train", 2 + number, 100 * number)
    named = open_dataset(tmp_path, domains=("summer", "autumn"), size=16)
    assert len(named) == 3 and set(named[0]) == {"summer", "autumn", "summer_paths", "autumn_paths"}
    with caplog.at_level(logging.INFO):
        lettered = open_dataset(tmp_path, size=16)
    assert "A is autumn and B is summer" in caplog.text
    assert "autumn" in lettered[0]["A_paths"]
    fill(tmp_path / "winter" / "train", 1)
    with pytest.raises(ValueError, match="must be a folder with trainA trainB"):
        open_dataset(tmp_path)
    assert open_dataset(tmp_path, domains=("summer", "autumn", "winter"), size=16)[0]["winter"].shape == (3, 16, 16)


def test_unknown_split(root):
    with pytest.raises(ValueError, match="split must be train or test, got 'val'"):
        FolderDataset(root, split="val", preprocess=Preprocess())
