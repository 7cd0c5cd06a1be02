"""Find the generator that ``--checkpoint RUN_OR_FILE`` names: a run, one of its files, a published file, or a folder to
share, local or on the Hugging Face Hub.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import nn

from cgcl_fast import compat
from cgcl_fast._networks import PUBLISHED, check_direction, direction_of, empty_method, network_of, one_line_error
from cgcl_fast._pretrained import BACKWARD, WEIGHTS, local_path
from cgcl_fast.compat.reading import read_weights
from cgcl_fast.engine import CheckpointError, safe_load
from cgcl_fast.engine.checkpoint import FORMAT, backward_path, first_readable
from cgcl_fast.networks import StyledGenerator
from cgcl_fast.networks.files import build_generator

_OF_RUN = re.compile(r"step_\d+\.(safetensors|pt)")
_PUBLISHED = ("latest_net_G.pth", "latest_net_G_A.pth")
_BACKWARD = re.compile(r"generator_B_(\d+)\.safetensors")


def find_generator(path: Path, direction: str | None = None) -> tuple[nn.Module, Path]:
    """The generator that ``path`` holds, and the file it was read from.

    Args:
        path: a run folder or its ``checkpoints`` (the newest file that loads; a newer one that does not is named in a
            warning), one of their ``.safetensors`` or ``.pt`` files, a folder to share (``cgcl_fast.hub``) or its name
            on the Hugging Face Hub, or a generator file in the published layout (``latest_net_G.pth``, or
            ``latest_net_G_A.pth``) or a folder with it.
        direction: AtoB or BtoA; None: that of the training. Ignored for a generator with named domains.

    Raises:
        CheckpointError: no generator is there, none can be read, or it translates only the other way.
    """
    path = local_path(path)
    if not path.exists():
        raise CheckpointError(f"{path}: does not exist")
    if not path.is_dir():
        file, (generator, own) = path, _read(path)
    else:
        files = [
            *_newest_first(path / "checkpoints"),
            *_newest_first(path),
            *(file for name in (WEIGHTS, *_PUBLISHED) if (file := path / name).exists()),
        ]
        if not files:
            raise CheckpointError(f"{path}: holds no checkpoint")
        file, (generator, own) = first_readable(files, _read)
    if direction is None or direction == own or isinstance(generator, StyledGenerator):
        return generator, file
    others = [other for other in _other_way(file) if other.exists()]
    if not others:
        raise _one_way(file, own, direction)
    file, (generator, _) = first_readable(others, lambda other: _read(other, direction))
    return generator, file


def read_generator(path: Path) -> nn.Module:
    """The generator in one file, which translates in the direction of the training.

    Raises:
        CheckpointError: the file cannot be read, or holds something else; one line that names it.
    """
    return _read(path)[0]


def _newest_first(folder: Path) -> list[Path]:
    """Files of checkpoints, newest first; of one step the small file, with G alone, comes first."""
    return sorted((file for file in folder.glob("step_*") if _OF_RUN.fullmatch(file.name)), reverse=True)


def _other_way(file: Path) -> list[Path]:
    """Files that may hold the generator of the direction opposite to that in ``file``."""
    if file.name in (WEIGHTS, BACKWARD):
        return [file.with_name(BACKWARD if file.name == WEIGHTS else WEIGHTS)]
    published, backward = PUBLISHED.fullmatch(file.name), _BACKWARD.fullmatch(file.name)
    if published and published["name"] != "G":
        other = {"G_A": "G_B", "G_B": "G_A"}[published["name"]]
        return [file.with_name(f"{published['epoch']}_net_{other}.pth")]
    if backward:
        forward = file.with_name(f"step_{backward[1]}.safetensors")
        return [forward, forward.with_suffix(".pt")]
    if _OF_RUN.fullmatch(file.name):
        return [backward_path(file), file.with_suffix(".pt")]
    return [file] if file.suffix == ".pt" else []  # a checkpoint under another name


def _read(path: Path, direction: str | None = None) -> tuple[nn.Module, str]:
    """The generator in a file, and its direction. ``direction`` chooses among the generators in a run's checkpoint, by
    default that of the training. Files that do not state a direction count as AtoB."""
    try:
        if path.suffix == ".safetensors":
            tensors, metadata, _ = read_weights(path)
            generator = build_generator(tensors, metadata) if "network" in metadata else compat.load_generator(tensors)
            return _facing(generator, check_direction(metadata.get("direction", "AtoB")))
        state = safe_load(path)
        if not isinstance(state, dict):
            raise CheckpointError(f"{path}: expected a checkpoint or named tensors, got {type(state).__name__}")
        if state.get("format") == FORMAT:
            return _of_run(path, state, direction)
        return _facing(compat.load_generator(state), "BtoA" if path.name.endswith("_net_G_B.pth") else "AtoB")
    except Exception as error:  # foreign files fail in many ways: missing keys, other shapes, wrong types
        raise one_line_error(path, "not a generator", error) from error


def _of_run(path: Path, state: dict[str, Any], direction: str | None) -> tuple[nn.Module, str]:
    """The generator in a run's checkpoint. The config describes the whole method; only this network is loaded."""
    method, own = empty_method(state), direction_of(state)
    name = method.generator_name if direction in (None, own) else method.backward_name
    if name is None:
        raise _one_way(path, own, str(direction))
    generator: Any = network_of(method, state, name)
    generator.ranges = state["config"].get("ranges")
    return _facing(generator, direction or own)


def _facing(generator: Any, direction: str) -> tuple[nn.Module, str]:
    """Store the direction as an attribute of the generator. Like ``ranges`` it refers to A and B as the folders of the
    data are named, whatever the direction of the training."""
    generator.direction = direction
    return generator, direction


def _one_way(file: Path, own: str, direction: str) -> CheckpointError:
    return CheckpointError(
        f"{file}: translates {own[0]} to {own[-1]} only, not {direction}; train with --direction {direction}, or train "
        "cyclegan, which learns both ways"
    )
