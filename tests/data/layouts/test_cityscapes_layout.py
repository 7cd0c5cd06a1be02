"""Cityscapes and Foggy Cityscapes, as unpacked."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from cgcl_fast.data import find_domains, open_dataset

SCENES = {"train": "aachen/aachen_000000_000019", "val": "munster/munster_000000_000019"}
FOGGY = "leftImg8bit_foggy_beta_0.02"
RAIN = "leftImg8bit_rain_alpha_0.01_beta_0.005_dropsize_0.01_pattern_1"


def image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (24, 20)).save(path)


def unpack(root, folder, ending):
    for split, scene in SCENES.items():
        image(root / folder / split / f"{scene}_{ending}.png")


def annotate(root):
    for split, scene in SCENES.items():
        path = root / "gtFine" / split / f"{scene}_gtFine_polygons.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        polygon = [[2, 4], [12, 4], [12, 14]] if split == "train" else [[1, 1], [9, 9]]
        path.write_text(json.dumps({"objects": [{"label": "car", "polygon": polygon}]}))
        image(path.with_name(f"{scene.partition('/')[2]}_gtFine_color.png"))


@pytest.mark.parametrize("others", [("foggy",), ("foggy", "rain"), ("foggyDBF",)])
def test_what_was_made_of_the_images_has_their_annotations(tmp_path, others):
    unpack(tmp_path, "leftImg8bit", "leftImg8bit")
    for name in others:
        unpack(tmp_path, f"leftImg8bit_{name}", RAIN if name == "rain" else FOGGY)
    annotate(tmp_path)
    assert find_domains(tmp_path) == ("clear", *others)
    data = open_dataset(tmp_path, size=16, classes=("car",), flip=False)
    where = [f"{tmp_path}/leftImg8bit{ending}/train" for ending in ("", f"_{others[0]}")]
    assert data.summary() == [
        f"A is clear: 1 images in {where[0]}, 1 with boxes",
        f"B is {others[0]}: 1 images in {where[1]}, 1 with boxes",
    ]
    for name in "AB":
        assert data.picture(name, 0).boxes.tolist() == [[2, 4, 12, 14]]
        assert data.sample_batch(1)[f"{name}_paths"][0].count("munster_000000_000019") == 1
    last = open_dataset(tmp_path, domains=("clear", others[-1]), size=16, classes=("car",))
    assert last.picture(others[-1], 0).labels == ("car",)


@pytest.mark.parametrize("annotated", ["", "clear"])
def test_in_folders_of_their_own(tmp_path, annotated):
    unpack(tmp_path / "clear", "leftImg8bit", "leftImg8bit")
    unpack(tmp_path / "fog", "leftImg8bit_foggy", FOGGY)
    annotate(tmp_path / annotated)
    assert find_domains(tmp_path) == ("clear", "fog")
    data = open_dataset(tmp_path, domains=("clear", "fog"), size=16, classes=("car",))
    for name in data.domains:
        assert data.picture(name, 0).boxes.tolist() == [[2, 4, 12, 14]]


def test_cityscapes_alone_is_one_domain(tmp_path):
    unpack(tmp_path, "leftImg8bit", "leftImg8bit")
    with pytest.raises(ValueError, match="two or more domains"):
        find_domains(tmp_path)
    assert open_dataset(tmp_path, domains=("city",), size=16).count("city") == 1
