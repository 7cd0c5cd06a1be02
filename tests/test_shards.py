"""Where the images of a tar are, and tars that are written."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from shard_files import picture, write_tar

from cgcl_fast._tars import TarWriter, expanded, is_pattern, leads_out, samples_in

LONG = "folder/" * 20 + "ö" * 60 + ".png"


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


def test_samples_are_neighbours_of_one_key(tmp_path: Path) -> None:
    files = {
        "1.png": picture(1),
        "1.cls": b"7",
        "2.json": b"{}",  # no image
        "a/3.left.jpg": picture(3, kind="JPEG"),
        "a/3.right.JPG": picture(4, kind="JPEG"),
        "a/3.txt": b"two",
        "b/3.png": picture(5),  # another folder, another key
        "._b/4.png": b"",
        "b/.5.png": b"",
        LONG: picture(6),
    }
    tar = write_tar(tmp_path / "a.tar", files)
    failed: list[str] = []
    found = list(samples_in(tar, failed.append))
    assert [[member.name for member in (*sample.images, *sample.others)] for sample in found] == [
        ["1.png", "1.cls"],
        ["a/3.left.jpg", "a/3.right.JPG", "a/3.txt"],
        ["b/3.png"],
        [LONG],
    ]
    for sample in found:
        for member in (*sample.images, *sample.others):
            assert member.read() == files[member.name]
            with member.as_file() as path:
                assert path.read_bytes() == files[member.name] and path.suffix == os.path.splitext(member.name)[1]
            assert not path.exists()
    assert not failed


def test_links_and_folders_in_a_tar_are_no_images(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, kind in (("a.png", tarfile.SYMTYPE), ("b.png", tarfile.DIRTYPE), ("c.png", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    failed: list[str] = []
    assert list(samples_in(tmp_path / "a.tar", failed.append)) == [] and not failed


def damaged_header(content: bytes) -> bytes:
    at = content.index(b"2.png")
    return content[:at] + b"\xff" * 200 + content[at + 200 :]


@pytest.mark.parametrize(
    ("damage", "reason", "count"),
    [
        (damaged_header, "damaged after 1.png", 1),
        (lambda content: content[: content.index(b"2.png") + 600], "unexpected end of data", 2),
        (lambda content: content[: content.index(b"2.png") + 20], "damaged after 1.png", 1),
        (lambda content: b"no tar" * 200, "no tar without compression", 0),
    ],
)
def test_what_is_damaged_is_told_and_the_samples_before_it_are_given(
    tmp_path: Path, damage: Callable[[bytes], bytes], reason: str, count: int
) -> None:
    path = write_tar(tmp_path / "a.tar", {f"{number}.png": picture(number) for number in (1, 2, 3)})
    path.write_bytes(damage(path.read_bytes()))
    failed: list[str] = []
    found = list(samples_in(path, failed.append))
    assert len(found) == count and len(failed) == 1 and reason in failed[0]
    if reason.startswith("unexpected"):
        with pytest.raises(OSError, match="the tar ends within it"):
            found[1].images[0].read()


def test_a_compressed_or_missing_tar_is_told(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("1.png"))
    for name, reason in (("a.tar", "no tar without compression"), ("b.tar", "No such file")):
        failed: list[str] = []
        assert not list(samples_in(tmp_path / name, failed.append))
        assert len(failed) == 1 and reason in failed[0]


def test_tars_that_are_written_are_read_by_tarfile_and_have_nothing_of_the_time() -> None:
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


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "a/../../b.png", "a/.."])
def test_names_that_lead_out(name: str) -> None:
    assert leads_out(name) and not leads_out("a/b..png")
