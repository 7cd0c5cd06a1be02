"""The data of a training: images read according to the options, and the batches of this process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator

from cgcl_fast._train_options import RunOptions
from cgcl_fast.data import ResumableLoader, UnpairedDataset, build_loader, open_dataset
from cgcl_fast.data.readings import by_folder, readings_of
from cgcl_fast.data.values import values_to_dict
from cgcl_fast.methods import Method
from cgcl_fast.methods.base import channels_of, check_image


@dataclass(frozen=True)
class Data:
    """The data of a training.

    Attributes:
        dataset: the images.
        loader: the batches of this process.
        sizes: number of different image sizes in the batches.
        sample_batch: the images of the sample grids.
        ranges: the numbers that map to -1 and 1, by the domains' folders, as in ``config.yaml``; None if there are no
            stored numbers.
    """

    dataset: UnpairedDataset
    loader: ResumableLoader
    sizes: int
    sample_batch: dict[str, Any]
    ranges: dict[str, dict[str, Any]] | None


def build_data(run: RunOptions, kind: type[Method], config: Any, accelerator: Accelerator) -> Data:
    """The images that a method with its config needs; each process has its share.

    Raises:
        ValueError: folders or images are missing, or do not fit the networks.
    """
    needs = kind.needs(config)
    if run.size < needs.multiple:  # so that 64 is not rounded to 256 pixels
        raise ValueError(f"size: expected at least {needs.multiple} for these networks, got {run.size}")
    if run.range is not None and run.data is None:
        raise ValueError(f"range: the built-in streets are photographs of 8 bits, got {run.range}")
    domains = getattr(config, "domains", kind.domains)
    dataset = open_dataset(
        run.data,
        domains=domains,
        needs=needs,
        size=run.size,
        load_size=run.load_size,
        preprocess=run.preprocess,
        flip=run.flip,
        limit=run.limit,
        seed=run.seed,
        direction=run.direction,
        readings=readings_of(run.ranges, domains, channels_of(config), run.direction, run.max_megapixels),
        span=run.range,
    )
    sizes = dataset.check_sizes(config.least_size(), run.batch_size)
    check_image(dataset[0], config)
    on_gpu = accelerator.device.type == "cuda"
    loader = build_loader(
        dataset,
        batch_size=run.batch_size,
        seed=run.seed,
        num_workers=default_workers(on_gpu) if run.workers is None else run.workers,
        pin_memory=on_gpu,
        rank=accelerator.process_index,
        replicas=accelerator.num_processes,
    )
    ranges = values_to_dict(by_folder(dataset.values, run.direction)) or None
    return Data(dataset, loader, sizes, dataset.sample_batch(), ranges)


def default_workers(on_gpu: bool) -> int:
    """The default number of loader processes: with a GPU, enough to keep it busy; on a CPU one, because preparing a
    batch is single-threaded Python, for which the other threads would wait; none if there is only one thread."""
    return 4 if on_gpu else int(torch.get_num_threads() > 1)
