"""Logs of a run: ``log.jsonl``, ``metrics.jsonl``, TensorBoard, PNG grids in ``samples/`` and a progress bar."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torchvision.utils import make_grid
from tqdm import tqdm

from cgcl_fast._files import check_regular
from cgcl_fast.data.values import as_shown

from .files import write_atomically


def image_grid(images: Mapping[str, Tensor], rows: int = 8) -> Tensor:
    """One row per image, one column per name.

    Args:
        images: name -> (B, C, H, W) in [-1, 1]; all of the same H and W. The first of one or two channels is shown in
            grey, the first three of more.
        rows: show at most this many images of the batch.

    Returns:
        (3, H', W') in [0, 1].
    """
    columns = [as_shown(column[:rows].detach().float().cpu().clamp(-1, 1)) for column in images.values()]
    interleaved = torch.stack(columns, dim=1).flatten(0, 1)
    return make_grid(interleaved, nrow=len(columns), normalize=True, value_range=(-1, 1), padding=2)


def with_captions(grid: Image.Image, names: Sequence[str]) -> Image.Image:
    """The grid with each column's name above it, one word per line, because columns can be narrow."""
    font = ImageFont.load_default(10)
    lines = max(name.count(" ") + 1 for name in names)
    captioned = Image.new("RGB", (grid.width, grid.height + 12 * lines + 2))
    captioned.paste(grid, (0, captioned.height - grid.height))
    draw = ImageDraw.Draw(captioned)
    for column, name in enumerate(names):
        centre = (column + 0.5) * (grid.width - 2) / len(names) + 1
        draw.multiline_text((centre, 0), name.replace(" ", "\n"), font=font, anchor="ma", align="center", spacing=2)
    return captioned


class RunLog:
    """Writes a run's logs; create it on the main process only.

    Args:
        folder: the run folder.
        start: step to continue from; later entries (from before the run was killed) are dropped. None: a new run, which
            starts with empty logs.
        total: the last step, for the progress bar.
    """

    def __init__(self, folder: Path, *, start: int | None, total: int) -> None:
        self.samples = folder / "samples"
        self.samples.mkdir(parents=True, exist_ok=True)
        self.metrics = folder / "metrics.jsonl"  # absent if nothing is measured
        for path in (folder / "log.jsonl", self.metrics):
            check_regular(path, missing_ok=True)
            if path.exists():
                _keep_until(path, start)
        self.lines = open(folder / "log.jsonl", "a", encoding="utf-8")  # noqa: SIM115  closed in close()
        self.board = SummaryWriter(folder / "tensorboard", purge_step=None if start is None else start + 1)
        interval = 0.2 if sys.stderr.isatty() else 10  # seconds; less often in a log file
        self.bar = tqdm(total=total, initial=start or 0, unit="step", mininterval=interval, dynamic_ncols=True)
        self.last_grid: Path | None = None

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One line of ``log.jsonl`` and one point a value in TensorBoard."""
        try:
            self.lines.write(json.dumps({"step": step, **values}) + "\n")
            self.lines.flush()
        except OSError as error:
            error.filename = self.lines.name
            raise
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        """One line of ``metrics.jsonl`` and one point a value in TensorBoard."""
        if not values:
            return
        with open(self.metrics, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def progress(self, step: int, losses: Mapping[str, float], images_per_second: float) -> None:
        """Update the bar; tqdm adds the remaining time."""
        shown = {name: f"{value:.3f}" for name, value in losses.items() if name.endswith("/loss")}
        self.bar.set_postfix({**shown, "images/s": f"{images_per_second:.1f}"}, refresh=False)
        self.bar.update(step - self.bar.n)

    def images(self, step: int, images: Mapping[str, Tensor]) -> Path:
        """Write the sample grid of ``step`` as PNG and into TensorBoard."""
        from torchvision.transforms.functional import pil_to_tensor, to_pil_image

        picture = with_captions(to_pil_image(image_grid(images).mul(255).round().byte()), list(images))
        path = self.samples / f"step_{step:08d}.png"
        write_atomically(path, lambda file: picture.save(file, format="PNG"))
        self.board.add_image("samples", pil_to_tensor(picture), step)
        self.last_grid = path
        return path

    def close(self) -> None:
        """Close the files. Every line was flushed when written, so errors here have been reported before."""
        self.bar.close()
        for file in (self.lines, self.board):
            with suppress(OSError):
                file.close()


def _keep_until(path: Path, step: int | None) -> None:
    """Drop the log lines of later steps; None: all lines."""
    lines = path.read_bytes().splitlines(keepends=True)
    kept = b"".join(line for line in lines if step is not None and _step_of(line) <= step)
    write_atomically(path, lambda file: file.write(kept))


def _step_of(line: bytes) -> float:
    """The step of a log line; for a truncated line, later than any step."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return float("inf")
