"""Threads beside the one that works: they prepare what it needs next, and finish what it has made.

Decoding, encoding and writing images let other threads go on meanwhile, so that processes are not needed for them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Any, Generic, NamedTuple, TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


class _Refused(Exception):
    """A task that has not begun, since the work has ended."""


class _Task(NamedTuple):
    item: Any
    size: int
    future: Future


class Pipeline(Generic[Item]):
    """Tasks of items ahead of the calling thread and behind it.

    Results come in the order of the items, whichever thread is done first, and what is held in memory has a bound. A
    task that raises ends the work: no further task begins, and the calling thread gets the error where it next waits
    for a task. Used with ``with``: leaving it finishes what was handed over, or after an error of a task, or an
    interruption, only what has begun, so that nothing is running afterwards.

    Args:
        workers: threads; 0: the calling thread does each task where it is asked for, and nothing ahead.
        settled: called in the calling thread, with each item that was handed over and what its task returned.
        size: bytes that an item takes.
        room: bytes that may be held ahead, and as many behind. A single item may need more; then it is alone.
        most: items that may be held ahead, and as many behind.
        begin: called first in each thread.
    """

    def __init__(
        self,
        workers: int,
        settled: Callable[[Item, Any], None],
        *,
        size: Callable[[Item], int],
        room: int,
        most: int,
        begin: Callable[[], None] | None = None,
    ) -> None:
        self._pool = ThreadPoolExecutor(workers, "pipeline", begin) if workers else None
        self._settled = settled
        self._size = size
        self._room = room
        self._most = most
        self._ahead: deque[_Task] = deque()
        self._behind: deque[_Task] = deque()
        self._error: BaseException | None = None

    def ahead(self, items: Sequence[Item], task: Callable[[Item], Made]) -> Iterator[tuple[Item, Made]]:
        """The items, each with what its task returned, while the tasks of the next ones are running."""
        pool, left = self._pool, deque(items)
        if pool is None:
            yield from ((item, task(item)) for item in items)
            return

        def fill(least: int) -> None:
            while left and (len(self._ahead) < least or self._has_room(self._ahead, self._size(left[0]))):
                item = left.popleft()
                self._ahead.append(_Task(item, self._size(item), pool.submit(self._run, partial(task, item))))

        while left or self._ahead:
            fill(1)
            first = self._ahead[0]
            made = self._result(first.future)
            self._ahead.popleft()
            fill(0)
            yield first.item, made

    def behind(self, item: Item, task: Callable[[], object]) -> None:
        """Hand over what is left to be done of an item; waits while there is no room for more."""
        if self._pool is None:
            self._settled(item, task())
            return
        self._behind.append(_Task(item, self._size(item), self._pool.submit(self._run, task)))
        while self._behind and (self._behind[0].future.done() or not self._has_room(self._behind)):
            self._settle()

    def _has_room(self, tasks: deque[_Task], more: int = 0) -> bool:
        return len(tasks) < self._most and sum(task.size for task in tasks) + more <= self._room

    def _run(self, task: Callable[[], Made]) -> Made:
        if self._error is not None:
            raise _Refused
        try:
            return task()
        except BaseException as error:
            self._error = self._error or error
            raise

    def _result(self, future: Future) -> Any:
        try:
            return future.result()
        except _Refused:
            assert self._error is not None
            raise self._error from None

    def _settle(self) -> None:
        first = self._behind.popleft()
        self._settled(first.item, self._result(first.future))

    def __enter__(self) -> Pipeline[Item]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is None:
            return
        try:
            interrupted = error is not None and not isinstance(error, Exception)
            while self._behind and self._error is None and not interrupted:
                self._settle()
        finally:
            self._error = self._error or error or _Refused()
            for task in self._ahead:
                task.future.cancel()
            self._pool.shutdown()
            for task in self._behind:
                if task.future.exception() is None:
                    self._settled(task.item, task.future.result())
