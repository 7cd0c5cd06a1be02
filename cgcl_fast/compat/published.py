"""The published checkpoint layouts of G, D and H (``{epoch}_net_{G,D,F}.pth`` of CUT; G and D also of CycleGAN)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cgcl_fast.compat.reading import StateDict, read_weights
from cgcl_fast.networks import PatchDiscriminator, ResnetGenerator
from cgcl_fast.networks.files import build_empty, build_generator, fill
from cgcl_fast.nn import Projector

Source = str | Path | Mapping[str, Any]


def load_generator(source: Source) -> ResnetGenerator:
    """The generator in a published file; width, blocks, anti-aliasing, dropout and channels are read from its tensors.

    Args:
        source: a ``.pth`` file, a ``.safetensors`` file (also one written by ``networks.save_generator``) or a state
            dict.

    Returns:
        The generator, in float32 and in training mode as constructed (which matters only with dropout).

    Raises:
        ValueError: the file is damaged, would run code, or is not a ResNet generator; one line.
        OSError: the file cannot be opened.
    """
    state, metadata, name = read_weights(source)
    try:
        if "network" in metadata:
            return build_generator(state, metadata)  # type: ignore[return-value]
        _drop_norm_statistics(state)
        return _build(ResnetGenerator, _generator_config(state), state)
    except ValueError as error:
        raise ValueError(f"{name}: not a published ResNet generator ({error})") from error


def load_discriminator(source: Source) -> PatchDiscriminator:
    """The PatchGAN discriminator in a published file. Arguments and errors as ``load_generator``."""
    state, _, name = read_weights(source)
    try:
        _drop_norm_statistics(state)
        return _build(PatchDiscriminator, _discriminator_config(state), state)
    except ValueError as error:
        raise ValueError(f"{name}: not a published PatchGAN discriminator ({error})") from error


def load_projector(source: Source) -> Projector:
    """The projection MLP H in a published file. Arguments and errors as ``load_generator``."""
    state, _, name = read_weights(source)
    try:
        return _build(Projector, _projector_config(state), state)
    except ValueError as error:
        raise ValueError(f"{name}: not a published projector ({error})") from error


def published_state_dict(module: nn.Module) -> dict[str, Tensor]:
    """The state dict that the published code would have saved of this module; for ``torch.save``.

    Args:
        module: a ``ResnetGenerator``, ``PatchDiscriminator`` or ``Projector``.

    Raises:
        TypeError: another kind of module.
    """
    names, blurs = _layout(module)
    own = module.state_dict()
    if not own:
        raise TypeError(f"module: expected one with weights, got {type(module).__name__}")
    found = {theirs: own[ours].detach().contiguous() for ours, theirs in names.items()}
    like = next(iter(own.values()))
    for name, (channels, up) in blurs.items():
        found[name] = _blur_kernel(channels, up).to(like)
    return dict(sorted(found.items(), key=lambda item: _order(item[0])))


def _build(kind: type[Any], config: dict[str, Any], state: StateDict) -> Any:
    module = build_empty(lambda: kind(**config))
    names, blurs = _layout(module)
    for name, (channels, up) in blurs.items():
        expected = _blur_kernel(channels, up)
        kernel = state.get(name)
        if kernel is not None and (
            kernel.shape != expected.shape or not torch.allclose(kernel.detach().float().cpu(), expected, atol=1e-3)
        ):
            raise ValueError(f"{name}: expected the blur kernel of {'[1, 3, 3, 1]' if up else '[1, 2, 1]'}")
    theirs = {name: tensor for name, tensor in state.items() if name not in blurs}
    ours = {published: own for own, published in names.items()}
    return fill(module, {ours.get(name, name): tensor for name, tensor in theirs.items()})


# ---------------------------------------------------------------------------------------------------- names of tensors


def _layout(module: nn.Module) -> tuple[dict[str, str], dict[str, tuple[int, bool]]]:
    """Our name -> published name of each tensor, and published name -> (channels, up) of the blur kernels."""
    if isinstance(module, ResnetGenerator):
        modules, blurs = _generator_layout(**module.config)
    elif isinstance(module, PatchDiscriminator):
        modules, blurs = _discriminator_layout(**module.config)
    elif isinstance(module, Projector) and not isinstance(module.mlps[0][1], nn.ReLU):  # type: ignore[index]
        raise TypeError("module: expected a Projector without batch norm, which has no published layout")
    elif isinstance(module, Projector):
        modules = {f"mlps.{i}.{j}": f"mlp_{i}.{j}" for i in range(len(module.mlps)) for j in (0, 2)}
        blurs = {}
    else:
        raise TypeError(
            f"module: expected a ResnetGenerator, PatchDiscriminator or Projector, got {type(module).__name__}"
        )
    names = {f"{ours}.{t}": f"{theirs}.{t}" for ours, theirs in modules.items() for t in ("weight", "bias")}
    return names, blurs


def _generator_layout(
    ngf: int, n_blocks: int, antialias: bool, antialias_up: bool, dropout: bool, n_down: int, **_: Any
) -> tuple[dict[str, str], dict[str, tuple[int, bool]]]:
    modules, blurs = {"stem": "model.1"}, {}
    index = 4  # 0-3: padding, convolution, norm, ReLU
    for i in range(n_down):
        modules[f"down.{i}"] = f"model.{index}"
        index += 3
        if antialias:
            blurs[f"model.{index}.filt"] = (ngf * 2 ** (i + 1), False)
            index += 1
    second = 6 if dropout else 5
    for i in range(n_blocks):
        modules[f"blocks.{i}.conv1"] = f"model.{index}.conv_block.1"
        modules[f"blocks.{i}.conv2"] = f"model.{index}.conv_block.{second}"
        index += 1
    for i in range(n_down):
        if antialias_up:
            blurs[f"model.{index}.filt"] = (ngf * 2 ** (n_down - i), True)
            index += 1
        modules[f"up.{i}"] = f"model.{index}"
        index += 3
    modules["head"] = f"model.{index + 1}"
    return modules, blurs


def _discriminator_layout(
    ndf: int, n_layers: int, antialias: bool, **_: Any
) -> tuple[dict[str, str], dict[str, tuple[int, bool]]]:
    modules: dict[str, str] = {}
    blurs = {}
    index = 0
    for i in range(n_layers + 1):
        modules[f"convs.{i}"] = f"model.{index}"
        index += 2 if i == 0 else 3  # convolution, norm but for the first, LeakyReLU
        if antialias and i < n_layers:
            blurs[f"model.{index}.filt"] = (ndf * min(2**i, 8), False)
            index += 1
    modules[f"convs.{n_layers + 1}"] = f"model.{index}"
    return modules, blurs


def _blur_kernel(channels: int, up: bool) -> Tensor:
    """What the published modules keep as a buffer: normalised to 1, to 4 for the transposed convolution."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0] if up else [1.0, 2.0, 1.0])
    kernel = torch.outer(taps, taps)
    return (kernel / kernel.sum() * (4 if up else 1)).repeat(channels, 1, 1, 1)


def _order(name: str) -> list[tuple[int, str]]:
    """Sorts by layer number, the weight before its bias."""
    return [(int(part), "") if part.isdigit() else (-1, {"weight": ""}.get(part, part)) for part in name.split(".")]


# ------------------------------------------------------------------------------------------------- shapes from tensors


def _weight(state: StateDict, name: str, dims: int) -> Tensor:
    tensor = state.get(f"{name}.weight")
    if tensor is None:
        raise ValueError(f"lacks {name}.weight")
    if tensor.dim() != dims or 0 in tensor.shape:
        raise ValueError(f"{name}.weight: expected {dims} dimensions, got {tuple(tensor.shape)}")
    return tensor


def _numbers(state: StateDict, pattern: str) -> list[int]:
    """The numbers that ``pattern`` captures in the names of the tensors, ascending, each once."""
    return sorted({int(match[1]) for name in state if (match := re.fullmatch(pattern, name))})


def _generator_config(state: StateDict) -> dict[str, Any]:
    stem = _weight(state, "model.1", 4)
    convs = _numbers(state, r"model\.(\d+)\.weight")
    blocks = _numbers(state, r"model\.(\d+)\.conv_block\.1\.weight")
    head = _weight(state, f"model.{convs[-1]}", 4)
    n_down = 1 if len(convs) == 4 else 2  # beside stem and head a convolution each down and up; 2 as published
    antialias = "model.8.weight" in state if n_down == 2 else "model.7.filt" in state or blocks[:1] == [8]
    first_up = 4 + n_down * (4 if antialias else 3) + len(blocks)
    return {
        "input_nc": stem.shape[1],
        "output_nc": head.shape[0],
        "ngf": stem.shape[0],
        "n_blocks": len(blocks),
        "antialias": antialias,
        "antialias_up": f"model.{first_up}.weight" not in state,
        "dropout": any(name.endswith("conv_block.6.weight") for name in state),
        "n_down": n_down,
    }


def _discriminator_config(state: StateDict) -> dict[str, Any]:
    first = _weight(state, "model.0", 4)
    convs = _numbers(state, r"model\.(\d+)\.weight")
    if len(convs) < 3:
        raise ValueError(f"expected at least 3 convolutions, got {len(convs)}")
    return {
        "input_nc": first.shape[1],
        "ndf": first.shape[0],
        "n_layers": len(convs) - 2,
        "antialias": convs[1] == 3,
    }


def _projector_config(state: StateDict) -> dict[str, Any]:
    layers = _numbers(state, r"mlp_(\d+)\.0\.weight")
    if not layers:
        raise ValueError("lacks mlp_0.0.weight")
    weights = [_weight(state, f"mlp_{i}.0", 2) for i in layers]
    return {"channels": [w.shape[1] for w in weights], "dim": weights[0].shape[0]}


def _drop_norm_statistics(state: dict[str, Tensor]) -> None:
    """Files of PyTorch before 0.4 carry running statistics that an instance norm never used."""
    pattern = re.compile(r"(.*)\.(running_mean|running_var|num_batches_tracked)")
    for name in list(state):
        match = pattern.fullmatch(name)
        if match and f"{match[1]}.weight" not in state:
            del state[name]
