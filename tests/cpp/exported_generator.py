"""`export FOLDER`: a generator as TorchScript, an image, its translation; `compare FOLDER`: with the program's."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cgcl_fast.networks import ResnetGenerator


def export(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    generator = ResnetGenerator(ngf=8, n_blocks=2).eval()
    with torch.no_grad():
        traced = torch.jit.trace(generator, torch.randn(1, 3, 32, 32))
    assert "cgcl_fast::" in str(traced.inlined_graph)
    traced.save(str(folder / "generator.pt"))

    pixels = np.random.default_rng(0).integers(0, 256, (46, 37, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "source.ppm")
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        padded = torch.nn.functional.pad(image, (0, 3, 0, 2), mode="replicate")
        translated = generator(padded)[..., :46, :37]
    expected = ((translated + 1) * 127.5).round().clamp(0, 255).byte()[0].permute(1, 2, 0)
    Image.fromarray(expected.numpy()).save(folder / "expected.ppm")


def compare(folder: Path) -> None:
    expected, translated = (
        np.asarray(Image.open(folder / name), dtype=int) for name in ("expected.ppm", "translated.ppm")
    )
    assert expected.shape == translated.shape == (46, 37, 3)
    assert expected.std() > 1, "the expected image is flat and would prove nothing"
    assert np.abs(expected - translated).max() <= 1  # one step of 8-bit rounding


if __name__ == "__main__":
    {"export": export, "compare": compare}[sys.argv[1]](Path(sys.argv[2]))
