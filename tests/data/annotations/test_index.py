"""Which annotation belongs to which image."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
from PIL import Image

from cgcl_fast.data import open_dataset
from cgcl_fast.data.annotations import AnnotationIndex
from cgcl_fast.data.annotations import index as index_module
from cgcl_fast.data.images import list_images


def image(path, size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))


def voc(name, x=10):
    box = f"<bndbox><xmin>{x}</xmin><ymin>2</ymin><xmax>{x + 9}</xmax><ymax>20</ymax></bndbox>"
    return f"<annotation><object><name>{name}</name>{box}</object></annotation>"


def coco(**names):
    return {
        "images": [{"id": number, "file_name": f"{stem}.png"} for number, stem in enumerate(names)],
        "annotations": [{"image_id": n, "category_id": n, "bbox": [10, 2, 9, 18]} for n in range(len(names))],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names.values())],
    }


def index_of(root, folder="", **more):
    where = root / folder
    return AnnotationIndex(where, root, list_images(where), **more)


def names(root, **more):
    """Classes of each image of both domains."""
    data = open_dataset(root, size=32, classes=("car", "bus", "person"), flip=False, **more)
    return {domain: [data.picture(domain, i).labels for i in range(data.count(domain))] for domain in data.domains}


@pytest.mark.parametrize(
    "pattern",
    [
        "train{0}/{1}.xml",
        "train{0}/labels/{1}.xml",
        "labels/train{0}/{1}.xml",
        "annotations/train{0}/{1}.xml",
        "train{0}_annotations/{1}.xml",
        "labels_train{0}/{1}.xml",
        "labels{0}/{1}.xml",
        "train{0}/{1}.png.xml",
    ],
)
def test_a_file_an_image_of_two_domains(tmp_path, pattern):
    for domain, name in zip("AB", ("car", "bus"), strict=True):
        for stem in ("0", "1"):
            image(tmp_path / f"train{domain}" / f"{stem}.png")
            write(tmp_path / pattern.format(domain, stem), voc(name))
    assert names(tmp_path) == {"A": [("car",)] * 2, "B": [("bus",)] * 2}


@pytest.mark.parametrize(
    "pattern",
    [
        "{0}/train/{1}.xml",
        "{0}/labels/train/{1}.xml",
        "{0}/annotations/{1}.xml",
        "{0}/train_labels/{1}.xml",
        "annotations/{0}/train/{1}.xml",
    ],
)
def test_a_file_an_image_of_a_folder_for_each_domain(tmp_path, pattern):
    for domain, name in (("day", "car"), ("night", "bus")):
        image(tmp_path / domain / "train" / "0.png")
        write(tmp_path / pattern.format(domain, "0"), voc(name))
    assert names(tmp_path, domains=("night", "day")) == {"night": [("bus",)], "day": [("car",)]}


@pytest.mark.parametrize(
    "pattern",
    ["train{0}/boxes.json", "train{0}.json", "annotations/train{0}.json", "annotations/{0}_train.json", "{0}.json"],
)
def test_a_file_about_many_images(tmp_path, pattern):
    for domain, name in zip("AB", ("car", "bus"), strict=True):
        for split in ("train", "test"):
            image(tmp_path / f"{split}{domain}" / "0.png")
            if split in pattern or split == "train":
                content = coco(**{"0": name if split == "train" else "person"})
                write(tmp_path / pattern.format(domain).replace("train", split), content)
    assert names(tmp_path) == {"A": [("car",)], "B": [("bus",)]}


def test_one_file_about_all_images_names_their_folders(tmp_path):
    for name in ("trainA", "trainB"):
        image(tmp_path / name / "0.png")
    content = coco(a="car", b="bus")
    content["images"] = [{"id": 0, "file_name": "trainA/0.png"}, {"id": 1, "file_name": "trainB/0.png"}]
    write(tmp_path / "all.json", content)
    assert names(tmp_path) == {"A": [("car",)], "B": [("bus",)]}


def test_the_same_name_in_subfolders(tmp_path):
    for city, name in (("aachen", "car"), ("bonn", "bus")):
        image(tmp_path / "leftImg8bit" / "train" / city / "0_leftImg8bit.png")
        polygon = {"label": name, "polygon": [[1, 2], [3, 4]]}
        write(tmp_path / "gtFine" / "train" / city / "0_gtFine_polygons.json", {"objects": [polygon]})
        write(tmp_path / "gtBbox3d" / "train" / city / "0_gtBbox3d.json", {"objects": []})
    image(tmp_path / "leftImg8bit" / "train" / "ulm" / "0_leftImg8bit.png")
    data = open_dataset(tmp_path, domains=("city",), size=32, classes=("car", "bus"))
    assert [data.picture("city", i).labels for i in range(3)] == [("car",), ("bus",), ()]


def test_other_splits_of_a_data_set_are_left_alone(tmp_path):
    image(tmp_path / "training" / "image_2" / "000000.png")
    image(tmp_path / "testing" / "image_2" / "000000.png")
    write(tmp_path / "training" / "label_2" / "000000.txt", "Car 0 0 0 1 2 30 20 1 1 1 1 1 1 1\n")
    for train, expected in ((True, ("Car",)), (False, ())):
        data = open_dataset(tmp_path, domains=("kitti",), size=32, classes=("car",), train=train)
        assert data.picture("kitti", 0).labels == expected


def test_formats_with_names_come_first(tmp_path):
    image(tmp_path / "images" / "train" / "0.png")
    write(tmp_path / "yolo" / "train" / "0.txt", "0 0.5 0.5 0.1 0.1")
    write(tmp_path / "voc" / "train" / "0.xml", voc("car"))
    index = index_of(tmp_path, "images/train")
    assert index[tmp_path / "images" / "train" / "0.png"].names == ("car",)


def test_yolo_names_are_found_above_the_files(tmp_path):
    image(tmp_path / "images" / "train" / "0.png")
    write(tmp_path / "labels" / "train" / "0.txt", "1 0.5 0.5 0.1 0.1")
    write(tmp_path / "data.yaml", "names: [car, bus]")
    index = index_of(tmp_path, "images/train")
    assert index[tmp_path / "images" / "train" / "0.png"].names == ("bus",)


def test_yolo_without_names(tmp_path, caplog):
    image(tmp_path / "0.png")
    write(tmp_path / "0.txt", "1 0.5 0.5 0.1 0.1")
    with caplog.at_level(logging.WARNING):
        assert index_of(tmp_path)[tmp_path / "0.png"].names == ("1",)
    assert "no names of the YOLO classes" in caplog.text


def test_text_that_is_broken_does_not_decide_the_format(tmp_path):
    for number, content in enumerate(["", "no boxes", "\x00\x01", "0 0.5 0.5 0.5 0.5\n", "path.png\nx\ny 1 2 3 4"]):
        image(tmp_path / f"{number}.png")
        write(tmp_path / f"{number}.txt", content)
    for number in range(5, 7):
        image(tmp_path / f"{number}.png")
        write(tmp_path / f"{number}.txt", "a.png\n1\ncar 1 2 3 4\n")
    index = index_of(tmp_path)
    found = [index[tmp_path / f"{number}.png"].names for number in range(7)]
    assert found == [(), (), (), (), ("y",), ("car",), ("car",)]


@pytest.mark.parametrize("limit", [0, 2**20])
def test_what_is_wrong_is_in_the_log_once(tmp_path, caplog, monkeypatch, limit):
    monkeypatch.setattr(index_module, "FULL_READ_BYTES", limit)
    contents = {
        "good": voc("car"),
        "broken": "<annotation><object>",
        "binary": b"\xff\xfe\x00",
        "empty": "",
        "none": "<annotation></annotation>",
        "nan": voc("car").replace("10", "nan"),
    }
    for stem, content in contents.items():
        image(tmp_path / f"{stem}.png")
        write(tmp_path / f"{stem}.xml", content)
    image(tmp_path / "lonely.png")
    paths = list_images(tmp_path)
    with caplog.at_level(logging.WARNING):
        index = index_of(tmp_path)
        index.read(paths)
        for _ in range(2):
            found = {path.stem: index[path].names for path in paths}
    assert found == {**dict.fromkeys([*contents, "lonely"], ()), "good": ("car",)}
    lines = [record.getMessage() for record in caplog.records]
    for stem in ("broken", "binary", "empty", "nan", "lonely"):
        assert sum(stem in line for line in lines) == 1, (stem, lines)
    assert not any("good" in line for line in lines)
    assert "1 of 1 boxes are no boxes" in caplog.text


def test_no_annotations_at_all_is_one_line(tmp_path, caplog):
    for number in range(3):
        image(tmp_path / f"{number}.png")
    index = index_of(tmp_path)
    with caplog.at_level(logging.WARNING):
        index.read(list_images(tmp_path))
    assert len(caplog.records) == 1 and "none has boxes" in caplog.text


def test_a_broken_file_about_many_images(tmp_path, caplog):
    image(tmp_path / "0.png")
    write(tmp_path / "instances.json", '{"images": [')
    with caplog.at_level(logging.WARNING):
        assert index_of(tmp_path)[tmp_path / "0.png"].names == ()
    assert "instances.json" in caplog.text


def test_deep_json_is_an_error_like_any_other(tmp_path, caplog):
    image(tmp_path / "0.png")
    write(tmp_path / "0.json", "[" * 200_000)
    index = index_of(tmp_path)
    with caplog.at_level(logging.WARNING):
        index.read(list_images(tmp_path))
    assert index[tmp_path / "0.png"].names == () and "0.json" in caplog.text


def test_links_in_circles(tmp_path):
    image(tmp_path / "images" / "0.png")
    write(tmp_path / "labels" / "0.xml", voc("car"))
    (tmp_path / "labels" / "again").symlink_to(tmp_path / "labels")
    (tmp_path / "labels" / "0.txt").symlink_to(tmp_path / "nowhere")
    assert index_of(tmp_path, "images")[tmp_path / "images" / "0.png"].names == ("car",)


def test_every_box_of_a_large_set_is_kept(tmp_path):
    stems = [f"{number:03d}" for number in range(50)]
    for stem in stems:
        image(tmp_path / f"{stem}.png")
    write(tmp_path / "all.json", coco(**dict.fromkeys(stems, "car")))
    index = index_of(tmp_path)
    boxes = np.stack([index[tmp_path / f"{stem}.png"].boxes for stem in stems])
    assert boxes.shape == (50, 1, 4) and (boxes == [10, 2, 19, 20]).all()


def test_annotations_that_would_take_all_memory_are_one_line_each_and_end_nothing(tmp_path, caplog):
    hostile = {
        "deep.json": "[" * 1_000_000 + "]" * 1_000_000,
        "digits.json": '{"boxes": [{"class": "car", "box": [1, 2, 3, %s]}]}' % ("9" * 100_000),
        "default.xml": '<!DOCTYPE annotation [<!ATTLIST a x CDATA "y">]><annotation><a/></annotation>',
        "nested.xml": "<annotation>" + "<a>" * 10_000 + "</a>" * 10_000 + "</annotation>",
    }
    for domain in "AB":
        image(tmp_path / f"train{domain}" / "good.png")
        write(tmp_path / f"train{domain}" / "good.xml", voc("car"))
    for name, content in hostile.items():
        image(tmp_path / "trainA" / f"{name.partition('.')[0]}.png")
        write(tmp_path / "trainA" / name, content)
    write(tmp_path / "trainA" / "of_all.json", hostile["deep.json"])
    with caplog.at_level(logging.WARNING):
        assert names(tmp_path) == {"A": [(), (), (), ("car",), ()], "B": [("car",)]}
    said = [record.getMessage() for record in caplog.records]
    for name, reason in (
        ("deep.json", "it is nested too deeply: its image counts as without boxes"),
        ("digits.json", "1 of 1 boxes are no boxes"),
        ("default.xml", "its DOCTYPE has declarations"),
        ("nested.xml", "more than 100 elements inside each other"),
        ("of_all.json", "it is nested too deeply: the images that it is about"),
    ):
        assert len([line for line in said if f"/{name}: " in line and reason in line]) == 1, name
    assert all(len(line.splitlines()) == 1 for line in said)


def test_folders_of_annotations_that_cannot_be_listed_are_named(tmp_path, caplog, hide):
    for domain in "AB":
        image(tmp_path / f"train{domain}" / "0.png")
        write(tmp_path / "labels" / f"train{domain}" / "0.xml", voc("car"))
        write(tmp_path / f"annotations{domain}" / "0.xml", voc("car"))
    hide(tmp_path / "labels" / "trainA")
    hide(tmp_path / "annotationsA")
    with caplog.at_level(logging.WARNING):
        assert names(tmp_path) == {"A": [()], "B": [("car",)]}
    for folder in ("labels/trainA", "annotationsA"):
        assert f"{folder}: Permission denied: the annotations in this folder are not found" in caplog.text


def test_links_that_lead_in_a_circle_end_nothing(tmp_path):
    for domain in "AB":
        image(tmp_path / f"train{domain}" / "0.png")
        write(tmp_path / f"train{domain}" / "0.xml", voc("car"))
    for name in ("all.json", "labels", "trainA/labels"):
        (tmp_path / name).symlink_to(tmp_path / name)
    assert names(tmp_path) == {"A": [("car",)], "B": [("car",)]}


# ---- images of one name in several folders


def entries(*paths):
    """A COCO file with an object of each class in turn in the images of these paths."""
    classes = ("car", "bus", "person")
    return {
        "images": [{"id": number, "file_name": path} for number, path in enumerate(paths)],
        "annotations": [{"image_id": n, "category_id": n % 3, "bbox": [10, 2, 9, 18]} for n in range(len(paths))],
        "categories": [{"id": number, "name": name} for number, name in enumerate(classes)],
    }


@pytest.mark.parametrize("place", ["annotations.json", "annotations/all.json"])
@pytest.mark.parametrize("before", ["", "C:\\\\Users\\\\me\\\\set\\\\", "/home/me/set/", "./", "../set/"])
def test_entries_are_of_the_images_in_the_folder_that_they_name(tmp_path, place, before):
    for folder in ("trainA", "trainB", "testA", "testB"):
        image(tmp_path / folder / "000001.png")
    write(tmp_path / place, entries(f"{before}trainA/000001.jpg"))
    assert names(tmp_path) == {"A": [("car",)], "B": [()]}
    assert names(tmp_path, train=False) == {"A": [()], "B": [()]}
    write(tmp_path / place, entries(f"{before}trainB/000001.png", f"{before}testA/000001.png"))
    assert names(tmp_path) == {"A": [()], "B": [("car",)]}
    assert names(tmp_path, train=False) == {"A": [("bus",)], "B": [()]}


def test_entries_of_folders_that_are_not_there(tmp_path):
    for folder in ("trainA", "trainB"):
        image(tmp_path / folder / "0.png")
        image(tmp_path / folder / "1.png")
    write(tmp_path / "trainA.json", entries("upload/0.png", "testA/1.png"))  # another split
    assert names(tmp_path) == {"A": [("car",), ()], "B": [(), ()]}


def test_entries_begin_in_any_folder_above(tmp_path):
    image(tmp_path / "images" / "train" / "north" / "0.png")
    image(tmp_path / "images" / "train" / "south" / "0.png")
    (tmp_path / "labels" / "train").mkdir(parents=True)  # is named like the images' folder
    for before in ("", "train/", "images/train/", "set/images/train/"):
        write(tmp_path / "labels" / "train.json", entries(f"{before}south/0.png", f"{before}north/0.png"))
        index = index_of(tmp_path, "images/train")
        found = {path.parent.name: index[path].names for path in list_images(tmp_path / "images")}
        assert found == {"north": ("bus",), "south": ("car",)}, before


def test_entries_may_leave_out_the_last_folders(tmp_path):
    image(tmp_path / "images" / "train" / "0.png")
    write(tmp_path / "all.json", entries("images/0.png"))
    assert index_of(tmp_path, "images/train")[tmp_path / "images" / "train" / "0.png"].names == ("car",)
    image(tmp_path / "images" / "0.png")  # and this is the one that is meant
    assert index_of(tmp_path, "images/train")[tmp_path / "images" / "train" / "0.png"].names == ()


def test_boxes_that_images_of_one_name_share_are_said(tmp_path, caplog):
    for folder in ("trainA", "trainB"):
        for name in ("0.png", "1.png"):
            image(tmp_path / folder / name)
    write(tmp_path / "all.json", entries("0.png", "1.png"))
    with caplog.at_level(logging.WARNING):
        assert names(tmp_path) == {"A": [("car",), ("bus",)], "B": [("car",), ("bus",)]}
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(
        f"{tmp_path}/all.json: {tmp_path}/trainA/0.png and {tmp_path}/trainB/0.png have the same boxes"
    )
    assert "as do 1 images more" in said
    caplog.clear()
    write(tmp_path / "all.json", entries(*(f"train{domain}/{n}.png" for domain in "AB" for n in range(2))))
    with caplog.at_level(logging.WARNING):
        assert names(tmp_path) == {"A": [("car",), ("bus",)], "B": [("person",), ("car",)]}
    assert not caplog.records


def test_names_that_stand_for_several_images_are_said(tmp_path, caplog):
    image(tmp_path / "0.png")
    image(tmp_path / "1.png")
    write(tmp_path / "joined.json", entries("0.png", "1.png", "0.png"))
    with caplog.at_level(logging.WARNING):
        index = index_of(tmp_path)
    assert [index[tmp_path / name].names for name in ("0.png", "1.png")] == [(), ("bus",)]
    said = "joined.json: 1 names stand for several images, as 0.png: they count as without boxes"
    assert said in caplog.text


@pytest.mark.parametrize(
    ("rest", "described"),
    [
        ("0.45 0.4 2 0.55 0.4 2 0.45 0.6 2 0.55 0.6 2", ""),
        (" ".join(["0.4"] * 34), ""),
        ("0.45 0.4 0.55 0.4", "kpt_shape: [2, 2]\nnames: [car]\n"),
    ],
)
def test_yolo_keypoints(tmp_path, rest, described):
    image(tmp_path / "a.png", size=(48, 40))
    write(tmp_path / "a.txt", f"0 0.5 0.5 0.25 0.5 {rest}\n")
    write(tmp_path / "data.yaml", described or "names: [car]\n")
    found = index_of(tmp_path)[tmp_path / "a.png"]
    np.testing.assert_allclose(found.boxes * [48, 40, 48, 40], [[18, 10, 30, 30]])
    assert found.names == ("car",)
