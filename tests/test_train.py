"""The train command on tiny networks: its output, how it resumes, and its errors about wrong options."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import termios
import time
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
import yaml
from hostile import NO_FILES, no_waiting
from PIL import Image

from cgcl_fast._command import UsageError, run
from cgcl_fast._train_options import RunOptions, make_parser, resolve
from cgcl_fast.engine import Trainer
from cgcl_fast.methods import METHODS
from cgcl_fast.methods.base import check_networks
from cgcl_fast.train import main

sys.path.insert(0, str(Path(__file__).parent / "engine"))
from engine_checks import assert_same, last_state, log_of  # noqa: E402
from photographs import write_folders  # noqa: E402

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


def start(*arguments: object, variables: dict[str, str] | None = None, **more: object) -> subprocess.Popen:
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", **(variables or {})}
    command = [sys.executable, "-m", "cgcl_fast.train", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=environment, text=True, **{**pipes, **more})  # type: ignore[call-overload]


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

    def plain(folder: int, number: int) -> Image.Image:
        return Image.new("RGB", (40 + number, 36), (80 * folder, 60 * number, 200 - 60 * folder))

    return write_folders(tmp_path_factory.mktemp("photographs"), ("trainA", "trainB", "testA", "testB"), 3, plain)


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
    files = {"config.yaml", "environment.json", "log.jsonl", "metrics.jsonl", "train.log"}
    assert names == files | {"checkpoints", "samples", "tensorboard"}
    assert json.loads((finished / "environment.json").read_text())["versions"]["torch"] == torch.__version__
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


def test_a_closed_terminal_ends_the_run_after_saving(tmp_path: Path) -> None:
    """What is printed afterwards fails, and changes nothing."""

    def has_terminal() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # pytest may run under nohup
        fcntl.ioctl(1, termios.TIOCSCTTY, 0)

    ours, theirs = os.openpty()
    process = start(
        "cut", *TINY, "--steps", 4000, "--log-every", 1, "--output", tmp_path,
        stdin=theirs, stdout=theirs, start_new_session=True, preexec_fn=has_terminal,
    )  # fmt: skip
    os.close(theirs)
    wait_for_step(process, tmp_path, 2)
    os.close(ours)
    _, err = process.communicate()
    assert process.returncode == 129 and "Traceback" not in err, err
    assert 2 <= last_state(tmp_path)["step"] == log_of(tmp_path)[-1]["step"] < 4000


def test_an_interrupt_before_training_is_one_line_and_a_second_one_ends_at_once(capsys: pytest.CaptureFixture) -> None:
    before = signal.getsignal(signal.SIGINT)

    def command(_: object) -> int:
        try:
            signal.raise_signal(signal.SIGINT)
            return 0
        finally:
            assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL

    assert run(command, []) == 130
    assert capsys.readouterr().err == "error: interrupted\n" and signal.getsignal(signal.SIGINT) == before


def test_more_workers_than_the_processors_can_serve_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert RunOptions(workers=32).workers == 32
    with pytest.raises(ValueError, match="workers: expected at most 32 beside 8 processors, got 33"):
        RunOptions(workers=33)


def test_a_signal_while_the_command_loads_leaves_no_traceback(tmp_path: Path) -> None:
    process = start("cut", *TINY, "--output", tmp_path / "run")
    maps, deadline = Path(f"/proc/{process.pid}/maps"), time.monotonic() + 120
    while "libtorch" not in maps.read_text():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode in (130, -signal.SIGINT) and "Traceback" not in err and out == ""


@pytest.mark.parametrize(
    ("number", "timeout", "said"),
    [(signal.SIGKILL, 300, "has ended"), (signal.SIGSTOP, 20, "did not answer in time (--timeout)")],
)
def test_a_process_that_is_gone_ends_the_others_with_one_line(
    tmp_path: Path, number: int, timeout: int, said: str
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    run = ["cut", *TINY, "--eval-images", 0, "--steps", 4000, "--log-every", 1, "--output", tmp_path]
    run += ["--timeout", timeout]
    processes = [start(*run, variables={**group, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(2)]
    wait_for_step(processes[0], tmp_path, 2)
    processes[1].send_signal(number)
    out, err = processes[0].communicate()
    processes[1].kill()
    processes[1].communicate()
    assert processes[0].returncode == 1 and "Traceback" not in err, err
    assert f"error: process 0 of 2: another process {said}" in err.splitlines()[-1]
    assert not list(tmp_path.glob(".lock"))


def test_a_killed_worker_is_one_line_and_what_was_trained_is_saved(tmp_path: Path) -> None:
    process = start("cut", *TINY, "--steps", 4000, "--log-every", 1, "--workers", 1, "--output", tmp_path)
    wait_for_step(process, tmp_path, 2)
    (worker,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(worker), signal.SIGKILL)
    _, err = process.communicate()
    assert process.returncode == 1 and "Traceback" not in err
    assert f"process {worker} that loads data was killed" in err.splitlines()[-1]
    assert last_state(tmp_path)["step"] == log_of(tmp_path)[-1]["step"] >= 2


def test_photographs_and_a_longer_run(photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = Path(shutil.copytree(photographs, tmp_path / "photographs"))
    (data / "trainA" / "broken.jpg").write_bytes(b"not an image")
    run = [*TINY, "--data", str(data), "--output", str(tmp_path / "run")]
    assert main(["fastcut", *run, "--epochs", "1", "--decay-epochs", "0"]) == 0
    assert last_state(tmp_path / "run")["step"] == 3
    assert not (tmp_path / "run" / "metrics.jsonl").exists()  # nobody knows the truth
    assert "broken.jpg" in (tmp_path / "run" / "train.log").read_text()
    assert main(["--resume", "--output", str(tmp_path / "run"), "--steps", "5"]) == 0
    assert last_state(tmp_path / "run")["step"] == 5
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["steps"] == 5
    assert main(["--resume", "--output", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "nothing to do" in out and f"A: 3 images in {data / 'trainA'}\nB: 3 images in {data / 'trainB'}\n" in out


@pytest.mark.parametrize(
    ("name", "status"), [("log.jsonl", 1), ("metrics.jsonl", 1), ("train.log", 2), ("config.yaml", 2)]
)
def test_a_pipe_in_a_run_is_not_waited_for(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture, name: str, status: int
) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with no_waiting():
        assert main(["--resume", "--output", str(folder), "--steps", "13"]) == status
    err = capsys.readouterr().err.replace("cannot be read (", "")
    assert f"{name}: a named pipe, not a regular file" in err and "Traceback" not in err
    assert last_state(folder)["step"] == 12


@pytest.mark.parametrize("kind", NO_FILES)
def test_a_config_that_is_no_file_is_not_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture, kind: str) -> None:
    NO_FILES[kind](tmp_path / "some.yaml")
    for option in (["--config", str(tmp_path / "some.yaml")], [f"--config={tmp_path / 'some.yaml'}"]):
        with no_waiting():
            assert main([*option, "--output", str(tmp_path / "run")]) == 2
        assert f"some.yaml: cannot be read ({kind}, not a regular file)" in capsys.readouterr().err


@pytest.mark.parametrize("workers", [0, 2])
def test_data_that_vanish_are_one_line_after_saving_and_resume_goes_on(
    photographs: Path, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    data, away = tmp_path / "data", tmp_path / "away"
    shutil.copytree(photographs, data)
    run = ["cut", *TINY, "--data", str(data), "--steps", "30", "--save-every", "20", "--workers", str(workers)]
    assert main([*run, "--output", str(tmp_path / "whole")]) == 0
    train_step = Trainer.train_step

    def vanishing(self: Trainer, parts: list) -> dict:
        if self.step == 2:
            data.rename(away)
        return train_step(self, parts)

    monkeypatch.setattr(Trainer, "train_step", vanishing)
    capfd.readouterr()
    assert main([*run, "--output", str(tmp_path / "run")]) == 1
    err = capfd.readouterr().err
    step = last_state(tmp_path / "run")["step"]
    assert 3 <= step < 20 and (workers or step == 3)
    last = err.splitlines()[-1]
    assert last.startswith(f"error: step {step}: the data have come to an end: none of the 3 image files in {data}")
    assert f"step_{step:08d}.pt; --resume goes on" in last and "No such file" in last and "Traceback" not in err
    monkeypatch.setattr(Trainer, "train_step", train_step)
    away.rename(data)
    assert main(["--resume", "--output", str(tmp_path / "run")]) == 0
    assert_same(last_state(tmp_path / "run"), last_state(tmp_path / "whole"))


def test_names_of_files_forge_no_line_of_the_log(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Line breaks, escape sequences and bytes that are no Unicode, in the names of images and folders."""
    shutil.copytree(photographs, tmp_path / "data\n\x1b[2J")
    bad = os.fsdecode(b"bad\nerror: forged\r\x1b[31m\xff.png")
    (tmp_path / "data\n\x1b[2J" / "trainA" / bad).write_bytes(b"no image")
    output = tmp_path / "run\nerror: forged\x1b[2J"
    where = ["--data", str(tmp_path / "data\n\x1b[2J"), "--output", str(output)]
    assert main(["cut", *TINY, *where, "--steps", "1"]) == 0
    out, err = capsys.readouterr()
    log = (output / "train.log").read_text(encoding="utf-8")
    for text in (out, err, log):
        assert "\x1b" not in text and not any(line.startswith("error") for line in text.splitlines())
        assert text.isascii() or text == err  # the bar
    assert r"bad\nerror: forged\r\x1b[31m\udcff.png: not a JPEG" in log and r"run\nerror: forged\x1b[2J" in out
    assert main(["cut", *TINY, *where, "--steps", "1"]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1 and "\x1b" not in err and "already holds a run" in err


def test_a_run_goes_on_with_graphs_or_without(finished: Path) -> None:
    assert yaml.safe_load((finished / "config.yaml").read_text())["graphs"] == "auto"
    assert resolve(["--resume", "--output", str(finished), "--graphs", "off"]).graphs == "off"


def test_a_run_is_never_overwritten(finished: Path, capsys: pytest.CaptureFixture) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    assert main(["cut", *TINY, "--output", str(finished)]) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert main(["--resume", "--output", str(finished), "--ngf", "8"]) == 2
    assert "ngf is 4 in this run and cannot become 8" in capsys.readouterr().err
    assert main(["--resume", "--output", str(finished), "--antialias", "false"]) == 2
    assert "antialias is True in this run and cannot become False" in capsys.readouterr().err
    assert main(["fastcut", "--resume", "--output", str(finished)]) == 2
    assert "holds a run of cut, not of fastcut" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--foo 3", "nrecognized arguments: --foo"),
        ("nope", "METHOD must be one of cut, fastcut"),
        ("--method nope", "METHOD must be one of cut, fastcut"),
        ("cut --method cgl", "--method: expected METHOD, cut, got cgl"),
        ("--ngf x", "--ngf"),
        ("--eval-images -1", "eval_images: expected an integer from 0 to 1000000000, got -1"),
        ("--steps 0", "steps: expected an integer from 1 to 1000000000 or none, got 0"),
        ("--steps 1000000000000000000000000000000", "steps: expected"),
        ("--steps 1e30", "--steps: expected one of int, none, got 1e30"),
        ("--config", "argument --config: expected one argument"),
        ("--keep 0", "keep: expected"),
        ("--limit -1", "limit: expected"),
        ("cut --size 8 --d-layers 1 --data {}/truth", "size: comparing with the truth needs images of at least 11x11"),
        ("--seed 4294967296", "seed: expected"),
        ("--size 4", "size of the built-in streets must be 32 to 1024, got 4"),
        ("cut --size 4 --data {}/photographs", "images of at least 24x24 pixels, got 4x4"),
        ("--size 1000000000", "size: expected"),
        ("cut --load-size 4", "load_size must be at least size"),
        ("cut --size 8 --d-layers 2 --data {}/photographs", "need images of at least 12x12 pixels, got 8x8"),
        ("mguit --size 32 --data {}/photographs --memory single", "at least 64x64 pixels, got 32x32"),
        ("cut --d-layers 50", "d_layers: expected an integer from 1 to 16, got 50"),
        ("cut --d-layers 7", "at least 384x384 pixels, got 64x64"),
        ("cgl --d-layers 16", "object_size: expected a multiple of 4, at least 65536 for 16 d_layers, got 32"),
        ("cgcl --d-layers 12 --object-size 4096 --ngf 64 --ndf 64", "GiB to train, and this machine has"),
        ("cut --n-blocks 100000000", "n_blocks: expected an integer from 0 to 256, got 100000000"),
        ("cut --n-blocks -1", "n_blocks: expected"),
        ("cut --n-down 3", "n_down: expected an integer from 1 to 2, got 3"),
        ("cut --num-patches -5", "num_patches: expected"),
        ("cut --num-patches 0", "num_patches: expected"),
        ("cut --temperature 0", "temperature: expected a number from 1e-06 to 1e+06, got 0.0"),
        ("cut --temperature .nan", "temperature: expected a number from 1e-06 to 1e+06, got nan"),
        ("cut --beta1 2", "beta1: expected a number from 0 to below 1, got 2.0"),
        ("cut --lr 1e300", "lr: expected a number from 0 to 1e+30, got 1e+300"),
        ("cut --lr -1", "lr: expected"),
        ("cut --lr .inf", "lr: expected"),
        ("cut --lambda-x -1", "lambda_x: expected a number from 0 to 1e+30, got -1.0"),
        ("cut --queue-size 1000000000000 --negatives both", "queue_size: expected"),
        ("cut --input-nc 1 --output-nc 1", "input_nc: images are read with 3 channels, got 1"),
        ("cut --nce-layers []", "nce_layers: expected at least one layer, got none"),
        ("cut --nce-layers [4,0]", "nce_layers: expected layers in ascending order"),
        ("cut --nce-layers 0,x", "--nce_layers: expected int, got x"),
        ("cut --nce-layers --ngf 3", "--nce_layers: expected one argument"),
        ("cut --nce-layers " + "[" * 100_000, "--nce_layers"),
        ("enco --importance 1.5", "importance: expected a number from 0 to 1, got 1.5"),
        ("enco --scales []", "scales: expected some of 1, 2"),
        ("mguit --items [5,3,0]", "items: expected"),
        ("mguit --classes []", "items: expected a number for each of the 0 classes, got 3"),
        ("mguit --classes [1,1,2]", "classes: expected different names, got "),
        ("mguit --classes [] --items []", "classes must be one or more names"),
        ("cgl --domains [sunny,sunny]", "domains: expected different names, got"),
        ("cgl --domains [sunny]", "domains: expected two or more different names, got sunny"),
        ("cgl --gp-lower 2", "gp_lower: expected at most gp_upper 1.05, got 2.0"),
        ("cgl --gp-min 2000", "gp_min: expected at most gp_max 1000.0, got 2000.0"),
        ("sincut --num-crops 0", "num_crops: expected"),
        ("sincut --crop-size 0", "crop_size: expected an integer from 8 to 4096 or none, got 0"),
        ("sincut --crop-size 8", "tile_size: expected a power of two and at least 8, got 4"),
        ("sincut --min-width 2000", "min_width 2000"),
        ("--data {}/file", "file is missing or no folder"),
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
        ("--graphs on --device cpu", "graphs must be auto or off here, got 'on': device cpu has no CUDA graphs"),
        ("--graphs yes", "graphs must be auto, on or off, got 'yes'"),
        ("--batch-size 5000", "batch_size must be"),
        ("--preprocess stretch", "preprocess must be"),
        ("cut --sampling nowhere", "--sampling: expected"),
        ("--ngf 0", "ngf"),
        ("cut --nce-layers [0,99]", "nce_layers: expected numbers from 0 to 19, got [0, 99]"),
        ("--output {}/file", "file"),
    ],
)
def test_wrong_options_and_data_are_one_line_and_status_2(
    photographs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    arguments: str,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("here already")
    (tmp_path / "photographs").symlink_to(photographs)
    (tmp_path / "truth").mkdir()
    for name in ("trainA", "trainB", "testA", "testB", "truth"):
        (tmp_path / "truth" / name).symlink_to(photographs / name.replace("truth", "testB"))
    assert main(arguments.format(tmp_path).split()) == 2
    err = capsys.readouterr().err
    assert said in err and len(err.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "photographs", "truth"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("method: [cut]\n", "options.yaml: method must be a name, got list"),
        ("method: nope\n", "METHOD must be one of"),
        ("output: 3\n", "options.yaml: output must be a name, got int"),
        ("resume: true\n", "options.yaml: resume is for the command line only"),
        ("config: other.yaml\n", "options.yaml: config is for the command line only"),
        ("[1, 2]\n", "options.yaml: must hold options as 'name: value', got list"),
        ("1: 2\n", "options.yaml: must hold options as 'name: value'"),
        ("ngf: 4\nngf: 5\n", "options.yaml: cannot be read ('ngf' stands there twice, line 2)"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nnce_layers: [*b, *b]\n", "aliases and tags are not read, line 2"),
        ("ngf: " + "[" * 100_000, "options.yaml: cannot be read ("),
        ("ngf: " + "[" * 40 + "]" * 40, "options.yaml: cannot be read (nested more than 32 deep, line 1)"),
        ("ngf: " + "[" * 30 + "]" * 30, "--ngf: expected"),
        ("foo: 3\n", "foo"),
        ("lr: .nan\n", "lr: expected a number from 0 to 1e+30, got nan"),
        ("lr: x\n", "--lr: expected"),
        ("#" * 2**21, "options.yaml: cannot be read (more than 1024 KiB)"),
    ],
)
def test_hostile_files_of_options_are_one_line_and_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, text: str, said: str
) -> None:
    """In a file for --config, and in the config.yaml of a run that is to be resumed."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "options.yaml"
    file.write_text(text)
    assert main(["--config", str(file)]) == 2
    err = capsys.readouterr().err
    assert said in err and len(err.splitlines()) == 1 and len(err) < 1000
    assert list(tmp_path.iterdir()) == [file]
    file.rename(tmp_path / "config.yaml")
    assert main(["--resume", "--output", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == [tmp_path / "config.yaml"]


HOSTILE = (".nan", ".inf", "-1", "0", "1" + "0" * 30, "x")


parser_of = cache(make_parser)
"""For its speed; what else resolve does is the same for all values."""


def numeric_options() -> list[tuple[str, str]]:
    """(method, option) for every number of every method's options and of the run's, each where it is defined."""
    found = {name: ("cgcl", hint) for name, hint in get_type_hints(RunOptions).items()}
    for method in ("cyclegan", "cut", "sincut", "enco", "mguit", "cgl", "cgcl"):
        found |= {f"{method}.{name}": (method, hint) for name, hint in get_type_hints(METHODS[method].Config).items()}
    inherited = {f"cgcl.{name}" for name in get_type_hints(METHODS["cgl"].Config)}
    numbers = {int, float, tuple[int, ...]}
    return [
        (method, key.rpartition(".")[2])
        for key, (method, hint) in found.items()
        if key not in inherited and not key.endswith(".epochs") and numbers & {hint, *get_args(hint)}
    ]


@pytest.mark.parametrize(("method", "option"), numeric_options())
def test_any_number_is_refused_by_name_or_gives_networks(method: str, option: str, tmp_path: Path) -> None:
    """Not-a-number, infinities, negative, zero, huge and no number: a UsageError or ValueError that names the option,
    or options that networks can be built with. A rate or weight of 1e30 is a number like others."""
    parser = parser_of(method)
    for value in HOSTILE:
        try:
            options = parser.parse_args([f"--{option}={value}"])
            RunOptions(**{field.name: options[field.name] for field in fields(RunOptions)})
            config = METHODS[method].Config(
                **{f.name: options[f.name] for f in fields(METHODS[method].Config) if f.name != "epochs"}
            )
            check_networks(METHODS[method], config)
        except (UsageError, ValueError) as error:
            assert option in str(error) and "\n" not in str(error)
        else:
            assert value == "0" or (value[0] == "1" and isinstance(options[option], float)), f"{value} was taken"


def test_options_come_from_the_command_line_the_file_the_preset_and_the_method(tmp_path: Path) -> None:
    file = tmp_path / "options.yaml"
    file.write_text("method: fastcut\nngf: 12\nbatch_size: 2\n")
    options = resolve(["--batch-size=3", "--config", str(file)])
    assert (options.method, options.ngf, options.batch_size) == ("fastcut", 12, 3)
    assert options.lambda_y == 0 and options.size < 256 and options.steps is not None
    assert options.output == Path("runs/fastcut")
    options = resolve(["--data", "somewhere", "cut", "--epochs", "7"])
    assert (options.method, options.ngf, options.size, options.steps, options.epochs) == ("cut", 64, 256, None, 7)
    assert resolve(["--lambda-y=0.5", "--method", "fastcut"]).lambda_y == 0.5
    assert resolve(["--method", "fastcut"]).method == resolve(["fastcut", "--method", "fastcut"]).method == "fastcut"


@pytest.mark.parametrize(
    ("arguments", "name", "expected"),
    [
        ("cut --nce-layers 0,4,8", "nce_layers", (0, 4, 8)),
        ("cut --nce-layers=16", "nce_layers", (16,)),
        ("cut --nce_layers [0,4]", "nce_layers", (0, 4)),
        ("enco --scales 1,2 --ngf 4", "scales", (1, 2)),
        ("cgl --domains sunny,night", "domains", ("sunny", "night")),
        ("mguit --classes 1,2,car", "classes", (1, 2, "car")),
        ("mguit --items 3,2,1 --classes [a,b,c]", "items", (3, 2, 1)),
    ],
)
def test_lists_go_with_brackets_or_without(arguments: str, name: str, expected: tuple) -> None:
    assert resolve(arguments.split())[name] == expected


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
