"""Images of other than three channels of 8 bits, from training to translation."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from cgcl_fast import _translate_output, _translator, networks
from cgcl_fast.data import Reading, formats, read_file, writing
from cgcl_fast.data.formats import FileFormat
from cgcl_fast.data.writing import write_numbers
from cgcl_fast.networks.files import generator_bytes
from cgcl_fast.train import main as train
from cgcl_fast.translate import main as translate

TINY = ["--preset", "small", "--size", "32", "--ngf", "4", "--ndf", "4", "--device", "cpu", "--steps", "1"]
TWO_DOMAINS = [*TINY, "--n-blocks", "1"]
PATCHES = ["--nce-layers", "[0,4]", "--num-patches", "8", "--nce-dim", "8"]

TWELVE_BITS = ("png", "uint16", 1, 0, 3645)
KINDS = [
    TWELVE_BITS,
    ("tif", "uint16", 1, 0, 4095),
    ("tif", "int16", 1, -1024, 3071),
    ("tif", "float32", 1, -40.0, 31.5),
    ("png", "uint16", 3, 0, 65535),
    ("tif", "uint8", 4, 0, 255),
    ("tif", "uint16", 12, 0, 10000),
    ("npy", "float32", 5, 0.0, 1.001),
    ("npy", "int32", 16, -70000, 90000),
]


def write(path: Path, kind: str, channels: int, low: float, high: float, side: int = 36) -> np.ndarray:
    numbers = np.random.default_rng(len(path.stem)).uniform(low, high, (side, side + 4, channels))
    numbers.flat[0], numbers.flat[-1] = low, high
    numbers = (numbers if kind.startswith("float") else np.rint(numbers)).astype(kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, numbers)
    elif path.suffix == ".png" and channels == 1:
        Image.fromarray(numbers[..., 0]).save(path)
    elif path.suffix == ".png":
        with open(path, "wb") as file:  # compared with another reader in tests/data/test_decoding.py
            write_numbers(file, numbers, FileFormat("PNG", kind, channels))
    else:
        tifffile = pytest.importorskip("tifffile")
        options = {"planarconfig": "contig"} if channels > 1 else {}
        photometric = "rgb" if (channels, kind) == (3, "uint8") else "minisblack"
        tifffile.imwrite(path, numbers if channels > 1 else numbers[..., 0], photometric=photometric, **options)
    return numbers


def read(path: Path) -> np.ndarray:
    if path.suffix == ".npy":
        numbers = np.load(path)
    elif path.suffix == ".tif":
        numbers = pytest.importorskip("tifffile").imread(path)
    else:
        import torchvision

        numbers = torchvision.io.decode_png(torchvision.io.read_file(str(path))).permute(1, 2, 0).numpy()
    return numbers[..., None] if numbers.ndim == 2 else numbers


def data_of(root: Path, *kinds: tuple) -> Path:
    """A domain for each kind."""
    for domain, (suffix, kind, channels, low, high) in zip("AB", kinds, strict=True):
        for split, number in (("train", 1), ("train", 22), ("test", 333)):
            write(root / f"{split}{domain}" / f"{number}.{suffix}", kind, channels, low, high)
    return root


def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks.ResnetGenerator, "forward", lambda self, image, *_: image)


@pytest.mark.parametrize("stated", [True, False])
@pytest.mark.parametrize(("suffix", "kind", "channels", "low", "high"), KINDS)
def test_numbers_that_a_generator_leaves_alone_are_written_as_they_were_read(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
    kind: str,
    channels: int,
    low: float,
    high: float,
    stated: bool,
) -> None:
    """In format, type, channels and range: the one that is stated, or the one that the generator was trained with."""
    values = None if stated else {d: {"type": kind, "low": low, "high": high} for d in "AB"}
    generator = networks.ResnetGenerator(channels, channels, ngf=2, n_blocks=1)
    (tmp_path / "g.safetensors").write_bytes(generator_bytes(generator, values))
    numbers = write(tmp_path / "in" / f"a.{suffix}", kind, channels, low, high)
    identity(monkeypatch)
    for name, more in (("whole", []), ("tiles", ["--tile", "16"])):
        command = ["--checkpoint", str(tmp_path / "g.safetensors"), "--input", str(tmp_path / "in")]
        command += ["--output", str(tmp_path / name), "--device", "cpu", *more]
        if stated and kind != "uint8":
            command += ["--range", str(low), str(high)]
        assert translate(command) == 0
        found = read(tmp_path / name / f"a.{suffix}")
        assert found.dtype == numbers.dtype and found.shape == numbers.shape
        tolerance = (high - low) * 2e-7 if kind.startswith("float") or kind == "int32" else 0
        np.testing.assert_allclose(found, numbers, atol=tolerance, rtol=0)


@pytest.mark.parametrize(
    ("method", "kind", "options"),
    [
        ("cut", TWELVE_BITS, [*TWO_DOMAINS, *PATCHES]),
        ("cyclegan", ("npy", "uint8", 4, 0, 255), TWO_DOMAINS),
        ("enco", ("npy", "uint16", 12, 0, 10000), [*TINY, "--n-blocks", "5", "--num-patches", "8"]),
        ("sincut", ("npy", "int16", 4, -1024, 3000),
         [*TINY[:2], *TINY[8:], "--ngf", "1", "--ndf", "1", "--num-crops", "2", "--crop-size", "16", "--n-blocks", "2",
          "--most-width", "48", "--least-width", "32"]),
    ],
)  # fmt: skip
def test_methods_train_and_translate(
    tmp_path: Path, capsys: pytest.CaptureFixture, method: str, kind: tuple, options: list[str]
) -> None:
    suffix, type_, channels, low, high = kind
    data, run = data_of(tmp_path / "data", kind, kind), tmp_path / "run"
    both = ["--input-nc", str(channels), *(["--output-nc", str(channels)] if method != "sincut" else [])]
    assert train([method, *options, *both, "--data", str(data), "--output", str(run)]) == 0
    told = f"domain B: images of {type_}, {low:g} to {high:g} become -1 to 1"
    assert (told in capsys.readouterr().out) == (type_ != "uint8")
    ranges = yaml.safe_load((run / "config.yaml").read_text())["ranges"]
    assert ranges == {domain: {"type": type_, "low": low, "high": high} for domain in "AB"}
    grid = next((run / "samples").iterdir())
    assert Image.open(grid).mode == "RGB"
    for name in ("step_00000001.safetensors", "step_00000001.pt"):
        command = ["--checkpoint", str(run / "checkpoints" / name), "--input", str(data / "testA")]
        assert translate([*command, "--output", str(tmp_path / name), "--device", "cpu"]) == 0
        found = read(tmp_path / name / f"333.{suffix}")
        assert found.shape == (36, 40, channels) and found.dtype == type_
        # A generator with random weights is near the middle of its range, whatever that is.
        assert low + (high - low) / 10 < np.median(found) < high - (high - low) / 10


def test_going_on_takes_the_range_of_the_beginning(tmp_path: Path) -> None:
    data, run = data_of(tmp_path / "data", TWELVE_BITS, TWELVE_BITS), tmp_path / "run"
    command = ["cut", *TWO_DOMAINS, *PATCHES, "--input-nc", "1", "--output-nc", "1", "--data", str(data)]
    command += ["--output", str(run)]
    assert train([*command, "--range", "0", "4095"]) == 0
    write(data / "trainA" / "1.png", "uint16", 1, 0, 60000)
    again = ["cut", "--output", str(run), "--resume", "--steps"]
    assert train([*again, "2"]) == 0
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["range"] == [0, 4095]
    assert config["ranges"]["A"] == {"type": "uint16", "low": 0, "high": 4095}
    assert train([*again, "3", "--range", "0", "9"]) == 2


def test_the_numbers_that_a_run_has_learnt_stay_with_other_data_but_not_for_a_new_training(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    first, other = (data_of(tmp_path / name, TWELVE_BITS, TWELVE_BITS) for name in ("first", "other"))
    run, grey = tmp_path / "run", ["--input-nc", "1", "--output-nc", "1"]
    begin = ["cut", *TWO_DOMAINS, *PATCHES, *grey, "--data", str(first), "--output", str(run)]
    assert train(begin) == 0
    for path in other.glob("*/*.png"):
        write(path, "uint16", 1, 0, 60000)
    again = ["cut", "--output", str(run), "--resume", "--data", str(other)]
    assert train([*again, "--steps", "2", "--ranges", "{A: {low: 0.0, high: 3645, type: uint16}}"]) == 0  # as it was
    assert yaml.safe_load((run / "config.yaml").read_text())["ranges"]["B"]["high"] == 3645
    for wrong, message in (
        ("{B: {low: 0, high: 9, type: uint16}}", "ranges is"),
        ("{B: {low: 9, high: 9}}", "range: expected the lower number"),
    ):
        capsys.readouterr()
        assert train([*again, "--steps", "3", "--ranges", wrong]) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]
    assert train([*again, "--steps", "3", "--max-megapixels", "200"]) == 0  # other images, if any: a new phase
    assert "max_megapixels from 179 to 200" in capsys.readouterr().err
    fresh = [*begin[:-1], str(tmp_path / "fresh"), "--data", str(other), "--init", str(run)]
    assert train(fresh) == 0
    assert yaml.safe_load((tmp_path / "fresh" / "config.yaml").read_text())["ranges"]["B"]["high"] == 60000


@pytest.mark.parametrize("trained", ["AtoB", "BtoA"])
def test_ranges_are_of_the_folders_whichever_way_one_trains_and_translates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: str
) -> None:
    """A is 12-bit grey, B are photographs. Generators read the one and write the other, as their direction says."""
    data = data_of(tmp_path / "data", TWELVE_BITS, ("png", "uint8", 1, 0, 255))
    for path in data.glob("*B/*.png"):
        Image.new("RGB", (40, 36), (255, 255, 255)).save(path)
    channels = ["--input-nc", "1", "--output-nc", "3"] if trained == "AtoB" else ["--input-nc", "3", "--output-nc", "1"]
    run = tmp_path / "run"
    options = [*TWO_DOMAINS, *channels, "--lambda-idt", "0", "--direction", trained]
    stated = ["--ranges", "{A: {low: 0, high: 4095, type: uint16}}"]
    assert train(["cyclegan", *options, *stated, "--data", str(data), "--output", str(run)]) == 0
    ranges = yaml.safe_load((run / "config.yaml").read_text())["ranges"]
    assert list(ranges) == ["A", "B"] and ranges["A"]["high"] == 4095 and ranges["B"]["type"] == "uint8"
    monkeypatch.setattr(
        networks.ResnetGenerator,
        "forward",
        lambda self, image, *_: image[:, :1].expand(-1, self.config["output_nc"], -1, -1),
    )
    for checkpoint in (run, run / "checkpoints" / "step_00000001.pt"):
        for direction, source in (("AtoB", "A"), ("BtoA", "B"), (None, trained[0])):
            out = tmp_path / f"{checkpoint.name}_{direction}"
            command = ["--checkpoint", str(checkpoint), "--device", "cpu", "--input", str(data / f"test{source}")]
            way = [] if direction is None else ["--direction", direction]
            assert translate([*command, *way, "--output", str(out)]) == 0
            found = read(out / "333.png")
            if source == "A":
                shown = read(data / "testA" / "333.png") / 4095 * 255
                assert found.shape == (36, 40, 3) and found.dtype == np.uint8
                np.testing.assert_allclose(found, np.broadcast_to(shown, found.shape), atol=0.51)
            else:
                assert found.shape == (36, 40, 1) and found.dtype == np.uint16 and (found == 4095).all()


def test_domains_of_different_channels_and_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """12-bit grey to photographs: CycleGAN's second generator goes the other way, so both have their channels."""
    data = data_of(tmp_path / "data", TWELVE_BITS, ("png", "uint8", 3, 0, 255))
    for path in data.glob("*B/*.png"):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (36, 40, 3), dtype=np.uint8)).save(path)
    run = tmp_path / "run"
    options = [*TWO_DOMAINS, "--input-nc", "1", "--output-nc", "3", "--lambda-idt", "0"]
    assert train(["cyclegan", *options, "--data", str(data), "--output", str(run)]) == 0
    monkeypatch.setattr(
        networks.ResnetGenerator, "forward", lambda self, image, *_: image.expand(-1, self.config["output_nc"], -1, -1)
    )
    command = ["--checkpoint", str(run), "--device", "cpu", "--input", str(data / "testA"), "--output"]
    assert translate([*command, str(tmp_path / "out")]) == 0
    with Image.open(tmp_path / "out" / "333.png") as found:
        expected = read(data / "testA" / "333.png") / 3645 * 255
        assert found.mode == "RGB" and np.abs(np.asarray(found) - expected).max() <= 0.501


def test_photographs_become_grey(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = networks.ResnetGenerator(1, 1, ngf=2, n_blocks=1)
    networks.save_generator(tmp_path / "g.safetensors", generator)
    numbers = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(numbers).save(tmp_path / "a.png")
    identity(monkeypatch)
    command = ["--checkpoint", str(tmp_path / "g.safetensors"), "--input", str(tmp_path / "a.png"), "--device", "cpu"]
    assert translate([*command, "--output", str(tmp_path / "out")]) == 0
    with Image.open(tmp_path / "out" / "a.png") as found:
        luma = numbers @ np.array([0.299, 0.587, 0.114])
        assert found.mode == "L" and np.abs(np.asarray(found) - luma).max() <= 1


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "it has 4 channels, expected 3 (train with --input-nc 4 --output-nc 4)"),
        (["--input-nc", "4"], "output_nc: translations are encoded like images, so expected input_nc 4, got 3"),
        (["--range", "5", "5"], "range: expected the lower number before the higher one, got 5 5"),
        (["--range", "0", "nan"], "range"),
        (["--range", "0"], "range"),
        (["--ranges", "{C: {low: 0, high: 1}}"], "ranges: expected domains among A, B, got C"),
        (["--ranges", "{A: {low: 0}}"], "ranges: expected low, high and type of A"),
    ],
)
def test_what_does_not_fit_is_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture, more: list[str], said: str
) -> None:
    kind = ("npy", "uint8", 4 if "range" not in said else 3, 0, 255)
    data = data_of(tmp_path / "data", kind, kind)
    command = ["cut", *TWO_DOMAINS, *PATCHES, "--data", str(data), "--output", str(tmp_path / "run")]
    assert train([*command, *more]) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_the_streets_are_photographs(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    command = ["cut", *TWO_DOMAINS, *PATCHES, "--output", str(tmp_path / "run")]
    assert train([*command, "--input-nc", "1", "--output-nc", "1"]) == 2
    assert "input_nc: images are read with 3 channels, got 1" in capsys.readouterr().err
    assert train([*command, "--range", "0", "1"]) == 2
    assert "range: the built-in streets are photographs of 8 bits" in capsys.readouterr().err


def test_values_in_a_generator_that_mean_nothing_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    for number, values in enumerate(({"A": 3}, {"A": {"low": 2, "high": 1}}, [1])):
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(generator_bytes(networks.ResnetGenerator(ngf=2, n_blocks=1), values))  # type: ignore[arg-type]
        command = ["--checkpoint", str(path), "--input", str(tmp_path / "a.png"), "--output", str(tmp_path / "out")]
        assert translate([*command, "--device", "cpu"]) == 2
        err = capsys.readouterr().err
        assert "expected" in err and len(err.splitlines()) == 1


def test_truths_are_compared_in_what_is_shown(tmp_path: Path) -> None:
    """A folder of true counterparts, of images with one channel: figures are those of grey images."""
    data, run = data_of(tmp_path / "data", TWELVE_BITS, TWELVE_BITS), tmp_path / "run"
    write(data / "truth" / "333.png", "uint16", 1, 1000, 3645)
    options = [*TWO_DOMAINS, *PATCHES, "--input-nc", "1", "--output-nc", "1", "--eval-images", "1"]
    assert train(["cut", *options, "--data", str(data), "--output", str(run)]) == 0
    assert '"psnr/after"' in (run / "metrics.jsonl").read_text()
    assert (
        torch.load(run / "checkpoints" / "step_00000001.pt", weights_only=True)["config"]["ranges"]["B"]["high"] == 3645
    )


@pytest.mark.parametrize(
    ("suffix", "kind", "channels"), [("npy", "uint16", 12), ("tif", "uint16", 5), ("tif", "uint8", 3)]
)
def test_what_is_larger_than_memory_stays_in_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, kind: str, channels: int
) -> None:
    """Read, translated in tiles and written without an array in memory: here all arrays count as large."""
    for module in (formats, writing, _translator):
        monkeypatch.setattr(module, "LARGE", 1)
    high = 255 if kind == "uint8" else 4095
    (tmp_path / "g.safetensors").write_bytes(
        generator_bytes(networks.ResnetGenerator(channels, channels, ngf=2, n_blocks=1))
    )
    numbers = write(tmp_path / "in" / f"a.{suffix}", kind, channels, 0, high, side=50)
    written = []
    monkeypatch.setattr(
        _translate_output,
        "write_numbers",
        lambda file, found, *rest: written.append(found) or write_numbers(file, found, *rest),
    )
    identity(monkeypatch)
    command = ["--checkpoint", str(tmp_path / "g.safetensors"), "--input", str(tmp_path / "in"), "--device", "cpu"]
    command += ["--output", str(tmp_path / "out"), "--tile", "16", "--range", "0", str(high)]
    assert isinstance(read_file(tmp_path / "in" / f"a.{suffix}", Reading(channels)).numbers, np.memmap)
    assert translate(command) == 0
    assert isinstance(written[0], np.memmap)
    np.testing.assert_array_equal(read(tmp_path / "out" / f"a.{suffix}"), numbers)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"a.{suffix}", "translated.jsonl"}


def test_a_disk_without_room_for_a_large_image_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(_translator, "LARGE", 1)
    monkeypatch.setattr(os, "posix_fallocate", lambda *_: (_ for _ in ()).throw(OSError(28, os.strerror(28))))
    networks.save_generator(tmp_path / "g.safetensors", networks.ResnetGenerator(ngf=2, n_blocks=1))
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    command = ["--checkpoint", str(tmp_path / "g.safetensors"), "--input", str(tmp_path / "a.png"), "--device", "cpu"]
    assert translate([*command, "--output", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith("No space left on device; 1 images are left")
