"""The evaluate command: folders, runs of each kind, what it writes, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent / "metrics"))
pytest.importorskip("torch_fidelity")
from random_networks import Few, save_weights  # noqa: E402

from cgcl_fast import _judged, networks  # noqa: E402
from cgcl_fast.data import open_dataset, read_image, to_tensor  # noqa: E402
from cgcl_fast.evaluate import main  # noqa: E402
from cgcl_fast.metrics import features as features_module  # noqa: E402
from cgcl_fast.metrics import psnr, ssim  # noqa: E402
from cgcl_fast.metrics.feature_distances import frechet_distance, kernel_distance  # noqa: E402
from cgcl_fast.metrics.features import EfficientNetLite0  # noqa: E402
from cgcl_fast.metrics.moments import moments  # noqa: E402
from cgcl_fast.metrics.weights import ALEXNET, INCEPTION  # noqa: E402
from cgcl_fast.networks.files import generator_bytes  # noqa: E402


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(features_module.NETWORKS, "lite0", Few)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path_factory.mktemp("hub")))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fails)


def save_images(folder: Path, count: int, seed: int, size: tuple[int, int] = (33, 32)) -> Path:
    folder.mkdir(parents=True)
    noise = np.random.RandomState(seed).randint(0, 256, (count, *size, 3), dtype=np.uint8)
    for index, image in enumerate(noise):
        Image.fromarray(image // (1 + index % 3)).save(folder / f"{index:02d}.png")
    return folder


def means_of(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(read_image(path)).mean((0, 1)) / 255 for path in sorted(folder.iterdir())])


def save_run(folder: Path, generator: nn.Module, config: dict[str, Any], direction: str | None = None) -> Path:
    """A run as training leaves one, as far as it is read."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
    content = generator_bytes(generator, direction=direction)
    (folder / "checkpoints" / "step_00000012.safetensors").write_bytes(content)
    (folder / "log.jsonl").write_text('{"step": 10, "epoch": 3}\n{"step": 20, "epoch": 5}\n')
    return folder


STREETS = {"method": "cgcl", "data": None, "size": 32, "seed": 0, "preprocess": "resize_and_crop"}


@pytest.fixture(scope="module")
def styled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    generator = networks.DisentangledGenerator(("sunny", "night", "rainy"), ngf=4, n_blocks=1, mlp_dim=8)
    return save_run(tmp_path_factory.mktemp("runs") / "styled", generator, STREETS)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    generator = networks.ResnetGenerator(ngf=4, n_blocks=1)
    return save_run(tmp_path_factory.mktemp("runs") / "plain", generator, {**STREETS, "method": "cut"}, "AtoB")


def result_of(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def test_folders_give_the_distances_of_their_features(
    few: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, real = save_images(tmp_path / "images", 6, 0), save_images(tmp_path / "real", 7, 1, (40, 31))
    output = tmp_path / "new" / "found.json"
    assert main(["--images", str(images), "--real", str(real), "--output", str(output), "--batch-size", "4"]) == 0
    found = result_of(output)
    first, second = means_of(images).astype(np.float32), means_of(real).astype(np.float32)
    (result,) = found["results"]
    assert result["images"] == 6 and result["real"] == 7 and result["kernel_subset_size"] == 6
    frechet = frechet_distance(moments(first), moments(second))
    assert result["figures"]["frechet_lite0"] == pytest.approx(frechet, rel=1e-4)
    assert result["figures"]["kernel_lite0"] == pytest.approx(kernel_distance(first, second).mean, rel=1e-4)
    protocol = found["protocol"]
    assert protocol["networks"]["lite0"]["sha256"] == EfficientNetLite0.weights.sha256
    assert protocol["networks"]["lite0"]["resize"] == EfficientNetLite0.resize and protocol["preprocess"] == "none"
    assert protocol["seed"] == 0 and protocol["versions"]["torch"] == torch.__version__
    assert protocol["device"].startswith("cpu") and protocol["precision_of_features"] == "fp32"
    assert found["skipped"].keys() == {"fid", "kid", "is", "precision"}
    said = capsys.readouterr()
    assert f"{frechet:.2f}" in said.out and "not FID" in said.out
    assert len([line for line in said.err.splitlines() if "left out" in line]) == 2  # Inception-V3 and VGG-16


def test_images_beside_their_truth(tmp_path: Path) -> None:
    images, truth = save_images(tmp_path / "images", 3, 0), save_images(tmp_path / "truth", 2, 1)
    output = tmp_path / "found.json"
    assert main(["--images", str(images), "--truth", str(truth), "--metrics", "truth", "--output", str(output)]) == 0
    ((of),) = result_of(output)["truth"]
    both = [[to_tensor(read_image(folder / f"0{index}.png"))[None] for folder in (images, truth)] for index in range(2)]
    assert of["scenes"] == 2  # the third image has none
    for name, distance in (("psnr", psnr), ("ssim", ssim)):
        mean = sum(float(distance(*pair)) for pair in both) / 2
        assert of["figures"][f"{name}/after"] == pytest.approx(mean, rel=1e-5)


def test_a_run_with_styles_is_judged_in_all_pairs_of_domains(
    few: None, styled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def judged(batch_size: int, *more: str) -> dict[str, Any]:
        output = tmp_path / f"{batch_size}{''.join(more)}.json"
        options = ["--limit", "5", "--scenes", "4", "--styles", "2", "--batch-size", str(batch_size), *more]
        assert main([str(styled), *options, "--output", str(output)]) == 0
        return result_of(output)

    found = judged(3)
    names = ("sunny", "night", "rainy")
    assert [each["of"] for each in found["results"]] == [f"{a} to {b}" for a in names for b in names if a != b]
    assert all(each["images"] == 10 and each["real"] == 5 for each in found["results"])
    frechet = [each["figures"]["frechet_lite0"] for each in found["results"]]
    assert found["mean"]["frechet_lite0"] == pytest.approx(sum(frechet) / 6)
    dataset = open_dataset(domains=names, size=32, train=False, flip=False, limit=5, random_pairs=True)
    real = {
        name: np.stack([np.asarray(dataset.picture(name, index).image).mean((0, 1)) / 255 for index in range(5)])
        for name in names
    }
    untouched = frechet_distance(moments(real["sunny"]), moments(real["night"]))
    assert found["results"][0]["untouched"]["frechet_lite0"] == pytest.approx(untouched, rel=1e-3)
    assert found["protocol"]["step"] == 12 and found["protocol"]["epoch"] == 3
    assert found["protocol"]["styles_an_image"] == 2 and found["protocol"]["split"] == "test"
    assert found["truth"][0]["scenes"] == 4 and "psnr/before" in found["truth"][0]["figures"]
    assert "style/share" in found["styles"]["figures"]
    generator = _judged.find_generator(styled)[0]
    assert found["cost"]["model_bytes"] == 4 * sum(p.numel() for p in generator.parameters())
    assert found["cost"]["seconds_an_image"] > 0 and found["cost"]["pixels"] == 32 * 32
    # Styles are those of the images, whatever stands beside them; another seed has others.
    again = judged(16, "--metrics", "lite0")
    assert [e["figures"]["frechet_lite0"] for e in again["results"]] == pytest.approx(frechet, rel=0.02)
    other = judged(16, "--seed", "1", "--metrics", "lite0")
    for before, after in zip(again["results"], other["results"], strict=True):
        assert before["figures"]["frechet_lite0"] != after["figures"]["frechet_lite0"]
        assert before["untouched"] == after["untouched"]
    assert "untouched" in capsys.readouterr().out


def test_diversity_and_distance_to_the_truth_by_lpips(styled: Path, tmp_path: Path) -> None:
    weights = save_weights(tmp_path / "weights", inception=False)
    output = tmp_path / "found.json"
    options = ["--features", str(weights), "--metrics", "lpips,diversity", "--limit", "3", "--scenes", "2"]
    counts = ["--inputs", "2", "--pairs", "3", "--output", str(output)]
    assert main([str(styled), *options, *counts]) == 2  # not the published weights
    assert main([str(styled), *options, *counts, "--other-weights"]) == 0
    found = result_of(output)
    assert not found["skipped"] and found["protocol"]["networks"]["lpips"]["published_weights"] is False
    for result in found["results"]:
        figures = result["figures"]
        assert figures["diversity"] > 0 and figures["real_diversity"] > 0 and figures["diversity_std"] >= 0
    (truth,) = found["truth"]
    assert truth["figures"].keys() == {"lpips/before", "lpips/colour_transfer", "lpips/after"}


def test_a_run_of_one_way_and_one_of_both(few: None, plain: Path, tmp_path: Path) -> None:
    def ways(*arguments: str) -> list[str]:
        output = tmp_path / "found.json"
        options = ["--limit", "4", "--metrics", "lite0,truth", "--scenes", "2", "--output", str(output)]
        assert main([*arguments, *options]) == 0
        found = result_of(output)
        assert [each["of"] for each in found["truth"]] == [each["of"] for each in found["results"]]
        return [each["of"] for each in found["results"]]

    assert ways(str(plain)) == ["A to B"]
    back = networks.ResnetGenerator(ngf=4, n_blocks=1)
    both = save_run(tmp_path / "both", _judged.find_generator(plain)[0], {**STREETS, "method": "cyclegan"}, "AtoB")
    content = generator_bytes(back, direction="BtoA")
    (both / "checkpoints" / "generator_B_00000012.safetensors").write_bytes(content)
    assert ways(str(both)) == ["A to B", "B to A"]
    assert ways("--checkpoint", str(both), "--direction", "BtoA") == ["B to A"]


def test_a_generators_file_is_judged_on_a_folder(few: None, plain: Path, tmp_path: Path) -> None:
    file = tmp_path / "shared.safetensors"
    file.write_bytes((plain / "checkpoints" / "step_00000012.safetensors").read_bytes())
    for name in ("trainA", "trainB"):
        save_images(tmp_path / "data" / name, 4, len(name))
    output = tmp_path / "found.json"
    with pytest.warns(UserWarning, match="no test images; those of the training are taken"):
        assert main([str(file), "--data", str(tmp_path / "data"), "--size", "20", "--output", str(output)]) == 0
    protocol = result_of(output)["protocol"]
    assert protocol["split"] == "train" and protocol["size"] == 20


def test_what_is_asked_for_by_name_and_cannot_be_had_is_status_1(few: None, tmp_path: Path) -> None:
    images = save_images(tmp_path / "images", 5, 0)
    assert main(["--images", str(images), "--real", str(images), "--metrics", "lite0,fid"]) == 1
    assert main(["--images", str(images), "--real", str(images), "--metrics", "lite0"]) == 0


def test_every_failure_is_one_line(
    few: None, plain: Path, styled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, one = str(save_images(tmp_path / "images", 5, 0)), str(save_images(tmp_path / "one", 1, 0))
    (tmp_path / "empty").mkdir()
    (tmp_path / "other.pt").write_bytes(b"something else")
    file = plain / "checkpoints" / "step_00000012.safetensors"
    lone = tmp_path / "lone.safetensors"
    lone.write_bytes(file.read_bytes())
    for arguments, line in (
        ([], "expected a run"),
        (["--images", images], "real: expected a folder"),
        ([images, "--images", images], "images: is in place of a run"),
        (["--images", str(tmp_path / "none"), "--real", images], "none is missing"),
        (["--images", str(tmp_path / "empty"), "--real", images], "it holds nothing"),
        (["--images", one, "--real", images], "needs at least 2 images in each set, got 1"),
        (["--images", images, "--real", images, "--metrics", "beauty"], "beauty"),
        (["--images", images, "--real", images, "--metrics", "cost"], "of a run, not of a folder"),
        (["--images", images, "--real", images, "--metrics", "truth"], "--truth"),
        (["--images", images, "--real", images, "--metrics", "fid"], "--features"),
        (["--images", images, "--real", images, "--features", str(tmp_path / "none")], "does not exist"),
        (["--images", images, "--real", images, "--output", str(tmp_path)], "is a folder"),
        (["--images", images, "--truth", one + "x"], "is missing"),
        ([str(tmp_path / "none")], "does not exist"),
        ([str(tmp_path / "empty"), "--data", str(tmp_path)], "holds no checkpoint"),
        ([str(tmp_path / "other.pt"), "--data", str(tmp_path)], "other.pt"),
        ([str(lone)], "--data: needed"),
        ([str(lone), "--data", str(tmp_path / "empty")], "data must be a folder with testA"),
        ([str(styled), "--data", str(tmp_path / "images")], "sunny"),
        ([str(plain), "--direction", "BtoA"], "translates A to B only"),
        ([str(plain), "--preprocess", "magic", "--data", images], "preprocess"),
        ([str(plain), "--precision", "fp16", "--device", "cpu"], "fp16"),
    ):
        status = main(arguments)
        error = [each for each in capsys.readouterr().err.splitlines() if each.startswith("error: ")]
        assert status == 2 and len(error) == 1 and line in error[0], (arguments, status, error)


def test_a_missing_extra_leaves_the_rest(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("torch_fidelity", "lpips", "efficientnet_lite_pytorch"):
        monkeypatch.setitem(sys.modules, name, None)
    output = tmp_path / "found.json"
    assert main([str(plain), "--limit", "2", "--scenes", "1", "--output", str(output)]) == 0
    found = result_of(output)
    assert found["truth"][0]["figures"]["psnr/after"] > 0 and found["cost"]["model_bytes"] > 0
    assert found["skipped"].keys() == {"lite0", "fid", "kid", "is", "precision", "lpips", "diversity"}
    assert capsys.readouterr().err.count("pip install 'cgcl_fast[metrics]'") == 3


def test_fid_of_other_weights_is_said_to_be_none_of_papers(
    few: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Colours(Few):
        weights = INCEPTION
        widths = {"features": 3}

        def forward(self, images: Tensor) -> dict[str, Tensor]:
            return {"features": super().forward(images)["pooled"]}

    monkeypatch.setitem(features_module.NETWORKS, "inception", Colours)
    torch.save({"fc.bias": torch.zeros(1)}, tmp_path / INCEPTION.name)
    torch.save({"fc.bias": torch.zeros(1)}, tmp_path / ALEXNET.name)
    images = str(save_images(tmp_path / "images", 5, 0))
    options = ["--images", images, "--real", images, "--metrics", "fid", "--features", str(tmp_path / INCEPTION.name)]
    assert main([*options, "--other-weights"]) == 0
    assert "these are not the papers' figures" in capsys.readouterr().out


def test_two_processes_find_what_one_does(few: None, tmp_path: Path) -> None:
    """As ``torchrun`` starts them; five images are shared out as three and two."""
    images, real = save_images(tmp_path / "images", 5, 0), save_images(tmp_path / "real", 5, 1)
    common = ["--images", str(images), "--real", str(real), "--truth", str(real), "--metrics", "lite0,truth"]
    command = [__file__, *common, "--device", "cpu", "--output"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, *command, str(tmp_path / "two.json")], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("figures and protocol") == 1
    assert main([*common, "--device", "cpu", "--output", str(tmp_path / "one.json")]) == 0
    two, one = result_of(tmp_path / "two.json"), result_of(tmp_path / "one.json")
    assert two["protocol"]["processes"] == 2 and one["protocol"]["processes"] == 1
    for name, value in one["results"][0]["figures"].items():
        assert two["results"][0]["figures"][name] == pytest.approx(value, rel=1e-3, abs=1e-9), name
    assert two["truth"][0]["figures"] == pytest.approx(one["truth"][0]["figures"], rel=1e-6)


if __name__ == "__main__":
    features_module.NETWORKS["lite0"] = Few
    sys.exit(main())
