"""Shared parts of the commands: errors on one line, whatever they quote."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest

from cgcl_fast._command import LineFormatter, UsageError, as_usage_error, one_line, run
from cgcl_fast.engine import CheckpointError, LoaderError
from cgcl_fast.engine.peers import LostPeerError

FORGED = "a\r\nerror: b\x1b[2K\x85c\u2028d\u202e\udcff.png"


def test_one_line() -> None:
    assert one_line("a\n  b\tc") == "a b c"
    assert one_line(ValueError()) == "ValueError"
    assert one_line(FORGED) == r"a error: b\x1b[2K c d\u202e\udcff.png"


@pytest.mark.parametrize("kind", [UsageError, CheckpointError, LoaderError, OSError])
def test_what_an_error_quotes_stays_on_its_line(kind: type[Exception], capsys: pytest.CaptureFixture) -> None:
    def fails(arguments: Sequence[str]) -> int:
        sys.stderr.write(warnings.formatwarning(FORGED, UserWarning, "file.py", 1))
        raise kind(2, "No such file", FORGED) if kind is OSError else kind(FORGED)

    assert run(fails, []) == (2 if kind is UsageError else 1)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all(line.isprintable() for line in lines)
    assert lines[0].startswith("warning: a error: b") and lines[1].startswith("error: a error: b")


@pytest.mark.parametrize(
    ("error", "local_rank", "said"),
    [
        (UsageError("no such folder"), 0, "error: no such folder\n"),
        (UsageError("no such folder"), 1, ""),
        (CheckpointError("does not fit"), 0, "error: does not fit\n"),
        (CheckpointError("does not fit"), 1, ""),
        (LoaderError("the data are gone"), 0, "error: process 4 of 8: the data are gone\n"),
        (LoaderError("the data are gone"), 1, "error: process 5 of 8: the data are gone\n"),
        (OSError("the disk is full"), 1, "error: process 5 of 8: the disk is full\n"),
    ],
)
def test_of_several_processes_one_of_each_machine_speaks_for_all_and_each_for_itself(
    error: Exception, local_rank: int, said: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on the second of two machines with four processes each."""
    for name, value in (("WORLD_SIZE", 8), ("RANK", 4 + local_rank), ("LOCAL_RANK", local_rank)):
        monkeypatch.setenv(name, str(value))

    def fails(arguments: Sequence[str]) -> int:
        raise error

    assert run(fails, []) == (2 if isinstance(error, UsageError) else 1)
    assert capsys.readouterr().err == said


def test_a_message_of_a_log_stays_on_its_line(tmp_path: Path) -> None:
    logger, handler = logging.getLogger("cgcl_fast.test"), logging.FileHandler(tmp_path / "log", encoding="utf-8")
    handler.setFormatter(LineFormatter())
    logger.addHandler(handler)
    logger.warning("skipped %s", FORGED)
    logger.removeHandler(handler)
    handler.close()
    assert (tmp_path / "log").read_text(encoding="utf-8") == (
        r"skipped a\r\nerror: b\x1b[2K\x85c\u2028d\u202e\udcff.png" + "\n"
    )


def test_a_process_that_is_gone_is_no_wrong_option() -> None:
    with pytest.raises(LostPeerError), as_usage_error():
        raise LostPeerError("another process has ended")
