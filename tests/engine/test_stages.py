"""Where a run goes on in its epochs when the number of processes, or what a step has, is another one."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from cgcl_fast.engine import Stage, next_stage


def loader(replicas: int, epoch: int = 0, position: int = 0, batch_size: int = 1) -> dict[str, int]:
    """State of a loader of 8 images."""
    place = {"epoch": epoch, "position": position, "seed": 0, "length": 8}
    return {**place, "batch_size": batch_size, "replicas": replicas}


def saved(step: int, stage: Stage, **place: int) -> dict:
    return {"step": step, "stage": asdict(stage), "loader": loader(**place)}


def test_epochs_stay_epochs_in_two_processes_then_one_then_two() -> None:
    """Three steps of two images, three of one, which leaves the second epoch after its first image, then one epoch."""
    state = saved(3, Stage(), replicas=2, position=3)
    assert next_stage(state, loader(2), 1) == Stage()
    alone = next_stage(state, loader(1), 1)
    assert alone == Stage(step=3, epoch=0, position=6)
    assert alone.ahead(8) == 3  # of two epochs, 16 steps, there are 13: 3 of two images and 10 of one
    state = saved(6, alone, replicas=1, epoch=1, position=1)
    assert next_stage(state, loader(1), 1) == alone
    again = next_stage(state, loader(2), 1)
    assert again == Stage(step=6, epoch=1, position=0)
    assert again.ahead(4) == -2  # of two epochs, 8 steps, there are 10: 6 as they were, and the second epoch


def test_accumulated_steps_count_the_batches_of_all_parts() -> None:
    alone = next_stage(saved(1, Stage(2), replicas=2, position=2), loader(1), 2)
    assert alone == Stage(2, step=1, epoch=0, position=4) and alone.ahead(8) == 1


def test_another_batch_size_goes_on_with_the_next_epoch_in_any_number_of_processes() -> None:
    state = saved(3, Stage(), replicas=2, position=3)
    assert next_stage(state, loader(1, batch_size=2), 1) == Stage(step=3, epoch=1)


def test_stages_of_before_there_were_positions_are_read_and_negative_ones_refused() -> None:
    state = saved(3, Stage(), replicas=1, position=3)
    del state["stage"]["position"]
    assert next_stage(state, loader(1), 1) == Stage()
    state["stage"]["position"] = -1
    with pytest.raises(ValueError, match="stage: expected counts"):
        next_stage(state, loader(1), 1)
