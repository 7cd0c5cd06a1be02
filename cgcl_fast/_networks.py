"""Trained networks from files: from a run's checkpoint, or in the published layout."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from cgcl_fast import compat
from cgcl_fast.engine import CheckpointError
from cgcl_fast.methods import METHODS, Method
from cgcl_fast.methods.registry import with_new_names
from cgcl_fast.networks.files import build_empty, fill

OTHER_WAY = {"AtoB": "BtoA", "BtoA": "AtoB"}

PUBLISHED = re.compile(r"(?P<epoch>.+)_net_(?P<name>G|G_A|G_B)\.pth")

_LOADERS = {"G": compat.load_generator, "D": compat.load_discriminator, "F": compat.load_projector}


def trained(method: Method) -> list[str]:
    """Names of the networks that a method trains, in the method's order."""
    names = {name for phase in method.phases() for name in phase.networks}
    return [name for name, _ in method.named_children() if name in names]


def empty_method(state: Mapping[str, Any]) -> Method:
    """The method of a checkpoint, on the meta device.

    Raises:
        Exception: of nearly any type, if the checkpoint does not describe a method.
    """
    described = state["config"]
    kind = METHODS[described["method"]]
    return build_empty(lambda: kind(kind.Config(**with_new_names(described["config"]))))


def network_of(method: Method, state: Mapping[str, Any], name: str, *, averaged: bool = True) -> nn.Module:
    """A network of :func:`empty_method` with the checkpoint's weights, in float32 on the CPU.

    Args:
        averaged: of a generator the average of its weights, if the run keeps one (``train --ema-decay``).

    Raises:
        ValueError: the checkpoint's weights do not fit.
    """
    tensors = {**state["method"], **(state.get("ema", {}) if averaged else {})}
    prefix = f"{name}."
    weights = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    return fill(getattr(method, name), weights)


def direction_of(state: Mapping[str, Any]) -> str:
    """The direction in which a checkpoint's run was trained."""
    return check_direction(state["config"].get("direction", "AtoB"))


def check_direction(direction: Any) -> str:
    """``direction`` itself, if it is valid."""
    if not isinstance(direction, str) or direction not in OTHER_WAY:
        raise ValueError(f"direction: expected AtoB or BtoA, got {str(direction)[:20]!r}")
    return direction


def published_networks(file: Path) -> dict[str, nn.Module]:
    """The networks of a published file and of files beside it from the same epoch, by their published names.

    Args:
        file: of a generator. Unless it is called ``EPOCH_net_G.pth`` (or ``G_A``, ``G_B``) no other files are read.

    Raises:
        ValueError, OSError: one of the files cannot be read.
    """
    match = PUBLISHED.fullmatch(file.name)
    if match is None:
        return {"G": compat.load_generator(file)}
    names = ("G", "D", "F") if match["name"] == "G" else ("G_A", "G_B", "D_A", "D_B")
    files = {name: file.with_name(f"{match['epoch']}_net_{name}.pth") for name in names}
    return {name: _LOADERS[name[0]](path) for name, path in files.items() if path.exists()}


def one_line_error(path: Path, what: str, error: Exception) -> CheckpointError:
    """A one-line error that names a file which could not be read as what it was taken for."""
    if isinstance(error, CheckpointError):
        return error
    if isinstance(error, OSError):
        return CheckpointError(f"{path}: cannot be read ({error.strerror or error})")
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    return CheckpointError(reason if str(path) in reason else f"{path}: {what} ({reason})")
