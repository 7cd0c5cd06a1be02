"""The manifest of a translation: whose lines count, and what is left of processes that were killed."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import pytest

from cgcl_fast._manifest import NAME, Journal, Manifest, stamp


def line(name: str, status: str = "done", **more: Any) -> dict[str, Any]:
    return {"input": name, "output": f"{name}.out", "status": status, "source": [1, 2], **more}


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(each) for each in (folder / NAME).read_text().splitlines()]


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / f"{name}.out").write_text(name)


def is_done(manifest: Manifest, *names: str) -> list[bool]:
    return [manifest.done(name, [1, 2]) is not None for name in names]


def test_lines_of_killed_processes_are_put_together(tmp_path: Path) -> None:
    """A file that was begun is done if it is there; a line that is cut short says nothing."""
    Manifest(tmp_path, {"a": 1}).begin()
    make(tmp_path, "a", "b", "c")
    Manifest.journal_in(tmp_path, 0).add([line("a", "begun"), line("a", bytes=1), line("lost", "begun")])
    Manifest.journal_in(tmp_path, 3).add([line("b", "begun"), line("c", "failed", error="why")])
    with open(tmp_path / ".translated.3.jsonl", "a") as file:
        file.write('{"input": "d", "outp')
    found = Manifest(tmp_path, {"a": 1})
    assert (
        found.goes_on
        and not found.first
        and is_done(found, "a", "b", "c", "d", "lost") == [True, True, False, False, False]
    )
    assert found.done("a", [1, 3]) is None and found.done("a", None) is None  # another file
    for _ in range(2):  # the same after a start that came no further
        Manifest(tmp_path, {"a": 1}).begin()
        assert lines(tmp_path) == [
            {"work": {"a": 1}, "overwrite": False},
            line("a", bytes=1),
            line("b", bytes=1),
            line("c", "failed", error="why"),
        ]
    assert [path.name for path in tmp_path.glob(".*")] == []
    (tmp_path / "a.out").unlink()
    (tmp_path / "b.out").write_text("")  # a copy that was interrupted, say
    assert is_done(Manifest(tmp_path, {"a": 1}), "a", "b") == [False, False]


def test_an_end_that_was_killed_is_made_up_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When all lines are in the manifest, and the journals are still there."""
    manifest = Manifest(tmp_path, {"a": 1})
    manifest.begin()
    make(tmp_path, "a", "b")
    for process, name in enumerate("ab"):
        Manifest.journal_in(tmp_path, process).add([line(name, "begun"), line(name, bytes=1)])
    with monkeypatch.context() as patch:
        patch.setattr(Manifest, "_remove_journals", lambda manifest: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            manifest.end(complete=True)
    assert len(list(tmp_path.glob(".translated.*"))) == 1
    Manifest(tmp_path, {"a": 2}, overwrite=True).begin()  # another work takes them for none of its own
    assert is_done(Manifest(tmp_path, {"a": 1}), "a", "b") == [True, True] and not list(tmp_path.glob(".tr*"))
    assert is_done(Manifest(tmp_path, {"a": 2}), "a", "b") == [False, False]


def test_what_another_work_has_replaced_is_not_done(tmp_path: Path) -> None:
    make(tmp_path, "a", "b")
    for work, names in ((1, "ab"), (2, "b")):
        manifest = Manifest(tmp_path, {"of": work}, overwrite=work == 2)
        manifest.begin()
        Manifest.journal_in(tmp_path, 0).add(line(name) for name in names)
        manifest.end(complete=True)
    assert [each.get("work", each.get("input")) for each in lines(tmp_path)] == [{"of": 1}, "a", {"of": 2}, "b"]
    first = Manifest(tmp_path, {"of": 1})
    assert first.goes_on and is_done(first, "a", "b") == [True, False]
    assert is_done(Manifest(tmp_path, {"of": 2}), "a", "b") == [False, True]
    assert is_done(Manifest(tmp_path, {"of": 3}), "a", "b") == [False, False]
    first.begin()
    assert is_done(Manifest(tmp_path, {"of": 2}), "b") == [True]


def test_what_a_killed_work_may_have_replaced_is_no_ones(tmp_path: Path) -> None:
    """It was killed when it was about to rename a file over one that was there, or had just done so."""
    make(tmp_path, "a", "b", "c")
    for work, journal in ((1, [line("a"), line("b"), line("c")]), (2, [line("a"), line("b", "replaced")])):
        Manifest(tmp_path, {"of": work}, overwrite=work == 2).begin()
        Manifest.journal_in(tmp_path, 0).add(journal)
    for _ in range(2):  # also when it has been put together
        assert is_done(Manifest(tmp_path, {"of": 1}), "a", "b", "c") == [False, False, True]
        found = Manifest(tmp_path, {"of": 2})
        assert found.overwrite and is_done(found, "a", "b", "c") == [True, False, False]
        found.begin()


def test_a_tar_is_replaced_with_all_that_is_in_it(tmp_path: Path) -> None:
    make(tmp_path, "a")
    for work, name in ((1, "1"), (2, "2")):
        Manifest(tmp_path, {"of": work}, overwrite=work == 2).begin()
        Manifest.journal_in(tmp_path, 0).add([{**line(name), "output": "a.out", "member": f"{name}.png"}])
    assert is_done(Manifest(tmp_path, {"of": 1}), "1", "2") == [False, False]
    assert is_done(Manifest(tmp_path, {"of": 2}), "1", "2") == [False, True]


def test_lines_for_which_there_is_no_room_are_an_error(tmp_path: Path) -> None:
    """As on a full disk, the system writes the first of the bytes and says how many."""
    path, limits = tmp_path / NAME, resource.getrlimit(resource.RLIMIT_FSIZE)
    path.write_bytes(b"x" * 100)
    resource.setrlimit(resource.RLIMIT_FSIZE, (120, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            Journal(path).add([line("a")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_lines_of_a_killed_work_are_not_those_of_the_next_one(tmp_path: Path) -> None:
    Manifest(tmp_path, {"of": 1}).begin()
    make(tmp_path, "a")
    Manifest.journal_in(tmp_path, 1).add([line("a")])
    Manifest(tmp_path, {"of": 2}).begin()
    assert is_done(Manifest(tmp_path, {"of": 2}), "a") == [False] and is_done(Manifest(tmp_path, {"of": 1}), "a") == [
        True
    ]


def test_the_leave_to_replace_files_ends_with_the_work(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path, {}, overwrite=True)
    manifest.begin()
    manifest.end(complete=False)
    assert Manifest(tmp_path, {}).overwrite
    manifest.end(complete=True)
    again = Manifest(tmp_path, {})
    assert again.goes_on and not again.overwrite


def test_a_file_of_the_name_that_is_no_manifest_is_kept(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text('{"my": "own"}\n')
    with pytest.raises(ValueError, match="not the manifest of a translation"):
        Manifest(tmp_path, {})
    assert not Manifest(tmp_path, {}, overwrite=True).goes_on


def test_files_are_known_by_size_and_time(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("12")
    first = stamp(path)
    assert first is not None and first[0] == 2 and stamp(tmp_path / "b") is None
    path.write_text("123")
    assert stamp(path) != first
