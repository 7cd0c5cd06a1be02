"""Checkpoint files: complete or absent, and read without executing anything in them."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path

import pytest
import torch
from hostile import NO_FILES, no_waiting

from cgcl_fast.engine import CheckpointError, Checkpoints, files, read_checkpoint


def save(folder: Path, step: int, keep: int = 3, **more: object) -> Path:
    state = {"step": step, "weights": torch.full((1000,), float(step))}
    return Checkpoints(folder, keep).save(state, step=step, generator=b"generator", **more)  # type: ignore[arg-type]


class Hostile:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.marker),)


def test_the_last_k_and_the_best_are_kept(tmp_path: Path) -> None:
    values = {1: 5.0, 2: 9.0, 3: 1.0, 4: 2.0, 5: 3.0}
    for step, value in values.items():
        save(tmp_path, step, keep=2, metric=("psnr", value))
    assert [p.name for p in Checkpoints(tmp_path).paths()] == [f"step_{n:08d}.pt" for n in (2, 4, 5)]
    assert Checkpoints(tmp_path).best() == {"step": 2, "metric": "psnr", "value": 9.0}
    assert {p.stem for p in tmp_path.glob("*.safetensors")} == {p.stem for p in tmp_path.glob("*.pt")}


def test_the_newest_that_loads_is_used_and_the_others_are_named(tmp_path: Path) -> None:
    paths = [save(tmp_path, step) for step in (1, 2, 3)]
    paths[2].write_bytes(paths[2].read_bytes()[:-100])
    content = bytearray(paths[1].read_bytes())
    content[len(content) // 2] ^= 0xFF  # one flipped byte among the weights, which torch.load would not notice
    paths[1].write_bytes(content)
    with pytest.warns(UserWarning) as warned:
        path, state = Checkpoints(tmp_path).newest()
    assert path == paths[0] and torch.equal(state["weights"], torch.ones(1000))
    assert [w.message.args[0].split(":")[0] for w in warned] == [str(paths[2]), str(paths[1])]


def test_none_that_loads_and_none_at_all(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        Checkpoints(tmp_path).newest()
    for step in (1, 2, 3):
        save(tmp_path, step).write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"step_00000003\.pt: .*none of the 2 older ones can be read$"):
        Checkpoints(tmp_path).newest()


@pytest.mark.parametrize("kind", ["pickle", "torch", "legacy"])
def test_a_hostile_file_is_refused_and_runs_nothing(tmp_path: Path, kind: str) -> None:
    path, marker = tmp_path / "step_00000001.pt", tmp_path / "ran"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Hostile(marker)))
    else:
        state = {"format": "cgcl_fast.checkpoint", "x": Hostile(marker)}
        torch.save(state, path, _use_new_zipfile_serialization=kind == "torch")
    with pytest.raises(CheckpointError) as refused:
        read_checkpoint(path)
    assert not marker.exists()
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04" + b"\0" * 50])
def test_other_files_are_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.pt: [^\n]*$"):
        read_checkpoint(path)
    torch.save({"weights": torch.ones(2)}, path)
    with pytest.raises(CheckpointError, match="not a checkpoint of cgcl_fast"):
        read_checkpoint(path)


@pytest.mark.parametrize("after", [0, 3000])
def test_a_full_disk_leaves_the_earlier_checkpoints_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    good = save(tmp_path, 1)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    real = open

    class Full:
        """A file on a disk with ``after`` bytes left."""

        def __init__(self, *arguments: object) -> None:
            self.file, self.left = real(*arguments), after  # type: ignore[call-overload]

        def write(self, data: bytes) -> int:
            self.left -= len(data)
            if self.left < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return self.file.write(data)

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *error: object) -> None:
            self.file.close()

        def __getattr__(self, name: str) -> object:
            return getattr(self.file, name)

    monkeypatch.setattr(files, "open", Full, raising=False)
    with pytest.raises(CheckpointError, match=r"No space left on device.*last good checkpoint is .*step_00000001\.pt"):
        save(tmp_path, 2)
    after_failure = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.name != "step_00000002.safetensors"}
    assert after_failure == before
    assert Checkpoints(tmp_path).newest()[0] == good


@pytest.mark.parametrize("step", [-5, 4, 3.0, True, "3", None, [3]])
def test_a_step_that_is_not_that_of_the_name_is_refused(step: object, tmp_path: Path) -> None:
    good = [save(tmp_path, 2), save(tmp_path, 3)]
    torch.save({"format": "cgcl_fast.checkpoint", "step": step}, good[1])
    with pytest.raises(CheckpointError, match=r"step_00000003\.pt: step: expected 3, as its name says, got"):
        read_checkpoint(good[1])
    with pytest.warns(UserWarning, match=r"step_00000002\.pt is used instead"):
        assert Checkpoints(tmp_path).newest()[0] == good[0]


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", "3", "{}", "[" * 10**5, '{"step": 2, "metric": "psnr"}', "\xff"),
        *('{"step": "2", "metric": "psnr", "value": 1}', '{"step": -2, "metric": "psnr", "value": 1}'),
        *('{"step": 2, "metric": "psnr", "value": "x"}', '{"step": 2, "metric": "psnr", "value": NaN}'),
        '{"step": 2, "metric": "psnr", "value": 1%s}' % ("0" * 999),
    ],
)
def test_a_note_of_the_best_that_cannot_be_read_is_said_and_costs_no_checkpoint(content: str, tmp_path: Path) -> None:
    """Without the note the best checkpoint would be removed as an old one."""
    for step in (1, 2, 3):
        save(tmp_path, step, keep=2, metric=("psnr", 9.0 - step))
    (tmp_path / "best.json").write_text(content, encoding="latin-1")
    before = set(tmp_path.iterdir())
    with pytest.raises(CheckpointError, match=r"best\.json: does not say which checkpoint is the best \([^\n]*$"):
        save(tmp_path, 4, keep=1, metric=("psnr", 5.0))
    assert before < set(tmp_path.iterdir())


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_is_not_waited_for(kind: str, tmp_path: Path) -> None:
    good = save(tmp_path, 2)
    NO_FILES[kind](tmp_path / "step_00000003.pt")
    with no_waiting(), pytest.warns(UserWarning, match=f"{kind}, not a regular file"):
        assert Checkpoints(tmp_path).newest()[0] == good
    NO_FILES[kind](tmp_path / "best.json")
    with no_waiting(), pytest.raises(CheckpointError, match=rf"best\.json: .*{kind}, not a regular file"):
        Checkpoints(tmp_path).best()
