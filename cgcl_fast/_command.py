"""Shared by the commands: options from dataclasses, one-line errors, and the exit status.

0: the work was done; 1: it failed for a reason met on the way; 2: wrong options or data; 128 + signal: interrupted.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

import torch
from jsonargparse import ArgumentParser

from cgcl_fast import _start
from cgcl_fast._extras import MissingExtraError
from cgcl_fast.data.formats import printable
from cgcl_fast.engine import CaptureError, CheckpointError, LoaderError, NonFiniteError
from cgcl_fast.engine.peers import LostPeerError
from cgcl_fast.engine.processes import leave_group, lost_peer


class UsageError(Exception):
    """Wrong options or data: one line, exit status 2."""


class Parser(ArgumentParser):
    """Raises :class:`UsageError` instead of printing the usage and exiting."""

    def parse_args(self, *arguments: Any, **more: Any) -> Any:
        try:
            return super().parse_args(*arguments, **more)
        except RecursionError as error:
            raise UsageError("a value is nested too deeply (see --help)") from error

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        message = re.sub(r'Parser key "([^"]+)":', r"--\1:", str(message))
        message = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", message)
        several = r"Does not validate .* Union subtypes\s+Subtypes: [\[(](.*)[\])]\s+Errors:.*Given value: "
        message = re.sub(several, r"expected one of \1, got ", message, flags=re.DOTALL).replace("NoneType", "none")
        message = message.replace("Expected a ", "expected ").replace(". Got value:", ", got")
        raise UsageError(f"{one_line(message)} (see --help)")

    def format_help(self, *arguments: Any) -> str:
        return re.sub(r"--[\w-]+", lambda name: name[0].replace("_", "-"), super().format_help(*arguments))


def one_line(error: object) -> str:
    if isinstance(error, OSError) and error.filename and error.strerror:
        error = f"{error.filename}: {error.strerror}"
    return printable(" ".join(str(error).split())) or type(error).__name__


class LineFormatter(logging.Formatter):
    """Formats each log message on a single line, whatever it quotes."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))


@contextmanager
def as_usage_error() -> Iterator[None]:
    """Turn lower layers' argument and data errors into UsageError."""
    try:
        yield
    except LostPeerError:
        raise
    except (ValueError, TypeError, OSError, CheckpointError) as error:
        raise UsageError(one_line(error)) from error


def underscored(arguments: Sequence[str]) -> list[str]:
    """Spell ``--batch-size`` as ``--batch_size``, and join ``--range LOW HIGH`` to one value."""
    arguments = list(arguments)
    for at, argument in enumerate(arguments):
        if argument == "--range" and len(arguments) > at + 2 and not arguments[at + 1].startswith("["):
            arguments[at : at + 3] = [f"--range=[{arguments[at + 1]},{arguments[at + 2]}]"]
    return [
        "--" + name.replace("-", "_") + equals + value if argument.startswith("--") else argument
        for argument in arguments
        for name, equals, value in [argument[2:].partition("=")]
    ]


def bracketed(arguments: Sequence[str], lists: Collection[str]) -> list[str]:
    """Accept ``--nce_layers 0,4,8`` for ``--nce_layers [0,4,8]``, as in the published code: adds missing brackets to
    the values of the options named in ``lists``."""
    result = list(arguments)
    for index, argument in enumerate(result):
        name, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or name not in lists:
            continue
        if not equals and index + 1 < len(result) and not result[index + 1].startswith("--"):
            result[index + 1] = _in_brackets(result[index + 1])
        elif equals:
            result[index] = f"--{name}={_in_brackets(value)}"
    return result


def _in_brackets(value: str) -> str:
    return value if value.lstrip().startswith("[") else f"[{value}]"


def run(command: Callable[[Sequence[str]], int], arguments: Sequence[str] | None = None) -> int:
    """Run a command; errors meant for its user become one line on stderr and the exit status."""
    format_warning, except_hook = warnings.formatwarning, threading.excepthook
    warnings.formatwarning = lambda message, *_, **__: f"warning: {one_line(message)}\n"  # type: ignore[assignment]
    # TensorBoard writes in a thread: a full disk is reported once, by the next write of the main thread.
    threading.excepthook = lambda thread: None if thread.exc_type is OSError else except_hook(thread)
    if _start.waiting.busy:
        setting, reason, _ = _start.waiting
        print(f"{reason}: OpenMP's threads sleep while they wait ({setting})", file=sys.stderr)
    interrupt = signal.getsignal(signal.SIGINT)
    handled = threading.current_thread() is threading.main_thread() and interrupt in (
        signal.SIG_DFL,
        signal.default_int_handler,
    )
    if handled:
        signal.signal(signal.SIGINT, _interrupt)
    try:
        return command(sys.argv[1:] if arguments is None else arguments)
    except (UsageError, MissingExtraError) as error:
        return _fail(error, 2)
    except (CaptureError, CheckpointError, NonFiniteError) as error:
        return _fail(error, 1)
    except (LoaderError, OSError, torch.OutOfMemoryError) as error:
        return _fail(error, 1, of_process=True)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except RuntimeError as error:
        lost = lost_peer(error)
        if lost is None:
            raise
        print(f"error: {one_line(lost)}", file=sys.stderr)
        return 1
    finally:
        leave_group()
        if handled:
            signal.signal(signal.SIGINT, interrupt)
        warnings.formatwarning, threading.excepthook = format_warning, except_hook


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """Ctrl-C. A second one, which may come while the first is handled, ends the process at once."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    raise KeyboardInterrupt


def _fail(message: Any, status: int, of_process: bool = False) -> int:
    """Say it; of several processes (``torchrun``) only the first one of each machine, since all say the same.

    Args:
        of_process: one may have met it alone, such as a disk that is full or gone: it says so, and which it is.
    """
    processes = os.environ.get("WORLD_SIZE", "1")
    if of_process and processes != "1":
        print(f"error: process {os.environ.get('RANK')} of {processes}: {one_line(message)}", file=sys.stderr)
    elif os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"error: {one_line(message)}", file=sys.stderr)
    return status
