"""Folders in which only one process works at a time."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from toy_run import make_trainer

from cgcl_fast.engine import InUseError, alone_in, files


@contextmanager
def another_process_in(folder: Path, workers: int = 0) -> Iterator[int]:
    """The id of a process that is alone in the folder, with as many forked ones that outlive it."""
    ready, go = os.pipe(), os.pipe()
    process = os.fork()
    if process == 0:
        try:
            os.close(go[1])
            with alone_in(folder):
                for _ in range(workers):
                    if os.fork() == 0:
                        break
                os.write(ready[1], b"x")
                os.read(go[0], 1)  # until the test closes the other end
        finally:
            os._exit(0)
    os.close(go[0])
    for _ in range(1 + workers):
        assert os.read(ready[0], 1) == b"x"
    try:
        yield process
    finally:
        os.close(go[1])
        os.waitpid(process, 0)
        os.close(ready[0]), os.close(ready[1])


def test_a_second_trainer_is_told_who_trains_in_the_folder_and_touches_nothing(tmp_path: Path) -> None:
    temporary = tmp_path / "checkpoints" / ".step_00000001.pt.77.tmp"
    temporary.parent.mkdir()
    temporary.write_bytes(b"half")
    mine = tmp_path / "checkpoints" / ".notes.tmp"  # no process of ours has called a file so
    mine.write_text("mine")
    trainer = make_trainer(tmp_path, 1)
    with another_process_in(tmp_path) as other:
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(InUseError, match=rf"is in use by process {other} on .* since {time.strftime('%Y')}-"):
            trainer.fit()
        assert sorted(tmp_path.rglob("*")) == before
    trainer.fit()
    assert not temporary.exists() and mine.exists() and not list(tmp_path.rglob(files.LOCK))


def test_the_forked_worker_of_a_killed_trainer_does_not_keep_others_out(tmp_path: Path) -> None:
    with another_process_in(tmp_path, workers=1) as other:
        os.kill(other, signal.SIGKILL)
        os.waitid(os.P_PID, other, os.WEXITED | os.WNOWAIT)
        with alone_in(tmp_path):
            assert str(os.getpid()) in (tmp_path / files.LOCK).read_text()


def test_what_being_alone_made_is_gone_unless_something_is_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "one"
    with alone_in(folder), alone_in(folder):
        assert (folder / files.LOCK).is_file()
    assert not list(tmp_path.iterdir())
    with alone_in(folder):
        (folder / "file").touch()
    assert [path.name for path in folder.iterdir()] == ["file"]


def test_a_file_system_without_locks_is_worth_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lockf(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(files.fcntl, "lockf", lockf)
    with pytest.warns(UserWarning, match="cannot be locked"), alone_in(tmp_path / "run"):
        pass
