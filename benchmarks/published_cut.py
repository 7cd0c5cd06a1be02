"""A training step of the published CUT and FastCUT, imported from a user's checkout of
github.com/taesungp/contrastive-unpaired-translation; it needs torchvision and packaging. For timing only: on a CPU its
gradients at batch 1 are wrong (see tests/ops/test_instance_norm_gradient.py).
"""

from __future__ import annotations

import contextlib
import importlib
import io
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

MODES = {"cut": "CUT", "fastcut": "FastCUT"}
#: Tiny networks, for a dry run.
SMALL = ["--ngf", "4", "--ndf", "4", "--netG", "resnet_6blocks", "--netF_nc", "8"]


def is_checkout(folder: Path) -> bool:
    return (folder / "models" / "cut_model.py").is_file() and (folder / "options" / "train_options.py").is_file()


@contextlib.contextmanager
def _inside(folder: Path, arguments: list[str]) -> Iterator[None]:
    """Its modules have names such as `data` and `util`, and it reads some options only from the command line. Its
    output is discarded."""
    path, command = sys.path[:], sys.argv
    sys.path.insert(0, str(folder.resolve()))
    sys.argv = ["train.py", *arguments]
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        sys.path[:], sys.argv = path, command


def published_step(
    folder: Path,
    method: str,
    batch: dict[str, Any],
    device: str,
    scratch: Path,
    *,
    flipped: bool | None = None,
    small: bool = False,
) -> Callable[[], None]:
    """The work of its train.py on a batch: images to the device, then an update of D, G and F.

    Args:
        folder: the checkout.
        method: "cut" or "fastcut".
        batch: "A" and "B", (B, 3, H, W) in [-1, 1], on the host.
        device: "cpu" or "cuda".
        scratch: a folder for the options that it writes.
        flipped: FastCUT's flip in every step; None: random.
        small: with tiny networks.
    """
    count, size = len(batch["A"]), batch["A"].shape[-1]
    arguments = ["--dataroot", "none", "--checkpoints_dir", str(scratch), "--CUT_mode", MODES[method]]
    arguments += ["--gpu_ids", "-1" if device == "cpu" else "0", "--batch_size", str(count)]
    arguments += ["--load_size", str(size), "--crop_size", str(size), *(SMALL if small else [])]
    data = {name: batch[name] for name in "AB"} | {"A_paths": [""] * count, "B_paths": [""] * count}
    with _inside(folder, arguments):
        options = importlib.import_module("options.train_options").TrainOptions().parse()
        model = importlib.import_module("models").create_model(options)
        model.data_dependent_initialize(data)
        model.setup(options)
        model.parallelize()
    seed = None if flipped is None else _seed_of_draw(below_half=flipped)

    def step() -> None:
        if seed is not None:
            np.random.seed(seed)  # a step's first draw is the flip
        model.set_input(data)
        model.optimize_parameters()

    return step


def _seed_of_draw(below_half: bool) -> int:
    return next(s for s in itertools.count() if (np.random.RandomState(s).random_sample() < 0.5) == below_half)
