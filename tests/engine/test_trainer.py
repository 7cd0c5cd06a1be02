"""The training loop: what it saves is enough to go on exactly, whatever ended it."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_checks import assert_same, last_state, log_of
from toy_run import Noise, Plain, make_trainer

from cgcl_fast.data import build_loader, open_dataset
from cgcl_fast.data.sampler import epoch_order
from cgcl_fast.engine import CheckpointError, LoaderError, NonFiniteError, Options, Trainer, make_accelerator
from cgcl_fast.engine.log import RunLog
from cgcl_fast.methods.enco import EnCo, EnCoConfig

pytestmark = pytest.mark.usefixtures("one_thread")

SCRIPT = Path(__file__).with_name("toy_run.py")


def run_toy(*arguments: object, launch: Sequence[str] = ()) -> subprocess.CompletedProcess:
    root = str(SCRIPT.parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launch, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


def assert_close_weights(left: dict, right: dict) -> None:
    assert left.keys() == right.keys()
    for name in left.keys() - {"calls"}:
        torch.testing.assert_close(left[name], right[name], rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 10 steps that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    make_trainer(folder, 10).fit()
    return folder


def test_a_run_leaves_log_grids_checkpoints_and_tensorboard(whole: Path) -> None:
    assert [line["step"] for line in log_of(whole)] == list(range(1, 11))
    assert {"discriminator/loss", "generator/loss", "generator/adversarial", "lr/generator"} <= log_of(whole)[0].keys()
    assert [p.name for p in sorted((whole / "samples").iterdir())] == [f"step_{n:08d}.png" for n in (0, 3, 6, 9, 10)]
    names = [p.name for p in sorted((whole / "checkpoints").iterdir())]
    assert names == [f"step_{n:08d}.{s}" for n in (6, 9, 10) for s in ("pt", "safetensors")]
    assert any((whole / "tensorboard").iterdir())


@pytest.mark.parametrize("step", [2, 8])
def test_killed_and_resumed_is_the_uninterrupted_run_bit_for_bit(tmp_path: Path, whole: Path, step: int) -> None:
    killed = run_toy(tmp_path, 10, "fresh", "kill", step)
    assert killed.returncode == -signal.SIGKILL
    make_trainer(tmp_path, 10).fit(resume=True)
    assert_same(last_state(tmp_path), last_state(whole))
    assert log_of(tmp_path) == log_of(whole)


def test_sigterm_finishes_the_step_saves_and_goes_on_exactly(tmp_path: Path, whole: Path) -> None:
    outcome = make_trainer(tmp_path, 10, trouble=("term", 5)).fit()
    assert (outcome.step, outcome.signal) == (5, signal.SIGTERM)
    assert last_state(tmp_path)["step"] == 5
    make_trainer(tmp_path, 10).fit(resume=True)
    assert_same(last_state(tmp_path), last_state(whole))


def test_a_longer_run_goes_on_from_a_finished_one(tmp_path: Path) -> None:
    make_trainer(tmp_path, 4).fit()
    outcome = make_trainer(tmp_path, 6).fit(resume=True)
    assert outcome.step == 6 and outcome.signal is None
    assert [line["step"] for line in log_of(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_nan_names_step_loss_and_last_good_checkpoint(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, 10, trouble=("nan", 5))
    with pytest.raises(NonFiniteError, match=r"step 5: the loss discriminator/loss is nan.*step_00000003\.pt"):
        trainer.fit()
    assert last_state(tmp_path)["step"] == 3
    assert [line["step"] for line in log_of(tmp_path)] == [1, 2, 3, 4]


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, 10)
    trainer.fit()
    before = sorted(tmp_path.glob("checkpoints/*"))
    with torch.no_grad():
        trainer.method.G[0].bias[0] = float("inf")
    trainer.step = 12
    with pytest.raises(NonFiniteError, match=r"step 12: the weights G\.0\.bias"):
        trainer._save(object())  # type: ignore[arg-type]
    assert sorted(tmp_path.glob("checkpoints/*")) == before


def test_a_log_that_cannot_be_written_ends_the_run_with_step_and_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = RunLog.scalars

    def full(log: RunLog, step: int, values: dict) -> None:
        if step == 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(log, step, values)

    monkeypatch.setattr(RunLog, "scalars", full)
    with pytest.raises(CheckpointError, match=r"^step 5: .*No space left on device; .*step_00000003\.pt$"):
        make_trainer(tmp_path, 10).fit()
    assert last_state(tmp_path)["step"] == 3


def at_batch(number: int, batch_size: int, epoch: int) -> tuple[int, int]:
    """The item that begins a batch of an epoch of the toy's run."""
    return epoch, int(epoch_order(8, seed=3, epoch=epoch)[number * batch_size])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("epoch", "batch"), [(0, 0), (1, 0), (1, 3)])
def test_data_that_vanish_end_the_run_after_saving_its_last_step(
    tmp_path: Path, whole: Path, workers: int, epoch: int, batch: int
) -> None:
    """When they are back, the run goes on as if nothing had happened, bit for bit."""
    step = 4 * epoch + batch
    trainer = make_trainer(tmp_path, 10, data=Noise(at_batch(batch, 2, epoch)), workers=workers)
    with pytest.raises(LoaderError) as caught:
        trainer.fit()
    newest = tmp_path / "checkpoints" / f"step_{step:08d}.pt"
    assert str(caught.value) == (
        f"step {step}: the data have come to an end: the data are gone; the last good checkpoint is {newest}"
    )
    assert last_state(tmp_path)["step"] == step
    with pytest.raises(LoaderError, match=f"step {step}: "):  # they are not back yet: nothing is lost
        make_trainer(tmp_path, 10, data=Noise(at_batch(batch, 2, epoch)), workers=workers).fit(resume=True)
    make_trainer(tmp_path, 10, workers=workers).fit(resume=True)
    assert_same(last_state(tmp_path), last_state(whole))
    assert log_of(tmp_path) == log_of(whole)


def test_data_that_vanish_in_the_middle_of_an_accumulated_step_lose_no_part_of_it(tmp_path: Path) -> None:
    make_trainer(tmp_path / "whole", 5, batch_size=1, accumulate=2).fit()
    broken = make_trainer(tmp_path / "broken", 5, batch_size=1, accumulate=2, data=Noise(at_batch(5, 1, 0)))
    with pytest.raises(LoaderError, match=r"step 2: .*step_00000002\.pt"):
        broken.fit()
    assert last_state(tmp_path / "broken")["loader"]["position"] == 4
    make_trainer(tmp_path / "broken", 5, batch_size=1, accumulate=2).fit(resume=True)
    assert_same(last_state(tmp_path / "broken"), last_state(tmp_path / "whole"))


@pytest.mark.parametrize("error", [OSError, ValueError, RuntimeError, MemoryError])
def test_whatever_a_loader_raises_the_last_step_is_saved(tmp_path: Path, error: type[Exception]) -> None:
    with pytest.raises(LoaderError, match=r"step 1: the data have come to an end: the data are gone; .*00001\.pt"):
        make_trainer(tmp_path, 10, data=Noise(at_batch(1, 2, 0), error)).fit()
    assert last_state(tmp_path)["step"] == 1


def test_data_and_disk_that_vanish_together_are_both_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(tmp_path, 10, data=Noise(at_batch(2, 2, 0)))
    save = trainer.checkpoints.save

    def unmounted(*arguments: object, step: int, **more: object) -> Path:
        if step:
            raise CheckpointError("checkpoints: could not be written (Input/output error)")
        return save(*arguments, step=step, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer.checkpoints, "save", unmounted)
    with pytest.raises(LoaderError, match="step 2: .*the data are gone; checkpoints: could not be written"):
        trainer.fit()


def test_resume_without_a_checkpoint_and_with_a_foreign_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no checkpoint to resume from"):
        make_trainer(tmp_path, 3).fit(resume=True)
    trainer = make_trainer(tmp_path, 3)
    trainer.fit()
    trainer.method.D = torch.nn.Conv2d(3, 2, 3)
    with pytest.raises(CheckpointError, match="does not fit this run"):
        trainer.fit(resume=True)


def test_resume_uses_the_newest_checkpoint_that_loads(tmp_path: Path, whole: Path) -> None:
    make_trainer(tmp_path, 10, trouble=("term", 6)).fit()
    newest = tmp_path / "checkpoints" / "step_00000006.pt"
    newest.write_bytes(newest.read_bytes()[:-500])
    with pytest.warns(UserWarning, match=r"step_00000006\.pt"):
        make_trainer(tmp_path, 10).fit(resume=True)
    assert_same(last_state(tmp_path), last_state(whole))


def test_another_number_of_threads_is_said_when_a_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    make_trainer(tmp_path, 1).fit()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    with pytest.warns(UserWarning, match=r"saved with 1 threads, now 3: goes on, .* OMP_NUM_THREADS=1$"):
        make_trainer(tmp_path, 2).fit(resume=True)
    recwarn.clear()
    make_trainer(tmp_path, 3).fit(resume=True)
    assert not [warning for warning in recwarn if "threads" in str(warning.message)]


def test_accumulation_averages_the_gradients_of_its_parts(tmp_path: Path) -> None:
    def trained(batch_size: int, accumulate: int, folder: Path) -> dict:
        trainer = make_trainer(folder, 3, batch_size=batch_size, accumulate=accumulate, kind=Plain)
        trainer.fit()
        assert trainer.method.calls == 3 * accumulate and trainer.method.hooks == 3
        # Of n parts one is at hand when the second phase begins.
        assert trainer.method.translated == 3 * (2 * accumulate - 1)
        return trainer.method.state_dict()

    whole, parts = trained(4, 1, tmp_path / "a"), trained(2, 2, tmp_path / "b")
    assert_close_weights(whole, parts)


def test_the_schedule_and_the_progress_reach_method_and_optimisers(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, 4)
    trainer.fit()
    assert trainer.method.progress == [0.0, 0.25, 0.5, 0.75]
    rates = [line["lr/generator"] for line in log_of(tmp_path)]
    assert rates == pytest.approx([1e-2, 1e-2, 1e-2 * 2 / 3, 1e-2 / 3])


TWO_PROCESSES = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def test_two_processes_train_one_model_as_one_process_with_their_batches_together(tmp_path: Path) -> None:
    done = run_toy(tmp_path / "two", 3, "plain", launch=TWO_PROCESSES)
    assert done.returncode == 0, done.stderr[-3000:]
    state = last_state(tmp_path / "two")
    assert state["step"] == 3 and state["processes"] == 2 and len(state["rng"]) == 2
    assert not torch.equal(state["rng"][0]["torch"], state["rng"][1]["torch"])
    make_trainer(tmp_path / "one", 3, batch_size=4, kind=Plain, ema_decay=0.5).fit()
    assert_close_weights(state["method"], last_state(tmp_path / "one")["method"])
    assert_close_weights(state["ema"], last_state(tmp_path / "one")["ema"])

    # In another number of processes a run goes on at the same place of the data, with other random numbers.
    assert (state["loader"]["epoch"], state["loader"]["position"]) == (1, 1)
    trainer = make_trainer(tmp_path / "two", 4)
    with pytest.warns(UserWarning, match="was saved with 2 processes, now 1: goes on, not bit for bit"):
        trainer.fit(resume=True)
    assert trainer.method.seen == [[f"1/{index}" for index in epoch_order(8, seed=3, epoch=1)[4:6]]]
    assert last_state(tmp_path / "two")["loader"]["position"] == 3
    done = run_toy(tmp_path / "two", 5, "resume", launch=TWO_PROCESSES)
    assert done.returncode == 0 and done.stderr.count("with 1 processes, now 2") == 1, done.stderr[-3000:]
    state = last_state(tmp_path / "two")
    assert state["step"] == 5 and state["loader"]["position"] == 2
    assert not torch.equal(state["rng"][0]["torch"], state["rng"][1]["torch"])


def enco_trainer(method: EnCo, folder: Path, rate: float = 1.0) -> tuple[Trainer, dict]:
    """A trainer of streets at ``rate`` times the learning rates, and its first batch."""
    loader = build_loader(open_dataset(None, size=32, limit=4), batch_size=1, seed=0)
    trainer = Trainer(
        method,
        loader,
        folder,
        Options(steps=4),
        schedule=lambda step: rate,
        sample_batch=loader.dataset.sample_batch(1),
        config={},
        generator_file=lambda method: b"",
        accelerator=make_accelerator(device="cpu"),
    )
    return trainer, next(iter(loader))


def test_each_network_has_its_learning_rate(tmp_path: Path) -> None:
    """Networks of one rate share a group of the optimiser; the schedule scales every group."""
    method = EnCo(EnCoConfig(ngf=2, ndf=2, n_blocks=5, num_patches=4, nce_dim=4, lr_g=1e-3, lr_h=4e-3))
    trainer, batch = enco_trainer(method, tmp_path, rate=0.5)
    trainer.train_step([batch])
    (discriminator,) = trainer.phases[0].optimizer.param_groups
    generator, projector = trainer.phases[1].optimizer.param_groups
    assert (discriminator["lr"], generator["lr"], projector["lr"]) == (1e-4, 5e-4, 2e-3)
    assert {id(p) for p in projector["params"]} == {id(p) for p in method.H.parameters()}


def test_decay_and_clipping_are_those_of_the_phase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient of one network is shortened to its greatest norm, that of the other is as it was."""
    norms: dict[bool, list[float]] = {}
    for clipped in (False, True):
        torch.manual_seed(0)
        method = EnCo(EnCoConfig(ngf=2, ndf=2, n_blocks=5, num_patches=4, nce_dim=4))
        discriminator, generator = method.phases()
        if clipped:
            spec = replace(generator.optimizer, weight_decay=0.1, clip={"G": 1e-3})
            generator = replace(generator, optimizer=spec)
        monkeypatch.setattr(method, "phases", lambda found=(discriminator, generator): list(found))
        trainer, batch = enco_trainer(method, tmp_path / str(clipped))
        found = norms[clipped] = []

        def note(*_: object, method: EnCo = method, found: list[float] = found) -> None:
            for network in (method.G, method.H):
                gradients = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
                found.append(float(torch.cat(gradients).norm()))

        trainer.phases[1].optimizer.optimizer.register_step_pre_hook(note)
        torch.manual_seed(1)
        trainer.train_step([batch])
        assert {group["weight_decay"] for group in trainer.phases[1].optimizer.param_groups} == {0.1 * clipped}
        assert {group["weight_decay"] for group in trainer.phases[0].optimizer.param_groups} == {0}
    assert norms[False][0] > 2e-3
    assert norms[True] == [pytest.approx(1e-3, rel=1e-2), pytest.approx(norms[False][1])]


def test_figures_are_noted_at_every_save_and_change_nothing_else(tmp_path: Path, whole: Path) -> None:
    """Drawing while they are measured, and going on in the middle, leave the training as it is without them."""

    def evaluate(method: torch.nn.Module) -> dict[str, float]:
        assert not method.training and not torch.is_grad_enabled()
        torch.manual_seed(99), random.random(), np.random.rand()
        return {"weight": float(method.G[0].weight.sum()), "score": -abs(int(method.calls) - 6)}

    def figures(folder: Path) -> list[dict]:
        return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]

    outcome = make_trainer(tmp_path / "a", 10, evaluate=evaluate, best="score").fit()
    assert_same(last_state(tmp_path / "a"), last_state(whole))
    scores = {line["step"]: line["score"] for line in figures(tmp_path / "a")}
    assert scores == {0: -6, 3: -3, 6: 0, 9: -3, 10: -4}
    assert outcome.figures == {name: figures(tmp_path / "a")[-1][name] for name in ("weight", "score")}
    assert json.loads((tmp_path / "a" / "checkpoints" / "best.json").read_text()) == {
        "step": 6, "metric": "score", "value": 0,
    }  # fmt: skip
    assert log_of(tmp_path / "a") == log_of(whole) and not (whole / "metrics.jsonl").exists()

    make_trainer(tmp_path / "b", 10, trouble=("term", 6), evaluate=evaluate, best="score").fit()
    with (tmp_path / "b" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "weight": 1')  # of a run that was killed while it wrote
    make_trainer(tmp_path / "b", 10, evaluate=evaluate, best="score").fit(resume=True)
    assert figures(tmp_path / "b")[-2:] == figures(tmp_path / "a")[-2:]
    assert [line["step"] for line in figures(tmp_path / "b")] == [0, 3, 6, 9, 10]
