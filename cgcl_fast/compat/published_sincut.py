"""The published layout of SinCUT's generator and discriminator (``{epoch}_net_{G,D}.pth`` of CUT's ``sincut``).

There a convolution and the bias of its activation are two modules, the upsampling convolution is a transposed one of
five dimensions, and blurs keep their kernels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cgcl_fast.networks import StyleGAN2Discriminator, StyleGAN2Generator
from cgcl_fast.networks.files import build_empty, fill

MOST_CHANNELS = 384
"""Of the published discriminator."""


def is_generator(state: Mapping[str, Tensor]) -> bool:
    return "encoder.convs.1.0.weight" in state


def is_discriminator(state: Mapping[str, Tensor]) -> bool:
    return "convs.0.0.weight" in state and "final_conv.0.weight" in state


def read_generator(state: Mapping[str, Tensor]) -> StyleGAN2Generator:
    """The generator of a published state dict; ngf, blocks and channels are read from the tensors.

    Raises:
        ValueError: it is not one.
    """
    convs = [_count(state, rf"{part}\.convs\.(\d+)\..*") for part in ("encoder", "decoder")]
    config: dict[str, Any] = {
        "input_nc": _size(state, "encoder.convs.1.0.weight", 1),
        "output_nc": _size(state, f"decoder.convs.{convs[1] - 1}.0.weight", 0),
        "ngf": _size(state, "encoder.convs.1.0.weight", 0) // 8,
        "n_blocks": convs[0] - 3 + convs[1] - 2,  # but identity, first convolution, halving; doubling, last convolution
        "published": True,
    }
    module = build_empty(lambda: StyleGAN2Generator(**config))
    return fill(module, _ours(state, _generator_layout(module, encoder_blocks=convs[0] - 3)))


def read_discriminator(state: Mapping[str, Tensor]) -> StyleGAN2Discriminator:
    """The discriminator of a published state dict; ndf, size and channels are read from the tensors.

    Raises:
        ValueError: it is not one.
    """
    config: dict[str, Any] = {
        "input_nc": _size(state, "convs.0.0.weight", 1),
        "ndf": _size(state, "convs.0.0.weight", 0) // 4,
        "size": 2 ** (_count(state, r"convs\.(\d+)\..*") + 1),
        "minibatch_stddev": False,
        "most_channels": MOST_CHANNELS,
    }
    module = build_empty(lambda: StyleGAN2Discriminator(**config))
    return fill(module, _ours(state, _discriminator_layout(module)))


def state_dict_of(module: StyleGAN2Generator | StyleGAN2Discriminator) -> dict[str, Tensor]:
    """The published state dict of a module that computes as the published one does.

    Raises:
        ValueError: it does not.
    """
    if isinstance(module, StyleGAN2Generator):
        if not module.config["published"] or len(module.blocks) % 2:
            raise ValueError("module: expected a generator as published and an even number of blocks")
        names = _generator_layout(module, len(module.blocks) // 2)
    else:
        if module.config["minibatch_stddev"] or module.config["most_channels"] != MOST_CHANNELS:
            raise ValueError(
                f"module: expected a discriminator of at most {MOST_CHANNELS} channels without minibatch_stddev"
            )
        names = _discriminator_layout(module)
    own = module.state_dict()
    state = {}
    for ours, theirs in names.items():
        if ours.startswith("blur:"):
            state[theirs] = _kernel(4 if theirs.endswith("conv.blur.kernel") else 1).to(next(iter(own.values())))
            continue
        tensor = own[ours].detach()
        if ours == "up.weight":
            tensor = tensor.flip(2, 3)[None]
        elif ours == "up.noise_strength":
            tensor = tensor[None]
        elif tensor.dim() == 1 and not theirs.startswith("final_linear."):
            tensor = tensor[None, :, None, None]
        state[theirs] = tensor.contiguous()
    return state


def _ours(state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors under our names and in our shapes; what is not known keeps its name, so that it is refused."""
    theirs = {published: ours for ours, published in names.items()}
    own_state = {}
    for name, tensor in state.items():
        ours = theirs.get(name, name)
        if ours.startswith("blur:"):
            expected = _kernel(4 if name.endswith("conv.blur.kernel") else 1)
            if tensor.shape != expected.shape or not torch.allclose(tensor.detach().float().cpu(), expected, atol=1e-3):
                raise ValueError(f"{name}: expected the blur kernel of [1, 3, 3, 1]")
            continue
        if ours == "up.weight" and tensor.dim() == 5 and len(tensor) == 1:
            tensor = tensor[0].flip(2, 3)  # of a transposed convolution
        elif ours == "up.noise_strength" and tensor.shape == (1,):
            tensor = tensor[0]
        elif ours.endswith(".bias") and tensor.dim() == 4 and tensor.shape == (1, tensor.shape[1], 1, 1):
            tensor = tensor.flatten()
        own_state[ours] = tensor
    return own_state


def _kernel(gain: float) -> Tensor:
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    return torch.outer(taps, taps) * (gain / 64)


def _generator_layout(module: StyleGAN2Generator, encoder_blocks: int) -> dict[str, str]:
    """Our name -> published name of each tensor; the blurs, which have none here, are "blur:" and a number."""
    names = _conv("stem", "encoder.convs.1")
    names.update(_block("down", "encoder.convs.2", down=True))
    for i in range(len(module.blocks)):
        last = i - encoder_blocks
        names.update(_block(f"blocks.{i}", f"encoder.convs.{3 + i}" if last < 0 else f"decoder.convs.{last}"))
    up = len(module.blocks) - encoder_blocks
    names["up.weight"] = f"decoder.convs.{up}.conv.weight"
    names["blur:up"] = f"decoder.convs.{up}.conv.blur.kernel"
    names["up.noise_strength"] = f"decoder.convs.{up}.noise.weight"
    names["up.bias"] = f"decoder.convs.{up}.activate.bias"
    names.update(_conv("head", f"decoder.convs.{up + 1}"))
    return names


def _discriminator_layout(module: StyleGAN2Discriminator) -> dict[str, str]:
    names = _conv("stem", "convs.0")
    for i in range(len(module.blocks)):
        names.update(_block(f"blocks.{i}", f"convs.{i + 1}", down=True))
    names.update(_conv("conv", "final_conv"))
    for ours, theirs in (("linear", "final_linear.0"), ("head", "final_linear.1")):
        names.update({f"{ours}.{tensor}": f"{theirs}.{tensor}" for tensor in ("weight", "bias")})
    return names


def _conv(ours: str, theirs: str, first: int = 0) -> dict[str, str]:
    return {f"{ours}.weight": f"{theirs}.{first}.weight", f"{ours}.bias": f"{theirs}.{first + 1}.bias"}


def _block(ours: str, theirs: str, down: bool = False) -> dict[str, str]:
    names = {**_conv(f"{ours}.conv1", f"{theirs}.conv1"), **_conv(f"{ours}.conv2", f"{theirs}.conv2", int(down))}
    if down:
        names[f"{ours}.skip.weight"] = f"{theirs}.skip.1.weight"
        names[f"blur:{ours}.conv2"] = f"{theirs}.conv2.0.kernel"
        names[f"blur:{ours}.skip"] = f"{theirs}.skip.0.kernel"
    return names


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    """One more than the greatest number that ``pattern`` captures in the names."""
    numbers = [int(match[1]) for name in state if (match := re.fullmatch(pattern, name))]
    if not numbers or max(numbers) > len(state):
        raise ValueError(
            f"expected modules numbered without gaps, got {max(numbers, default=-1)} of {len(state)} tensors"
        )
    return max(numbers) + 1


def _size(state: Mapping[str, Tensor], name: str, dim: int) -> int:
    tensor = state.get(name)
    if tensor is None:
        raise ValueError(f"lacks {name}")
    if tensor.dim() != 4:
        raise ValueError(f"{name}: expected 4 dimensions, got {tuple(tensor.shape)}")
    return tensor.shape[dim]
