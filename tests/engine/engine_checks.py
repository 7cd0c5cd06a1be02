"""Checks shared by the tests of runs."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from cgcl_fast.engine import read_checkpoint


def assert_same(left: object, right: object, where: str = "") -> None:
    """Equal bit for bit, through dicts and lists."""
    assert type(left) is type(right), where
    if isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype and torch.equal(left, right), where
    elif isinstance(left, dict):
        assert left.keys() == right.keys(), where
        for key in left:
            assert_same(left[key], right[key], f"{where}/{key}")
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right), where
        for index, pair in enumerate(zip(left, right, strict=True)):
            assert_same(*pair, f"{where}/{index}")
    else:
        assert left == right, where


def last_state(folder: Path) -> dict:
    """The newest checkpoint of a run."""
    return read_checkpoint(max((folder / "checkpoints").glob("step_*.pt")))


def log_of(folder: Path) -> list[dict]:
    """The loss log without what depends on the machine."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("images_per_second", "memory_mb")} for line in lines]
