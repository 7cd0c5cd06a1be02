"""Trainings on tars: those on the same files in folders, also where they are interrupted."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cgcl_fast.engine import Trainer
from cgcl_fast.train import main

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "data"), str(HERE / "engine")]
from engine_checks import assert_same, last_state  # noqa: E402
from photographs import write_folders  # noqa: E402
from tar_files import pack, write_tar  # noqa: E402

TINY = ["--size", "32", "--ngf", "4", "--ndf", "4", "--n-blocks", "1", "--device", "cpu"]
METHODS = {
    "fastcut": (("A", "B"), ["--nce-layers", "[0,4,8]", "--num-patches", "16", "--nce-dim", "8"]),
    "cgl": (("day", "dusk", "night"), []),
}


@pytest.mark.usefixtures("tar_cache")
@pytest.mark.parametrize(("method", "workers"), [("fastcut", 2), ("cgl", 0)])
def test_resumed_on_tars_is_bit_for_bit_what_folders_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, method: str, workers: int
) -> None:
    domains, options = METHODS[method]
    names = [f"train{name}" for name in domains]
    noise = np.random.RandomState(0)
    loose, data = tmp_path / "loose", tmp_path / "data"
    loose.mkdir()
    write_folders(loose, names, 5, lambda *_: Image.fromarray(noise.randint(0, 256, (40, 36, 3)).astype(np.uint8)))
    for name in names:
        pack(loose / name, data / f"{name}-000000.tar")
    run = [method, "--preset", "small", *TINY, *options, "--steps", "7", "--save-every", "4", "--workers", str(workers)]
    assert main([*run, "--data", str(loose), "--output", str(tmp_path / "whole")]) == 0
    changed, kept = data / f"{names[0]}-000000.tar", tmp_path / "kept.tar"
    train_step = Trainer.train_step

    def interrupted(self: Trainer, parts: list) -> dict:
        if self.step == 2:
            changed.rename(kept)
            write_tar(changed, {"0.png": b"another one"})
        return train_step(self, parts)

    monkeypatch.setattr(Trainer, "train_step", interrupted)
    assert main([*run, "--data", str(data), "--output", str(tmp_path / "run")]) == 1
    err = capsys.readouterr().err
    assert f"{changed} has changed since its members were listed: start again" in err and "Traceback" not in err
    assert 3 <= last_state(tmp_path / "run")["step"] < 7
    monkeypatch.setattr(Trainer, "train_step", train_step)
    shutil.move(kept, changed)
    assert main(["--resume", "--output", str(tmp_path / "run")]) == 0
    assert_same(last_state(tmp_path / "run"), last_state(tmp_path / "whole"))


def test_tars_that_cannot_be_read_end_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for name in "AB":
        (tmp_path / f"train{name}.tar").write_bytes(b"\x1f\x8b no tar")
    assert main(["cut", "--data", str(tmp_path), "--output", str(tmp_path / "run")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "trainA.tar is compressed (gzip)" in lines[-1] and not (tmp_path / "run").exists()
