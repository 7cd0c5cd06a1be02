"""Argument checks of the public ops: each error names the argument, what was expected and what came."""

from __future__ import annotations

import operator

import torch
from torch import Tensor


def tensor(op: str, name: str, value: object, dim: int, layout: str) -> None:
    """`value` must be a real floating-point tensor of `dim` dimensions, described as `layout`, e.g. "(B, C, H, W)"."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{op}: expected {name} to be a Tensor {layout}, got {type(value).__name__}")
    if not value.is_floating_point():
        raise TypeError(f"{op}: expected {name} of a floating-point dtype, got {value.dtype}")
    if value.dim() != dim:
        raise ValueError(f"{op}: expected {name} of shape {layout}, got {tuple(value.shape)}")


def shape(op: str, name: str, value: Tensor, expected: tuple[int, ...], layout: str) -> None:
    if tuple(value.shape) != expected:
        raise ValueError(f"{op}: expected {name} of shape {layout} = {expected}, got {tuple(value.shape)}")


def same_device(op: str, name: str, value: Tensor, reference_name: str, reference: Tensor) -> None:
    if value.device != reference.device:
        raise ValueError(f"{op}: expected {name} on {reference_name}'s device {reference.device}, got {value.device}")


def choice(op: str, name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{op}: expected {name} to be one of {', '.join(map(repr, choices))}, got {value!r}")


def integer_ids(op: str, name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{op}: expected {name} to be an int64 Tensor, got {type(value).__name__}")
    if value.dtype != torch.int64:
        raise TypeError(f"{op}: expected {name} of dtype torch.int64, got {value.dtype}")


def count(op: str, name: str, value: object, least: int = 0) -> int:
    """`value` as an integer of at least `least`; symbolic sizes of `torch.compile` pass."""
    if type(value) is int and value >= least:
        return value
    if isinstance(value, bool) or not hasattr(value, "__index__") or isinstance(value, Tensor):
        raise TypeError(f"{op}: expected {name} to be an integer, got {type(value).__name__}")
    number = value if isinstance(value, (int, torch.SymInt)) else operator.index(value)  # type: ignore[arg-type]
    if number < least:
        raise ValueError(f"{op}: expected {name} >= {least}, got {number}")
    return number  # type: ignore[return-value]


def position_ids(op: str, name: str, value: object, batch: int, layout: str) -> None:
    """`value` must be int64 ids (P,) or (B, P), described as `layout`."""
    integer_ids(op, name, value)
    assert isinstance(value, Tensor)
    if value.dim() not in (1, 2) or (value.dim() == 2 and value.shape[0] != batch):
        raise ValueError(f"{op}: expected {name} of shape {layout} with B = {batch}, got {tuple(value.shape)}")


def in_range(op: str, name: str, value: Tensor, size: int) -> None:
    """Ids must be in [0, size). Looks at them only on the CPU: elsewhere looking would wait for the device."""
    known = value.device.type == "cpu" and type(value) is Tensor and not torch.compiler.is_compiling()
    if known and value.numel() > 0:
        for extreme in torch.stack(torch.aminmax(value)).tolist():
            if not 0 <= extreme < size:
                raise ValueError(f"{op}: expected {name} in [0, {size}), the positions of the map, got {extreme}")


def generator(op: str, value: object) -> None:
    if value is not None and not isinstance(value, torch.Generator):
        raise TypeError(f"{op}: expected generator to be a torch.Generator or None, got {type(value).__name__}")
