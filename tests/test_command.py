"""Shared parts of the commands: errors on one line, whatever they quote."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest

from cgcl_fast._command import LineFormatter, UsageError, one_line, run
from cgcl_fast.engine import CheckpointError, LoaderError

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
