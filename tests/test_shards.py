"""Where the images of a tar are, and tars that are written."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
from shard_files import write_tar

from cgcl_fast._shards import Sample, TarWriter, expanded, is_pattern, samples_in
from cgcl_fast.data.tars import members

LONG = "folder/" * 20 + "ö" * 60 + ".png"


pytestmark = pytest.mark.usefixtures("tar_cache")


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.tar", ["a.tar"]),
        ("a-{08..10}.tar", ["a-08.tar", "a-09.tar", "a-10.tar"]),
        ("a-{8..10}.tar", ["a-8.tar", "a-9.tar", "a-10.tar"]),
        ("{0..1}/b{002..001}", ["0/b002", "0/b001", "1/b002", "1/b001"]),
        ("a{x}.tar", ["a{x}.tar"]),
    ],
)
def test_patterns_stand_for_names_as_in_bash(pattern: str, names: list[str]) -> None:
    assert list(expanded(pattern)) == names and is_pattern(pattern) == (names != [pattern])


def test_samples_have_one_key(tmp_path: Path) -> None:
    names = [
        "1.png",
        "1.cls",
        "2.json",
        "a/3.left.jpg",
        "a/3.right.JPG",
        "b/3.png",
        "a/3.txt",
        "._b/4.png",
        "b/.5.png",
        LONG,
    ]
    tar = write_tar(tmp_path / "a.tar", dict.fromkeys(names, b""))
    assert samples_in(tar) == [
        Sample(("1.png",), ("1.cls",)),
        Sample(("a/3.left.jpg", "a/3.right.JPG"), ("a/3.txt",)),
        Sample(("b/3.png",), ()),  # another folder, another key
        Sample((LONG,), ()),
    ]


def test_masks_beside_photographs_are_labels(tmp_path: Path) -> None:
    names = ["1.jpg", "1.seg.png", "2.jpg", "2_mask.png", "3.seg.png"]
    tar = write_tar(tmp_path / "a.tar", dict.fromkeys(names, b""))
    assert samples_in(tar) == [Sample(("1.jpg",), ("1.seg.png",)), Sample(("2.jpg",), ()), Sample(("3.seg.png",), ())]
    only = write_tar(tmp_path / "b.tar", {"1.seg.png": b"", "2.seg.png": b""})
    assert samples_in(only) == [Sample((name,), ()) for name in ("1.seg.png", "2.seg.png")]


def test_tars_that_are_written_are_read_and_have_nothing_of_the_time(tmp_path: Path) -> None:
    files = {"1.png": b"x" * 512, "2.cls": b"", LONG: b"y" * 513, os.fsdecode(b"\xff.png"): b"z"}
    written = []
    for _ in range(2):
        content = io.BytesIO()
        tar = TarWriter(content)
        for name, each in files.items():
            tar.add(name, each)
        tar.end()
        written.append(content.getvalue())
    assert written[0] == written[1] and len(written[0]) % 512 == 0
    with tarfile.open(fileobj=io.BytesIO(written[0])) as found:
        assert [info.mtime for info in found] == [0] * len(files)
        assert {name: found.extractfile(name).read() for name in found.getnames()} == files  # type: ignore[union-attr]
    (tmp_path / "a.tar").write_bytes(written[0])
    assert [member.name for member in members(tmp_path / "a.tar")] == sorted(files)


def test_a_tar_has_no_two_files_of_one_name() -> None:
    tar = TarWriter(io.BytesIO())
    tar.add("1.ico.png", b"")
    with pytest.raises(ValueError, match="two files would be called 1.ico.png in it"):
        tar.add("1.ico.png", b"")
