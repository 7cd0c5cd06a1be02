"""A run's folder as the figures read it: the trained networks, and the test images of its data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from cgcl_fast._generator import find_generator
from cgcl_fast._run import open_run
from cgcl_fast.engine import CheckpointError
from cgcl_fast.train import main as train

TINY = ["--ngf", "4", "--ndf", "4", "--n-blocks", "5", "--nce-dim", "8", "--size", "32", "--steps", "1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Test images of A are dark and of B bright, those of training in between."""
    folder = tmp_path_factory.mktemp("data")
    for name, grey in {"trainA": 100, "trainB": 150, "testA": 0, "testB": 255}.items():
        (folder / name).mkdir()
        for number in range(2):
            Image.new("RGB", (40, 36), (grey,) * 3).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "back"
    more = ["--data", str(data), "--direction", "BtoA", "--output", str(folder), "--device", "cpu", "--workers", "0"]
    assert train(["cut", *TINY, *more, "--eval-images", "0"]) == 0
    return folder


def test_the_networks_are_the_trained_ones(run: Path):
    found = open_run(run)
    assert (found.kind, found.step, found.direction) == ("cut", 1, "BtoA")
    assert not found.method.training and not any(p.requires_grad for p in found.method.parameters())
    assert all(not tensor.is_meta for tensor in (*found.method.parameters(), *found.method.buffers()))
    generator, _ = find_generator(run)
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    assert torch.equal(found.method.G(x), generator(x))


def test_pools_of_past_translations_are_left_out(tmp_path: Path):
    small = [*TINY[:6], "--size", "32", "--steps", "1", "--eval-images", "0", "--device", "cpu", "--workers", "0"]
    assert train(["cyclegan", *small, "--output", str(tmp_path / "run")]) == 0
    found = open_run(tmp_path / "run")
    backward, _ = find_generator(tmp_path / "run", "BtoA")
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    assert torch.equal(found.method.F(x), backward(x))
    assert not any(tensor.is_meta for tensor in (*found.method.parameters(), *found.method.buffers()))


def test_the_images_are_those_of_the_test_in_the_direction_of_the_run(run: Path, data: Path, tmp_path: Path):
    found = open_run(run)
    batch = found.test_images().sample_batch(2)
    assert batch["A"].shape == (2, 3, 32, 32) and (batch["A"] == 1).all() and (batch["B"] == -1).all()
    for name in ("trainA", "trainB"):
        (tmp_path / name).symlink_to(data / name)
    other = found.test_images(tmp_path)  # without test images those of the training
    assert float(other.sample_batch(1)["A"].mean()) == pytest.approx(150 / 127.5 - 1, abs=0.01)
    with pytest.raises(ValueError, match="nowhere"):
        found.test_images(tmp_path / "nowhere")


def test_what_is_no_run_is_named(run: Path, tmp_path: Path):
    with pytest.raises(CheckpointError, match="expected the folder of a run, which is not there"):
        open_run(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="holds no run"):
        open_run(tmp_path)
    (tmp_path / "checkpoints").symlink_to(run / "checkpoints")
    with pytest.raises(CheckpointError, match=r"config\.yaml"):
        open_run(tmp_path)
    (tmp_path / "config.yaml").write_text("[1, 2]")
    with pytest.raises(CheckpointError, match="must hold options"):
        open_run(tmp_path)
