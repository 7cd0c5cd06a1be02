"""Published checkpoint layouts of G, D and H (``{epoch}_net_{G,D,F}.pth`` of CUT; G and D also of CycleGAN).
``published_sincut`` has those of SinCUT's G and D."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cgcl_fast.compat import published_sincut
from cgcl_fast.compat.reading import StateDict, read_weights
from cgcl_fast.networks import (
    PatchDiscriminator,
    PixelDiscriminator,
    ResnetGenerator,
    StyleGAN2Discriminator,
    StyleGAN2Generator,
    UnetGenerator,
)
from cgcl_fast.networks.files import build_empty, build_generator, fill
from cgcl_fast.nn import Projector

Source = str | Path | Mapping[str, Any]


def load_generator(source: Source) -> ResnetGenerator | UnetGenerator | StyleGAN2Generator:
    """The generator in a published file. Its kind, width, depth, norm, anti-aliasing, dropout (except a U-Net's, which
    leaves no trace) and channels are inferred from its tensors.

    Args:
        source: a ``.pth`` file, a ``.safetensors`` file (also one from ``networks.save_generator``) or a state dict.

    Returns:
        The generator, in float32 and in training mode as constructed (which only matters with dropout).

    Raises:
        ValueError: the file is damaged, would execute code, or is not a published generator; one line.
        OSError: the file cannot be opened.
    """
    state, metadata, name = read_weights(source)
    kind = "ResNet"
    try:
        if "network" in metadata:
            return build_generator(state, metadata)  # type: ignore[return-value]
        _drop_norm_statistics(state)
        if published_sincut.is_generator(state):
            kind = "SinCUT"
            return published_sincut.read_generator(state)
        if any(key.startswith("model.model.") for key in state):
            kind = "U-Net"
            return _build(UnetGenerator, _unet_config(state), state)
        return _build(ResnetGenerator, _generator_config(state), state)
    except ValueError as error:
        raise ValueError(f"{name}: not a published {kind} generator ({error})") from error


def load_discriminator(source: Source) -> PatchDiscriminator | PixelDiscriminator | StyleGAN2Discriminator:
    """The discriminator in a published file: PatchGAN, PixelGAN or SinCUT's. Arguments and errors as in
    ``load_generator``."""
    state, _, name = read_weights(source)
    try:
        if published_sincut.is_discriminator(state):
            return published_sincut.read_discriminator(state)
        _drop_norm_statistics(state)
        if any(key.startswith("net.") for key in state):
            return _build(PixelDiscriminator, _pixel_config(state), state)
        return _build(PatchDiscriminator, _discriminator_config(state), state)
    except ValueError as error:
        raise ValueError(f"{name}: not a published PatchGAN discriminator ({error})") from error


def load_projector(source: Source) -> Projector:
    """The projection MLP H in a published file; for EnCo's later code with norms and predictors. Arguments and errors
    as in ``load_generator``."""
    state, _, name = read_weights(source)
    try:
        return _build(Projector, _projector_config(state), state)
    except ValueError as error:
        raise ValueError(f"{name}: not a published projector ({error})") from error


def published_state_dict(module: nn.Module) -> dict[str, Tensor]:
    """The state dict that the published code would have saved for this module; for ``torch.save``.

    Args:
        module: a ``ResnetGenerator``, ``UnetGenerator``, ``PatchDiscriminator``, ``PixelDiscriminator``,
            ``Projector``, or SinCUT's networks.

    Raises:
        TypeError: another kind of module.
        ValueError: SinCUT's networks with options that the published ones lack.
    """
    if isinstance(module, (StyleGAN2Generator, StyleGAN2Discriminator)):
        return published_sincut.state_dict_of(module)
    names, blurs = _layout(module)
    own = module.state_dict()
    if not own:
        raise TypeError(f"module: expected one with weights, got {type(module).__name__}")
    renamed = {theirs: own[ours].detach().contiguous() for ours, theirs in names.items()}
    like = next(iter(own.values()))
    for name, (channels, up) in blurs.items():
        renamed[name] = _blur_kernel(channels, up).to(like)
    return dict(sorted(renamed.items(), key=lambda item: _order(item[0])))


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
    blurs: dict[str, tuple[int, bool]] = {}
    if isinstance(module, ResnetGenerator):
        modules, blurs = _generator_layout(**module.config)
    elif isinstance(module, UnetGenerator):
        modules = _unet_layout(**module.config)
    elif isinstance(module, PixelDiscriminator):
        modules = {"convs.0": "net.0", "convs.1": "net.2", "norm.batch": "net.3", "convs.2": "net.5"}
    elif isinstance(module, PatchDiscriminator):
        modules, blurs = _discriminator_layout(**module.config)
    elif isinstance(module, Projector):
        modules = {f"mlps.{i}.{j}": f"mlp_{i}.{j}" for i in range(len(module.mlps)) for j in range(5)}
        modules.update({f"predictors.{i}.{j}": f"prj_{i}.{j}" for i in range(len(module.predictors)) for j in range(4)})
    else:
        raise TypeError(
            "module: expected a ResnetGenerator, UnetGenerator, PatchDiscriminator, PixelDiscriminator, Projector or "
            f"SinCUT's, got {type(module).__name__}"
        )
    names = {}
    for name in module.state_dict():
        ours, _, tensor = name.rpartition(".")
        if ours in modules:
            names[name] = f"{modules[ours]}.{tensor}"
    return names, blurs


def _generator_layout(
    ngf: int, n_blocks: int, antialias: bool, antialias_up: bool, dropout: bool, n_down: int, **_: Any
) -> tuple[dict[str, str], dict[str, tuple[int, bool]]]:
    modules, blurs = {"stem": "model.1", "norms.0.batch": "model.2"}, {}
    index = 4  # 0-3: padding, convolution, norm, ReLU
    for i in range(n_down):
        modules[f"down.{i}"] = f"model.{index}"
        modules[f"norms.{1 + i}.batch"] = f"model.{index + 1}"
        index += 3
        if antialias:
            blurs[f"model.{index}.filt"] = (ngf * 2 ** (i + 1), False)
            index += 1
    second = 6 if dropout else 5
    for i in range(n_blocks):
        modules[f"blocks.{i}.conv1"] = f"model.{index}.conv_block.1"
        modules[f"blocks.{i}.norm1.batch"] = f"model.{index}.conv_block.2"
        modules[f"blocks.{i}.conv2"] = f"model.{index}.conv_block.{second}"
        modules[f"blocks.{i}.norm2.batch"] = f"model.{index}.conv_block.{second + 1}"
        index += 1
    for i in range(n_down):
        if antialias_up:
            blurs[f"model.{index}.filt"] = (ngf * 2 ** (n_down - i), True)
            index += 1
        modules[f"up.{i}"] = f"model.{index}"
        modules[f"norms.{1 + n_down + i}.batch"] = f"model.{index + 1}"
        index += 3
    modules["head"] = f"model.{index + 1}"
    return modules, blurs


def _unet_layout(n_down: int, **_: Any) -> dict[str, str]:
    """Each halving contains the next: activation, convolution, norm, the next halving, activation, transposed
    convolution, norm. The outermost has only its convolutions; the innermost has no norm before its activation."""
    modules = {}
    level = "model"
    for i in range(n_down):
        outer, inner = i == 0, i == n_down - 1
        first = 0 if outer else 1
        modules[f"down.{i}"] = f"{level}.model.{first}"
        up = 3 if outer or inner else 5
        modules[f"up.{i}"] = f"{level}.model.{up}"
        if not outer:
            modules[f"up_norms.{i - 1}.batch"] = f"{level}.model.{up + 1}"
            if not inner:
                modules[f"down_norms.{i - 1}.batch"] = f"{level}.model.2"
        level += ".model.1" if outer else ".model.3"
    return modules


def _discriminator_layout(
    ndf: int, n_layers: int, antialias: bool, **_: Any
) -> tuple[dict[str, str], dict[str, tuple[int, bool]]]:
    modules: dict[str, str] = {}
    blurs = {}
    index = 0
    for i in range(n_layers + 1):
        modules[f"convs.{i}"] = f"model.{index}"
        if i > 0:
            modules[f"norms.{i - 1}.batch"] = f"model.{index + 1}"
        index += 2 if i == 0 else 3  # convolution, norm except for the first, LeakyReLU
        if antialias and i < n_layers:
            blurs[f"model.{index}.filt"] = (ndf * min(2**i, 8), False)
            index += 1
    modules[f"convs.{n_layers + 1}"] = f"model.{index}"
    return modules, blurs


def _blur_kernel(channels: int, up: bool) -> Tensor:
    """The buffer of the published modules: sums to 1, or to 4 for the transposed convolution."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0] if up else [1.0, 2.0, 1.0])
    kernel = torch.outer(taps, taps)
    return (kernel / kernel.sum() * (4 if up else 1)).repeat(channels, 1, 1, 1)


_TENSORS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def _order(name: str) -> list[tuple[int, str]]:
    """Sort key: by layer number, tensors of a layer in PyTorch's order."""
    return [
        (int(part), "") if part.isdigit() else (-1, str(_TENSORS.index(part)) if part in _TENSORS else part)
        for part in name.split(".")
    ]


# ------------------------------------------------------------------------------------------------- shapes from tensors


def _weight(state: StateDict, name: str, dims: int) -> Tensor:
    tensor = state.get(f"{name}.weight")
    if tensor is None:
        raise ValueError(f"lacks {name}.weight")
    if tensor.dim() != dims or 0 in tensor.shape:
        raise ValueError(f"{name}.weight: expected {dims} dimensions, got {tuple(tensor.shape)}")
    return tensor


def _numbers(state: StateDict, pattern: str) -> list[int]:
    """The distinct numbers that ``pattern`` captures in the tensors' names, ascending."""
    return sorted({int(match[1]) for name in state if (match := re.fullmatch(pattern, name))})


def _convs(state: StateDict) -> list[int]:
    """The numbers of the convolutions in ``model``, ascending; norms have weights too, of one dimension."""
    return [i for i in _numbers(state, r"model\.(\d+)\.weight") if state[f"model.{i}.weight"].dim() == 4]


def _norm(state: StateDict, conv: str, norm: str) -> str:
    """The norm after a convolution, by the names of both."""
    if f"{conv}.bias" in state:
        return "instance"
    return "batch" if f"{norm}.weight" in state else "none"


def _generator_config(state: StateDict) -> dict[str, Any]:
    stem = _weight(state, "model.1", 4)
    convs = _convs(state)
    blocks = _numbers(state, r"model\.(\d+)\.conv_block\.1\.weight")
    head = _weight(state, f"model.{convs[-1]}", 4)
    n_down = 1 if len(convs) == 4 else 2  # beside stem and head a convolution each down and up; 2 as published
    antialias = 8 in convs if n_down == 2 else "model.7.filt" in state or blocks[:1] == [8]
    first_up = 4 + n_down * (4 if antialias else 3) + len(blocks)
    return {
        "input_nc": stem.shape[1],
        "output_nc": head.shape[0],
        "ngf": stem.shape[0],
        "n_blocks": len(blocks),
        "antialias": antialias,
        "antialias_up": first_up not in convs,
        "dropout": any(name.endswith("conv_block.6.weight") and state[name].dim() == 4 for name in state),
        "n_down": n_down,
        "norm": _norm(state, "model.1", "model.2"),
    }


def _unet_config(state: StateDict) -> dict[str, Any]:
    first, last = _weight(state, "model.model.0", 4), _weight(state, "model.model.3", 4)
    level, n_down = "model.model.1", 2
    while f"{level}.model.5.weight" in state:
        level, n_down = f"{level}.model.3", n_down + 1
    return {
        "input_nc": first.shape[1],
        "output_nc": last.shape[1],
        "ngf": first.shape[0],
        "n_down": n_down,
        "norm": _norm(state, "model.model.0", "model.model.1.model.2"),
    }


def _pixel_config(state: StateDict) -> dict[str, Any]:
    first = _weight(state, "net.0", 4)
    return {"input_nc": first.shape[1], "ndf": first.shape[0], "norm": _norm(state, "net.2", "net.3")}


def _discriminator_config(state: StateDict) -> dict[str, Any]:
    first = _weight(state, "model.0", 4)
    convs = _convs(state)
    if len(convs) < 3:
        raise ValueError(f"expected at least 3 convolutions, got {len(convs)}")
    return {
        "input_nc": first.shape[1],
        "ndf": first.shape[0],
        "n_layers": len(convs) - 2,
        "antialias": convs[1] == 3,
        "norm": _norm(state, f"model.{convs[1]}", f"model.{convs[1] + 1}"),
    }


def _projector_config(state: StateDict) -> dict[str, Any]:
    layers = _numbers(state, r"mlp_(\d+)\.0\.weight")
    if not layers:
        raise ValueError("lacks mlp_0.0.weight")
    weights = [_weight(state, f"mlp_{i}.0", 2) for i in layers]
    return {
        "channels": [w.shape[1] for w in weights],
        "dim": weights[0].shape[0],
        "batch_norm": "mlp_0.1.running_mean" in state,
        "predictor": "prj_0.0.weight" in state,
        "predictor_norm": "prj_0.1.running_mean" in state,
    }


def _drop_norm_statistics(state: dict[str, Tensor]) -> None:
    """Files of PyTorch before 0.4 carry running statistics that an instance norm never used, and do not count the
    batches of a batch norm."""
    pattern = re.compile(r"(.*)\.(running_mean|running_var|num_batches_tracked)")
    for name in list(state):
        match = pattern.fullmatch(name)
        if match and f"{match[1]}.weight" not in state:
            del state[name]
        elif match:
            state.setdefault(f"{match[1]}.num_batches_tracked", torch.tensor(0))
