"""Generators as shareable files: safetensors, with metadata from which the network is built again."""

from __future__ import annotations

import json
import threading
import warnings
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from cgcl_fast._files import check_regular
from cgcl_fast._weights import is_finite
from cgcl_fast.networks.disentangled import DisentangledGenerator
from cgcl_fast.networks.mguit import MGUITGenerator
from cgcl_fast.networks.resnet import ResnetGenerator
from cgcl_fast.networks.stylegan2 import StyleGAN2Generator
from cgcl_fast.networks.unet import UnetGenerator

T = TypeVar("T")

MOST_PARAMETERS = 2_000
"""Maximum number of parameters that a file may describe. The largest method here has a tenth of it."""

GENERATORS: dict[str, type[nn.Module]] = {
    "ResnetGenerator": ResnetGenerator,
    "DisentangledGenerator": DisentangledGenerator,
    "MGUITGenerator": MGUITGenerator,
    "StyleGAN2Generator": StyleGAN2Generator,
    "UnetGenerator": UnetGenerator,
}


def describe_generator(
    module: nn.Module, ranges: Mapping[str, Any] | None = None, *, direction: str | None = None
) -> dict[str, Any]:
    """What a file says of its generator, as JSON can hold it: "network", "config" and, where they are given, "ranges"
    and "direction". Arguments and errors are those of :func:`generator_bytes`."""
    name = type(module).__name__
    if GENERATORS.get(name) is not type(module):
        raise TypeError(f"module: expected one of {', '.join(GENERATORS)}, got {name}")
    described: dict[str, Any] = {"network": name, "config": module.config}
    if ranges:
        described["ranges"] = ranges
    if direction is not None:
        described["direction"] = direction
    return described


def generator_bytes(
    module: nn.Module, ranges: Mapping[str, Any] | None = None, *, direction: str | None = None
) -> bytes:
    """The safetensors file of a generator: its state dict, its class and its config.

    Args:
        module: the generator.
        ranges: plain containers with the number ranges of each domain's images
            (:func:`cgcl_fast.data.values.values_to_dict`); the loaded generator has them as ``ranges``.
        direction: AtoB or BtoA, for a generator with one direction; None: unknown, or it has named domains.

    Raises:
        TypeError: ``module`` is not a generator of this package.
    """
    described = describe_generator(module, ranges, direction=direction)
    metadata = {name: value if isinstance(value, str) else json.dumps(value) for name, value in described.items()}
    tensors = {k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}
    content = memoryview(safetensors.torch.save(tensors, {**metadata, "checksum": _checksum(tensors, metadata)}))
    # safetensors writes the metadata in varying order; equal generators must give equal files.
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(bytes(content[8:end])), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return b"".join((len(header).to_bytes(8, "little"), header, content[end:]))


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Checksum of the tensors' names, types, shapes and values, and of all other metadata: against damage, like that of
    the zip files of ``torch.save``, not against forgery."""
    described = {name: [str(tensor.dtype), list(tensor.shape)] for name, tensor in tensors.items()}
    others = {name: value for name, value in metadata.items() if name != "checksum"}
    checksum = zlib.crc32(json.dumps([others, described], sort_keys=True).encode())
    for name in sorted(tensors):
        checksum = zlib.crc32(tensors[name].contiguous().view(-1).view(torch.uint8).numpy().data, checksum)
    return f"{checksum:08x}"


def save_generator(path: str | Path, module: nn.Module) -> None:
    """Write ``generator_bytes(module)`` to ``path``."""
    Path(path).write_bytes(generator_bytes(module))


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        ValueError: the file is not safetensors, is truncated, or does not match its checksum; one line that names it.
        OSError: the file cannot be opened, or is not a regular file.

    Warns:
        UserWarning: a generator from before files had checksums, whose damage would go unnoticed.
    """
    check_regular(path)
    with open(path, "rb"):
        pass  # no permission to read is an OSError, not a damaged file
    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path}: not a readable safetensors file ({_line(error)})") from error
    if "checksum" in metadata:
        if metadata["checksum"] != _checksum(tensors, metadata):
            raise ValueError(f"{path}: damaged (its content is not that of its checksum)")
    elif "network" in metadata:
        warnings.warn(f"{path}: has no checksum, so that damage to it would not be noticed", stacklevel=3)
    return tensors, metadata


def build_generator(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> nn.Module:
    """The generator described by a file's tensors and metadata.

    Raises:
        ValueError: the metadata does not name a generator of this package, or the tensors do not match it.
    """
    kind = GENERATORS.get(metadata.get("network", ""))
    if kind is None:
        raise ValueError(f"network: expected one of {', '.join(GENERATORS)}, got {metadata.get('network')!r}")
    try:
        module = build_empty(lambda: kind(**json.loads(metadata["config"])))
    except Exception as error:  # foreign JSON may have wrong types, deep nesting or huge numbers
        raise ValueError(f"config: does not describe a {metadata['network']} ({_line(error)})") from error
    try:
        module.ranges = json.loads(metadata.get("ranges", "null"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"ranges: {_line(error)}") from error
    return fill(module, tensors)


def build_empty(make: Callable[[], T]) -> T:
    """Build with ``make`` on the meta device: names and shapes to compare with a file, at no cost.

    Raises:
        ValueError: more than ``MOST_PARAMETERS``; a file that asks for 10^8 blocks would take days to build.
    """
    left, thread = MOST_PARAMETERS, threading.get_ident()

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal left
        if parameter is not None and threading.get_ident() == thread:
            left -= 1
            if left < 0:
                raise ValueError(f"expected at most {MOST_PARAMETERS} tensors of weights, got more")

    counting = register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"):
            return make()
    finally:
        counting.remove()


def load_generator(path: str | Path) -> nn.Module:
    """The generator in a file written by ``save_generator``.

    Raises:
        ValueError: the file is of another kind, or damaged; one line that names it.
        OSError: the file cannot be opened.
    """
    tensors, metadata = read_safetensors(path)
    try:
        return build_generator(tensors, metadata)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def fill(module: nn.Module, tensors: Mapping[str, Tensor]) -> Any:
    """Give a module built on the meta device these tensors, as float32 (counters unchanged), after checking names and
    shapes.

    Raises:
        ValueError: a tensor is missing, unexpected, of another shape, not floating-point or not finite.
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
        counts = not like.is_floating_point()  # such as a batch norm's count of batches
        if tensor.shape != like.shape or (tensor.dtype != like.dtype if counts else not tensor.is_floating_point()):
            raise ValueError(
                f"{type(module).__name__}: {name}: expected {tuple(like.shape)} of "
                f"{like.dtype if counts else 'floating point'}, "
                f"got {tuple(tensor.shape)} of {tensor.dtype}"
            )
    own = {
        name: t.detach().to(torch.float32 if t.is_floating_point() else t.dtype, copy=True).contiguous()
        for name, t in tensors.items()
    }
    for name, tensor in own.items():
        if not is_finite(tensor):
            raise ValueError(f"{type(module).__name__}: {name}: expected finite numbers, got NaN or infinity")
    module.load_state_dict(own, assign=True)
    return module


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
