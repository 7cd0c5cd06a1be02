"""Every method trains, is killed, resumes bit for bit, and translates, through the commands."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

from cgcl_fast import train, translate
from cgcl_fast._generator import read_generator
from cgcl_fast.data.streets.__main__ import main as write_streets
from cgcl_fast.engine import Trainer
from cgcl_fast.methods import METHODS

from .tiny import TINY, TINY_OF

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from engine_checks import assert_same, last_state, log_of  # noqa: E402

DOMAINS_OF = ("cgl", "cgcl")
"""Methods of any number of domains."""

TO = {"cgl": ["--domain", "night", "--style", "3"], "cgcl": ["--domain", "rainy"], "mguit": ["--style", "5"]}
"""What a method of several domains or styles is told."""


class Killed(BaseException):
    """Nothing in the engine may catch it: as with a kill, nothing is saved."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Image files with boxes: of two domains, and of one folder for each domain."""
    root = tmp_path_factory.mktemp("images")
    for layout in ("two-domain", "domains"):
        write = ["--output", str(root / layout), "--layout", layout, "--size", "48", "--count", "3"]
        assert write_streets([*write, "--test-count", "2"]) == 0
    return {method: root / ("domains" if method in DOMAINS_OF else "two-domain") for method in METHODS}


@pytest.mark.parametrize("source", ["streets", "files"])
@pytest.mark.parametrize("method", METHODS)
def test_killed_and_resumed_gives_the_same_weights(
    method: str, source: str, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, every, last = (20, 8, 11) if source == "streets" else (6, 2, 3)
    run = [method, *TINY, *TINY_OF.get(method, []), "--steps", str(steps), "--save-every", str(every)]
    if source == "files":
        run += ["--data", str(folders[method])]
    assert train.main([*run, "--output", str(tmp_path / "whole")]) == 0

    step = Trainer.train_step

    def killed(trainer: Trainer, parts: list) -> dict:
        if trainer.step == last:
            raise Killed
        return step(trainer, parts)

    monkeypatch.setattr(Trainer, "train_step", killed)
    with pytest.raises(Killed):
        train.main([*run, "--output", str(tmp_path / "killed")])
    monkeypatch.undo()
    assert last_state(tmp_path / "killed")["step"] == every
    assert train.main(["--resume", "--output", str(tmp_path / "killed")]) == 0
    assert_same(last_state(tmp_path / "killed"), last_state(tmp_path / "whole"), method)
    assert log_of(tmp_path / "killed") == log_of(tmp_path / "whole")

    of_run, alone = (
        read_generator(max((tmp_path / "killed" / "checkpoints").glob(f"step_*{suffix}"))).state_dict()
        for suffix in (".pt", ".safetensors")
    )
    assert_same(of_run, alone, method)

    photograph = tmp_path / "photograph.png"
    Image.new("RGB", (41, 38), (200, 120, 40)).save(photograph)
    out = tmp_path / "translated"
    arguments = ["--checkpoint", str(tmp_path / "killed"), "--input", str(photograph), "--output", str(out)]
    assert translate.main([*arguments, *TO.get(method, [])]) == 0
    with Image.open(out / "photograph.png") as image:
        assert image.size == (41, 38) and image.getextrema() != ((200, 200), (120, 120), (40, 40))
