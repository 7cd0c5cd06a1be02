"""The train command on tiny networks: what it leaves, how it goes on, and what it says of wrong options."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from cgcl_fast.train import main, resolve

sys.path.insert(0, str(Path(__file__).parent / "engine"))
from engine_checks import assert_same, last_state, log_of  # noqa: E402

TINY = [
    "--size",
    "32",
    "--ngf",
    "4",
    "--ndf",
    "4",
    "--n-blocks",
    "1",
    "--nce-layers",
    "[0,4,8]",
    "--num-patches",
    "16",
    "--nce-dim",
    "8",
    "--device",
    "cpu",
]


def start(*arguments: object, **more: object) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "cgcl_fast.train", *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)  # type: ignore[call-overload]


def wait_for_step(process: subprocess.Popen, folder: Path, step: int) -> None:
    """Until the loss log has come to ``step``."""
    log, deadline = folder / "log.jsonl", time.monotonic() + 600
    while not (log.exists() and log.read_bytes().count(b"generator/loss") >= step):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two domains of plain images, of several sizes."""
    root = tmp_path_factory.mktemp("photographs")
    for index, name in enumerate(("trainA", "trainB", "testA", "testB")):
        (root / name).mkdir()
        for number in range(3):
            colour = (80 * index, 60 * number, 200 - 60 * index)
            Image.new("RGB", (40 + number, 36), colour).save(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 12 steps on the built-in streets that nothing interrupted."""
    folder = tmp_path_factory.mktemp("finished")
    process = start("cut", *TINY, "--steps", 12, "--save-every", 4, "--log-every", 1, "--output", folder)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert "small preset" in out and str(folder / "samples" / "step_00000012.png") in out
    assert "16 test scenes" in out and "colour transfer" in out and "SSIM" in out
    return folder


def test_a_run_leaves_config_log_grids_and_checkpoints(finished: Path) -> None:
    names = {path.relative_to(finished).parts[0] for path in finished.iterdir()}
    assert names == {"config.yaml", "log.jsonl", "metrics.jsonl", "train.log", "checkpoints", "samples", "tensorboard"}
    config = yaml.safe_load((finished / "config.yaml").read_text())
    assert config["method"] == "cut" and config["ngf"] == 4 and config["steps"] == 12 and config["temperature"] == 0.07
    assert [line["step"] for line in log_of(finished) if "generator/loss" in line] == list(range(1, 13))
    grids = sorted((finished / "samples").iterdir())
    assert [grid.stem for grid in grids] == [f"step_{n:08d}" for n in (0, 4, 8, 12)]
    with Image.open(grids[0]) as first, Image.open(grids[-1]) as last:
        assert first.size == last.size == (3 * 34 + 2, 14 + 4 * 34 + 2)  # captions over source, translated, truth
        assert first.tobytes() != last.tobytes()
    figures = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in figures] == [0, 4, 8, 12]
    for distance in ("psnr", "ssim", "delta_e", "gradient"):
        values = {what: [line[f"{distance}/{what}"] for line in figures] for what in ("before", "after")}
        assert len(set(values["before"])) == 1 and len(set(values["after"])) == 4
    assert figures[0]["delta_e/colour_transfer"] < figures[0]["delta_e/before"]
    best = json.loads((finished / "checkpoints" / "best.json").read_text())
    assert best["metric"] == "psnr/after" and (finished / "checkpoints" / f"step_{best['step']:08d}.pt").exists()


def test_killed_between_checkpoints_and_resumed_gives_the_same_weights(finished: Path, tmp_path: Path) -> None:
    step = 5  # far from the last, which a busy machine may come to before the signal does
    process = start("cut", *TINY, "--steps", 12, "--save-every", 4, "--log-every", 1, "--output", tmp_path)
    wait_for_step(process, tmp_path, step)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    process = start("--resume", "--output", tmp_path)
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert_same(last_state(tmp_path), last_state(finished), f"killed near step {step}")
    assert log_of(tmp_path) == log_of(finished)
    assert (tmp_path / "metrics.jsonl").read_text() == (finished / "metrics.jsonl").read_text()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_run_after_saving(finished: Path, tmp_path: Path, number: int, status: int) -> None:
    process = start("cut", *TINY, "--steps", 4000, "--log-every", 1, "--output", tmp_path)
    wait_for_step(process, tmp_path, 2)
    process.send_signal(number)
    out, err = process.communicate()
    assert process.returncode == status and "Traceback" not in err
    step = last_state(tmp_path)["step"]
    assert 2 <= step < 4000 and f"stopped at step {step} of 4000 and saved" in out
    assert log_of(tmp_path)[-1]["step"] == step


def test_photographs_and_a_longer_run(photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (photographs / "trainA" / "broken.jpg").write_bytes(b"not an image")
    run = [*TINY, "--data", str(photographs), "--output", str(tmp_path / "run")]
    assert main(["fastcut", *run, "--epochs", "1"]) == 0
    assert last_state(tmp_path / "run")["step"] == 3
    assert not (tmp_path / "run" / "metrics.jsonl").exists()  # nobody knows the truth
    assert "broken.jpg" in (tmp_path / "run" / "train.log").read_text()
    assert main(["--resume", "--output", str(tmp_path / "run"), "--steps", "5"]) == 0
    assert last_state(tmp_path / "run")["step"] == 5
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["steps"] == 5
    assert main(["--resume", "--output", str(tmp_path / "run")]) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_a_run_is_never_overwritten(finished: Path, capsys: pytest.CaptureFixture) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    assert main(["cut", *TINY, "--output", str(finished)]) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert main(["--resume", "--output", str(finished), "--ngf", "8"]) == 2
    assert "ngf is 4 in this run and cannot become 8" in capsys.readouterr().err
    assert main(["fastcut", "--resume", "--output", str(finished)]) == 2
    assert "holds a run of cut, not of fastcut" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--foo 3", "nrecognized arguments: --foo"),
        ("nope", "METHOD must be one of cut, fastcut"),
        ("--ngf x", "--ngf"),
        ("--eval-images -1", "eval_images must be at least 0, got -1"),
        ("--steps 0", "steps must be at least 1, got 0"),
        ("--steps 3 --epochs 2", "exclude each other"),
        ("--resume", "holds no run to resume"),
        ("--resume --output {}/empty", "holds no run to resume"),
        ("--config {}/none.yaml", "none.yaml: cannot be read"),
        ("--data {}/none", "none is missing"),
        ("--data {}/empty", "trainNAME"),
        ("cut --data {}/empty", "trainA"),
        ("--precision fp16 --device cpu", "fp16 needs a GPU"),
        ("--precision fp8", "precision must be"),
        ("--device tpu", "device must be"),
        ("--batch-size 5000", "batch_size must be"),
        ("--preprocess stretch", "preprocess must be"),
        ("cut --sampling nowhere", "sampling: expected"),
        ("--ngf 0", "ngf"),
        ("cut --nce-layers [0,99]", "feature_layers"),
        ("--output {}/file", "file"),
    ],
)
def test_wrong_options_and_data_are_one_line_and_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, arguments: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("here already")
    assert main(arguments.format(tmp_path).split()) == 2
    err = capsys.readouterr().err
    assert said in err and len(err.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file"]


def test_options_come_from_the_command_line_the_file_the_preset_and_the_method(tmp_path: Path) -> None:
    file = tmp_path / "options.yaml"
    file.write_text("method: fastcut\nngf: 12\nbatch_size: 2\n")
    options = resolve(["--batch-size=3", "--config", str(file)])
    assert (options.method, options.ngf, options.batch_size) == ("fastcut", 12, 3)
    assert options.lambda_y == 0 and options.size < 256 and options.steps is not None
    assert options.output == Path("runs/fastcut")
    options = resolve(["--data", "somewhere", "cut", "--epochs", "7"])
    assert (options.method, options.ngf, options.size, options.steps, options.epochs) == ("cut", 64, 256, None, 7)


def test_help_of_a_method_explains_its_fields(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as left:
        main(["fastcut", "--help"])
    text = capsys.readouterr().out
    assert left.value.code == 0
    assert "--batch-size" in text and "--num-patches" in text and "flip-equivariance" in text and "λ_X" in text


def test_nan_stops_with_step_loss_and_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = ["cut", *TINY, "--output", str(tmp_path), "--steps", "20", "--save-every", "1", "--log-every", "1"]
    assert main([*run, "--lr", "1e30"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: step ") and "the last good checkpoint is" in error
    state = last_state(tmp_path)
    assert all(bool(value.isfinite().all()) for value in state["method"].values() if torch.is_floating_point(value))


def test_a_full_disk_is_one_line_and_loses_nothing(finished: Path, tmp_path: Path) -> None:
    limit = 4 * max(path.stat().st_size for path in finished.glob("checkpoints/step_*.pt")) // 5

    process = start(
        "cut", *TINY, "--steps", 12, "--save-every", 4, "--output", tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    _, err = process.communicate()
    assert process.returncode == 1 and "Traceback" not in err
    assert "could not be written (File too large)" in err.splitlines()[-1]
    assert not list(tmp_path.rglob("*.tmp"))
    assert last_state(tmp_path)["step"] == 0  # whose file is smaller, since the optimisers have no state yet
