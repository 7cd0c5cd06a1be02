"""Generators as files to share: safetensors, with what builds the network again in the metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from cgcl_fast.networks.disentangled import DisentangledGenerator
from cgcl_fast.networks.mguit import MGUITGenerator
from cgcl_fast.networks.resnet import ResnetGenerator
from cgcl_fast.networks.stylegan2 import StyleGAN2Generator

GENERATORS: dict[str, type[nn.Module]] = {
    "ResnetGenerator": ResnetGenerator,
    "DisentangledGenerator": DisentangledGenerator,
    "MGUITGenerator": MGUITGenerator,
    "StyleGAN2Generator": StyleGAN2Generator,
}


def generator_bytes(module: nn.Module) -> bytes:
    """The safetensors file of a generator: its state dict, its class and its config.

    Raises:
        TypeError: ``module`` is none of the generators of this package.
    """
    name = type(module).__name__
    if GENERATORS.get(name) is not type(module):
        raise TypeError(f"module: expected one of {', '.join(GENERATORS)}, got {name}")
    metadata = {"network": name, "config": json.dumps(module.config)}
    return safetensors.torch.save({k: v.cpu().contiguous() for k, v in module.state_dict().items()}, metadata)


def save_generator(path: str | Path, module: nn.Module) -> None:
    """Write ``generator_bytes(module)`` to ``path``."""
    Path(path).write_bytes(generator_bytes(module))


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        ValueError: it is not one, or is cut short; one line that names it.
        OSError: it cannot be opened.
    """
    with open(path, "rb"):
        pass  # a missing file is an OSError, not a broken one
    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path}: not a readable safetensors file ({_line(error)})") from error


def build_generator(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> nn.Module:
    """The generator that tensors and metadata of a file describe.

    Raises:
        ValueError: the metadata names no generator of this package, or the tensors are not those of what it names.
    """
    kind = GENERATORS.get(metadata.get("network", ""))
    if kind is None:
        raise ValueError(f"network: expected one of {', '.join(GENERATORS)}, got {metadata.get('network')!r}")
    try:
        with torch.device("meta"):
            module = kind(**json.loads(metadata["config"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"config: does not describe a {metadata['network']} ({_line(error)})") from error
    return fill(module, tensors)


def load_generator(path: str | Path) -> nn.Module:
    """The generator in a file written by ``save_generator``.

    Raises:
        ValueError: it is another kind of file, or damaged; one line that names it.
        OSError: it cannot be opened.
    """
    tensors, metadata = read_safetensors(path)
    try:
        return build_generator(tensors, metadata)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def fill(module: nn.Module, tensors: Mapping[str, Tensor]) -> Any:
    """Give a module built on the meta device these tensors, as float32, after checking names and shapes.

    Raises:
        ValueError: a tensor is missing, left over, of another shape or not of floating point.
    """
    expected = module.state_dict()
    for problem, names in (
        ("lacks", sorted(expected.keys() - tensors.keys())),
        ("has the unknown", sorted(tensors.keys() - expected.keys())),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ValueError(f"{type(module).__name__}: {problem} {names[0]}{more}")
    for name, like in expected.items():
        tensor = tensors[name]
        if tensor.shape != like.shape or not tensor.is_floating_point():
            raise ValueError(
                f"{type(module).__name__}: {name}: expected {tuple(like.shape)} of floating point, "
                f"got {tuple(tensor.shape)} of {tensor.dtype}"
            )
    own = {name: t.detach().to(torch.float32, copy=True).contiguous() for name, t in tensors.items()}
    module.load_state_dict(own, assign=True)
    return module


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
