"""Tars in a data folder: found, and read with the batches that the same files in folders give."""

from __future__ import annotations

import gzip
import io
import json
import logging
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cgcl_fast.data import DataError, build_loader, find_domains, open_dataset
from cgcl_fast.data import tars as module
from cgcl_fast.data.needs import Crops

sys.path.insert(0, str(Path(__file__).parents[1]))
from loader_checks import take  # noqa: E402
from tar_files import pack, write_tar  # noqa: E402

pytestmark = pytest.mark.usefixtures("tar_cache")


def picture(seed, size=(24, 20)):
    file = io.BytesIO()
    values = np.random.RandomState(seed).randint(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    Image.fromarray(values).save(file, "png")
    return file.getvalue()


def fill(folder, count, seed):
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"{number:04d}.png").write_bytes(picture(seed + number))


COUNTS = {"trainA": 7, "trainB": 5, "testA": 3, "testB": 2}


@pytest.fixture
def loose(tmp_path):
    for number, (name, count) in enumerate(COUNTS.items()):
        fill(tmp_path / "loose" / name, count, 100 * number)
    return tmp_path / "loose"


@pytest.fixture
def packed(loose, tmp_path):
    """The same, a tar each, whose order is that of the folder."""
    for name in COUNTS:
        pack(loose / name, tmp_path / "packed" / f"{name}.tar")
    return tmp_path / "packed"


def names(data):
    return {domain: [f"{path.parent.name}/{path.name}" for path in data.paths[domain]] for domain in data.domains}


def same(one, two):
    """Whether batches are of the same images, whatever the paths of these."""
    tensors = [name for name, value in one.items() if isinstance(value, torch.Tensor)]
    stems = [[Path(path).name for path in batch[f"{name}_paths"]] for batch in (one, two) for name in "AB"]
    return tensors and all(torch.equal(one[name], two[name]) for name in tensors) and stems[:2] == stems[2:]


def test_items_are_those_of_the_files_in_folders(loose, packed):
    one, two = open_dataset(loose, size=16, seed=3), open_dataset(packed, size=16, seed=3)
    assert len(one) == len(two) == 7
    for epoch in range(2):
        for index in range(7):
            a, b = one[epoch, index], two[epoch, index]
            assert torch.equal(a["A"], b["A"]) and torch.equal(a["B"], b["B"])
    assert two[0]["A_paths"] == str(packed / "trainA.tar" / "0000.png")
    assert two.summary() == [
        f"{name}: {COUNTS[f'train{name}']} images in the tar {packed}/train{name}.tar" for name in "AB"
    ]
    batch = two.sample_batch(2)
    assert same(batch, one.sample_batch(2)) and batch["A_paths"][0] == str(packed / "testA.tar" / "0000.png")
    assert same(open_dataset(packed, size=16, train=False).sample_batch(2), batch)
    assert torch.equal(open_dataset(packed, size=16, direction="BtoA", flip=False).sample_batch(2)["A"], batch["B"])


@pytest.mark.parametrize(("workers", "replicas"), [(0, 1), (2, 1), (1, 2)])
def test_resuming_gives_the_batches_that_a_run_without_gives_and_that_folders_give(loose, packed, workers, replicas):
    for rank in range(replicas):
        options = {"batch_size": 2, "seed": 5, "rank": rank, "replicas": replicas}
        truth = take(build_loader(open_dataset(loose, size=16, seed=5), **options), 8)
        module._indexes.clear()  # as when another process goes on
        data = open_dataset(packed, size=16, seed=5)
        for stop in (1, 4) if workers else range(7):
            loader = build_loader(data, num_workers=workers, **options)
            loader.load_state_dict(truth[stop][1])
            rest = take(loader, 7 - stop)
            loader.close()
            assert all(same(got, expected) for (got, _), (expected, _) in zip(rest, truth[stop + 1 :], strict=True))


@pytest.mark.parametrize(
    "form",
    ["train{}-{:06d}.tar", "train_{}_{}.tar", "Train{}.{:03d}.TAR", "training{}-{:05d}-of-00002.tar", "train{}/{}.tar",
     "train/{}/{:06d}.tar", "{}/train/{:03d}.tar", "{}/train-{:06d}.tar", "{}/{}.tar", "{}/images/train/x{}.tar"],
)  # fmt: skip
def test_shards_in_every_place_of_images(loose, tmp_path, form):
    root = tmp_path / "shards"
    for name in "AB":
        pack(loose / f"train{name}", *(root / form.format(name, number) for number in range(2)))
    assert find_domains(root) == ("A", "B")
    data = open_dataset(root, size=16)
    shards = {name: [root / form.format(name, number) for number in range(2)] for name in "AB"}
    assert data.paths["A"] == [shards["A"][n % 2] / f"{n:04d}.png" for n in (0, 2, 4, 6, 1, 3, 5)]
    assert data.summary()[1] == f"B: 5 images in 2 tars, {shards['B'][0]} to {shards['B'][1].name}"
    images = {path.name: (loose / "trainA" / path.name).read_bytes() for path in data.paths["A"]}
    for path in data.paths["A"]:
        with module.open_file(path) as file:
            assert file.read() == images[path.name]


def test_any_number_of_domains(loose, tmp_path):
    for name, source in (("day", "trainA"), ("dusk", "trainB"), ("night", "testA")):
        pack(
            loose / source,
            tmp_path / "many" / f"train_{name}-000000.tar",
            tmp_path / "many" / f"train_{name}-000001.tar",
        )
    write_tar(tmp_path / "many" / "train_masks.tar", {"1.png": picture(1)})
    write_tar(tmp_path / "many" / "train_notes.tar", {"1.txt": b"in May"})
    write_tar(tmp_path / "many" / "train-000000.tar", {"1.png": picture(1)})
    domains = find_domains(tmp_path / "many")
    assert domains == ("day", "dusk", "night")
    data = open_dataset(tmp_path / "many", domains=domains, size=16, random_pairs=True)
    item = data[0]
    assert {"A", "B", "A_domain", "B_domain"} <= set(item) and item["A"].shape == (3, 16, 16)
    assert data.sample_batch(3)["A_domain"].tolist() == [0, 1, 2]


def test_tars_beside_images_are_what_these_were_unpacked_from(loose, caplog):
    for name in "AB":
        pack(loose / f"train{name}", loose / f"train{name}.tar")
    pack(loose / "trainB", loose / "trainA" / "more.tar")
    (loose / "trainA" / "sub").mkdir()
    (loose / "trainA" / "0000.png").rename(loose / "trainA" / "sub" / "0000.png")
    with caplog.at_level(logging.WARNING):
        data = open_dataset(loose, size=16)
    assert names(data)["A"] == [f"trainA/{n:04d}.png" for n in range(1, 7)] + ["sub/0000.png"]
    assert f"{loose / 'trainA'}: 1 file left out: 1 .tar" in caplog.text


def test_folders_of_downloads_are_no_domains(loose, tmp_path):
    for name, source in (("dry", "trainA"), ("wet", "trainB")):
        shutil.copytree(loose / source, tmp_path / "data" / name)
    pack(loose / "trainA", tmp_path / "data" / "downloads" / "dry.tar")
    (tmp_path / "data" / "archive").mkdir()
    (tmp_path / "data" / "archive" / "wet.tar.gz").write_bytes(gzip.compress(b"wet"))
    assert find_domains(tmp_path / "data") == ("dry", "wet")
    assert open_dataset(tmp_path / "data", size=16).count("B") == 5


def test_folders_for_testing_beside_tars_for_training(loose, packed):
    for name in ("testA", "testB"):
        (packed / f"{name}.tar").unlink()
        shutil.copytree(loose / name, packed / name)
    assert open_dataset(packed, size=16).sample_batch(1)["A_paths"] == [str(packed / "testA" / "0000.png")]


def test_one_image_of_each_domain(packed):
    data = open_dataset(packed, crops=Crops(2, 8))
    assert data.names == {name: str(packed / f"train{name}.tar" / "0000.png") for name in "AB"}
    assert data[0]["A"].shape == (2, 3, 8, 8)


# ---- what is wrong with them


def test_broken_and_compressed_tars_end_in_one_line(packed):
    tar = packed / "trainB.tar"
    whole = tar.read_bytes()
    for content, words in (
        (whole.rstrip(b"\0"), r"trainB.tar \(\d+ bytes\) is not a complete tar"),
        (whole[:1000], r"trainB.tar \(\d+ bytes\) is not a complete tar"),
        (b"no tar at all", r"trainB.tar \(\d+ bytes\) is not a complete tar"),
        (gzip.compress(whole), r"trainB.tar is compressed \(gzip\)"),
    ):
        tar.write_bytes(content)
        with pytest.raises(ValueError, match=words) as why:
            open_dataset(packed, size=16)
        assert "\n" not in str(why.value)
    tar.unlink()
    (packed / "trainB.tar.gz").write_bytes(gzip.compress(whole))
    with pytest.raises(ValueError, match=r"trainB.tar.gz is compressed \(gzip\)"):
        open_dataset(packed, size=16)
    (packed / "trainB.tar.gz").unlink()
    with pytest.raises(ValueError, match="must be a folder with .*, or trainA-000000.tar trainB-000000.tar; "):
        open_dataset(packed, size=16)


def test_a_tar_without_images_is_said_to_be_one(packed):
    write_tar(packed / "trainB.tar", {"1.txt": b"nothing"})
    with pytest.raises(ValueError, match=r"no images \(.*\) in the tar .*trainB\.tar"):
        open_dataset(packed, size=16)


def test_damaged_images_are_left_out_and_named(packed, caplog):
    files = {f"{n}.png": picture(n) for n in range(4)}
    write_tar(packed / "trainA.tar", {**files, "1.png": files["1.png"][:-60], "2.png": b"", "4.mp4": b"film"})
    with caplog.at_level(logging.WARNING):
        assert names(open_dataset(packed, size=16))["A"] == ["trainA.tar/0.png", "trainA.tar/3.png"]
    assert f"the tar {packed}/trainA.tar: 1 file left out: 1 .mp4" in caplog.text
    assert f"skipped {packed}/trainA.tar/1.png: " in caplog.text and f"{packed}/trainA.tar/2.png: " in caplog.text
    assert f"skipped 2 of 4 image files in the tar {packed}/trainA.tar: unreadable" in caplog.text


@pytest.mark.parametrize("workers", [0, 1])
def test_a_tar_that_changes_during_training_ends_it_and_gives_no_other_image(loose, packed, workers):
    data = open_dataset(packed, size=16)
    loader = build_loader(data, num_workers=workers)
    batches = iter(loader)
    next(batches)
    write_tar(packed / "trainA.tar", {f"{n:04d}.png": picture(500 + n) for n in range(8)})
    with pytest.raises(DataError, match="trainA.tar has changed since its members were listed: start again"):
        list(batches)
    loader.close()


# ---- boxes


def streets(*boxes):
    return json.dumps({"boxes": [{"class": name, "box": box} for name, *box in boxes]}).encode()


def voc(name, *box):
    sides = "".join(f"<{s}>{v}</{s}>" for s, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<annotation><object><name>{name}</name><bndbox>{sides}</bndbox></object></annotation>".encode()


def test_boxes_beside_the_images_are_those_of_their_own_tar(tmp_path):
    """Names of images and folders are the same in all shards, and begin like those of folders of annotations."""
    for domain in "AB":
        for number in range(2):
            files = {f"x/{n}.png": picture(10 * number + n) for n in range(3)}
            files["x/0.json"] = streets(("car", number, 0, 9, 9 + number))
            files["x/1.xml"] = voc("car", 1, 1, 5 + number, 5)
            if number == 1:
                files["x/2.json"] = streets(("car", 0, 0, 4, 4), ("dog", 1, 1, 2, 2))
            write_tar(tmp_path / f"train{domain}" / f"yolo-{number}.tar", files)
    data = open_dataset(tmp_path, size=16, classes=("car",), preprocess="none", flip=False)
    assert data.summary()[0].endswith("yolo-0.tar to yolo-1.tar, 5 with boxes")
    found = {"/".join(path.parts[-3:]): data.picture("A", n).boxes.tolist() for n, path in enumerate(data.paths["A"])}
    assert found == {
        "yolo-0.tar/x/0.png": [[0, 0, 9, 9]],
        "yolo-0.tar/x/1.png": [[1, 1, 5, 5]],
        "yolo-0.tar/x/2.png": [],
        "yolo-1.tar/x/0.png": [[1, 0, 9, 10]],
        "yolo-1.tar/x/1.png": [[1, 1, 6, 5]],
        "yolo-1.tar/x/2.png": [[0, 0, 4, 4], [1, 1, 2, 2]],
    }
    assert data[0, 3]["A_boxes"].tolist() == [[1, 0, 9, 10]]


def test_boxes_of_yolo_and_of_a_file_about_many_images(tmp_path):
    yolo = {"0.png": picture(0), "0.txt": b"1 0.5 0.5 0.5 0.5", "classes.txt": b"car\nbus\n"}
    write_tar(tmp_path / "trainA-000000.tar", yolo)
    coco = {
        "images": [{"id": 1, "file_name": "0.png"}, {"id": 2, "file_name": "1.png"}],
        "annotations": [{"image_id": 2, "category_id": 3, "bbox": [2, 3, 4, 5]}],
        "categories": [{"id": 3, "name": "bus"}],
    }
    images = {"0.png": picture(1), "1.png": picture(2)}
    write_tar(tmp_path / "trainB-000000.tar", {**images, "instances.json": json.dumps(coco).encode()})
    data = open_dataset(tmp_path, size=16, classes=("bus",))
    assert data.picture("A", 0).boxes.tolist() == [[6, 5, 18, 15]] and data.picture("A", 0).labels == ("bus",)
    assert [data.picture("B", n).boxes.tolist() for n in range(2)] == [[], [[2, 3, 6, 8]]]


def test_every_tar_may_have_a_file_about_its_images(tmp_path):
    """However many tars there are; in a single folder so many JSON files are taken for something else."""
    for domain, count in (("A", 70), ("B", 1)):
        for number in range(count):
            coco = {
                "images": [{"id": 1, "file_name": "0.png"}],
                "annotations": [{"image_id": 1, "category_id": 3, "bbox": [number % 9, 3, 4, 5]}],
                "categories": [{"id": 3, "name": "bus"}],
            }
            files = {"0.png": picture(number), "instances.json": json.dumps(coco).encode()}
            write_tar(tmp_path / f"train{domain}-{number:06d}.tar", files)
    data = open_dataset(tmp_path, size=16, classes=("bus",))
    found = [data.picture("A", number).boxes.tolist() for number in range(70)]
    assert found == [[[number % 9, 3, number % 9 + 4, 8]] for number in range(70)]


def test_tars_that_webdataset_has_written(loose, tmp_path):
    webdataset = pytest.importorskip("webdataset")
    root = tmp_path / "written"
    root.mkdir()
    for name in "AB":
        with webdataset.ShardWriter(str(root / f"train{name}-%06d.tar"), maxcount=3, verbose=0) as sink:
            for path in sorted((loose / f"train{name}").iterdir()):
                sink.write({"__key__": path.stem, "png": path.read_bytes(), "json": {"boxes": []}, "cls": 3})
    data = open_dataset(root, size=16, seed=1, classes=("car",))
    truth = open_dataset(loose, size=16, seed=1)
    assert [path.name for path in data.paths["A"]] == [path.name for path in truth.paths["A"]]
    assert data.summary()[0] == f"A: 7 images in 3 tars, {root}/trainA-000000.tar to trainA-000002.tar, 0 with boxes"
    for index in range(7):
        assert torch.equal(data[1, index]["A"], truth[1, index]["A"])
        assert torch.equal(data[1, index]["B"], truth[1, index]["B"])
