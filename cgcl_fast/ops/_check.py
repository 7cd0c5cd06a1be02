"""Argument checks of the public ops: each error names the argument, what was expected and what came."""

from __future__ import annotations

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
