"""The built-in street scenes."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_checks import examples
from PIL import Image

from cgcl_fast.data import StreetsDataset, build_loader, find_domains, open_dataset
from cgcl_fast.data.streets import CLASSES, DOMAINS, generate_scene, render, scene_boxes
from cgcl_fast.data.streets.__main__ import main
from cgcl_fast.data.streets.drawing import draw
from cgcl_fast.data.streets.looks import look_of
from cgcl_fast.data.streets.raster import (
    ASPHALT,
    HEADLIGHT,
    INSTANCE,
    LAMP,
    LAMP_EARLY,
    LIGHT,
    SURFACE,
    TAILLIGHT,
    WINDOW,
    WINDOW_EARLY,
    WINDOW_LATE,
)


@settings(max_examples=examples(25))
@given(
    seed=st.integers(-(2**60), 2**60),
    domain=st.sampled_from(DOMAINS),
    size=st.one_of(st.integers(32, 130), st.tuples(st.integers(32, 130), st.integers(32, 130))),
)
def test_any_scene_in_any_domain_and_size(seed, domain, size):
    scene = generate_scene(seed)
    image = render(scene, domain, size)
    height, width = (size, size) if isinstance(size, int) else size
    assert image.shape == (height, width, 3) and image.dtype == np.uint8
    assert image.std() > 10
    for box in scene_boxes(scene, size):
        assert box.name in CLASSES
        assert 0 <= box.x0 < box.x1 <= width and 0 <= box.y0 < box.y1 <= height


@pytest.mark.parametrize("size", [32, 1024])
def test_smallest_and_largest(size):
    assert render(generate_scene(3), "night", size).shape == (size, size, 3)


def test_layouts_never_change():
    # The same seed must give the same data on every machine and Python: this number is a promise.
    assert zlib.crc32(repr(generate_scene(7)).encode()) == 1944697787


def test_another_process_renders_the_same_pixels():
    code = (
        "import zlib; from cgcl_fast.data.streets import *; "
        "print([zlib.crc32(render(generate_scene(5), d, 64).tobytes()) for d in DOMAINS])"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    here = [zlib.crc32(render(generate_scene(5), domain, 64).tobytes()) for domain in DOMAINS]
    assert there.strip() == str(here)
    assert len(set(here)) == 4


def test_seeds_differ():
    assert len({zlib.crc32(render(generate_scene(seed), "sunny", 48).tobytes()) for seed in range(30)}) == 30


@pytest.mark.parametrize("domain", DOMAINS)
def test_sizes_show_the_same_scene(domain):
    scene = generate_scene(4)
    large = Image.fromarray(render(scene, domain, 256)).resize((64, 64), Image.Resampling.BOX)
    small = render(scene, domain, 64)
    assert np.abs(np.asarray(large).astype(int) - small).mean() < 8


def test_domains_look_like_their_names():
    images = {domain: np.stack([render(generate_scene(s), domain, 64) for s in range(8)]) for domain in DOMAINS}
    mean = {domain: stack.mean() for domain, stack in images.items()}
    assert mean["night"] < 0.8 * mean["rainy"] < 0.7 * mean["cloudy"]
    sky = {domain: stack[:, :8, 24:40].mean(axis=(0, 1, 2)) for domain, stack in images.items()}
    assert sky["sunny"][2] > sky["sunny"][0] + 25  # blue
    assert abs(sky["cloudy"][2] - sky["cloudy"][0]) < 20  # gray

    def colourfulness(stack):
        return (stack.max(axis=-1).astype(int) - stack.min(axis=-1)).mean()

    assert colourfulness(images["sunny"]) > 1.3 * colourfulness(images["cloudy"])


def where(raster, mask):
    """Part of each pixel that is of the materials in ``mask``."""
    covered = mask[raster.index].astype(np.float64)
    height, width = raster.size
    return covered.reshape(height, raster.factor, width, raster.factor).mean(axis=(1, 3))


def test_instances_change_otherwise_than_the_whole():
    lit, lamps, rest = [], [], []
    for seed in range(6):
        scene = generate_scene(seed)
        raster = draw(scene, (128, 128))
        day, night = (render(scene, domain, 128).astype(float).mean(axis=-1) for domain in ("sunny", "night"))
        kind = raster.materials[:, LIGHT]
        lit += (night - day)[where(raster, (kind == WINDOW) | (kind == WINDOW_EARLY)) > 0.95].tolist()
        lamps += (night - day)[where(raster, (kind == HEADLIGHT) | (kind == TAILLIGHT)) > 0.95].tolist()
        rest += (night - day)[where(raster, kind == 0) > 0.95].tolist()
    assert np.mean(rest) < -40  # night darkens everything
    assert np.mean(lit) > 30  # but lit windows, which get brighter
    assert np.mean(lamps) > -10


def test_the_wet_road_mirrors_what_stands_by_it():
    changed = {"cloudy": 0, "rainy": 0}
    for seed in range(4):
        scene = generate_scene(seed)
        bare = replace(scene, buildings=())
        raster = draw(scene, (128, 128))
        road = where(raster, raster.materials[:, SURFACE] == ASPHALT) == 1
        for domain in changed:
            difference = np.abs(render(scene, domain, 128).astype(int) - render(bare, domain, 128)).max(axis=-1)
            changed[domain] += int((difference[road] > 8).sum())
    assert changed["cloudy"] == 0 and changed["rainy"] > 2000


def test_boxes_hold_what_they_name():
    found = {name: 0 for name in CLASSES}
    for seed in range(12):
        scene = generate_scene(seed)
        raster = draw(scene, (200, 200))
        for box in scene_boxes(scene, 200):
            found[box.name] += 1
            numbers = [i for i, (name, _) in enumerate(raster.instances, start=1) if name == box.name]
            mine = where(raster, np.isin(raster.materials[:, INSTANCE], numbers)) > 0
            y0, y1, x0, x1 = int(box.y0), int(np.ceil(box.y1)), int(box.x0), int(np.ceil(box.x1))
            inside = mine[y0:y1, x0:x1]
            assert inside.mean() > 0.2
            # Each side touches the instance.
            assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()
    assert all(count >= 12 for count in found.values())


def test_boxes_scale_with_the_image():
    scene = generate_scene(6)
    small, large = scene_boxes(scene, 256), scene_boxes(scene, 512)
    assert [box.name for box in small] == [box.name for box in large]
    np.testing.assert_allclose(
        np.array([box[1:] for box in large]) / 2, np.array([box[1:] for box in small]), atol=0.75
    )


@pytest.mark.parametrize("size", [31, 1025, (64, 20), (64,), 64.0])
def test_size_out_of_range(size):
    with pytest.raises(ValueError, match="size must be 32 to 1024 pixels"):
        render(generate_scene(0), "sunny", size)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="domain must be one of sunny, night, cloudy, rainy, got 'snowy'"):
        render(generate_scene(0), "snowy")
    with pytest.raises(TypeError, match="seed must be an int, got str"):
        generate_scene("7")


# ---- as a data set


def test_items_are_like_those_of_a_folder():
    data = open_dataset(size=32)
    item = data[2]
    assert set(item) == {"A", "B", "A_paths", "B_paths"}
    assert item["A"].shape == (3, 32, 32) and item["A"].dtype == torch.float32
    assert item["A"].min() >= -1 and item["A"].max() <= 1
    assert item["A_paths"] == "streets/train/sunny/00002" and "/night/" in item["B_paths"]
    assert item["A"].mean() > item["B"].mean()
    assert len(data) == 1000 and len(open_dataset(size=32, train=False)) == 100
    assert len(open_dataset(size=32, limit=5)) == 5


def test_items_are_a_function_of_seed_epoch_and_index():
    one, two, other = (open_dataset(size=32, limit=20, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(one[3, i]["B"], two[3, i]["B"]) for i in range(4))
    assert not torch.equal(one[0]["A"], other[0]["A"])
    assert [one[0, i]["B_paths"] for i in range(9)] != [one[1, i]["B_paths"] for i in range(9)]


def test_domains_share_no_scene_and_neither_do_splits():
    data = open_dataset(size=32, domains=DOMAINS, limit=30)
    test = open_dataset(size=32, domains=DOMAINS, limit=30, train=False)
    seeds = [d.scene(domain, index).seed for d in (data, test) for domain in DOMAINS for index in range(30)]
    assert len(set(seeds)) == len(seeds) == 240
    assert set(data[0]) == {*DOMAINS, *(f"{domain}_paths" for domain in DOMAINS)}


def test_sample_batch_has_the_truth():
    data = open_dataset(size=48)
    batch = data.sample_batch(3)
    assert batch["A"].shape == batch["B"].shape == batch["truth"].shape == (3, 3, 48, 48)
    scene = data.scene("A", 1, split="test")
    expected = torch.from_numpy(render(scene, "night", 48)).permute(2, 0, 1) / 127.5 - 1
    assert torch.equal(batch["truth"][1], expected)
    assert not torch.equal(batch["truth"][1], batch["B"][1])
    assert torch.equal(batch["A"], open_dataset(size=48, train=False).sample_batch(3)["A"])


def test_the_direction_b_to_a_begins_at_night():
    there, back = (open_dataset(None, size=32, limit=2, direction=way) for way in ("AtoB", "BtoA"))
    assert torch.equal(back[0]["A"], there.preprocess(there.picture("B", 0).image))
    assert back[0]["A_paths"].startswith("streets/train/night") and back[0]["B_paths"].startswith("streets/train/sunny")
    expected = torch.from_numpy(render(there.scene("B", 0, split="test"), "sunny", 32)).permute(2, 0, 1) / 127.5 - 1
    assert torch.equal(back.sample_batch(1)["truth"][0], expected)


def test_a_data_set_travels_to_workers():
    data = open_dataset(size=32, limit=6)
    copy = pickle.loads(pickle.dumps(data))
    assert torch.equal(copy[1]["A"], data[1]["A"])
    loader = build_loader(data, batch_size=2, num_workers=2)
    plain = build_loader(data, batch_size=2)
    assert all(torch.equal(a["A"], b["A"]) for a, b in zip(loader, plain, strict=True))
    loader.close()


def test_boxes_of_an_item():
    data = StreetsDataset(size=64, limit=3)
    assert data.boxes("A", 1) == scene_boxes(data.scene("A", 1), 64)


def test_wrong_data_set_arguments():
    with pytest.raises(ValueError, match="domains of the built-in streets must be A and B, or of sunny.*got 'day'"):
        open_dataset(domains=("day", "night"))
    with pytest.raises(ValueError, match="size of the built-in streets must be 32 to 1024, got 16"):
        open_dataset(size=16)
    with pytest.raises(ValueError, match="split must be train or test"):
        StreetsDataset(split="val")


# ---- the command


def test_command_writes_two_domains(tmp_path, capsys):
    out = tmp_path / "streets"
    assert main(["--output", str(out), "--size", "48", "--count", "3", "--test-count", "2", "--seed", "4"]) == 0
    assert "12 images" in capsys.readouterr().out
    counts = {name: len(list((out / name).glob("*.png"))) for name in ("trainA", "trainB", "testA", "testB", "truth")}
    assert counts == {"trainA": 3, "trainB": 3, "testA": 2, "testB": 2, "truth": 2}
    built_in = open_dataset(size=48, seed=4)
    np.testing.assert_array_equal(
        np.asarray(Image.open(out / "trainB" / "00001.png")), render(built_in.scene("B", 1), "night", 48)
    )
    written = json.loads((out / "trainB" / "00001.json").read_text())
    assert written["size"] == [48, 48]
    boxes = scene_boxes(built_in.scene("B", 1), 48)
    assert [(box["class"], *box["box"]) for box in written["boxes"]] == [tuple(box) for box in boxes]
    batch, expected = open_dataset(out, size=48).sample_batch(2), built_in.sample_batch(2)
    assert torch.equal(batch["A"], expected["A"]) and torch.equal(batch["truth"], expected["truth"])


def test_command_writes_a_folder_for_each_domain(tmp_path):
    out = tmp_path / "streets"
    names = ["rainy", "sunny", "cloudy"]
    arguments = ["--output", str(out), "--size", "32", "--count", "2", "--test-count", "1", "--layout", "domains"]
    assert main([*arguments, "--domains", *names]) == 0
    assert all(len(list((out / name / "train").glob("*.png"))) == 2 for name in names)
    pairs = {path.name for path in (out / "truth").iterdir()}
    assert pairs == {f"{a}_as_{b}" for a in names for b in names if a != b}
    assert len(open_dataset(out, domains=names, size=32)) == 2


def test_command_writes_scenes_in_looks_of_their_own(tmp_path):
    out = tmp_path / "streets"
    arguments = ["--output", str(out), "--size", "32", "--count", "1", "--test-count", "2", "--looks", "varied"]
    assert main(arguments) == 0
    built_in = open_dataset(size=32)
    for folder, domain, name, split in (("trainB", "B", "night", "train"), ("truth", "A", "night", "test")):
        scene = built_in.scene(domain, 0, split=split)
        written = np.asarray(Image.open(out / folder / "00000.png"))
        np.testing.assert_array_equal(written, render(scene, name, 32, like=scene))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "8"], "size of the built-in streets must be 32 to 1024, got 8"),
        (["--count", "0"], "count must be at least 1, got 0"),
        (["--domains", "sunny"], "domains must be two different domains"),
        (["--domains", "sunny", "snowy"], "domains of the built-in streets must be"),
        (["--domains", "sunny", "sunny", "--layout", "domains"], "at least two different domains"),
    ],
)
def test_command_refuses_wrong_arguments_in_one_line(tmp_path, capsys, arguments, message):
    assert main(["--output", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_command_overwrites_nothing(tmp_path, capsys):
    (tmp_path / "precious.txt").touch()
    assert main(["--output", str(tmp_path), "--count", "1"]) == 2
    assert "output must be a new or empty folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_command_runs_as_a_module(tmp_path):
    command = [sys.executable, "-W", "error::RuntimeWarning", "-m", "cgcl_fast.data.streets", "--output"]
    done = subprocess.run(
        [*command, str(tmp_path / "out"), "--size", "32", "--count", "1"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


# ---- boxes and pairs


def test_boxes_classes_and_objects():
    data = open_dataset(size=96, limit=12, classes=("sign", "car"), object_size=24)
    objects = 0
    for index in range(12):
        item = data[index]
        known = [box for box in data.boxes("A", index) if box.name != "person"]
        assert item["A_boxes"].tolist() == [pytest.approx(box[1:]) for box in known]
        assert item["A_classes"].tolist() == [("sign", "car").index(box.name) for box in known]
        large = [box for box in known if min(box.x1 - box.x0, box.y1 - box.y0) >= 16]
        assert bool(item["A_has_object"]) == bool(large)
        assert item["A_object"].shape == (3, 24, 24) and bool(item["A_object"].any()) == bool(large)
        objects += bool(large)
    assert 0 < objects < 12


def test_unknown_classes_are_named_when_the_data_is_opened(caplog):
    data = open_dataset(size=32, limit=2, classes=("car", "tram"))
    assert [record.getMessage()[:25] for record in caplog.records] == [
        "boxes of class 'person' a",
        "boxes of class 'sign' are",
    ]
    data[0]
    assert len(caplog.records) == 2


def test_domains():
    assert find_domains() == DOMAINS == ("sunny", "night", "cloudy", "rainy")


def test_pairs_travel_to_workers():
    data = open_dataset(size=32, domains=DOMAINS, limit=8, random_pairs=True, classes=CLASSES, object_size=16)
    for one, two in zip(build_loader(data, batch_size=4, num_workers=2), build_loader(data, batch_size=4), strict=True):
        assert one["A_paths"] == two["A_paths"] and torch.equal(one["B"], two["B"])
        assert all(torch.equal(a, b) for a, b in zip(one["A_boxes"], two["A_boxes"], strict=True))
        assert torch.equal(one["A_domain"], two["A_domain"]) and torch.equal(one["B_object"], two["B_object"])


def as_tensor(image):
    return torch.from_numpy(image).permute(2, 0, 1) / 127.5 - 1


def test_sample_batch_of_pairs():
    data = open_dataset(size=48, domains=DOMAINS, limit=3, random_pairs=True)
    batch = data.sample_batch(6)
    assert batch["A_domain"].tolist() == [0, 1, 2, 3, 0, 1]
    for row, source in enumerate(batch["A_domain"].tolist()):
        scene = data.scene(DOMAINS[source], row, split="test")
        assert f"test/{DOMAINS[source]}/{row:05d}" in batch["A_paths"][row]
        assert torch.equal(batch["A"][row], as_tensor(render(scene, DOMAINS[source], 48, like=scene)))
        for number, domain in enumerate(DOMAINS):
            reference = data.scene(domain, row + (number == source), split="test")
            assert torch.equal(
                batch[f"reference_{domain}"][row], as_tensor(render(reference, domain, 48, like=reference))
            )
            assert torch.equal(batch[f"truth_{domain}"][row], as_tensor(render(scene, domain, 48, like=reference)))
    few = open_dataset(size=48, domains=DOMAINS, limit=3, random_pairs=True, train=False).sample_batch(6)
    assert torch.equal(few["A"], batch["A"][:3])


def test_style_batch_has_the_truth_of_every_reference():
    data = open_dataset(size=48, domains=("night", "rainy"), random_pairs=True)
    batch = data.style_batch(3, 4)
    assert batch["A_domain"].tolist() == [0, 1, 0] and batch["A"].shape == (3, 3, 48, 48)
    assert torch.equal(batch["A"], data.sample_batch(3)["A"])
    for domain in ("night", "rainy"):
        assert batch[f"truth_{domain}"].shape == (3, 4, 3, 48, 48)
        for r in range(4):
            reference = data.scene(domain, 99 - r, split="test")
            assert torch.equal(
                batch[f"reference_{domain}"][r], as_tensor(render(reference, domain, 48, like=reference))
            )
            scene = data.scene("rainy", 1, split="test")
            assert torch.equal(batch[f"truth_{domain}"][1, r], as_tensor(render(scene, domain, 48, like=reference)))
    few = open_dataset(size=48, domains=("night", "rainy"), random_pairs=True, train=False, limit=3).style_batch(8, 8)
    assert few["A"].shape[0] == 3 and few["truth_night"].shape[:2] == (3, 2)
    assert open_dataset(size=48).style_batch(3, 4) is None
    assert open_dataset(size=48, domains=DOMAINS, random_pairs=True, train=False, limit=1).style_batch(3, 4) is None


# ---- looks


def test_looks_vary_with_the_scene_of_which_they_are():
    scene, others = generate_scene(3), [generate_scene(seed) for seed in range(8)]
    for domain in DOMAINS:
        images = np.stack([render(scene, domain, 64, like=other) for other in others]).astype(float)
        assert (
            np.abs(images[:, None] - images[None]).mean((2, 3, 4))[~np.eye(8, dtype=bool)].min() > 0.5
        )  # no two alike
        assert images.std(axis=0).mean() > 6  # of 255
        assert np.array_equal(images[4], render(scene, domain, 64, like=generate_scene(4)))
        assert not np.array_equal(images[3], render(scene, domain, 64))  # its own look is not the typical one


def test_a_look_leaves_the_scene_as_it_is():
    """All that is drawn of another scene is its look: the edges of this one stay where they are."""
    scene, other = generate_scene(3), generate_scene(11)

    def edges(image):
        luma = image.astype(float) @ (0.3, 0.59, 0.11)
        return np.hypot(np.diff(luma, axis=0)[:, :-1], np.diff(luma, axis=1)[:-1]).ravel()

    mine = edges(render(scene, "sunny", 64, like=scene))
    same_street = np.corrcoef(mine, edges(render(scene, "sunny", 64, like=other)))[0, 1]
    same_look = np.corrcoef(mine, edges(render(other, "sunny", 64, like=scene)))[0, 1]
    assert same_street > 0.8 and same_look < 0.4


def test_looks_stay_in_their_domain():
    """Whatever the look: a night is darker than its day, and rain is darker than the sun."""
    scene = generate_scene(5)
    likes = [generate_scene(seed) for seed in range(20)]
    bright = {domain: [render(scene, domain, 48, like=like).mean() for like in likes] for domain in DOMAINS}
    assert all(night < sunny for night, sunny in zip(bright["night"], bright["sunny"], strict=True))
    assert np.mean(bright["night"]) < 0.75 * np.mean(bright["sunny"])
    assert max(bright["rainy"]) < max(bright["sunny"]) and np.mean(bright["rainy"]) < np.mean(bright["cloudy"])


def test_how_many_windows_and_lamps_are_lit_is_part_of_a_look():
    looks = [look_of("night", seed) for seed in range(40)]
    late = {(look.lights[WINDOW] > 0.1, look.lights[WINDOW_LATE] > 0.1, look.lights[LAMP] > 0.1) for look in looks}
    assert {(True, True, True), (True, False, True), (False, False, False)} <= late
    raster = draw(generate_scene(2), (64, 64))
    assert {WINDOW, WINDOW_LATE, LAMP, LAMP_EARLY} <= set(raster.materials[:, LIGHT].astype(int))


def test_wrong_looks():
    with pytest.raises(ValueError, match="domain must be one of sunny, night, cloudy, rainy, got 'snowy'"):
        look_of("snowy", 1)


def test_sample_batch_with_boxes():
    data = open_dataset(size=64, limit=3, classes=CLASSES, object_size=16)
    batch = data.sample_batch(2)
    assert len(batch["A_boxes"][0]) == len(scene_boxes(data.scene("A", 0, split="test"), 64))
    assert batch["A_object"].shape == (2, 3, 16, 16) and "truth" in batch
