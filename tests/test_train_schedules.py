"""``--epochs``, ``--decay-epochs`` and ``--steps`` of the train command: the learning rate of every step, and how
images are cropped and flipped in each phase."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from cgcl_fast._train_options import resolve
from cgcl_fast.data import Preprocess
from cgcl_fast.engine import Outcome, Trainer
from cgcl_fast.train import main

sys.path.insert(0, str(Path(__file__).parent / "engine"))
from engine_checks import assert_same, last_state, log_of  # noqa: E402
from photographs import write_folders  # noqa: E402

IMAGES = 3
CUT = "--ngf 4 --ndf 4 --n-blocks 1 --nce-layers [0,4,8] --num-patches 16 --nce-dim 8 --size 32"
ENCO = "--ngf 4 --ndf 4 --n-blocks 5 --num-patches 16 --nce-dim 8 --size 32"
CYCLEGAN = "--ngf 4 --ndf 4 --n-blocks 1 --size 32"


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two domains of noise, so that each crop is another image."""
    generator = np.random.RandomState(0)

    def noise(folder: int, number: int) -> Image.Image:
        image = Image.fromarray(generator.randint(0, 256, (48, 60, 3)).astype(np.uint8))
        return image.resize((240, 192), Image.Resampling.BICUBIC)

    return write_folders(tmp_path_factory.mktemp("photographs"), ("trainA", "trainB"), IMAGES, noise)


Start = Callable[[str], Trainer]


@pytest.fixture
def start(photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """The trainer that the command makes of options on the photographs; nothing is trained."""
    started: list[Trainer] = []

    def note(self: Trainer, *, resume: bool = False) -> Outcome:
        started.append(self)
        return Outcome(0, None, None, None)

    monkeypatch.setattr(Trainer, "fit", note)

    def run(options: str) -> Trainer:
        where = ["--data", str(photographs), "--output", str(tmp_path / str(len(started)))]
        assert main([*options.split(), "--device", "cpu", "--workers", "0", *where]) == 0
        return started[-1]

    return run


def rule(e: int, n: int, n_decay: int, n_warmup: int = 0) -> float:
    """The published one, of epoch e from 0."""
    return (e + 1) / n_warmup if e < n_warmup else 1 - max(0, e + 1 - n) / (n_decay + 1)


@pytest.mark.parametrize(
    ("options", "full", "decay", "warmup", "stairs"),  # in steps, and those of a stair
    [
        (f"cut {CUT} --epochs 4 --decay-epochs 2", 12, 6, 0, 1),
        (f"cut {CUT} --epochs 4 --decay-epochs 2 --lr-interval epoch", 12, 6, 0, 3),
        (f"fastcut {CUT} --epochs 1 --decay-epochs 3 --batch-size 3", 1, 3, 0, 1),
        (f"fastcut {CUT} --epochs 1", 3, 150, 0, 1),
        (f"cut {CUT} --decay-epochs 0", 600, 0, 0, 1),
        (f"cut {CUT} --steps 30", 15, 15, 0, 1),
        (f"fastcut {CUT} --steps 40 --lr-policy constant", 40, 0, 0, 1),
        (f"enco {ENCO} --epochs 100 --warmup-epochs 20 --lr-interval epoch", 300, 300, 60, 3),
        (f"enco {ENCO} --epochs 5 --decay-epochs 5 --warmup-epochs 1 --accumulate 3", 5, 5, 1, 1),
        (f"cyclegan {CYCLEGAN} --steps 12 --decay-epochs 50", 8, 4, 0, 1),
    ],
)
def test_the_learning_rate_of_every_step(
    start: Start, options: str, full: int, decay: int, warmup: int, stairs: int
) -> None:
    trainer = start(options)
    assert trainer.options.steps == full + decay
    units = [count // stairs for count in (full, decay, warmup)]
    expected = [rule(step // stairs, *units) for step in range(full + decay)]
    assert [trainer.schedule(step) for step in range(full + decay)] == pytest.approx(expected)


@pytest.mark.parametrize(("name", "steps"), [("cgl", 6), ("cgcl", 6)])
def test_methods_with_another_decay_keep_it(start: Start, name: str, steps: int) -> None:
    small = "--ngf 4 --ndf 4 --n-blocks 1 --d-layers 2 --object-size 16 --size 32 --mlp-dim 8 --batch-size 1"
    trainer = start(f"{name} {small} --domains [A,B] --epochs 2 --halve-every 2")
    assert trainer.options.steps == steps
    assert [trainer.schedule(step) for step in range(steps)] == [1, 1, 0.5, 0.5, 0.25, 0.25]
    assert "lr_policy" not in trainer.config["config"] and trainer.config["config"]["epochs"] == 2


def views(trainer: Trainer, photographs: Path, side: int) -> list[tuple[bool, bool]]:
    """For each A of the training: whether it is cropped, and whether it is flipped if it is not."""
    whole = Preprocess("resize_and_crop", size=side, train=False)
    found = []
    batches = iter(trainer._endless())
    for _ in range(trainer.options.steps * trainer.options.accumulate):
        batch = next(batches)
        for path, image in zip(batch["A_paths"], batch["A"], strict=True):
            plain = whole(Image.open(photographs / "trainA" / Path(path).name))
            flipped = torch.equal(image, plain.flip(-1))
            found.append((not flipped and not torch.equal(image, plain), flipped))
    return found


@pytest.mark.parametrize(
    ("options", "cropped"),
    [
        (f"cut {CUT} --epochs 4 --decay-epochs 6", 12),
        (f"fastcut {CUT} --epochs 2 --decay-epochs 8", 6),
        (f"fastcut {CUT} --steps 24", 18),
        (f"cut {CUT} --epochs 4 --decay-epochs 6 --lr-policy constant --accumulate 3", 12),
        (f"enco {ENCO} --epochs 3 --decay-epochs 5", 9),
        (f"cut {CUT} --epochs 2 --decay-epochs 2 --full-view-in-decay false", 12),
        (f"cyclegan {CYCLEGAN} --epochs 2 --decay-epochs 2", 12),
    ],
)
def test_images_are_cropped_until_they_are_seen_whole(
    start: Start, photographs: Path, options: str, cropped: int
) -> None:
    found = views(start(options), photographs, 32)
    assert [crop for crop, _ in found] == [True] * cropped + [False] * (len(found) - cropped)
    flips = [flipped for crop, flipped in found if not crop]
    assert len(flips) < 12 or len(flips) / 5 < sum(flips) < len(flips) * 4 / 5


def test_cgl_and_cgcl_see_whole_images_that_are_never_flipped(start: Start, photographs: Path) -> None:
    for name in ("cgl", "cgcl"):
        small = "--ngf 4 --ndf 4 --n-blocks 1 --d-layers 2 --object-size 16 --size 32 --mlp-dim 8 --batch-size 1"
        trainer = start(f"{name} {small} --domains [A,B] --epochs 4")
        whole = Preprocess("resize_and_crop", size=32, train=False)
        batches = trainer._endless()
        for _ in range(12):
            batch = next(batches)
            for domain in "AB":
                assert torch.equal(batch[domain][0], whole(Image.open(batch[f"{domain}_paths"][0])))


def test_resuming_in_the_decay_sees_whole_images_and_changes_nothing(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """A run of 2 + 2 epochs, and one that is stopped after 9 of its 12 steps."""
    whole = Preprocess("resize_and_crop", size=32, train=False)
    seen: list[list[bool]] = []
    train_step = Trainer.train_step

    def note(self: Trainer, parts: list) -> dict:
        plain = whole(Image.open(parts[0]["A_paths"][0]))
        seen[-1].append(any(torch.equal(parts[0]["A"][0], one) for one in (plain, plain.flip(-1))))
        if len(seen) == 2 and self.step == 9:
            raise OSError("as if the disk were full")
        return train_step(self, parts)

    monkeypatch.setattr(Trainer, "train_step", note)
    run = f"cut {CUT} --epochs 2 --decay-epochs 2 --save-every 3 --log-every 1 --device cpu --workers 0".split()
    run += ["--data", str(photographs), "--output"]
    seen.append([])
    assert main([*run, str(tmp_path / "whole")]) == 0
    assert "learning rate: is full until step 6, then decays to zero" in capsys.readouterr().out
    seen.append([])
    assert main([*run, str(tmp_path / "run")]) == 1
    seen.append([])
    assert main(["--resume", "--output", str(tmp_path / "run")]) == 0
    assert seen == [[False] * 6 + [True] * 6, [False] * 6 + [True] * 4, [True] * 3]
    assert_same(last_state(tmp_path / "run"), last_state(tmp_path / "whole"))
    rates = [line["lr/generator"] for line in log_of(tmp_path / "run") if "lr/generator" in line]
    assert rates == pytest.approx([2e-4 * rule(step, 6, 6) for step in range(12)])


def lengths(*arguments: object) -> tuple[int | None, int | None, int]:
    options = resolve([str(argument) for argument in arguments])
    return options.steps, options.epochs, options.decay_epochs


def test_steps_or_epochs_of_the_command_line_take_the_place_of_others(tmp_path: Path) -> None:
    def saved(**options: object) -> None:
        (tmp_path / "config.yaml").write_text(yaml.safe_dump({"method": "cut", "lr_policy": "linear", **options}))

    for name in (["--resume", "--output", tmp_path], ["--config", tmp_path / "config.yaml"]):
        saved(steps=None, epochs=4, decay_epochs=2)
        assert lengths(*name) == (None, 4, 2)
        assert lengths(*name, "--steps", 90) == (90, 4, 2)
        assert lengths(*name, "--decay-epochs", 5) == (None, 4, 5)
        saved(steps=90, epochs=4, decay_epochs=2)
        assert lengths(*name) == (90, 4, 2)
        assert lengths(*name, "--epochs", 7) == (None, 7, 2)
    assert lengths("cut", "--epochs", 7) == (None, 7, 200)  # the small preset, of 1500 steps
    assert lengths("cut", "--decay-epochs", 0) == (1500, None, 0)


@pytest.mark.parametrize(
    ("before", "now"), [((10, 200), (5, 5)), ((4, 2), (4, 0)), ((1, 200), (1, 0)), ((-4, 2), None), (("x", 2), None)]
)
def test_runs_of_earlier_versions_keep_their_length(
    tmp_path: Path, capsys: pytest.CaptureFixture, before: tuple[object, int], now: tuple[int, int] | None
) -> None:
    """Whose ``epochs`` were those of the whole training, in which the rate decayed as in the paper's 200 + 200."""
    saved = {"method": "cut", "steps": None, "epochs": before[0], "decay_epochs": before[1]}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(saved))
    if now is None:
        assert main(["--resume", "--output", str(tmp_path)]) == 2
        assert "epochs" in capsys.readouterr().err
    else:
        assert lengths("--resume", "--output", tmp_path) == (None, *now)
    saved = {"method": "cgl", "steps": None, "epochs": 7}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(saved))
    assert resolve(["--resume", "--output", str(tmp_path)]).epochs == 7


def test_a_warm_up_that_does_not_fit_is_one_line(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = f"cut {CUT} --epochs 4 --warmup-epochs 5 --data {photographs} --output {tmp_path / 'run'}"
    assert main(run.split()) == 2
    assert capsys.readouterr().err == "error: warmup_epochs: expected at most epochs 4, got 5\n"
    assert not (tmp_path / "run").exists()
