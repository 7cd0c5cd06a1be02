"""Shared by the three memory ops: unit vectors, argument checks, classes of pixels and items."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _check

#: Vectors up to this length count as zero: their cosine with anything is 0, and they get no gradient.
ZERO_NORM = 1e-12

#: The smallest τ of the softmax over cosines. e^(±1/τ), sums over pixels and their ratios then stay within float32's
#: range, so that the kernels need not subtract the maximum.
LEAST_TEMPERATURE = 0.02

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def unit(v: Tensor, dim: int) -> Tensor:
    """v/‖v‖₂ along `dim`; zero, with a zero gradient, where v is zero."""
    norm = torch.linalg.vector_norm(v, dim=dim, keepdim=True)
    return v / torch.where(norm <= ZERO_NORM, torch.inf, norm)


def temperature(op: str, value: float) -> float:
    """`value` must be finite, and at least LEAST_TEMPERATURE."""
    tau = _check.positive(op, "temperature", value)
    if tau < LEAST_TEMPERATURE:
        raise ValueError(f"{op}: expected temperature of at least {LEAST_TEMPERATURE}, got {tau}")
    return tau


def same_class(pixel_class: Tensor, item_class: Tensor) -> Tensor:
    """(B, N, H, W) bool: whether item n has the class of the pixel."""
    return pixel_class[:, None] == item_class[None, :, None, None]


def items(op: str, name: str, value: Tensor, channels: int, of: str, layout: str) -> None:
    """`value` must be (N, channels) with at least one item; `of` names the map with that number of channels."""
    _check.tensor(op, name, value, 2, layout)
    if value.shape[0] < 1:
        raise ValueError(f"{op}: expected {name} with at least one item, got {tuple(value.shape)}")
    if value.shape[1] != channels:
        raise ValueError(f"{op}: expected {name} with {of}'s {channels} channels, got {tuple(value.shape)}")


def classes(
    op: str,
    pixel_class: Tensor | None,
    item_class: Tensor | None,
    map_name: str,
    like: Tensor,
    N: int,
    pixel_name: str = "pixel_class",
) -> tuple[Tensor | None, Tensor | None]:
    """Both classes as int64, checked against the map `like`, which errors call `map_name`; or neither."""
    if (pixel_class is None) != (item_class is None):
        missing, given = ("item_class", pixel_name) if item_class is None else (pixel_name, "item_class")
        raise ValueError(f"{op}: expected {missing} with {given}, got None: give both or neither")
    if pixel_class is None or item_class is None:
        return None, None
    for name, value in ((pixel_name, pixel_class), ("item_class", item_class)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{op}: expected {name} to be an integer Tensor, got {type(value).__name__}")
        if value.dtype not in _INTEGERS:
            raise TypeError(f"{op}: expected {name} of an integer dtype, got {value.dtype}")
        _check.dense(op, name, value)
        _check.same_device(op, name, value, map_name, like)
    B, _, H, W = like.shape
    _check.shape(op, pixel_name, pixel_class, (B, H, W), "(B, H, W)")
    _check.shape(op, "item_class", item_class, (N,), "(N,)")
    return pixel_class.to(torch.int64), item_class.to(torch.int64)
