"""What a checkpoint holds of other processes is looked at before any of it is taken up, and before it is saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from engine_checks import assert_same, last_state
from toy_run import Toy, make_trainer

from cgcl_fast.engine import CheckpointError, NonFiniteError, trainer
from cgcl_fast.nn import ImagePool, KeyQueue

pytestmark = pytest.mark.usefixtures("one_thread")


class Queued(Toy):
    """Has a queue and a pool, which a step fills."""

    def __init__(self, trouble: tuple[str, int] = ("", 0)) -> None:
        super().__init__(trouble)
        self.queue, self.pool = KeyQueue(4, 3), ImagePool(3)

    def after(self, batches: list[dict], kept: list[dict]) -> None:
        super().after(batches, kept)
        for part in kept:
            self.queue.enqueue(part["colour"][None])
        self.pool.query(batches[0]["A"])


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    """Make the newest checkpoint of a run of one step one of two processes: ``saved(what the other one has)``."""
    make_trainer(tmp_path, 1, kind=Queued).fit()

    def changed(others: Any) -> Path:
        state = last_state(tmp_path)
        state |= {"rng": state["rng"] * 2, "processes": 2, "other_processes": others}
        torch.save(state, tmp_path / "checkpoints" / "step_00000001.pt")
        return tmp_path

    return changed


def resumed(folder: Path) -> Any:
    found = make_trainer(folder, 1, kind=Queued)
    with pytest.warns(UserWarning, match="was saved with 2 processes, now 1"):
        found.fit(resume=True)
    return found.method.state_dict()


def others() -> dict[str, list[Any]]:
    torch.manual_seed(9)
    queue, pool = KeyQueue(4, 3), ImagePool(3)
    pool.query(torch.rand(1, 3, 8, 8))
    return {"queue": [dict(queue.state_dict())], "pool": [dict(pool.state_dict())]}


def test_one_process_goes_on_with_the_queues_and_pools_of_two(saved: Callable[[Any], Path]) -> None:
    folder = saved(others())
    before, other, after = last_state(folder)["method"], others(), resumed(folder)
    rows = [torch.roll(before["queue.rows"], -int(before["queue.position"]), 0), other["queue"][0]["rows"]]
    assert torch.equal(after["queue.rows"], torch.stack([rows[0][2], rows[1][2], rows[0][3], rows[1][3]]))
    mine, theirs = before["pool._extra_state"]["images"], other["pool"][0]["_extra_state"]["images"]
    assert_same(after["pool._extra_state"]["images"], [mine[0], theirs[0], mine[1]])


def test_a_checkpoint_of_the_first_process_only_is_taken_up_by_all(saved: Callable[[Any], Path]) -> None:
    """As they were before."""
    folder = saved({})
    assert_same(resumed(folder), last_state(folder)["method"])


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "names": (lambda found: found.pop("pool"), r"other_processes: expected \['pool', 'queue'\], got"),
    "count": (lambda found: found["queue"].append({}), "other_processes: queue: expected those of 1 processes"),
    "no list": (lambda found: found.update(queue={}), "other_processes: queue: expected those of 1 processes"),
    "no state": (lambda found: found.update(queue=[3]), "queue of process 1: weights: expected named values, got int"),
    "shape": (lambda found: found["queue"][0].update(rows=torch.zeros(5, 3)), r"queue of process 1: weights rows"),
    "NaN": (lambda found: found["queue"][0]["rows"].fill_(torch.nan), "queue of process 1: .* got NaN"),
    "images": (
        lambda found: found["pool"][0].update(_extra_state={"images": [torch.zeros(3)]}),
        r"pool of process 1: _extra_state: images: expected tensors",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_does_not_fit_is_named_before_anything_is_changed(what: str, saved: Callable[[Any], Path]) -> None:
    found, (broken, said) = others(), BROKEN[what]
    broken(found)
    run = make_trainer(saved(found), 1, kind=Queued)
    before = {name: value.clone() for name, value in run.method.state_dict().items() if isinstance(value, torch.Tensor)}
    with pytest.raises(CheckpointError, match=f"does not fit this run .*{said}"):
        run.fit(resume=True)
    after = run.method.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_keys_of_another_process_that_are_not_finite_are_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_trainer(tmp_path, 1, kind=Queued)
    run.fit()
    monkeypatch.setattr(Accelerator, "num_processes", 2)
    broken = {**run.method.queue.state_dict(), "rows": torch.full((4, 3), torch.inf)}
    monkeypatch.setattr(trainer, "gathered", lambda state: [state, broken if "rows" in state else state])
    run.step = 2
    with pytest.raises(NonFiniteError, match=r"step 2: the weights queue\.rows of process 1 are not finite"):
        run._save(object())  # type: ignore[arg-type]
    assert last_state(tmp_path)["step"] == 1


def test_what_a_process_without_files_of_the_run_meets_is_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a checkpoint that could not be written, which the first process alone would say."""
    run = make_trainer(tmp_path, 1)

    def full(parts: object) -> None:
        raise OSError(28, "No space left on device", "/cache/of/kernels")

    monkeypatch.setattr(run, "train_step", full)
    monkeypatch.setattr(Accelerator, "is_main_process", property(lambda self: False))
    with pytest.raises(OSError, match="No space left on device") as raised:
        run.fit()
    assert raised.value.filename == "/cache/of/kernels"
