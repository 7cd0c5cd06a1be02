"""Tests of the ops create their tensors on the device under test without naming it, some of them during collection."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch
from op_checks import DEVICE


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report() -> Iterator[None]:
    with nullcontext() if DEVICE.type == "cpu" else torch.device(DEVICE):
        yield


@pytest.fixture(autouse=True)
def on_the_device() -> Iterator[None]:
    with nullcontext() if DEVICE.type == "cpu" else torch.device(DEVICE):
        yield
