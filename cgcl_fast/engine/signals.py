"""Stopping on request: SIGTERM, Ctrl-C and a closed terminal set a flag; the loop finishes its step, saves and
exits."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class StopSignals:
    """In this context the first SIGINT, SIGTERM or SIGHUP is only stored in :attr:`received`; a second one acts as it
    would have before, except SIGHUP: a closed terminal sends several. An ignored signal (``nohup``) stays ignored.

    Handlers can only be set in the main thread; in others this does nothing.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}
        self._second: dict[Any, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            numbers = [signal.SIGINT, signal.SIGTERM]
            hangup = getattr(signal, "SIGHUP", None)  # not on Windows
            if hangup is not None and signal.getsignal(hangup) != signal.SIG_IGN:
                numbers.append(hangup)
            self._previous = {number: signal.signal(number, self._note) for number in numbers}
            self._second = {**self._previous, hangup: signal.SIG_IGN}
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        signal.signal(number, self._second[number])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
