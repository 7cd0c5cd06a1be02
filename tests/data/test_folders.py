"""Unpaired data sets in folders."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from PIL import Image

from cgcl_fast.data import (
    DataError,
    FolderDataset,
    FullViewKey,
    Preprocess,
    build_loader,
    open_dataset,
    read_image,
    to_tensor,
)
from cgcl_fast.data import images as images_module
from cgcl_fast.data.streets.__main__ import main as write_streets
from cgcl_fast.methods.mguit import MGUITConfig


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


def test_full_view(root):
    data = open_dataset(root, size=16, flip=False)
    whole = Preprocess("resize_and_crop", size=16, train=False)
    expected = whole(Image.open(root / "trainA" / "0.png"))
    assert not torch.equal(data[2, 0]["A"], expected)
    for epoch in (0, 2):
        assert torch.equal(data[FullViewKey(epoch, 0)]["A"], expected)


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


# ---- boxes


def voc(*boxes, size=""):
    sides = ("xmin", "ymin", "xmax", "ymax")
    objects = "".join(
        f"<object><name>{name}</name><bndbox>"
        + "".join(f"<{side}>{value}</{side}>" for side, value in zip(sides, box, strict=True))
        + "</bndbox></object>"
        for name, *box in boxes
    )
    return f"<annotation>{size}{objects}</annotation>"


def marked(path, box, size=(80, 60), orientation=1):
    """Two domains, of one image each that is white in a box."""
    values = np.zeros((size[1], size[0], 3), np.uint8)
    values[box[1] : box[3], box[0] : box[2]] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    for domain in "AB":
        (path / f"train{domain}").mkdir()
        Image.fromarray(values).save(path / f"train{domain}" / "0.jpg", quality=95, exif=exif)
        (path / f"train{domain}" / "0.xml").write_text(voc(("car", *box)))


def seen(image):
    """The white box of an image."""
    ys, xs = (image[0] > 0).nonzero(as_tuple=True)
    return [xs.min().item(), ys.min().item(), xs.max().item() + 1, ys.max().item() + 1]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["resize_and_crop", "none"])
def test_boxes_are_turned_with_the_image(tmp_path, orientation, mode):
    marked(tmp_path, (8, 20, 40, 32), orientation=orientation)
    data = open_dataset(tmp_path, size=64, preprocess=mode, classes=("car",), train=True)
    for epoch in range(4):
        item = data[epoch, 0]
        np.testing.assert_allclose(item["A_boxes"][0].numpy(), seen(item["A"]), atol=1.6)


@pytest.mark.parametrize("orientation", [6, 8])
def test_an_annotation_that_states_the_size_of_the_upright_image(tmp_path, orientation):
    marked(tmp_path, (8, 20, 40, 32), orientation=orientation)
    size = "<size><width>60</width><height>80</height></size>"
    (tmp_path / "trainA" / "0.xml").write_text(voc(("car", 1, 2, 30, 40), size=size))
    data = open_dataset(tmp_path, preprocess="none", classes=("car",), flip=False)
    assert data[0]["A_boxes"].tolist() == [[1, 2, 30, 40]]
    assert data[0]["A"].shape == (3, 80, 60)


def test_boxes_of_large_photographs_that_are_decoded_small(tmp_path):
    marked(tmp_path, (300, 100, 900, 700), size=(1600, 1200), orientation=6)
    item = open_dataset(tmp_path, size=64, classes=("car",))[0]
    np.testing.assert_allclose(item["A_boxes"][0].numpy(), seen(item["A"]), atol=1.5)


def test_objects_keep_the_detail_of_the_file(tmp_path):
    marked(tmp_path, (600, 400, 760, 560), size=(1600, 1200))
    stripes = np.zeros((1200, 1600, 3), np.uint8)
    stripes[:, ::4] = stripes[:, 1::4] = 255
    Image.fromarray(stripes).save(tmp_path / "trainA" / "0.jpg", quality=95)
    item = open_dataset(tmp_path, size=32, object_size=160, flip=False)[0]
    assert item["A_has_object"] and item["A"].std() < 0.2 and item["A_object"].std() > 0.9


def test_classes_of_init_are_numbers(tmp_path, caplog):
    """As its label files have them, asked for by the options of MGUIT's preset."""
    config = MGUITConfig(classes=(1, 2, 3))
    assert config.classes == MGUITConfig().classes == ("1", "2", "3")
    for name in "AB":
        fill(tmp_path / f"train{name}", 2, size=(40, 32))
        for number in range(2):
            label = tmp_path / f"train{name}" / f"{number}.txt"
            label.write_text(f"sunny/{number}.png\n40 32\n3 1 2 20 25\n1 5.5 6 9 9\n2 0 0 4 4\n7 1 1 2 2\n")
    with caplog.at_level(logging.WARNING):
        item = open_dataset(tmp_path, size=32, preprocess="none", flip=False, classes=config.classes)[0]
    assert item["A_classes"].tolist() == item["B_classes"].tolist() == [2, 0, 1]
    assert item["A_boxes"].tolist() == [[1, 2, 20, 25], [5.5, 6, 9, 9], [0, 0, 4, 4]]
    assert [record.getMessage() for record in caplog.records] == [
        "boxes of class '7' are left out: classes are 1, 2, 3"
    ]


def test_relative_boxes(tmp_path):
    for domain in "AB":
        fill(tmp_path / f"train{domain}", 1, size=(80, 60))
        (tmp_path / f"train{domain}" / "0.txt").write_text("1 0.5 0.5 0.25 0.5\n")
    (tmp_path / "classes.txt").write_text("car\nbus\n")
    item = open_dataset(tmp_path, preprocess="none", classes=("car", "bus"), flip=False)[0]
    assert item["A_boxes"].tolist() == [[30, 15, 50, 45]] and item["A_classes"].tolist() == [1]


def test_odd_annotations_never_stop_a_loader(root, caplog):
    contents = [
        voc(("car", 2, 2, 20, 18), ("car", -1e300, -5, 1e300, 9), ("car", 30, 30, 40, 40), ("car", 9, 9, 3, 3)),
        voc(("car", "nan", 2, 20, 18), ("unicorn", 1, 1, 9, 9)),
        "<annotation>",
        "",
        b"\x00\xff\xfe",
        "<html/>",
    ]
    for number, content in enumerate(contents):
        data = content if isinstance(content, bytes) else content.encode("latin-1")
        (root / "trainA" / f"{number}.xml").write_bytes(data)
    with caplog.at_level(logging.WARNING):
        data = open_dataset(root, preprocess="none", classes=("car",), object_size=8, flip=False)
        found = [data[index]["A_boxes"] for index in range(6)]
        list(build_loader(data, num_workers=2))
    assert found[0].tolist() == [[2, 2, 20, 18], [0, 0, 24, 9], [3, 3, 9, 9]]
    assert [len(boxes) for boxes in found[1:]] == [0] * 5
    assert data[0]["A_has_object"] and not data[1]["A_has_object"]
    for word in ("unicorn", "1.xml", "2.xml", "4.xml", "5.xml", "3.png"):
        assert sum(word in record.getMessage() for record in caplog.records) == 1, word


def test_boxes_of_a_replaced_image_are_its_own(root, monkeypatch):
    monkeypatch.setattr(images_module, "FULL_CHECK_BYTES", 0)
    for number in range(6):
        (root / "trainA" / f"{number}.xml").write_text(voc(("car", number, 0, 20, 20)))
    path = root / "trainA" / "2.png"
    path.write_bytes(path.read_bytes()[:-400])
    item = open_dataset(root, preprocess="none", classes=("car",), flip=False)[2]
    assert item["A_paths"].endswith("3.png") and item["A_boxes"].tolist() == [[3, 0, 20, 20]]


def test_annotations_are_not_read_unless_asked_for(root, caplog):
    (root / "trainA" / "0.xml").write_text("<annotation>")
    with caplog.at_level(logging.WARNING):
        assert "A_boxes" not in open_dataset(root, size=16)[0]
    assert not caplog.records


def test_written_streets_are_read_with_their_boxes(tmp_path):
    assert write_streets(["--output", str(tmp_path), "--size", "48", "--count", "3", "--test-count", "2"]) == 0
    options = {"size": 48, "classes": ("car", "person", "sign"), "object_size": 16}
    built_in = open_dataset(None, **options)
    read = open_dataset(tmp_path, flip=False, preprocess="none", **options)
    for index in range(3):
        for domain in "AB":
            one, two = built_in.picture(domain, index), read.picture(domain, index)
            assert one.labels == two.labels
            np.testing.assert_allclose(one.boxes.numpy(), two.boxes.numpy(), atol=0.006)
    batch, expected = read.sample_batch(2), built_in.sample_batch(2)
    assert all(torch.equal(a, b) for a, b in zip(batch["A_classes"], expected["A_classes"], strict=True))


@pytest.mark.parametrize("gone", ["deleted", "broken"])
def test_data_that_vanish_are_one_error_and_not_a_line_a_file(root, caplog, gone):
    data = open_dataset(root, size=16)
    for path in (root / "trainB").iterdir():
        path.unlink() if gone == "deleted" else path.write_bytes(b"no image")
    reason = "No such file or directory" if gone == "deleted" else "not a JPEG"
    with caplog.at_level(logging.WARNING), pytest.raises(DataError, match=f"none of the 4 image files in .*{reason}"):
        data[0]
    assert not caplog.records


def test_a_truth_that_cannot_be_read_is_named(root, caplog):
    fill(root / "truth", 3, 500)
    (root / "truth" / "1.png").write_bytes(b"no image")
    with caplog.at_level(logging.WARNING):
        assert "truth" not in open_dataset(root, size=16).sample_batch(3)
    assert caplog.text.count(f"skipped {root / 'truth' / '1.png'}: not a JPEG") == 1


def test_the_direction_b_to_a_exchanges_the_domains_and_their_truth(tmp_path):
    """In the layout of any names too, of which A is the first; the truth of A's test images is not that of B's."""
    for number, name in enumerate(("trainA", "trainB", "testA", "testB", "truth", "truth/B_as_A")):
        fill(tmp_path / name, 2, 100 * number, size=(16, 16))
    there, back = (open_dataset(tmp_path, size=16, direction=way) for way in ("AtoB", "BtoA"))
    for ours, theirs in ("AB", "BA"):
        assert back.paths[ours] == there.paths[theirs] == sorted((tmp_path / f"train{theirs}").iterdir())
        assert torch.equal(back.sample_batch(2)[ours], there.sample_batch(2)[theirs])
    truths = {}
    for way, data in (("truth", there), ("truth/B_as_A", back)):
        images = [to_tensor(read_image(tmp_path / way / f"{number}.png")) for number in range(2)]
        truths[way] = data.sample_batch(2)["truth"]
        assert torch.equal(truths[way], torch.stack(images))
    assert not torch.equal(*truths.values())
    for name in ("dry", "wet"):
        fill(tmp_path / "named" / name / "train", 1)
    assert open_dataset(tmp_path / "named", size=16, direction="BtoA").paths["A"][0].parts[-3] == "wet"


@pytest.mark.parametrize(("domains", "direction"), [(("dry", "wet"), "BtoA"), (("A", "B"), "both")])
def test_a_direction_that_is_none(root, domains, direction):
    with pytest.raises(ValueError, match="direction: "):
        open_dataset(root, domains=domains, direction=direction)
