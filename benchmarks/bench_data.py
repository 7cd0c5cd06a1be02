"""Data throughput: training batches from the loader alone, and ``translate`` from files to files.

    python -m benchmarks.run --select "loader or translate"

The loader makes 256x256 crops of two domains of photographs of one megapixel, with as many processes as the case says;
"eager" is a plain ``DataLoader`` with torchvision's transforms, as published code writes it. Of photographs in tars
"eager" is the webdataset library's sequential reading, where it is installed, and "files" the same loader on the files
themselves; all three decode and transform in the same way. ``translate`` is the whole
command: files that are decoded, translated at 256x256, encoded and written, with as many threads beside the generator
as the case says. The report gives both in images a second.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import itertools
import random
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torchvision import transforms

from cgcl_fast import networks, translate
from cgcl_fast.data import Preprocess, build_loader, open_dataset, to_image

from .case import FORWARD, Case, Run

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


def load(workers: int, implementation: str, compile_backend: str, device: str) -> Run:
    loader: Any
    if implementation == "eager":
        more = {"persistent_workers": True} if workers else {}
        loader = DataLoader(Plain(photographs()), 1, shuffle=True, num_workers=workers, **more)  # type: ignore[arg-type]
    else:
        loader = build_loader(open_dataset(photographs(), size=SIZE), num_workers=workers)
    return batches_of(loader)


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


def batches_of(loader: Any) -> Run:
    """What takes the next batches of a loader, over the ends of epochs."""

    def batches() -> Iterator[dict[str, Any]]:
        while True:
            yield from loader

    endless = batches()

    def run() -> list[Tensor]:
        return [batch[name] for batch in itertools.islice(endless, BATCHES) for name in "AB"]

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
    for number, scene in enumerate(itertools.islice(itertools.cycle(scenes()), count)):
        scene.save(place / f"{number}.{suffix}", quality=95)
    return place


def translate_files(
    name: str, suffix: str, workers: int, implementation: str, compile_backend: str, device: str
) -> Run:
    source = images(suffix, TRANSLATED[name])
    output = Path(folder().name, "out")
    options = {"checkpoint": generator_file(name), "input": source, "output": output, "device": device}
    options |= {"workers": workers}
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
