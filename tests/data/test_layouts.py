"""Layouts of data folders."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from cgcl_fast.data import find_domains, open_dataset


def image(path, shade=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (24, 20), (shade, shade, shade)).save(path)


def where(root, **options):
    """Folders of the images of each domain, seen from the data folder."""
    data = open_dataset(root, size=16, **options)
    return {
        domain: sorted({str(path.parent.relative_to(root)) for path in data.paths[domain]}) for domain in data.domains
    }


@pytest.mark.parametrize(
    "inside",
    ["train", "images/train", "train/images", "images/100k/train", "leftImg8bit/train/ulm", "training/image_2"],
)
def test_a_folder_for_each_domain(tmp_path, inside):
    for name in ("rain", "fog", "snow"):
        image(tmp_path / name / inside / "0.png")
        (tmp_path / name / "labels" / "train").mkdir(parents=True)
    (tmp_path / "notes" / "train").mkdir(parents=True)
    assert find_domains(tmp_path) == ("fog", "rain", "snow")
    assert where(tmp_path, domains=("snow", "fog")) == {"snow": [f"snow/{inside}"], "fog": [f"fog/{inside}"]}


def test_names_after_the_split(tmp_path):
    for name in ("trainA", "trainB", "trainday", "testA", "testB"):
        image(tmp_path / name / "0.png")
    (tmp_path / "trainA_labels").mkdir()
    assert find_domains(tmp_path) == ("A", "B", "day")
    assert where(tmp_path, domains=("day", "A")) == {"day": ["trainday"], "A": ["trainA"]}


def test_domains_laid_out_differently(tmp_path):
    image(tmp_path / "kitti" / "training" / "image_2" / "0.png")
    image(tmp_path / "cityscapes" / "leftImg8bit" / "train" / "ulm" / "0_leftImg8bit.png")
    image(tmp_path / "cityscapes" / "gtFine" / "train" / "ulm" / "0_gtFine_color.png")
    assert find_domains(tmp_path) == ("cityscapes", "kitti")
    assert where(tmp_path) == {"A": ["cityscapes/leftImg8bit/train/ulm"], "B": ["kitti/training/image_2"]}


@pytest.mark.parametrize("name", ["test", "testing", "val", "valid", "validation"])
def test_names_of_the_test_split(tmp_path, name):
    for domain in ("rain", "fog"):
        for split in ("train", name):
            image(tmp_path / domain / split / "0.png")
    assert where(tmp_path, train=False) == {"A": [f"fog/{name}"], "B": [f"rain/{name}"]}
    assert f"fog/{name}" in open_dataset(tmp_path, size=16).sample_batch(1)["A_paths"][0]


def test_pascal_voc_lists(tmp_path):
    for number in range(4):
        image(tmp_path / "JPEGImages" / f"{number}.png")
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("0\n2 1\n\n9\n")
    (lists / "val.txt").write_text("1\n3\n")
    data = open_dataset(tmp_path, domains=("voc",), size=16)
    assert [path.stem for path in data.paths["voc"]] == ["0", "2"]
    assert [path.rsplit("/", 1)[1] for path in data.sample_batch(4)["voc_paths"]] == ["1.png", "3.png"]


# ---- BDD100K


WEATHER = {
    "sunny": ("clear", "daytime"),
    "night": ("clear", "night"),
    "cloudy": ("partly cloudy", "daytime"),
    "rainy": ("rainy", "daytime"),
    "none": ("snowy", "daytime"),
}


def frame(name, kind):
    weather, time = WEATHER[kind]
    label = {"category": "car", "box2d": {"x1": 2, "y1": 4, "x2": 12, "y2": 14}}
    return {"name": name, "attributes": {"weather": weather, "timeofday": time}, "labels": [label]}


def bdd(root, images, labels, single):
    for split, count in (("train", 3), ("val", 2)):
        frames = []
        for kind in WEATHER:
            for number in range(count):
                image(root / images / split / f"{kind}{number}.jpg")
                frames.append(frame(f"{kind}{number}.jpg", kind))
        place = root / labels.format(split)
        place.parent.mkdir(parents=True, exist_ok=True)
        if single:
            place.mkdir()
            for each in frames:
                (place / each["name"].replace("jpg", "json")).write_text(json.dumps(each))
        else:
            place.write_text(json.dumps(frames))


@pytest.mark.parametrize(
    ("images", "labels", "single"),
    [
        ("images/100k", "labels/bdd100k_labels_images_{}.json", False),
        ("images/100k", "labels/det_20/det_{}.json", False),
        ("images/100k", "labels/100k/{}", True),
        ("", "{}.json", False),
        ("images", "labels/{}", True),
    ],
)
def test_bdd_is_grouped_by_weather_and_time_of_day(tmp_path, images, labels, single):
    bdd(tmp_path, images, labels, single)
    (tmp_path / images / "test").mkdir()
    image(tmp_path / images / "test" / "unlabelled.jpg")
    domains = find_domains(tmp_path)
    assert domains == ("sunny", "night", "cloudy", "rainy")
    data = open_dataset(tmp_path, domains=domains, size=16, classes=("car",), random_pairs=True, flip=False)
    for domain in domains:
        assert [path.name for path in data.paths[domain]] == [f"{domain}{number}.jpg" for number in range(3)]
    assert data[0]["A_boxes"].shape == (1, 4)
    batch = data.sample_batch(8)
    assert all("/val/" in path for path in batch["A_paths"])
    assert batch["A_domain"].tolist() == [0, 1, 2, 3] * 2
    assert [path.rsplit("/", 1)[1] for path in batch["A_paths"]] == [f"{d}{n}.jpg" for n in range(2) for d in domains]


def test_two_of_the_groups_are_a_and_b(tmp_path):
    bdd(tmp_path, "images", "{}.json", False)
    item = open_dataset(tmp_path, size=16)[0]
    assert "sunny" in item["A_paths"] and "night" in item["B_paths"]


# ---- pairs


def test_sample_batch_of_pairs(tmp_path):
    for shade, domain in ((0, "day"), (100, "dusk"), (200, "night")):
        for split, count in (("train", 2), ("test", 3)):
            for number in range(count):
                image(tmp_path / domain / split / f"{number}.png", shade + number)
    for number in range(3):
        for source in ("day", "dusk", "night"):
            image(tmp_path / "truth" / f"{source}_as_night" / f"{number}.png", 250)
        image(tmp_path / "truth" / "day_as_dusk" / f"{number}.png", 250)
    domains = find_domains(tmp_path)
    data = open_dataset(tmp_path, domains=domains, size=16, random_pairs=True)
    batch = data.sample_batch(5)
    assert batch["A_domain"].tolist() == [0, 1, 2, 0, 1]
    assert {name for name in batch if name.startswith("truth")} == {"truth_night"}

    def shades(images):
        return ((images.mean(dim=(1, 2, 3)) + 1) * 127.5).round().int().tolist()

    assert shades(batch["A"]) == [0, 100, 200, 1, 101]
    assert shades(batch["truth_night"]) == [250, 250, 200, 250, 250]
    for shade, name in zip((0, 100, 200), domains, strict=True):
        references = batch[f"reference_{name}"]
        assert all(shade <= found <= shade + 2 for found in shades(references))
        same = [row for row, which in enumerate(batch["A_domain"].tolist()) if domains[which] == name]
        assert all(not torch.equal(references[row], batch["A"][row]) for row in same)


# ---- errors


def test_fewer_than_two_domains(tmp_path):
    with pytest.raises(ValueError, match="missing or no folder"):
        find_domains(tmp_path / "nowhere")
    image(tmp_path / "day" / "train" / "0.png")
    with pytest.raises(ValueError, match="two or more domains, trainNAME, or NAME/train, .* holds day/") as caught:
        find_domains(tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="folder with trainday trainnight, or day/train night/train, .* holds day/"):
        open_dataset(tmp_path, domains=("day", "night"))


def test_a_single_data_set_is_no_two_domains(tmp_path):
    image(tmp_path / "images" / "train" / "0.png")
    (tmp_path / "train.json").write_text('[{"name": "0.png", "attributes": {"weather": "snowy"}}]')
    with pytest.raises(ValueError, match="must be a folder with trainA trainB"):
        open_dataset(tmp_path)
    with pytest.raises(ValueError, match="two or more domains"):
        find_domains(tmp_path)
