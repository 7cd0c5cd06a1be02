"""Test scenes of the built-in streets, translated by several trained methods, side by side in one picture.

    python -m benchmarks.pictures RUN... --output OUT.png [--size 64] [--scenes 3] [--zoom 2]

A RUN is a run's folder (its newest checkpoint is used) of a method from sunny to night, or of several domains,
translated to night in the style of a night scene. The first column is the source, the last one the truth.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.transforms.functional import to_pil_image

from cgcl_fast._generator import find_generator
from cgcl_fast.data import open_dataset
from cgcl_fast.engine.log import image_grid, with_captions
from cgcl_fast.methods.base import translate_any_size
from cgcl_fast.networks import StyledGenerator


@torch.no_grad()
def to_night(generator: nn.Module, source: Tensor, reference: Tensor) -> Tensor:
    """(B, 3, H, W) translated; ``reference`` gives the style if the generator takes one."""
    if not isinstance(generator, StyledGenerator):
        return translate_any_size(generator, source)
    domain = generator.domain_index(None if len(generator.domains) == 2 else "night")
    try:
        style = generator.style_of(reference, domain)
    except ValueError:  # it has its own style, none of images
        style = None
    return translate_any_size(lambda image: generator(image, domain, style), source)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.pictures", description="Draw translations of trained methods.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run, named as its method")
    parser.add_argument("--output", type=Path, required=True, help="the picture, a PNG file")
    parser.add_argument("--size", type=int, default=64, help="side of the scenes in pixels (default 64)")
    parser.add_argument("--scenes", type=int, default=3, help="rows (default 3)")
    parser.add_argument("--zoom", type=int, default=2, help="enlarge by this factor (default 2)")
    arguments = parser.parse_args()
    batch = open_dataset(None, size=arguments.size).sample_batch(arguments.scenes)
    columns = {"source": batch["A"]}
    for run in arguments.runs:
        columns[run.name] = to_night(find_generator(run)[0].eval(), batch["A"], batch["B"])
    columns["truth"] = batch["truth"]
    zoomed = {name: images.repeat_interleave(arguments.zoom, 2).repeat_interleave(arguments.zoom, 3)
              for name, images in columns.items()}  # fmt: skip
    with_captions(to_pil_image(image_grid(zoomed)), list(zoomed)).save(arguments.output, optimize=True)


if __name__ == "__main__":
    main()
