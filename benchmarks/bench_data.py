"""Data throughput: training batches from the loader alone, and ``translate`` from files to files.

    python -m benchmarks.run --select "loader or translate"
    python -m benchmarks.bench_data --device cuda [--seconds 30] [--output FILE.json]        beside a GPU
    python -m benchmarks.bench_data --rehearse        few images and a small generator on the CPU: a dry run

The loader makes 256x256 crops of two domains of photographs of one megapixel, with as many processes as the case says;
"eager" is a plain ``DataLoader`` with torchvision's transforms, as published code writes it. Of photographs in tars
"eager" is the webdataset library's sequential reading, where it is installed, and "files" the same loader on the files
themselves; all three decode and transform in the same way. ``translate`` is the whole
command: files that are decoded, translated at 256x256, encoded and written, with as many threads beside the generator
as the case says. The report gives both in images a second.

Beside a GPU a few cases are timed, on as many processors as ``--cores`` says: the loader, the paper's generator on
images in memory, and ``translate``, which runs twice; the second run counts. The results are written after each.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import io
import itertools
import os
import random
import shutil
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torchvision import transforms

from cgcl_fast import networks, translate
from cgcl_fast._translator import Translator
from cgcl_fast.data import Preprocess, build_loader, open_dataset, to_image

from .case import FORWARD, Case, Run
from .run import default_output, rounded

PHOTOGRAPHS = 8  # of each domain
SIDE = 1024
SIZE = 256
BATCHES = 32  # of one image of each domain
COPIES, SHARDS = 8, 2  # of each photograph, and tars of each domain
GENERATORS: dict[str, dict[str, Any]] = {"small": {"ngf": 4, "n_blocks": 1}, "paper's": {"ngf": 64, "n_blocks": 9}}
TRANSLATED = {"small": 32, "paper's": 4}


@functools.cache
def folder() -> tempfile.TemporaryDirectory:
    """Temporary files of this process, removed when it ends."""
    return tempfile.TemporaryDirectory(prefix="cgcl_fast-bench-")


@functools.cache
def scenes() -> list[Image.Image]:
    dataset = open_dataset(None, size=SIZE, domains=("sunny", "night"))
    return [to_image(dataset[number][domain]) for domain in ("sunny", "night") for number in range(PHOTOGRAPHS)]


@functools.cache
def photographs() -> Path:
    """``trainA`` and ``trainB`` with one-megapixel JPEGs: street scenes with sensor noise."""
    root = Path(folder().name, "photographs")
    noise = np.random.RandomState(0)
    for number, scene in enumerate(scenes()):
        place = root / ("trainA" if number < PHOTOGRAPHS else "trainB")
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.asarray(scene.resize((SIDE, SIDE), Image.Resampling.BICUBIC)).astype(np.int16)
        pixels += noise.randint(-8, 9, pixels.shape, dtype=np.int16)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(place / f"{number}.jpg", quality=90)
    return root


class Plain(Dataset):
    """The published code's unaligned data, with its transforms."""

    def __init__(self, root: Path) -> None:
        self.domains = [sorted((root / name).iterdir()) for name in ("trainA", "trainB")]
        self.transform = transforms.Compose(
            [
                transforms.Resize([286, 286], transforms.InterpolationMode.BICUBIC),
                transforms.RandomCrop(SIZE),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
            ]
        )

    def __len__(self) -> int:
        return PHOTOGRAPHS

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        paths = self.domains[0][index], random.choice(self.domains[1])
        return {name: self.transform(Image.open(path).convert("RGB")) for name, path in zip("AB", paths, strict=True)}


def load(workers: int, implementation: str, compile_backend: str, device: str, count: int = BATCHES) -> Run:
    loader: Any
    if implementation == "eager":
        more = {"persistent_workers": True} if workers else {}
        loader = DataLoader(Plain(photographs()), 1, shuffle=True, num_workers=workers, **more)  # type: ignore[arg-type]
    else:
        loader = build_loader(open_dataset(photographs(), size=SIZE), num_workers=workers)
    return batches_of(loader, count)


@functools.cache
def copies() -> Path:
    """The photographs several times, so that an epoch, at whose end a loader waits, is longer than a round."""
    root = Path(folder().name, "copies")
    for name in ("trainA", "trainB"):
        (root / name).mkdir(parents=True)
        for path, number in itertools.product((photographs() / name).iterdir(), range(COPIES)):
            shutil.copy(path, root / name / f"{path.stem}-{number}.jpg")
    return root


@functools.cache
def shards() -> Path:
    """The same in tars, with the names that WebDataset gives them."""
    root = Path(folder().name, "shards")
    root.mkdir()
    for name in ("trainA", "trainB"):
        for number in range(SHARDS):
            with tarfile.open(root / f"{name}-{number:06d}.tar", "w") as tar:
                for path in sorted((copies() / name).iterdir())[number::SHARDS]:
                    tar.add(path, path.name)
    return root


class Sequential(IterableDataset):
    """Shards as the webdataset library reads them: one after another, through a buffer that is shuffled."""

    def __init__(self, root: Path) -> None:
        import webdataset

        self.transform = Preprocess("resize_and_crop", size=SIZE)
        self.domains = [
            webdataset.WebDataset(sorted(map(str, root.glob(f"{name}-*.tar"))), resampled=True, shardshuffle=False)
            .shuffle(PHOTOGRAPHS * COPIES)
            .to_tuple("jpg")
            for name in ("trainA", "trainB")
        ]

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for files in zip(*self.domains, strict=False):
            yield {name: self.decoded(data) for name, (data,) in zip("AB", files, strict=True)}

    def decoded(self, data: bytes) -> Tensor:
        image = Image.open(io.BytesIO(data))
        image.draft("RGB", (2 * self.transform.load_size,) * 2)  # as cgcl_fast.data.decoding does
        return self.transform(image.copy(), random.Random(0))


def load_tars(workers: int, implementation: str, compile_backend: str, device: str) -> Run:
    if implementation == "eager":
        more = {"persistent_workers": True} if workers else {}
        return batches_of(DataLoader(Sequential(shards()), 1, num_workers=workers, **more))  # type: ignore[arg-type]
    root = shards() if implementation == "cgcl_fast" else copies()
    return batches_of(build_loader(open_dataset(root, size=SIZE), num_workers=workers))


def batches_of(loader: Any, count: int = BATCHES) -> Run:
    """What takes the next ``count`` batches of a loader, over the ends of epochs."""

    def batches() -> Iterator[dict[str, Any]]:
        while True:
            yield from loader

    endless = batches()

    def run() -> list[Tensor]:
        return [batch[name] for batch in itertools.islice(endless, count) for name in "AB"]

    return run


@functools.cache
def generator_file(name: str) -> Path:
    torch.manual_seed(0)
    path = Path(folder().name, f"{name}.safetensors")
    networks.save_generator(path, networks.ResnetGenerator(**GENERATORS[name]))
    return path


@functools.cache
def images(suffix: str, count: int) -> Path:
    place = Path(folder().name, f"{count}-{suffix}")
    place.mkdir()
    for number in range(count):
        first = number % len(scenes())
        if first == number:
            scenes()[number].save(place / f"{number}.{suffix}", quality=95)
        else:
            shutil.copy(place / f"{first}.{suffix}", place / f"{number}.{suffix}")
    return place


def translate_files(
    name: str,
    suffix: str,
    workers: int,
    implementation: str,
    compile_backend: str,
    device: str,
    count: int | None = None,
    precision: str = "fp32",
) -> Run:
    source = images(suffix, count or TRANSLATED[name])
    output = Path(folder().name, "out")
    options = {"checkpoint": generator_file(name), "input": source, "output": output, "device": device}
    options |= {"workers": workers, "precision": precision}
    command = [part for option, value in options.items() for part in (f"--{option}", str(value))]

    def run() -> list[Tensor]:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as said:
            status = translate.main([*command, "--overwrite"])
        if status:
            raise RuntimeError(f"translate ended with status {status}: {said.getvalue()}")
        return [torch.from_numpy(np.array(Image.open(output / path.name))) for path in sorted(source.iterdir())[:1]]

    return run


def threads(workers: int) -> str:
    return f"{workers} worker{'' if workers == 1 else 's'}"


CASES = [
    *(
        Case(
            "loader",
            f"{SIDE}x{SIDE} to {SIZE}x{SIZE}, {threads(workers)}",
            FORWARD,
            ("eager", "cgcl_fast"),
            functools.partial(load, workers),
            agree=False,
            rounds=4,
            slow=workers != 2,
            images=2 * BATCHES,
        )
        for workers in (0, 1, 2, 4)
    ),
    *(
        Case(
            "loader of tars",
            f"{SIDE}x{SIDE} to {SIZE}x{SIZE}, {threads(workers)}",
            FORWARD,
            (*(["eager"] if importlib.util.find_spec("webdataset") else []), "files", "cgcl_fast"),
            functools.partial(load_tars, workers),
            agree=False,
            rounds=4,
            slow=workers != 0,
            images=2 * BATCHES,
        )
        for workers in (0, 2)
    ),
    *(
        Case(
            "translate",
            f"{SIZE}x{SIZE} {suffix}, {name} generator, {threads(workers)}",
            FORWARD,
            ("cgcl_fast",),
            functools.partial(translate_files, name, suffix, workers),
            rounds=3,
            slow=(name, suffix, workers) != ("small", "jpg", 1),
            images=TRANSLATED[name],
        )
        for name, suffix in (("small", "jpg"), ("small", "png"), ("paper's", "jpg"))
        for workers in (0, 1, 4)
    ),
]


def test_data(case: Case, implementation: str, measure: Callable[[Case, str], None]) -> None:
    measure(case, implementation)


@dataclass(frozen=True)
class Scale:
    """How much is timed beside a GPU.

    Args:
        generator: a name of GENERATORS.
        translated: images.
        at_once: images that the generator takes at a time from memory.
        calls: of the generator on them.
        workers: threads beside the generator.
        loader_workers: processes of the loader.
        batches: that the loader gives, each time.
    """

    generator: str = "paper's"
    translated: int = 480
    at_once: int = 16
    calls: int = 10
    workers: int = 8
    loader_workers: int = 4
    batches: int = 2 * BATCHES


SMALL = Scale("small", 3, 2, 1, 1, 1, 2)


@dataclass(frozen=True)
class Row:
    """What is timed beside a GPU.

    Args:
        build: gives a function of which each call handles ``images`` images, and waits until that is done.
        runs: calls that are timed; of a loader, whose first batches wait for its processes, all after the first count,
            of the others the last one.
    """

    op: str
    shape: str
    implementation: str
    build: Callable[[], Callable[[], object]]
    images: int
    precision: str = "fp32"
    runs: int = 2

    @property
    def name(self) -> str:
        return f"{self.op} {self.shape} {self.implementation}"

    def entry(self) -> dict[str, Any]:
        """The times, in the format of `benchmarks.run`; "samples" are those of all calls, in seconds."""
        run = self.build()
        samples = []
        for _ in range(self.runs):
            start = time.perf_counter()
            run()
            samples.append(rounded(time.perf_counter() - start))
        counted = samples[1:]
        median = statistics.median(counted)
        info = {"op": self.op, "shape": self.shape, "impl": self.implementation, "pass": FORWARD}
        info |= {"precision": self.precision, "images": self.images}
        return {
            "fullname": f"benchmarks.bench_data::{self.name}",
            "extra_info": {**info, "images_per_second": rounded(self.images / median)},
            "samples": samples,
            "medians": [median],
            "minima": [min(counted)],
            "stats": {"min": min(counted), "median": median, "rounds": len(counted)},
        }


def from_memory(scale: Scale, device: str, precision: str) -> Callable[[], object]:
    generator = networks.load_generator(generator_file(scale.generator))
    translator = Translator(generator, torch.device(device), precision)
    batch = torch.rand(scale.at_once, 3, SIZE, SIZE) * 2 - 1
    batch = batch.pin_memory() if device == "cuda" else batch
    run = translator.for_batch(scale.at_once)
    return lambda: [run(batch) for _ in range(scale.calls)]


def rows_for(scale: Scale, device: str) -> list[Row]:
    rows = [
        Row(
            "loader",
            f"{SIDE}x{SIDE} to {SIZE}x{SIZE}, {threads(scale.loader_workers)}",
            implementation,
            functools.partial(load, scale.loader_workers, implementation, "", "cpu", scale.batches),
            2 * scale.batches,
            runs=4,
        )
        for implementation in ("cgcl_fast", "eager")
    ]
    for precision in ("fp32", "bf16"):
        end = " bf16" if precision == "bf16" else ""
        alone = functools.partial(from_memory, scale, device, precision)
        handled = scale.calls * scale.at_once
        memory = f"{SIZE}x{SIZE} in memory, {scale.generator} generator, batch {scale.at_once}{end}"
        rows.append(Row("translate", memory, "cgcl_fast", alone, handled, precision))
        for suffix in ("jpg", "png"):
            files = functools.partial(
                translate_files,
                scale.generator,
                suffix,
                scale.workers,
                "cgcl_fast",
                "",
                device,
                scale.translated,
                precision,
            )
            named = f"{SIZE}x{SIZE} {suffix}, {scale.generator} generator, {threads(scale.workers)}{end}"
            rows.append(Row("translate", named, "cgcl_fast", files, scale.translated, precision))
    return sorted(rows, key=lambda row: "png" in row.shape)  # last, if there is no time for all


def seconds_of_fsync() -> float:
    """What the disk needs until it holds a small file for good, as it does with each translation."""
    times = []
    with open(Path(folder().name, "fsync"), "wb") as file:
        for _ in range(9):
            file.write(bytes(2**14))
            start = time.perf_counter()
            file.flush()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - start)
    return rounded(statistics.median(times))


def keep_to(cores: int) -> None:
    """Run on that many processors at most, in all threads and processes that begin from now on."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
        torch.set_num_threads(min(torch.get_num_threads(), len(os.sched_getaffinity(0))))


def main() -> int:
    from . import cuda
    from .gpu_step import Results

    parser = argparse.ArgumentParser(prog="benchmarks.bench_data", description="Time the loader and translate.")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda; for a rehearsal cpu")
    parser.add_argument("--cores", type=int, default=8, help="processors at most (default: 8)")
    parser.add_argument("--seconds", type=float, default=30.0, help="no case begins after them (default: 30)")
    parser.add_argument("--rehearse", action="store_true", help="few images and a small generator")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/data-cuda-GPU-DATE.json")
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.seconds
    device = arguments.device or ("cpu" if arguments.rehearse else "cuda")
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device here; --rehearse translates a few images on the CPU")
    if arguments.cores < 1:
        parser.error(f"--cores: expected at least 1, got {arguments.cores}")
    keep_to(arguments.cores)
    info = cuda.describe(cuda.Clock(device)) | {"suite": "bench_data", "fsync_seconds": seconds_of_fsync()}
    output = arguments.output
    if output is None:
        output = default_output(info)
        output = output.with_name(f"data-{output.name}")
    output.parent.mkdir(parents=True, exist_ok=True)
    rows = rows_for(SMALL if arguments.rehearse else Scale(), device)
    results = Results(info, rows, output, device)

    def timed(row: Row) -> str:
        entry = results.entries[row] = row.entry()
        return f"{entry['extra_info']['images_per_second']:.1f} images/s"

    for row in rows:
        if time.monotonic() < end and results.usable:
            results.attempt(row, timed)
    print(f"{len(results.entries)} timed, {len(rows) - len(results.entries)} not; results: {output}")
    return 1 if results.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
