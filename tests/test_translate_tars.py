"""Translation from tars and into tars: what is in them, and that what failed or was interrupted is made up for."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from PIL import Image
from shard_files import picture, read_tar, write_tar

from cgcl_fast import _translate_output
from cgcl_fast._manifest import NAME as MANIFEST
from cgcl_fast.engine.files import write_atomically
from cgcl_fast.translate import main

pytestmark = pytest.mark.usefixtures("tar_cache")


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    """Two tars of five samples, in which names are the same."""
    for tar in range(2):
        files: dict[str, bytes] = {}
        for number in range(5):
            files[f"{number}.cls"] = str(number % 2).encode()
            files[f"{number}.png"] = picture(10 * tar + number, (24, 20) if number < 3 else (33, 17))
        write_tar(tmp_path / "in" / f"part-{tar:03d}.tar", files)
    return tmp_path / "in"


def run(checkpoint: Path, source: Path | str, output: Path, *more: str) -> int:
    where = ["--checkpoint", str(checkpoint), "--input", str(source), "--output", str(output)]
    return main([*where, "--device", "cpu", *more])


def contents(folder: Path) -> dict[str, bytes]:
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    found.pop(MANIFEST, None)
    return found


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(each) for each in (folder / MANIFEST).read_text().splitlines()]


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def test_images_in_tars_are_translated_as_in_files(checkpoint: Path, tars: Path, tmp_path: Path) -> None:
    for tar in tars.iterdir():
        for name, content in read_tar(tar).items():
            path = tmp_path / "files" / tar.stem / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    assert run(checkpoint, tmp_path / "files", tmp_path / "from files") == 0
    expected = contents(tmp_path / "from files")
    assert len(expected) == 10
    pattern = f"{tars}/part-{{000..001}}.tar"
    for name, source, workers in (("folder", tars, "0"), ("pattern", pattern, "2")):
        assert run(checkpoint, source, tmp_path / name, "--workers", workers) == 0
        assert contents(tmp_path / name) == expected
    assert run(checkpoint, tars / "part-001.tar", tmp_path / "one") == 0
    one = {f"part-001/{number}.png" for number in range(5)}
    assert contents(tmp_path / "one") == {name: expected[name] for name in one}


def test_tars_of_so_many_samples_with_their_labels(checkpoint: Path, tars: Path, tmp_path: Path) -> None:
    assert run(checkpoint, tars, tmp_path / "files") == 0
    assert run(checkpoint, tars, tmp_path / "out", "--shards", "2", "--batch-size", "2", "--workers", "2") == 0
    names = [f"part-{tar:03d}-{number:06d}.tar" for tar in range(2) for number in range(3)]
    assert sorted(contents(tmp_path / "out")) == names
    for tar in range(2):
        found: dict[str, bytes] = {}
        for number, count in enumerate((2, 2, 1)):
            inside = read_tar(tmp_path / "out" / names[3 * tar + number])
            assert list(inside) == [f"{2 * number + k}.{end}" for k in range(count) for end in ("cls", "png")]
            found |= inside
        for number in range(5):
            assert found[f"{number}.cls"] == str(number % 2).encode()
            batch, single = (
                pixels(found[f"{number}.png"]).astype(int),
                pixels((tmp_path / "files" / f"part-{tar:03d}" / f"{number}.png").read_bytes()),
            )
            assert np.abs(batch - single).max() <= 1  # rounding, in a batch
    first, *entries = lines(tmp_path / "out")
    assert first["work"]["shards"] == 2 and len(entries) == 10
    entry = next(each for each in entries if each["input"] == "part-001.tar/3.png")
    assert entry["output"] == "part-001-000001.tar" and entry["member"] == "3.png" and entry["status"] == "done"
    size = len(read_tar(tmp_path / "out" / entry["output"])["3.png"])
    assert entry["size"] == [33, 17] and entry["bytes"] == size and entry["seconds"] >= 0


def test_webdataset_reads_them(checkpoint: Path, tars: Path, tmp_path: Path) -> None:
    assert run(checkpoint, tars, tmp_path / "out", "--shards", "3") == 0
    shards = [str(path) for path in sorted((tmp_path / "out").glob("*.tar"))]
    samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8").to_tuple("__key__", "png", "cls"))
    assert [(key, label) for key, _, label in samples] == [(str(k), k % 2) for k in range(5)] * 2
    assert [image.shape for _, image, _ in samples[:4]] == [(20, 24, 3)] * 3 + [(17, 33, 3)]


def test_files_go_into_tars(checkpoint: Path, tmp_path: Path) -> None:
    for number, size in enumerate([(24, 20), (33, 17), (24, 20)]):
        path = tmp_path / "in" / f"{'deeper/' * (number == 2)}{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number, size))
    assert run(checkpoint, tmp_path / "in", tmp_path / "files") == 0
    assert run(checkpoint, tmp_path / "in", tmp_path / "out", "--shards", "2") == 0
    found = contents(tmp_path / "out")
    assert sorted(found) == ["000000.tar", "000001.tar"]
    inside = read_tar(tmp_path / "out" / "000000.tar") | read_tar(tmp_path / "out" / "000001.tar")
    assert inside == contents(tmp_path / "files")
    assert (
        run(checkpoint, tmp_path / "in", tmp_path / "out", "--shards", "2") == 0 and contents(tmp_path / "out") == found
    )
    (tmp_path / "in" / "00.png").write_bytes(picture(9))  # all after it would move on
    assert run(checkpoint, tmp_path / "in", tmp_path / "out", "--shards", "2") == 2
    assert contents(tmp_path / "out") == found


def test_what_failed_is_added_to_its_tar(
    checkpoint: Path, tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Where all of a tar fails there is none."""
    assert run(checkpoint, tars, tmp_path / "at once", "--shards", "2") == 0
    with monkeypatch.context() as patch:
        encode = _translate_output.write_numbers
        encoded: list[np.ndarray] = []

        def write(file: Any, numbers: np.ndarray, *more: Any) -> None:
            encoded.append(numbers)
            if len(encoded) in (1, 3, 4, 5):
                raise RuntimeError("no room in the encoder")
            encode(file, numbers, *more)

        patch.setattr(_translate_output, "write_numbers", write)
        assert run(checkpoint, tars, tmp_path / "out", "--shards", "2", "--workers", "0") == 1
    out, _ = capsys.readouterr()
    assert "translated 6 images" in out and "; 4 failed:" in out
    said = f"{tars / 'part-000.tar' / '0.png'}: cannot be written to "
    assert said in out and "no room in the encoder" in out
    there = contents(tmp_path / "out")
    assert "part-000-000001.tar" not in there and "part-000-000002.tar" not in there
    assert list(read_tar(tmp_path / "out" / "part-000-000000.tar")) == ["1.cls", "1.png"]
    failed = [each["input"] for each in lines(tmp_path / "out")[1:] if each["status"] == "failed"]
    assert failed == [f"part-000.tar/{number}.png" for number in (0, 2, 3, 4)]
    assert run(checkpoint, tars, tmp_path / "out", "--shards", "2") == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "at once")
    assert {each["status"] for each in lines(tmp_path / "out")[1:]} == {"done"}


def test_an_image_that_is_none_is_named_and_leaves_no_label(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    files = {"1.cls": b"1", "1.png": b"no image", "2.cls": b"2", "2.png": picture(2), "../3.png": picture(3)}
    tar = write_tar(tmp_path / "a.tar", files)
    changed: set[int] = set()
    for _ in range(2):
        assert run(checkpoint, tar, tmp_path / "out", "--shards", "9") == 1
        out, err = capsys.readouterr()
        assert f"{tar / '1.png'}: cannot be read: not a JPEG" in out and "; 1 failed" in out
        assert f"{tar}: 1 left out: " in err
        assert list(read_tar(tmp_path / "out" / "a-000000.tar")) == ["2.cls", "2.png"]
        changed.add((tmp_path / "out" / "a-000000.tar").stat().st_mtime_ns)
    assert len(changed) == 1
    assert run(checkpoint, tar, tmp_path / "files") == 1
    assert sorted(contents(tmp_path / "files")) == ["a/2.png"] and not (tmp_path / "3.png").exists()


def test_a_tar_that_is_damaged_or_compressed_is_named_and_the_others_are_translated(
    checkpoint: Path, tars: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    content = (tars / "part-000.tar").read_bytes()
    (tars / "part-000.tar").write_bytes(content[: len(content) // 2])
    (tars / "part-002.tar.gz").write_bytes(gzip.compress(content))
    assert run(checkpoint, tars, tmp_path / "out") == 1
    out, _ = capsys.readouterr()
    assert "translated 5 images" in out and "; 2 failed:" in out
    assert re.search(rf"  {re.escape(str(tars / 'part-000.tar'))}: .* is not a complete tar", out)
    assert f"  {tars / 'part-002.tar.gz'}: is compressed (gzip)" in out
    failed = [each for each in lines(tmp_path / "out") if each.get("status") == "failed"]
    assert sorted(each["input"] for each in failed) == [str(tars / "part-000.tar"), str(tars / "part-002.tar.gz")]
    (tars / "part-000.tar").write_bytes(content)
    (tars / "part-002.tar.gz").unlink()
    assert run(checkpoint, tars, tmp_path / "out") == 0
    assert "translated 5 images" in capsys.readouterr().out
    assert {each["status"] for each in lines(tmp_path / "out")[1:]} == {"done"}


@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_tars_whose_images_would_go_to_one_file_are_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture, more: list[str]
) -> None:
    write_tar(tmp_path / "in" / "a.tar", {"b/1.png": picture(1)})
    write_tar(tmp_path / "in" / "a" / "b.tar", {"1.png": picture(2)})
    assert run(checkpoint, tmp_path / "in", tmp_path / "out", *more) == 2
    assert f"two images of the input would be written to {tmp_path}/out/a/b/1.png" in capsys.readouterr().err
    assert run(checkpoint, tmp_path / "in", tmp_path / "out", "--shards", "1", *more) == 0


def test_tars_that_another_work_has_replaced_are_not_taken_for_done(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for number in (1, 2):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / f"{number}.png").write_bytes(picture(number))
    work = ["--shards", "2"]
    assert run(checkpoint, tmp_path / "1", tmp_path / "out", *work) == 0
    assert run(checkpoint, tmp_path / "2", tmp_path / "out", *work, "--overwrite") == 0
    assert run(checkpoint, tmp_path / "1", tmp_path / "out", *work) == 2
    assert "000000.tar would be overwritten" in capsys.readouterr().err


def test_an_interrupted_work_leaves_whole_tars_and_goes_on(
    checkpoint: Path, tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(checkpoint, tars, tmp_path / "at once", "--shards", "2") == 0
    written: list[Path] = []

    def write(path: Path, fill: Callable) -> None:
        written.append(path)

        def interrupted(file: Any) -> None:
            fill(file)
            if len(written) == 3:
                raise KeyboardInterrupt

        write_atomically(path, interrupted)

    monkeypatch.setattr(_translate_output, "write_atomically", write)
    assert run(checkpoint, tars, tmp_path / "out", "--shards", "2") == 130
    there = contents(tmp_path / "out")
    assert sorted(there) == [path.name for path in written[:2]]
    before = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in there}
    assert run(checkpoint, tars, tmp_path / "out", "--shards", "2") == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "at once") and len(written) == 7
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in there} == before


@pytest.mark.parametrize(
    ("source", "more", "said"),
    [
        ("in/part-{000..003}.tar", [], "in/part-002.tar, of in/part-{000..003}.tar, does not exist"),
        ("empty.tar", [], "--input: empty.tar holds no tar with an image"),
        ("in/part-000.tar", ["--output", "in", "--shards", "1"], "part-000-000000.tar would be overwritten"),
        ("in", ["--output", "in", "--shards", "1", "--overwrite"], "--output: in is the folder of the input"),
        ("in", ["--shards", "0"], "shards: expected an integer from 1"),
    ],
)
def test_wrong_tars_are_one_line_and_status_2(
    checkpoint: Path,
    tars: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    source: str,
    more: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_tar(tmp_path / "empty.tar", {"a.txt": b""})
    write_tar(tars / "part-000-000000.tar", {"9.png": picture(9)})
    before = contents(tars)
    assert run(checkpoint, source, Path("out"), *more) == 2
    err = capsys.readouterr().err
    assert said in err and len(err.splitlines()) == 1
    assert not os.path.exists("out") and contents(tars) == before
