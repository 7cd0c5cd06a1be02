"""The test images of a run, read as the run reads its training images."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from cgcl_fast.data import open_dataset
from cgcl_fast.methods import METHODS
from cgcl_fast.methods.base import channels_of
from cgcl_fast.train import readings_of


def batch_of(options: Mapping[str, Any], count: int) -> dict[str, Any]:
    """``count`` test images with all that is known of them, as :meth:`UnpairedDataset.sample_batch` gives them.

    Args:
        options: of the run, as its config.yaml has them.

    Raises:
        ValueError: the data are not there any more, or not as they were; one line.
    """
    kind = METHODS[options["method"]]
    known = {f.name for f in fields(kind.Config)}
    config = kind.Config(**{name: _tuples(v) for name, v in options.items() if name in known and v is not None})
    given = Namespace(**{**options, "data": None if options["data"] is None else Path(options["data"])})
    domains = getattr(config, "domains", kind.domains)
    dataset = open_dataset(
        given.data,
        domains=domains,
        needs=kind.needs(config),
        size=given.size,
        load_size=given.load_size,
        preprocess=given.preprocess,
        flip=given.flip,
        limit=given.limit,
        seed=given.seed,
        direction=given.direction,
        readings=readings_of(given, domains, channels_of(config)),
        span=given.range,
    )
    return dataset.sample_batch(count)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(each) for each in value) if isinstance(value, list) else value
