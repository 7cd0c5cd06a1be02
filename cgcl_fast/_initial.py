"""``train --init FILE_OR_RUN``: start a new training from the weights of another one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from cgcl_fast._generator import read_generator
from cgcl_fast._networks import (
    PUBLISHED,
    empty_method,
    network_of,
    one_line_error,
    published_networks,
    trained,
)
from cgcl_fast._pretrained import BACKWARD, WEIGHTS, is_pretrained, local_path
from cgcl_fast.data.formats import printable
from cgcl_fast.engine import CheckpointError, Checkpoints, safe_load
from cgcl_fast.engine.checkpoint import FORMAT
from cgcl_fast.methods import Method

_COMPUTES = ("antialias", "antialias_up", "norm", "published")
"""Options that change what a network computes but not the shapes of its weights."""

_AS_OPTIONS = {"n_layers": "d_layers"}


def take_weights(method: Method, path: Path) -> str:
    """Load the weights in files into the networks that ``method`` trains, as far as the files have them.

    CUT's G and D correspond to CycleGAN's G_A and D_A, which translate A to B and judge the result.

    Args:
        method: freshly built; unchanged if an error is raised.
        path: a run's folder or one of its checkpoints; one of its ``.safetensors`` files, or any ``.pth`` of a
            generator, for G alone; a published ``latest_net_G.pth`` (or ``G_A``) with D and F beside it, or their
            folder; a folder to share (``cgcl_fast.hub``) or its name on the Hugging Face Hub, for the generators alone.

    Returns:
        One line that says which networks were loaded and which were absent.

    Raises:
        CheckpointError: there is no such file, or it cannot be read.
        ValueError: a network there has another shape than here.
    """
    file, state = _find(path, _role(method, method.generator_name))
    names = trained(method)
    taken = {name: state[_role(method, name)] for name in names if _role(method, name) in state}
    absent = [name for name in names if name not in taken]
    if not taken:
        raise ValueError(f"init: {file} has none of {', '.join(names)}")
    for name, source in taken.items():
        _check_fits(name, source, getattr(method, name), file)
    for name, source in taken.items():
        getattr(method, name).load_state_dict(source.state_dict())
    method.weights_taken()
    rest = f"; not taken: {', '.join(absent)} (absent)" if absent else ""
    return f"init: {printable(file)}: taken: {', '.join(taken)}{rest}"


def _role(method: Method, name: str) -> str:
    """The role of a network, by which networks of different methods correspond: the published name without "_A"."""
    return method.published.get(name, name).removesuffix("_A")


def _find(path: Path, generator: str) -> tuple[Path, dict[str, nn.Module]]:
    """The file that ``path`` refers to, and its networks by role; ``generator`` is the role of a lone generator."""
    path = local_path(path)
    if not path.exists():
        raise CheckpointError(f"init: {path} does not exist")
    if path.is_dir():
        folder = path if path.name == "checkpoints" else path / "checkpoints"
        if any(folder.glob("step_*.pt")):
            file, state = Checkpoints(folder).newest()
            return file, _of_run(file, state)
        if is_pretrained(path):
            back = {"G_B": read_generator(path / BACKWARD)} if (path / BACKWARD).exists() else {}
            return path / WEIGHTS, {generator: read_generator(path / WEIGHTS), **back}
        names = [name for name in ("G", "G_A") if (path / f"latest_net_{name}.pth").exists()]
        if not names:
            raise CheckpointError(f"init: {path} holds neither a run nor latest_net_G.pth")
        path = path / f"latest_net_{names[0]}.pth"
    if path.suffix == ".safetensors":
        return path, {generator: read_generator(path)}
    state = safe_load(path)
    if isinstance(state, dict) and state.get("format") == FORMAT:
        return path, _of_run(path, state)
    try:
        networks = published_networks(path)
    except Exception as error:  # foreign files fail in many ways
        raise one_line_error(path, "not published networks", error) from error
    match = PUBLISHED.fullmatch(path.name)
    if match is None:
        return path, {generator: networks["G"]}
    if match["name"] == "G_B":  # its way is the one to be taken
        networks = {name[0] + {"_A": "_B", "_B": "_A"}[name[1:]]: network for name, network in networks.items()}
    return path, {name.removesuffix("_A"): network for name, network in networks.items()}


def _of_run(file: Path, state: Mapping[str, Any]) -> dict[str, nn.Module]:
    try:
        method = empty_method(state)
        # Not the average of a generator's weights: the other networks are those of the step.
        return {_role(method, name): network_of(method, state, name, averaged=False) for name in trained(method)}
    except Exception as error:  # foreign files fail in many ways
        raise one_line_error(file, "not a checkpoint of a method", error) from error


def _check_fits(name: str, source: nn.Module, target: nn.Module, file: Path) -> None:
    """
    Raises:
        ValueError: the weights of ``source`` are not of the shapes of ``target``'s, or mean something else there.
    """
    where = f"init: {name} of {printable(file)}"
    if type(source) is not type(target):
        raise ValueError(f"{where} is a {type(source).__name__}, and here it is a {type(target).__name__}")
    theirs, ours = ({key: tuple(t.shape) for key, t in each.state_dict().items()} for each in (source, target))
    before, now = (getattr(each, "config", {}) for each in (source, target))
    differing = [key for key in now if key in before and before[key] != now[key]]
    if theirs == ours and not any(key in _COMPUTES for key in differing):
        return
    more = "the options of that training make networks that fit it, and a .safetensors file of a run has G alone"
    if differing:
        listed = ", ".join(f"{_AS_OPTIONS.get(key, key)} {before[key]} there and {now[key]} here" for key in differing)
        raise ValueError(f"{where} does not fit: {listed}; {more}")
    key = next(key for key in (*ours, *theirs) if theirs.get(key) != ours.get(key))
    raise ValueError(f"{where} does not fit: {key} is {theirs.get(key)} there and {ours.get(key)} here; {more}")
