"""`export FOLDER`: generators as TorchScript, an image, its translations; `compare FOLDER`: with the program's."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cgcl_fast.exporting import export_generator
from cgcl_fast.methods.base import translate_any_size
from cgcl_fast.networks import DisentangledGenerator, MGUITGenerator, ResnetGenerator

HEIGHT, WIDTH = 46, 37

GENERATORS = {
    "plain": lambda: ResnetGenerator(ngf=8, n_blocks=2),
    "styled": lambda: DisentangledGenerator(("sunny", "night", "rainy"), ngf=4, n_blocks=1, mlp_dim=16),
    "memory": lambda: MGUITGenerator(ngf=4, n_blocks=1, style_nc=8, items=(2, 3)),
}
"""As CMakeLists.txt names them."""

TO = {"styled": {"domain": 2}, "memory": {"domain": 0}}
"""As CMakeLists.txt has the program translate to."""


def export(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "source.ppm")
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
    for name, make in GENERATORS.items():
        torch.manual_seed(0)
        generator = make().eval()
        export_generator(generator, "torchscript", folder / f"{name}.pt")
        graph = torch.jit.load(str(folder / f"{name}.pt")).inlined_graph
        assert "cgcl_fast::_adain" in str(graph), "the program would not need the library"
        with torch.no_grad():
            translated = translate_any_size(partial(generator, **TO.get(name, {})), image)
        expected = ((translated + 1) * 127.5).round().clamp(0, 255).byte()[0].permute(1, 2, 0)
        Image.fromarray(expected.numpy()).save(folder / f"{name}-expected.ppm")


def compare(folder: Path) -> None:
    for name in GENERATORS:
        expected, translated = (
            np.asarray(Image.open(folder / f"{name}-{which}.ppm"), dtype=int) for which in ("expected", "translated")
        )
        assert expected.shape == translated.shape == (HEIGHT, WIDTH, 3)
        assert expected.std() > 1, "the expected image is flat and would prove nothing"
        assert np.abs(expected - translated).max() <= 1, name  # one step of 8-bit rounding


if __name__ == "__main__":
    {"export": export, "compare": compare}[sys.argv[1]](Path(sys.argv[2]))
