"""The translate command: names, sizes, transparency, tiles, and what it rejects."""

from __future__ import annotations

import errno
import io
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import numpy as np
import pytest
import torch
from hostile import NO_FILES, no_waiting
from PIL import Image, ImageCms

from cgcl_fast import _translate_images, _translate_output, compat, networks
from cgcl_fast._manifest import NAME as MANIFEST
from cgcl_fast._translate_input import Job, Loaded
from cgcl_fast._translate_output import Stopped
from cgcl_fast._translator import Translation, Translator
from cgcl_fast.data.decoding import FileImage
from cgcl_fast.data.formats import FileFormat
from cgcl_fast.data.values import PHOTOGRAPH
from cgcl_fast.engine.files import write_atomically
from cgcl_fast.train import main as train
from cgcl_fast.translate import TranslateOptions, main


@pytest.fixture(scope="module")
def generator() -> networks.ResnetGenerator:
    torch.manual_seed(0)
    return networks.ResnetGenerator(ngf=4, n_blocks=1)


@pytest.fixture(scope="module")
def checkpoint(generator: networks.ResnetGenerator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator file in the published layout."""
    path = tmp_path_factory.mktemp("published") / "latest_net_G.pth"
    torch.save(compat.published_state_dict(generator), path)
    return path


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    (folder / "deeper").mkdir(parents=True)
    noise = np.random.RandomState(0).randint(0, 256, (50, 70, 4), dtype=np.uint8)
    rgba = Image.fromarray(noise)
    rgba.convert("RGB").save(folder / "same.jpg")
    rgba.save(folder / "same.png")
    rgba.convert("L").resize((33, 21)).save(folder / "gray.png")
    Image.fromarray(noise[..., 0].astype(np.uint16) * 257).save(folder / "sixteen.tif")
    rgba.convert("RGB").resize((64, 48)).save(folder / "deeper" / "web.webp")
    upright = Image.Exif()
    upright[0x0112] = 6
    rgba.convert("RGB").save(folder / "turned.jpg", exif=upright)
    Image.new("RGB", (3, 2)).save(folder / "tiny.bmp")
    return folder


def names(folder: Path) -> set[str]:
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return found - {MANIFEST}


def run(checkpoint: Path, photographs: Path, output: Path, *more: str) -> int:
    where = ["--checkpoint", str(checkpoint), "--input", str(photographs), "--output", str(output)]
    return main([*where, "--device", "cpu", *more])


def test_names_sizes_and_transparency_are_kept(checkpoint: Path, photographs: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert run(checkpoint, photographs, output) == 0
    assert names(output) == names(photographs)
    for name in names(output):
        with Image.open(photographs / name) as before, Image.open(output / name) as after:
            expected = before.size if name != "turned.jpg" else before.size[::-1]
            assert after.size == expected and after.format == before.format, name
    with Image.open(photographs / "same.png") as before, Image.open(output / "same.png") as after:
        assert after.mode == "RGBA" and after.getchannel("A").tobytes() == before.getchannel("A").tobytes()


def test_the_result_is_the_generators(
    generator: networks.ResnetGenerator, checkpoint: Path, photographs: Path, tmp_path: Path
) -> None:
    assert run(checkpoint, photographs / "deeper" / "web.webp", tmp_path / "one") == 0
    assert names(tmp_path / "one") == {"web.webp"}
    Image.open(photographs / "deeper" / "web.webp").save(photographs / "exact.png")  # 64x48: nothing to pad
    assert run(checkpoint, photographs / "exact.png", tmp_path / "two") == 0
    pixels = torch.from_numpy(np.asarray(Image.open(photographs / "exact.png")).copy()).permute(2, 0, 1)[None]
    with torch.no_grad():
        expected = (generator.eval()(pixels / 127.5 - 1)[0].permute(1, 2, 0) + 1) * 127.5
    found = np.asarray(Image.open(tmp_path / "two" / "exact.png")).astype(float)
    assert np.abs(found - expected.numpy()).max() <= 0.51


def test_batches_and_tiles(checkpoint: Path, photographs: Path, tmp_path: Path) -> None:
    for index in range(3):
        Image.open(photographs / "same.png").rotate(90 * index).save(photographs / f"copy{index}.png")
    assert run(checkpoint, photographs, tmp_path / "single") == 0
    assert run(checkpoint, photographs, tmp_path / "batches", "--batch-size", "4") == 0
    assert run(checkpoint, photographs, tmp_path / "tiles", "--tile", "32", "--overlap", "8", "--batch-size", "2") == 0
    assert names(tmp_path / "single") == names(tmp_path / "batches") == names(tmp_path / "tiles")
    for name in names(tmp_path / "single"):
        single, batch, tiles = (
            np.asarray(Image.open(tmp_path / kind / name)).astype(int) for kind in ("single", "batches", "tiles")
        )
        # A rounding apart; JPEG and WebP make more of it.
        assert np.abs(single - batch).max() <= (1 if name.endswith(".png") else 8), name
        assert single.shape == tiles.shape
    assert (tmp_path / "tiles" / "tiny.bmp").read_bytes() == (tmp_path / "single" / "tiny.bmp").read_bytes()
    assert (tmp_path / "tiles" / "same.png").read_bytes() != (tmp_path / "single" / "same.png").read_bytes()


@pytest.mark.parametrize(
    ("on_gpu", "given", "size", "tile", "expected"),
    [
        (False, None, (8, 8), None, 1),
        (False, 3, (8, 8), None, 3),
        (True, 3, (2048, 2048), None, 3),
        (True, None, (8, 8), None, 16),
        (True, None, (256, 256), None, 16),
        (True, None, (256, 257), None, 15),
        (True, None, (512, 512), None, 4),
        (True, None, (1024, 1024), None, 1),
        (True, None, (2048, 2048), None, 1),
        (True, None, (256, 256), 512, 16),
        (True, None, (2048, 2048), 512, 1),
        (True, 3, (2048, 2048), 512, 1),
    ],
)
def test_a_gpu_gets_a_megapixel_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
    on_gpu: bool,
    given: int | None,
    size: tuple[int, int],
    tile: int | None,
    expected: int,
) -> None:
    """And no more is read ahead than two such batches and two for each thread. An image in tiles goes alone."""
    form = FileFormat("PNG")
    job = Job(Path("a"), Path("out"), form)
    image = Loaded(job, FileImage(np.broadcast_to(np.uint8(0), (*size, 3)), None, PHOTOGRAPH, form))
    translator = SimpleNamespace(on_gpu=on_gpu, device=torch.device("cpu"), bytes_of=lambda *_: 1)
    batches: list[int] = []
    ahead = most_ahead = 0

    def load(*_: object, **more: object) -> Loaded:
        nonlocal ahead, most_ahead
        ahead += 1
        most_ahead = max(most_ahead, ahead)
        return image

    def attempt(batch: list, *_: object) -> list[str]:
        nonlocal ahead
        ahead -= len(batch)
        batches.append(len(batch))
        return ["not translated"] * len(batch)

    monkeypatch.setattr(_translate_images, "load", load)
    monkeypatch.setattr(_translate_images, "attempt", attempt)
    options = TranslateOptions(Path("g"), Path("in"), Path("out"), batch_size=given, tile=tile)
    settled: list[Job] = []
    for workers in (0, 1):
        _translate_images.translate_images(
            [job] * 67,
            translator,  # type: ignore[arg-type]
            options,
            workers,
            lambda *_: None,
            lambda job, _: settled.append(job),
        )
        assert batches == [expected] * (67 // expected) + [67 % expected] * (67 % expected > 0)
        assert ahead == 0 and most_ahead <= 2 * (workers + (given or (16 if on_gpu else 1))) + expected
        batches.clear()
    assert len(settled) == 2 * 67


def test_nothing_is_overwritten_unless_allowed(
    checkpoint: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "gray.png").write_bytes(b"mine")
    assert run(checkpoint, photographs, output) == 2
    assert "gray.png" in capsys.readouterr().err
    assert names(output) == {"gray.png"} and (output / "gray.png").read_bytes() == b"mine"
    assert run(checkpoint, photographs, output, "--overwrite") == 0
    assert names(output) == names(photographs)
    before = (photographs / "gray.png").read_bytes()
    assert run(checkpoint, photographs, photographs, "--overwrite") == 2
    assert (photographs / "gray.png").read_bytes() == before


def test_unreadable_files_are_named_and_counted(
    checkpoint: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (photographs / "broken.jpg").write_bytes((photographs / "same.jpg").read_bytes()[:100])
    assert run(checkpoint, photographs, tmp_path / "out") == 1
    out, err = capsys.readouterr()
    reason = f"{photographs / 'broken.jpg'}: cannot be read: "
    assert f"failed: {reason}" in err and "1 failed:" in out and f"\n  {reason}" in out
    assert names(tmp_path / "out") == names(photographs) - {"broken.jpg"}


def test_images_that_cannot_be_written_do_not_end_the_work(
    checkpoint: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """A folder of the name, a file in place of a folder; not a PNG with alpha called .jpg, nor a name of 254 bytes."""
    output, whole = tmp_path / "out", names(photographs)
    (output / "gray.png" / "inside").mkdir(parents=True)
    (output / "deeper").write_text("a file")
    Image.open(photographs / "same.png").save(photographs / "alpha.jpg", format="PNG")
    long = "x" * 250 + ".png"
    Image.open(photographs / "same.png").save(photographs / long)
    assert run(checkpoint, photographs, output, "--overwrite") == 1
    out, err = capsys.readouterr()
    failed = {
        photographs / "gray.png": "Is a directory",
        photographs / "deeper" / "web.webp": "a file is in the place of its folder",
    }
    lines = out.splitlines()
    assert lines[0].startswith(f"translated {len(whole)} images to {output} with ")
    assert lines[0].endswith("; 2 failed:") and len(lines) == 3
    for source, reason in failed.items():
        said = f"{source}: cannot be written to {output / source.relative_to(photographs)}: "
        assert any(line.startswith(f"  {said}") and reason in line for line in lines[1:]), source
        assert f"failed: {said}" in err
    assert names(output) == {*whole, "deeper", "alpha.jpg", long} - {"gray.png", "deeper/web.webp"}
    assert Image.open(output / "alpha.jpg").format == "PNG" and Image.open(output / "alpha.jpg").mode == "RGBA"
    assert "Traceback" not in err


@pytest.mark.parametrize(("number", "workers"), [(errno.ENOSPC, "0"), (errno.EROFS, "1")])
def test_a_full_disk_ends_the_work_with_one_line(
    checkpoint: Path,
    photographs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    workers: str,
) -> None:
    tried = []

    def write(path: Path, fill: Callable) -> None:
        tried.append(path)
        if len(tried) == 3:
            raise OSError(number, os.strerror(number), str(path))
        write_atomically(path, fill)

    monkeypatch.setattr(_translate_output, "write_atomically", write)
    assert run(checkpoint, photographs, tmp_path / "out", "--workers", workers) == 1
    out, err = capsys.readouterr()
    assert len(tried) == 3 and len(names(tmp_path / "out")) == 2
    assert out.startswith("translated 2 images to ") and "failed" not in out
    assert err.splitlines()[-1] == f"error: {tried[-1]}: {os.strerror(number)}; 5 images are left"


def test_files_and_messages_are_the_same_with_any_number_of_workers(
    checkpoint: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Of files that cannot be read, or not be written, among others in batches."""
    for name in ("a.png", "b.png", "d.png", "e.png"):
        Image.open(photographs / "same.png").save(photographs / name)
    for name in ("c.png", "f.png"):
        content = (photographs / "same.png").read_bytes()
        (photographs / name).write_bytes(content[: len(content) // 2])  # which its header does not show
    said, content = {}, {}
    for workers in ("0", "1", "3"):
        output = tmp_path / "out"
        (output / "d.png" / "inside").mkdir(parents=True)
        assert run(checkpoint, photographs, output, "--workers", workers, "--batch-size", "2", "--overwrite") == 1
        out, err = capsys.readouterr()
        said[workers] = out, [line for line in err.splitlines() if line.startswith("failed")]
        content[workers] = {name: (output / name).read_bytes() for name in names(output)}
        shutil.rmtree(output)
    assert len(said["0"][1]) == 3 and len(content["0"]) == 10
    assert said["0"] == said["1"] == said["3"] and content["0"] == content["1"] == content["3"]


def fails_for_some(monkeypatch: pytest.MonkeyPatch, error: Callable[[], torch.Tensor]) -> None:
    """A generator that fails for images of which a corner is white."""
    forward = networks.ResnetGenerator.forward

    def checked(self: networks.ResnetGenerator, image: torch.Tensor, *more: object) -> torch.Tensor:
        white = (image[:, :, :1, :1] == 1).all(dim=1, keepdim=True)
        result = forward(self, image, *more)  # type: ignore[arg-type]
        return torch.where(white, error(), result) if bool(white.any()) else result

    monkeypatch.setattr(networks.ResnetGenerator, "forward", checked)


def raises(error: Exception) -> torch.Tensor:
    raise error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (lambda: torch.empty(2**50), "not enough memory for 40x24 pixels; --tile takes less"),
        (lambda: raises(torch.OutOfMemoryError("CUDA out of memory.")), "not enough memory for 40x24 pixels; --tile"),
        (lambda: raises(MemoryError()), "not enough memory for 40x24 pixels; --tile takes less"),
        (lambda: raises(RuntimeError("a kernel of 7\nof 3")), "cannot be translated: a kernel of 7"),
        (lambda: torch.tensor(float("nan")), "its translation has NaN or infinity"),
    ],
)
@pytest.mark.parametrize("batch", [1, 3])
def test_an_image_that_the_generator_fails_for_is_named_and_the_others_are_translated(
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    error: Callable[[], torch.Tensor],
    reason: str,
    batch: int,
) -> None:
    """Also those that are in a batch with it."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(5):
        Image.new("RGB", (40, 24), (255, 255, 255) if number == 1 else (40 * number, 9, 9)).save(
            folder / f"{number}.png"
        )
    fails_for_some(monkeypatch, error)
    assert run(checkpoint, folder, tmp_path / "out", "--batch-size", str(batch)) == 1
    out, err = capsys.readouterr()
    assert names(tmp_path / "out") == {"0.png", "2.png", "3.png", "4.png"}
    lines = out.splitlines()
    assert lines[0].startswith("translated 4 images to ") and lines[0].endswith("; 1 failed:") and len(lines) == 2
    assert lines[1].startswith(f"  {folder / '1.png'}: ") and reason in lines[1] and "Traceback" not in err


def test_with_tiles_a_lack_of_memory_asks_for_smaller_ones(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (40, 24), (255, 255, 255)).save(tmp_path / "a.png")
    fails_for_some(monkeypatch, lambda: raises(MemoryError()))
    assert run(checkpoint, tmp_path / "a.png", tmp_path / "out", "--tile", "32") == 1
    assert "a smaller --tile takes less" in capsys.readouterr().out


def test_a_device_that_fails_ends_the_work(
    checkpoint: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an error of a kernel every later call fails too."""
    error = torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nmore")
    monkeypatch.setattr(networks.ResnetGenerator, "forward", lambda *_: raises(error))
    assert run(checkpoint, photographs, tmp_path / "out") == 1
    out, err = capsys.readouterr()
    assert out.startswith("translated 0 images")
    assert err.splitlines()[-1] == "error: CUDA error: an illegal memory access was encountered; 7 images are left"


def test_folders_that_cannot_be_listed_are_named(
    checkpoint: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture, hide: Callable[[Path], None]
) -> None:
    hide(photographs / "deeper")
    assert run(checkpoint, photographs, tmp_path / "out") == 1
    out, err = capsys.readouterr()
    assert "translated 6 images" in out and "; 1 failed:" in out
    assert out.splitlines()[1] == f"  {photographs / 'deeper'}: cannot be listed: Permission denied"
    hide(photographs)
    assert run(checkpoint, photographs, tmp_path / "out2") == 2
    assert f"{photographs} cannot be read: Permission denied" in capsys.readouterr().err


def test_names_of_files_forge_no_line(
    checkpoint: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Line breaks, escape sequences, and bytes that are no Unicode, which stdout refuses."""
    folder = tmp_path / "in\nerror: forged"
    photographs.rename(folder)
    bad = os.fsdecode(b"bad\ntranslated 9 images\x1b[2J\xff.png")
    (folder / bad).write_bytes(b"no image")
    output = tmp_path / "out\nerror: forged\x1b[2J"
    assert run(checkpoint, folder, output) == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2 and r"bad\ntranslated 9 images\x1b[2J\udcff.png: cannot be read" in out
    assert "\x1b" not in out + err and not any(line.startswith("error") for line in err.splitlines())
    assert run(checkpoint, folder, output, "--tile", "64") == 2  # another work
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1 and "would be overwritten" in err and r"out\nerror: forged\x1b[2J" in err


def test_links_that_lead_in_a_circle_are_images_that_cannot_be_read(
    checkpoint: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (photographs / "circle.png").symlink_to(photographs / "circle.png")
    assert run(checkpoint, photographs, tmp_path / "out") == 1
    assert "circle.png: cannot be read: Too many levels of symbolic links" in capsys.readouterr().out


@pytest.mark.parametrize("workers", ["0", "1"])
def test_an_interrupted_work_goes_on_where_it_stopped(
    checkpoint: Path,
    photographs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    workers: str,
) -> None:
    output, whole = tmp_path / "out", names(photographs)
    assert run(checkpoint, photographs, tmp_path / "at once") == 0
    tried: list[str] = []

    def write(path: Path, fill: Callable) -> None:
        tried.append(path.relative_to(output).as_posix())
        if len(tried) == 4:
            raise KeyboardInterrupt
        write_atomically(path, fill)

    monkeypatch.setattr(_translate_output, "write_atomically", write)
    assert run(checkpoint, photographs, output, "--workers", workers) == 130
    assert names(output) == set(tried[:3])
    capsys.readouterr()
    assert run(checkpoint, photographs, output) == 0
    assert f"{output}: 3 of {len(whole)} images are there from before" in capsys.readouterr().err
    assert set(tried[4:]) == whole - set(tried[:3]) and names(output) == whole
    for name in whole:
        assert (output / name).read_bytes() == (tmp_path / "at once" / name).read_bytes()
    assert run(checkpoint, photographs, output) == 0  # all is done
    assert f"{output}: {len(whole)} of {len(whole)} images are there from before" in capsys.readouterr().err
    assert len(tried) == len(whole) + 1


def test_what_another_work_wrote_or_another_image_gave_is_not_taken(
    checkpoint: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    broken, output = photographs / "broken.png", tmp_path / "out"
    broken.write_bytes(b"no image")
    assert run(checkpoint, photographs, output) == 1
    assert run(checkpoint, photographs, output, "--tile", "32") == 2
    Image.new("RGB", (9, 9)).save(broken)
    before = {name: (output / name).stat().st_mtime_ns for name in names(output)}
    assert run(checkpoint, photographs, output) == 0
    assert names(output) == names(photographs)
    assert {name: (output / name).stat().st_mtime_ns for name in before} == before

    broken.write_bytes(b"no image")
    assert run(checkpoint, photographs, output, "--overwrite") == 1
    Image.new("RGB", (12, 12)).save(photographs / "gray.png")  # changed since
    Image.new("RGB", (9, 9)).save(broken)
    capsys.readouterr()
    assert run(checkpoint, photographs, output) == 0  # goes on, with the leave to overwrite
    assert "6 of 8 images are there from before" in capsys.readouterr().err
    assert Image.open(output / "gray.png").size == (12, 12)


def test_images_that_were_too_large_are_made_up_for(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """As the message says; the input may be spelled in another way, too."""
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    Image.new("RGB", (1200, 1000)).save(source / "large.png")
    Image.new("RGB", (20, 20)).save(source / "small.png")
    assert run(checkpoint, source, output, "--max-megapixels", "1") == 1
    assert "--max-megapixels 2 reads it" in capsys.readouterr().out
    before = (output / "small.png").stat().st_mtime_ns
    monkeypatch.chdir(source)
    assert run(checkpoint, Path("."), output, "--max-megapixels", "2") == 0
    assert "1 of 2 images are there from before" in capsys.readouterr().err
    assert (output / "small.png").stat().st_mtime_ns == before and names(output) == names(source)


def test_an_image_that_changes_when_it_has_been_read_is_noticed_later(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, output = tmp_path / "a.png", tmp_path / "out"
    Image.new("RGB", (20, 20)).save(source)
    write = _translate_output.write_numbers

    def changed(file: IO[bytes], numbers: np.ndarray, *more: Any) -> None:
        Image.new("RGB", (24, 20)).save(source)
        write(file, numbers, *more)

    monkeypatch.setattr(_translate_output, "write_numbers", changed)
    assert run(checkpoint, source, output) == 0 and Image.open(output / "a.png").size == (20, 20)
    assert run(checkpoint, source, output) == 2
    assert run(checkpoint, source, output, "--overwrite") == 0 and Image.open(output / "a.png").size == (24, 20)


@pytest.mark.parametrize("more", [[], ["--overwrite"], ["--shards", "2"]])
def test_two_images_never_go_to_one_file(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture, more: list[str]
) -> None:
    """The first one cannot be written in its own format."""
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    Image.new("RGB", (32, 32)).save(source / "a.ico")
    Image.new("RGB", (20, 20)).save(source / "a.ico.png")
    status = run(checkpoint, source, output, *more)
    out, err = capsys.readouterr()
    if "--shards" in more:
        assert status == 1 and "two files would be called a.ico.png in it" in out
    else:
        assert status == 2 and f"two images of the input would be written to {output / 'a.ico.png'}" in err
        assert not output.exists()


def test_one_work_at_a_time_is_in_a_folder(
    checkpoint: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The lock is a kernel's, which ends with whatever process has it."""
    output = tmp_path / "out"
    output.mkdir()
    hold = "import fcntl, sys; file = open(sys.argv[1], 'a+'); fcntl.lockf(file, fcntl.LOCK_EX); print(); input()"
    command = [sys.executable, "-c", hold, str(output / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline()
        assert run(checkpoint, photographs, output) == 2
        assert f"{output} is in use by another process" in capsys.readouterr().err and not names(output) - {".lock"}
        other.kill()
    assert run(checkpoint, photographs, output) == 0


def test_a_manifest_that_is_cut_short_or_foreign(
    checkpoint: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "out"
    for content in (b"{", b"[1]\n", b"\xff\xfe", b'{"work": 3}\n{"input": "gray.png", "output": "gray.png"}\n'):
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir()
        (output / MANIFEST).write_bytes(content)
        assert run(checkpoint, photographs / "gray.png", output) == 2  # it may be the user's own
        assert f"{output / MANIFEST}: not the manifest of a translation" in capsys.readouterr().err
        assert (output / MANIFEST).read_bytes() == content and names(output) == set()
        assert run(checkpoint, photographs / "gray.png", output, "--overwrite") == 0
    (photographs / "broken.png").write_bytes(b"no image")
    (output / "gray.png").unlink()
    assert run(checkpoint, photographs, output) == 1
    listed = output / MANIFEST
    listed.write_bytes(listed.read_bytes() + b'{"input": "bro')
    assert run(checkpoint, photographs, output) == 1
    assert names(output) == names(photographs) - {"broken.png"}


def test_what_is_left_out_is_said(
    checkpoint: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (photographs / "film.mp4").write_bytes(b"no image")
    frame = Image.new("RGB", (20, 20))
    frame.save(photographs / "frames.gif", save_all=True, append_images=[Image.new("RGB", (20, 20), (255, 0, 0))])
    assert run(checkpoint, photographs, tmp_path / "out") == 0
    err = capsys.readouterr().err
    assert f"{photographs}: 1 file left out: 1 .mp4" in err
    assert f"{photographs}: of 1 images the first of several frames, as of frames.gif" in err
    assert Image.open(tmp_path / "out" / "frames.gif").format == "GIF"


def test_a_profile_of_colours_is_said_to_be_srgb(checkpoint: Path, tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("RGB", (20, 20), (9, 99, 200)).save(tmp_path / "a.png", icc_profile=profile)
    Image.new("RGB", (20, 20), (9, 99, 200)).save(tmp_path / "b.png")
    for name in ("a.png", "b.png"):
        assert run(checkpoint, tmp_path / name, tmp_path / "out") == 0
    with Image.open(tmp_path / "out" / "a.png") as a, Image.open(tmp_path / "out" / "b.png") as b:
        said = ImageCms.ImageCmsProfile(io.BytesIO(a.info["icc_profile"]))
        assert "sRGB" in ImageCms.getProfileDescription(said) and "icc_profile" not in b.info
        assert a.tobytes() == b.tobytes()


def test_runs_and_their_files(photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "run"
    tiny = [
        "--size",
        "32",
        "--ngf",
        "4",
        "--ndf",
        "4",
        "--n-blocks",
        "1",
        "--nce-layers",
        "[0,4]",
        "--num-patches",
        "8",
        "--device",
        "cpu",
        "--steps",
        "2",
    ]
    assert train(["cut", *tiny, "--save-every", "1", "--output", str(folder)]) == 0
    newest = folder / "checkpoints" / "step_00000002"
    results = []
    for index, path in enumerate((folder, folder / "checkpoints", Path(f"{newest}.pt"), Path(f"{newest}.safetensors"))):
        assert run(path, photographs / "gray.png", tmp_path / str(index)) == 0
        results.append((tmp_path / str(index) / "gray.png").read_bytes())
    assert len(set(results)) == 1
    for suffix, used in ((".safetensors", "step_00000002.pt"), (".pt", "step_00000001.safetensors")):
        path = newest.with_suffix(suffix)
        path.write_bytes(path.read_bytes()[:-50])
        with pytest.warns(UserWarning, match=f"{path.name}.*{used} is used instead"):
            assert run(folder, photographs / "gray.png", tmp_path / used) == 0
        assert used in capsys.readouterr().out


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step of CGL, which has nearly every option of a network."""
    folder = tmp_path_factory.mktemp("tiny") / "run"
    small = ["--size", "32", "--ngf", "2", "--ndf", "2", "--object-size", "16", "--d-layers", "3", "--eval-images", "0"]
    assert train(["cgl", *small, "--n-blocks", "1", "--device", "cpu", "--steps", "1", "--output", str(folder)]) == 0
    return folder


def test_a_generator_with_a_flipped_bit_is_not_preferred_over_the_checkpoint_beside_it(
    tiny_run: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    path = folder / "checkpoints" / "step_00000001.safetensors"
    content = bytearray(path.read_bytes())
    content[-1000] ^= 64
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=r"step_00000001\.safetensors: damaged .*step_00000001\.pt is used instead"):
        assert run(folder, photographs / "gray.png", tmp_path / "out", "--domain", "night") == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((("config", name), 10**18) for name in ("n_blocks", "d_layers", "ngf", "ndf", "style_dim")),
        *((("config", "d_layers"), value) for value in (10**8, -1, 2.5, "3")),
        *((("config", "domains"), value) for value in (3, list("ab") * 5000, list(range(5000)), [["a"], ["b"]])),
        *(((name,), value) for name in ("method", "config") for value in (3, [], {}, "nothing", None)),
    ],
)
def test_a_checkpoint_whose_config_is_none_is_one_line_and_status_2(
    tiny_run: Path,
    photographs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    name: tuple[str, ...],
    value: object,
) -> None:
    """Numbers as large as they may be written must not be built, nor make anything else that takes long."""
    state = torch.load(tiny_run / "checkpoints" / "step_00000001.pt", weights_only=True)
    place = state["config"]
    for part in name[:-1]:
        place = place[part]
    place[name[-1]] = value
    path = tmp_path / "x.pt"
    torch.save(state, path)
    with no_waiting():
        assert run(path, photographs, tmp_path / "out") == 2
    err = capsys.readouterr().err
    assert str(path) in err and len(err.splitlines()) == 1 and len(err) < 1000


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_is_not_waited_for(
    checkpoint: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture, kind: str
) -> None:
    for name in ("x.pt", "x.safetensors"):
        NO_FILES[kind](tmp_path / name)
        with no_waiting():
            assert run(tmp_path / name, photographs, tmp_path / "out") == 2
        err = capsys.readouterr().err
        assert f"{name}: cannot be read ({kind}, not a regular file)" in err and len(err.splitlines()) == 1
    NO_FILES[kind](tmp_path / "x.png")
    with no_waiting():
        assert run(checkpoint, tmp_path / "x.png", tmp_path / "out") == 2
    assert f"x.png: {kind}, not a regular file" in capsys.readouterr().err
    NO_FILES[kind](photographs / "pipe.png")
    with no_waiting():
        assert run(checkpoint, photographs, tmp_path / "out") == 1
    out, err = capsys.readouterr()
    assert f"pipe.png: cannot be read: {kind}, not a regular file" in err and "1 failed" in out
    assert names(tmp_path / "out") == names(photographs) - {"pipe.png"}


class Hostile:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize(
    "kind",
    ["hostile pickle", "hostile torch", "truncated", "foreign", "text", "empty", "folder", "none", "safetensors"],
)
def test_what_is_no_generator_is_one_line_and_status_2(
    checkpoint: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture, kind: str
) -> None:
    path, marker = tmp_path / ("x.safetensors" if kind == "safetensors" else "x.pth"), tmp_path / "ran"
    if kind == "hostile pickle":
        path.write_bytes(pickle.dumps(Hostile(marker)))
    elif kind == "hostile torch":
        torch.save({"model.1.weight": Hostile(marker)}, path)
    elif kind == "truncated":
        path.write_bytes(checkpoint.read_bytes()[:-300])
    elif kind == "foreign":
        torch.save({"layer.weight": torch.ones(3, 3)}, path)
    elif kind in ("text", "safetensors"):
        path.write_text("hello")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "folder":
        path.mkdir()
    assert run(path, photographs, tmp_path / "out") == 2
    err = capsys.readouterr().err
    assert str(path) in err and len(err.splitlines()) == 1 and "Traceback" not in err
    assert not marker.exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--tile", "4"], "tile: expected an integer from 16 to"),
        (["--overlap", "4"], "overlap: expected less than tile"),
        (["--tile", "32", "--overlap", "32"], "overlap: expected less than tile"),
        (["--batch-size", "0"], "batch_size: expected an integer from 1"),
        (["--precision", "fp16"], "fp16 needs a GPU"),
        (["--colour", "red"], "nrecognized arguments"),
        (["--input", "nowhere"], "nowhere does not exist"),
    ],
)
def test_wrong_options_are_one_line_and_status_2(
    checkpoint: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture, more: list[str], said: str
) -> None:
    assert run(checkpoint, photographs, tmp_path / "out", *more) == 2
    err = capsys.readouterr().err
    assert said in err and len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_without_images(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("no image")
    assert run(checkpoint, tmp_path / "in", tmp_path / "out") == 2
    assert "holds no image" in capsys.readouterr().err
    assert main(["--input", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert "checkpoint" in capsys.readouterr().err


@pytest.fixture(scope="module")
def styled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator of three domains with styles."""
    torch.manual_seed(0)
    generator = networks.DisentangledGenerator(("dry", "wet", "dark"), ngf=2, n_blocks=1, style_dim=3, mlp_dim=8)
    networks.init_weights(generator, "kaiming")
    path = tmp_path_factory.mktemp("styled") / "generator.safetensors"
    networks.save_generator(path, generator)
    return path


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_domain_and_style_are_the_generators(styled: Path, photographs: Path, tmp_path: Path) -> None:
    generator = networks.load_generator(styled)
    reference = photographs / "gray.png"
    Image.open(photographs / "same.png").convert("RGB").resize((32, 24)).save(tmp_path / "a.png")
    image = torch.from_numpy(pixels(tmp_path / "a.png")).permute(2, 0, 1)[None] / 127.5 - 1
    of_reference = torch.from_numpy(pixels(reference)).permute(2, 0, 1)[None] / 127.5 - 1
    seed = torch.Generator().manual_seed
    with torch.no_grad():
        for name, more, style in (
            ("reference", ["--style", str(reference)], generator.style_of(of_reference, 1)),
            ("seed", ["--style", "7"], generator.random_style(1, seed(7))),
            ("default", [], generator.random_style(1, seed(0))),
        ):
            assert run(styled, tmp_path / "a.png", tmp_path / name, "--domain", "wet", *more) == 0
            expected = ((generator(image, 1, style)[0].permute(1, 2, 0) + 1) * 127.5).numpy()
            assert np.abs(pixels(tmp_path / name / "a.png") - expected).max() <= 0.51, name
    assert run(styled, tmp_path / "a.png", tmp_path / "dark", "--domain", "dark") == 0
    assert np.abs(pixels(tmp_path / "dark" / "a.png") - pixels(tmp_path / "default" / "a.png")).max() > 2
    again = [styled, tmp_path / "a.png", tmp_path / "reference", "--domain", "wet", "--style", str(reference)]
    assert run(*again) == 0  # all is done
    Image.new("RGB", (16, 16)).save(reference)  # another style now
    assert run(*again) == 2


def test_random_styles_differ_between_images_and_not_between_tiles(
    styled: Path, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "same"
    folder.mkdir()
    picture = Image.open(photographs / "same.png").convert("RGB")
    for name in ("a.png", "b.png"):
        picture.save(folder / name)
    for output, more in (("whole", ["--batch-size", "2"]), ("tiles", ["--tile", "32"])):
        assert run(styled, folder, tmp_path / output, "--domain", "wet", "--style", "random", *more) == 0
        a, b = (pixels(tmp_path / output / name) for name in ("a.png", "b.png"))
        assert np.abs(a - b).max() > 2
    styles: list[torch.Tensor] = []
    forward = networks.DisentangledGenerator.forward

    def recorded(self: object, image: torch.Tensor, domain: int, style: torch.Tensor) -> torch.Tensor:
        styles.append(style)
        return forward(self, image, domain, style)  # type: ignore[arg-type]

    monkeypatch.setattr(networks.DisentangledGenerator, "forward", recorded)
    assert run(styled, folder / "a.png", tmp_path / "one", "--domain", "wet", "--style", "random", "--tile", "32") == 0
    assert len(styles) > 2 and all(torch.equal(style, styles[0]) for style in styles)


@pytest.mark.parametrize(("given", "expected"), [(None, [8, 5]), (2, [2] * 6 + [1])])
def test_a_gpu_gets_a_megapixel_of_tiles_at_a_time(
    monkeypatch: pytest.MonkeyPatch, given: int | None, expected: list[int]
) -> None:
    form = FileFormat("PNG")
    numbers = np.broadcast_to(np.uint8(0), (250, 6400, 3))
    image = Loaded(Job(Path("a"), Path("out"), form), FileImage(numbers, None, PHOTOGRAPH, form))
    translator = Translator(networks.ResnetGenerator(ngf=1, n_blocks=1), torch.device("cpu"))
    monkeypatch.setattr(translator, "on_gpu", True)
    batches: list[int] = []

    def tiles(batch: torch.Tensor) -> torch.Tensor:
        batches.append(len(batch))
        return batch

    monkeypatch.setattr(translator, "for_batch", lambda size: tiles)
    options = TranslateOptions(Path("g"), Path("in"), Path("out"), batch_size=given, tile=512, overlap=16)
    (result,) = _translate_images.attempt([image], translator, options)
    assert isinstance(result, Translation) and result.numbers().shape == numbers.shape
    assert batches == expected


@pytest.mark.parametrize("style", ["random", "7", None])
def test_styles_do_not_depend_on_the_batch(styled: Path, style: str | None) -> None:
    translator = Translator(networks.load_generator(styled), torch.device("cpu"), domain="wet", style=style)
    images = torch.rand(8, 3, 16, 16) * 2 - 1  # their 24 numbers of styles PyTorch would draw otherwise than 8 times 3
    found = []
    for size in (1, 3, 8):
        if style == "random":
            translator.drawn = torch.Generator().manual_seed(1)
        found.append(torch.cat([translator.for_batch(len(batch))(batch) for batch in images.split(size)]))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-4, atol=1e-4)


def test_of_two_domains_the_second_is_the_default(photographs: Path, tmp_path: Path) -> None:
    generator = networks.DisentangledGenerator(("day", "night"), ngf=2, n_blocks=1)
    networks.save_generator(tmp_path / "g.safetensors", generator)
    for name, more in (("default", []), ("second", ["--domain", "night"]), ("first", ["--domain", "day"])):
        assert run(tmp_path / "g.safetensors", photographs / "gray.png", tmp_path / name, *more) == 0
    default, second, first = (pixels(tmp_path / name / "gray.png") for name in ("default", "second", "first"))
    assert np.array_equal(default, second) and not np.array_equal(default, first)


@pytest.mark.parametrize(
    ("which", "more", "said"),
    [
        ("styled", [], "domain: expected one of dry, wet, dark, got none"),
        ("styled", ["--domain", "foggy"], "domain: expected one of dry, wet, dark, got 'foggy'"),
        ("styled", ["--domain", "wet", "--style", "nowhere.png"], "style: expected an image file, random or a number"),
        ("styled", ["--domain", "wet", "--style", "-3"], "style: expected an image file, random or a number"),
        ("styled", ["--domain", "wet", "--style", "notes.txt"], "notes.txt"),
        ("plain", ["--domain", "wet"], "domain: the checkpoint's ResnetGenerator has none, got 'wet'"),
        ("plain", ["--style", "3"], "style: the checkpoint's ResnetGenerator has none, got '3'"),
    ],
)
def test_wrong_domains_and_styles_are_one_line_and_status_2(
    checkpoint: Path,
    styled: Path,
    photographs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    which: str,
    more: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("no image")
    assert run(styled if which == "styled" else checkpoint, photographs, tmp_path / "out", *more) == 2
    err = capsys.readouterr().err
    assert said in err and len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


class Event:
    """A device's work, which is done when it is waited for."""

    def __init__(self, log: list[str], name: str, error: Exception | None) -> None:
        self.log, self.name, self.error = log, name, error

    def synchronize(self) -> None:
        self.log.append(f"wait {self.name}")
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize(
    ("on_gpu", "expected"),
    [
        (False, ["begin 0", "wait 0", "begin 1", "wait 1", "begin 2", "wait 2"]),
        (True, ["begin 0", "begin 1", "wait 0", "begin 2", "wait 1", "wait 2"]),
    ],
)
@pytest.mark.parametrize("fails", ["", "wait", "begin"])
def test_a_gpu_gets_its_next_batch_before_the_last_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, on_gpu: bool, expected: list[str], fails: str
) -> None:
    """What fails where the second is waited for is that image's; a device that fails with the third ends the work,
    when the two before have been given."""
    log: list[str] = []
    numbers = np.zeros((4, 6, 3), np.uint8)
    form = FileFormat("PNG")
    images = [
        Loaded(Job(Path(str(number)), Path("out"), form), FileImage(numbers, None, PHOTOGRAPH, form))
        for number in range(3)
    ]

    def attempt(batch: list, *_: object) -> list[Translation]:
        (image,) = batch
        name = str(image.job.source)
        log.append(f"begin {name}")
        if (name, fails) == ("2", "begin"):
            raise Stopped("gone")
        error = RuntimeError("a kernel") if (name, fails) == ("1", "wait") else None
        return [Translation(lambda: numbers, Event(log, name, error))]  # type: ignore[arg-type]

    monkeypatch.setattr(_translate_images, "attempt", attempt)
    translator = SimpleNamespace(on_gpu=on_gpu)
    options = TranslateOptions(Path("g"), Path("in"), Path("out"))
    given = []
    with pytest.raises(Stopped) if fails == "begin" else nullcontext():
        for image, result in _translate_images.translated([[each] for each in images], translator, options):
            given.append((str(image.job.source), result if isinstance(result, str) else "done"))
    second = "cannot be translated: a kernel" if fails == "wait" else "done"
    assert given == [("0", "done"), ("1", second), ("2", "done")][: 2 if fails == "begin" else 3]
    assert log == [each for each in expected if (each, fails) != ("wait 2", "begin")]
