"""Tasks ahead of and behind a thread: their order, the limit on their number, and how they end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from cgcl_fast._pipeline import Pipeline


class Settled(list):
    def __call__(self, item: int, result: object) -> None:
        self.append((item, result))


def pipeline(workers: int, settled: Callable[[int, Any], None], **more: Any) -> Pipeline[int]:
    return Pipeline(workers, settled, **{"size": lambda item: 1, "room": 100, "most": 8, **more})


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_come_in_the_order_of_the_items(workers: int) -> None:
    """Also where the first of every three tasks ends last."""
    last = [threading.Event() for _ in range(4)]

    def task(item: int) -> int:
        if workers == 3:
            if item % 3 == 2:
                last[item // 3].set()
            assert last[item // 3].wait(10)
        return item**2

    settled = Settled()
    with pipeline(workers, settled) as here:
        found = []
        for item, made in here.ahead(range(12), task):
            found.append((item, made))
            here.behind(item, lambda item=item: -item)
    assert found == [(item, item**2) for item in range(12)]
    assert settled == [(item, -item) for item in range(12)]


def test_without_workers_nothing_is_done_ahead() -> None:
    begun: list[int] = []
    with pipeline(0, Settled()) as here:
        for item, _ in here.ahead(range(3), begun.append):
            assert begun == list(range(item + 1))


@pytest.mark.parametrize(
    ("sizes", "ahead"),
    [
        ([10] * 9, [3, 3, 3, 3, 3, 3, 2, 1, 0]),  # room for three
        ([1] * 9, [5, 5, 5, 5, 4, 3, 2, 1, 0]),  # no more than that, however small
        ([10, 10, 99, 10, 10], [1, 0, 2, 1, 0]),  # a large one waits until it is asked for
    ],
)
def test_what_is_ahead_has_a_bound(sizes: list[int], ahead: list[int]) -> None:
    begun: list[int] = []
    found = []
    with pipeline(1, Settled(), size=sizes.__getitem__, room=30, most=5) as here:
        for number, (item, _) in enumerate(here.ahead(range(len(sizes)), begun.append)):
            assert number == item
            idle = threading.Event()
            here.behind(item, idle.set)  # by the only thread, after what is ahead
            assert idle.wait(10)
            found.append(len(begun) - item - 1)
    assert found == ahead


def test_what_is_behind_has_a_bound() -> None:
    """Of bytes and of items; a large one is waited for."""
    sizes = [10, 10, 10, 10, 1, 1, 1, 1, 1, 99]
    settled = Settled()
    with pipeline(1, settled, size=sizes.__getitem__, room=30, most=5) as here:
        for item, size in enumerate(sizes):
            here.behind(item, partial(time.sleep, 0.002))
            waiting = sizes[len(settled) : item + 1]
            assert sum(waiting) <= 30 and len(waiting) < 5
            assert size < 99 or not waiting
    assert len(settled) == len(sizes)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_error_of_a_task_none_begins(workers: int, error: type[BaseException]) -> None:
    begun, settled = [], Settled()

    def task(item: int) -> str:
        begun.append(item)
        if item == 2:
            raise error("the third")
        return "done"

    with pytest.raises(error, match="the third"), pipeline(workers, settled) as here:
        for item, _ in here.ahead(range(100), lambda item: item):
            here.behind(item, lambda item=item: task(item))
    assert begun == [0, 1, 2] and settled == [(0, "done"), (1, "done")]


def test_an_interruption_finishes_what_has_begun_and_nothing_else() -> None:
    began, may_end, settled = threading.Event(), threading.Event(), Settled()

    def task() -> str:
        began.set()
        assert may_end.wait(10)
        return "done"

    with pytest.raises(KeyboardInterrupt), pipeline(1, settled) as here:
        for item in range(4):
            here.behind(item, task)
        assert began.wait(10)
        threading.Timer(0.02, may_end.set).start()
        raise KeyboardInterrupt
    assert settled == [(0, "done")]
    assert not any(thread.name.startswith("pipeline") for thread in threading.enumerate())


def test_an_error_of_the_calling_thread_finishes_what_was_handed_over() -> None:
    settled = Settled()
    with pytest.raises(ValueError, match="elsewhere"), pipeline(1, settled) as here:
        for item in range(4):
            here.behind(item, lambda: "done")
        raise ValueError("elsewhere")
    assert settled == [(item, "done") for item in range(4)]
