"""Several processes translate together, as ``torchrun`` starts them; one may be killed, and others go on.

``python test_translate_processes.py RANK WHEN ARGUMENT...`` is ``translate``, in which the process of this rank is
killed with the third file that it writes: before it has its name, or after that, before anything is noted.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from shard_files import picture, read_tar, write_tar  # noqa: E402

from cgcl_fast import _translate_output  # noqa: E402
from cgcl_fast._manifest import NAME as MANIFEST  # noqa: E402
from cgcl_fast.engine.files import write_atomically  # noqa: E402
from cgcl_fast.translate import main  # noqa: E402

IMAGES = 17


pytestmark = pytest.mark.usefixtures("tar_cache")


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """As the processes have, so that sums are in the same order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def arguments(checkpoint: Path, source: Path, output: Path, *more: str) -> list[str]:
    where = ["--checkpoint", str(checkpoint), "--input", str(source), "--output", str(output)]
    return [*where, "--device", "cpu", "--workers", "1", *more]


def in_two_processes(killed: int, when: str, options: list[str]) -> subprocess.CompletedProcess:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [*launch, __file__, str(killed), when, *options],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def contents(folder: Path) -> dict[str, bytes]:
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    found.pop(MANIFEST, None)
    return found


def entries(folder: Path) -> list[dict[str, Any]]:
    work, *found = [json.loads(each) for each in (folder / MANIFEST).read_text().splitlines()]
    assert "work" in work and all("input" in each for each in found)
    return found


def images(folder: Path) -> Path:
    for number in range(IMAGES):
        path = folder / ("deeper" if number % 3 == 0 else ".") / f"{number}.{'jpg' if number % 2 else 'png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number, (20 + 8 * (number % 4), 24), "JPEG" if number % 2 else "PNG"))
    return folder


def test_what_a_killed_process_left_two_others_do(checkpoint: Path, tmp_path: Path) -> None:
    source, output = images(tmp_path / "in"), tmp_path / "out"
    (source / "broken.png").write_bytes(b"no image")
    assert main(arguments(checkpoint, source, tmp_path / "at once")) == 1
    options = arguments(checkpoint, source, output)
    killed = in_two_processes(1, "before", options)
    assert killed.returncode != 0 and "SIGKILL" in killed.stderr, killed.stderr[-3000:]
    assert [path.name for path in output.rglob(".*.tmp")]  # of the file that the killed one wrote
    whole = {name: content for name, content in contents(output).items() if not Path(name).name.startswith(".")}
    before = {name: (output / name).stat().st_mtime_ns for name in whole}
    assert 2 <= len(whole) < IMAGES

    done = in_two_processes(-1, "", options)
    assert done.returncode == 1, done.stderr[-3000:]  # because of the broken one
    left = IMAGES - len(whole)
    assert f"{len(whole)} of {IMAGES + 1} images are there from before" in done.stderr
    assert done.stdout.count("translated ") == 1 and f"translated {left} images" in done.stdout
    assert done.stdout.count("broken.png: cannot be read: ") == 1 and "; 1 failed:" in done.stdout
    assert contents(output) == contents(tmp_path / "at once")  # byte by byte, and nothing else beside them
    assert {name: (output / name).stat().st_mtime_ns for name in whole} == before  # not once more
    found = entries(output)
    assert sorted(each["input"] for each in found) == sorted([*contents(output), "broken.png"])  # each once
    for each in found:
        if each["input"] == "broken.png":
            assert each["status"] == "failed" and each["error"].startswith("cannot be read: ")
        else:
            assert each["status"] == "done" and each["bytes"] == (output / each["output"]).stat().st_size


def test_one_process_goes_on_with_the_tars_of_two(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The first process is killed when its third tar has its name, and no line says so yet."""
    source, output = tmp_path / "in", tmp_path / "out"
    for tar in range(3):
        names = [f"{number:03d}" for number in range(10)]
        files = {f"{name}.{end}": b"" for name in names for end in ("cls", "png")}
        files |= {f"{name}.png": picture(10 * tar + int(name)) for name in names}
        write_tar(source / f"{tar}.tar", files)
    shards = ["--shards", "2"]
    assert main(arguments(checkpoint, source, tmp_path / "at once", *shards)) == 0
    killed = in_two_processes(0, "after", arguments(checkpoint, source, output, *shards))
    assert killed.returncode != 0 and "SIGKILL" in killed.stderr, killed.stderr[-3000:]
    whole = {path.name: path.stat().st_mtime_ns for path in output.glob("*.tar")}
    assert 3 <= len(whole) < 15
    capsys.readouterr()
    assert main(arguments(checkpoint, source, output, *shards)) == 0
    out, err = capsys.readouterr()
    assert f"{2 * len(whole)} of 30 images are there from before" in err
    assert f"translated {30 - 2 * len(whole)} images" in out
    assert contents(output) == contents(tmp_path / "at once") and len(contents(output)) == 15
    assert {name: (output / name).stat().st_mtime_ns for name in whole} == whole
    found = entries(output)
    inside = [(path.name, name) for path in output.glob("*.tar") for name in read_tar(path) if name.endswith(".png")]
    assert sorted((each["output"], each["member"]) for each in found) == sorted(inside) and len(inside) == 30
    assert {each["status"] for each in found} == {"done"}


def test_what_is_wrong_is_said_once_by_two_processes(checkpoint: Path, tmp_path: Path) -> None:
    """The first process finds it, and the other one does not wait for it."""
    (tmp_path / "in").mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "-1", "", *arguments(checkpoint, tmp_path / "in", tmp_path / "out")]
    processes = [
        subprocess.Popen(
            command, env={**os.environ, **group, "RANK": rank, "LOCAL_RANK": rank}, stderr=subprocess.PIPE, text=True
        )
        for rank in "01"
    ]
    said = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2], said
    assert [text.count("holds no image") for text in said] == [1, 0] and not (tmp_path / "out").exists()


def kill_in_third(when: str) -> None:
    """Patch ``translate`` so."""
    count = 0

    def write(path: Path, fill: Callable) -> None:
        nonlocal count
        count += 1

        def filled(file: Any) -> None:
            fill(file)
            if (count, when) == (3, "before"):
                file.flush()
                os.kill(os.getpid(), signal.SIGKILL)

        write_atomically(path, filled)
        if (count, when) == (3, "after"):
            os.kill(os.getpid(), signal.SIGKILL)

    _translate_output.write_atomically = write  # type: ignore[assignment]


if __name__ == "__main__":
    if os.environ["RANK"] == sys.argv[1]:
        kill_in_third(sys.argv[2])
    sys.exit(main(sys.argv[3:]))
