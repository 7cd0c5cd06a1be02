"""What each process has for itself goes back to it, or by a rule to as many processes as there are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cgcl_fast.nn import ImagePool, KeyQueue
from cgcl_fast.nn.per_process import PerProcess, per_process_modules, state_for


class Named(PerProcess):
    """Has names for states, so that it can be seen which ones came together."""

    def merged(self, states: list[dict]) -> dict:
        return {"names": "+".join(state["names"] for state in states)}


@pytest.mark.parametrize(
    ("saved", "processes", "expected"),
    [
        ("ab", 2, ["a", "b"]),
        ("a", 1, ["a"]),
        ("a", 3, ["a", "a", "a"]),
        ("ab", 3, ["a", "b", "a"]),
        ("ab", 1, ["a+b"]),
        ("abcde", 2, ["a+c+e", "b+d"]),
        ("abc", 2, ["a+c", "b"]),
    ],
)
def test_states_go_to_the_processes_there_are(saved: str, processes: int, expected: list[str]) -> None:
    states = [{"names": name} for name in saved]
    assert [state_for(Named(), states, rank, processes)["names"] for rank in range(processes)] == expected


def test_parts_are_found_by_name_and_those_that_cannot_be_merged_say_so() -> None:
    parts = {"queue": KeyQueue(2, 2), "pools": nn.ModuleList([ImagePool(1)]), "other": nn.Linear(1, 1)}
    method = nn.ModuleDict(parts)
    assert per_process_modules(method) == {"queue": method["queue"], "pools.0": method["pools"][0]}
    with pytest.raises(TypeError, match=r"PerProcess does not define merged\(\)"):
        state_for(PerProcess(), [{}, {}], 0, 1)


def queue_of(*directions: int) -> KeyQueue:
    """Of four rows, with unit vectors along the axes (of eight) that were put in one after the other."""
    queue = KeyQueue(4, 8)
    for direction in directions:
        queue.enqueue(torch.eye(8)[direction : direction + 1])
    return queue


def test_queues_are_merged_by_age() -> None:
    """Each of the two has been filled and begun anew at another place."""
    first, second = queue_of(7, 0, 1, 2, 3), queue_of(7, 7, 7, 4, 5, 6, 7)
    merged = KeyQueue(4, 8)
    merged.load_state_dict(merged.merged([first.state_dict(), second.state_dict()]))
    # By age 0 4 1 5 2 6 3 7.
    assert merged.rows.argmax(dim=1).tolist() == [2, 6, 3, 7] and merged.position == 0
    merged.enqueue(torch.eye(8)[:1])
    assert merged.rows.argmax(dim=1).tolist() == [0, 6, 3, 7]  # the oldest one went


def pool_of(*images: torch.Tensor) -> ImagePool:
    pool = ImagePool(3)
    for image in images:
        pool.query(image[None])
    return pool


def test_pools_are_merged_in_turn_until_they_are_full() -> None:
    def square(value: float) -> torch.Tensor:
        return torch.full((1, 2, 2), float(value))

    def wide(value: float) -> torch.Tensor:
        return torch.full((1, 2, 3), float(value))

    first, second = pool_of(square(1), square(2), wide(3)), pool_of(square(4), wide(5), square(6))
    merged = pool_of(square(0))
    merged.load_state_dict(merged.merged([first.state_dict(), second.state_dict()]))
    images = merged.state_dict()["_extra_state"]["images"]
    assert [float(image.mean()) for image in images] == [1, 4, 2, 3, 5]
    assert [tuple(image.shape) for image in images] == [(1, 2, 2)] * 3 + [(1, 2, 3)] * 2


def test_a_merged_pool_has_a_history_of_no_more_sizes_than_another() -> None:
    pools = [pool_of(*(torch.zeros(1, 1, side) for side in sides)) for sides in (range(1, 9), range(5, 13))]
    images = ImagePool(3).merged([pool.state_dict() for pool in pools])["_extra_state"]["images"]
    assert [image.shape[-1] for image in images] == [1, 2, 3, 4, 5, 5, 6, 6, 7, 7, 8, 8]
