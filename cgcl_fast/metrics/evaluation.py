"""Distances of a method's translations of fixed test scenes to the truth, beside those of the untouched scenes and of a
classical colour transfer: logged by a run at every checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cgcl_fast.data import UnpairedDataset, to_tensor
from cgcl_fast.data.values import as_shown
from cgcl_fast.metrics.colour_transfer import ColourStatistics, colour_statistics, colour_transfer
from cgcl_fast.metrics.distances import DISTANCES, SSIM_WINDOW, Distance

BEFORE, TRANSFER, AFTER = "before", "colour_transfer", "after"
"""What is compared with the truth: the source, the source in the target domain's colours, its translation."""

CHUNK = 4
"""Scenes translated at once."""

STATISTICS_IMAGES = 64
"""Number of training images, spread evenly, whose mean colours are the domain's: enough for six numbers."""

STATISTICS_SIDE = 256
"""Longest side in pixels at which their colours are measured."""

Batch = Mapping[str, Any]


class Evaluation:
    """Call with a method to get its metrics: "DISTANCE/before", "DISTANCE/colour_transfer" and "DISTANCE/after" for
    every distance in ``DISTANCES``, means over the scenes and the target domains.

    A scene that is its own truth (translated to its own domain) does not count. Images of other than three channels are
    compared as shown in sample grids: the first of one or two channels in grey, the first three of more.

    Args:
        batch: test scenes from ``sample_batch``, with the truth. The method's ``samples`` of it have a column "truth"
            for the column "translated", or "NAME truth" for the column NAME.
        statistics: colours of the domain that a column shows, by the column's name; without them the colour transfer is
            left out.
        distances: by the names of their metrics; by default PSNR, SSIM, a colour and a gradient distance.

    Random styles are the same in each call. Reseeds torch; call inside ``preserved_rng()``.
    """

    def __init__(
        self,
        batch: Batch,
        statistics: Mapping[str, ColourStatistics] | None = None,
        distances: Mapping[str, Distance] = DISTANCES,
    ) -> None:
        self.batch = batch
        self.distances = distances
        self.scenes = len(batch["A"])
        self.statistics = dict(statistics or {})
        self._without_method: dict[str, float] = {}

    @torch.no_grad()
    def __call__(self, method: Any) -> dict[str, float]:
        """The metrics of ``method`` in its current state; none if its samples have no truth."""
        torch.manual_seed(0)
        device = next(method.parameters()).device
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        for chunk in self._chunks(device):
            images = {name: as_shown(column.float().cpu()) for name, column in method.samples(chunk).items()}
            for column, truth in pairs(images):
                compared = {AFTER: images[column]}
                if not self._without_method:  # the same in every call
                    compared[BEFORE] = images["source"]
                    if column in self.statistics:
                        compared[TRANSFER] = colour_transfer(images["source"], self.statistics[column])
                with torch.autocast("cpu", enabled=False):
                    self._add(compared, images["source"], images[truth], sums, counts)
        figures = {name: sums[name] / counts[name] for name in sums}
        self._without_method.update((n, value) for n, value in figures.items() if not n.endswith(f"/{AFTER}"))
        return {**self._without_method, **figures}

    def _add(
        self,
        compared: Mapping[str, Tensor],
        source: Tensor,
        truth: Tensor,
        sums: dict[str, float],
        counts: dict[str, int],
    ) -> None:
        counted = (source != truth).flatten(1).any(1)
        if not counted.any():
            return
        for name, distance in self.distances.items():
            for what, images in compared.items():
                key = f"{name}/{what}"
                values = distance.measure(images[counted], truth[counted])
                sums[key] = sums.get(key, 0.0) + float(values.double().sum())
                counts[key] = counts.get(key, 0) + len(values)

    def _chunks(self, device: torch.device) -> Iterator[dict[str, Any]]:
        for start in range(0, self.scenes, CHUNK):
            part = {name: values[start : start + CHUNK] for name, values in self.batch.items()}
            yield {name: v.to(device) if isinstance(v, Tensor) else v for name, v in part.items()}


def pairs(columns: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The columns of a sample grid whose truth is among the columns, each with the name of its truth."""
    named = [(name, f"{name} truth") for name in columns if f"{name} truth" in columns]
    return [("translated", "truth"), *named] if {"translated", "truth"} <= columns.keys() else named


def evaluation_of(
    dataset: UnpairedDataset, scenes: int, distances: Mapping[str, Distance] = DISTANCES
) -> Evaluation | None:
    """The evaluation on a data set's test scenes; None if the truth is unknown.

    Args:
        scenes: number of test scenes; fewer if there are fewer.
        distances: see :class:`Evaluation`.

    Raises:
        ValueError: the scenes are too small for the distances.
    """
    batch = dataset.sample_batch(scenes)
    targets = {name: name for name in dataset.domains if f"truth_{name}" in batch}
    if "truth" in batch:
        targets["translated"] = dataset.domains[1]
    if not targets:
        return None
    height, width = batch["A"].shape[-2:]
    if min(height, width) < SSIM_WINDOW:
        raise ValueError(
            f"size: comparing with the truth needs images of at least {SSIM_WINDOW}x{SSIM_WINDOW} pixels, got "
            f"{width}x{height}; eval_images 0 does without"
        )
    statistics = {column: colour_statistics(_training_images(dataset, domain)) for column, domain in targets.items()}
    return Evaluation(batch, statistics, distances)


def _training_images(dataset: UnpairedDataset, domain: str) -> Iterator[Tensor]:
    """Images of a domain as (1, 3, H, W), reduced if large."""
    count = dataset.count(domain)
    taken = min(count, STATISTICS_IMAGES)
    for number in range(taken):
        image = dataset.picture(domain, number * count // taken).image
        if isinstance(image, Tensor):
            shrink = min(1, STATISTICS_SIDE / max(image.shape[1:]))
            image = F.interpolate(image[None], scale_factor=shrink, mode="area")[0] if shrink < 1 else image
        else:
            image = image.copy()
            image.thumbnail((STATISTICS_SIDE, STATISTICS_SIDE))
        yield as_shown(to_tensor(image)[None])


def table(figures: Mapping[str, float], scenes: int, distances: Mapping[str, Distance] = DISTANCES) -> str:
    """The metrics for a terminal: one row per distance, with columns before, colour transfer and after."""
    columns = (BEFORE, TRANSFER, AFTER)
    title = f"distance to the truth, {scenes} test scene{'' if scenes == 1 else 's'}"
    rows = [[title, *(column.replace("_", " ") for column in columns)]]
    for name, distance in distances.items():
        numbers = [figures.get(f"{name}/{column}") for column in columns]
        if any(number is not None for number in numbers):
            title = f"{distance.title} ({'higher' if distance.higher_is_better else 'lower'} is closer)"
            rows.append([title, *("-" if n is None else f"{n:.{distance.digits}f}" for n in numbers)])
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Lines of equal length: the first column is left-aligned, the others right-aligned."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    )
