"""Argument checks of the public ops: each error names the argument, what was expected and what came."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_FLOATS = frozenset((torch.float16, torch.bfloat16, torch.float32, torch.float64))
_MOST = 2**63 - 1  # the operators' integers are int64


def tensor(op: str, name: str, value: object, dim: int, layout: str) -> None:
    """`value` must be a dense floating-point tensor of `dim` dimensions, described as `layout`, e.g. "(B, C, H, W)"."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{op}: expected {name} to be a Tensor {layout}, got {type(value).__name__}")
    if value.dtype not in _FLOATS:
        raise TypeError(
            f"{op}: expected {name} of a floating-point dtype, got {value.dtype}: "
            "float16, bfloat16, float32 and float64 are taken"
        )
    dense(op, name, value)
    if value.dim() != dim:
        raise ValueError(f"{op}: expected {name} of shape {layout}, got {tuple(value.shape)}")


def dense(op: str, name: str, value: Tensor) -> None:
    if value.layout is not torch.strided or value.is_nested:
        kind = "a nested one" if value.is_nested else f"one of layout {value.layout}"
        raise TypeError(f"{op}: expected {name} to be a dense Tensor, got {kind}")


def shape(op: str, name: str, value: Tensor, expected: tuple[int, ...], layout: str) -> None:
    if tuple(value.shape) != expected:
        raise ValueError(f"{op}: expected {name} of shape {layout} = {expected}, got {tuple(value.shape)}")


def same_device(op: str, name: str, value: Tensor, reference_name: str, reference: Tensor) -> None:
    if value.device != reference.device:
        raise ValueError(f"{op}: expected {name} on {reference_name}'s device {reference.device}, got {value.device}")


def sequence(op: str, name: str, value: object, of: str) -> Sequence[Any]:
    """`value` must be a list or tuple; `of` says of what, for the error."""
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"{op}: expected {name} to be a list of {of}, got {type(value).__name__}")
    return value


def choice(op: str, name: str, value: object, choices: tuple[str, ...]) -> None:
    if isinstance(value, str) and value in choices:
        return
    wanted = f"{op}: expected {name} to be one of {', '.join(map(repr, choices))}, got"
    if isinstance(value, str):
        raise ValueError(f"{wanted} {value!r}")
    raise TypeError(f"{wanted} {type(value).__name__}")


def integer_ids(op: str, name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{op}: expected {name} to be an int64 Tensor, got {type(value).__name__}")
    if value.dtype != torch.int64:
        raise TypeError(f"{op}: expected {name} of dtype torch.int64, got {value.dtype}")
    dense(op, name, value)


def count(op: str, name: str, value: object, least: int = 0) -> int:
    """`value` as an integer from `least` to 2^63 - 1. Symbolic sizes of `torch.compile` pass."""
    if type(value) is int and least <= value <= _MOST:
        return value
    if isinstance(value, bool) or not hasattr(value, "__index__") or isinstance(value, Tensor):
        raise TypeError(f"{op}: expected {name} to be an integer, got {type(value).__name__}")
    number = value if isinstance(value, (int, torch.SymInt)) else operator.index(value)  # type: ignore[arg-type]
    if number < least:
        raise ValueError(f"{op}: expected {name} >= {least}, got {number}")
    if isinstance(number, int) and number > _MOST:
        raise ValueError(f"{op}: expected {name} < 2**63, got {number}")
    return number  # type: ignore[return-value]


def number(op: str, name: str, value: object) -> float:
    """`value` as a float. Symbolic numbers of `torch.compile` pass."""
    if type(value) is float:
        return value
    if isinstance(value, (torch.SymInt, torch.SymFloat)):
        return value  # type: ignore[return-value]
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{op}: expected {name} to be a number, got {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf  # type: ignore[operator]


def positive(op: str, name: str, value: object) -> float:
    """`value` as a finite float above zero."""
    converted = number(op, name, value)
    if not 0 < converted < math.inf:
        raise ValueError(f"{op}: expected a finite {name} > 0, got {converted}")
    return converted


def boolean(op: str, name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{op}: expected {name} to be True or False, got {type(value).__name__}")


def position_ids(op: str, name: str, value: object, batch: int, layout: str) -> None:
    """`value` must be int64 ids (P,) or (B, P), described as `layout`."""
    integer_ids(op, name, value)
    assert isinstance(value, Tensor)
    if value.dim() not in (1, 2) or (value.dim() == 2 and value.shape[0] != batch):
        raise ValueError(f"{op}: expected {name} of shape {layout} with B = {batch}, got {tuple(value.shape)}")


def readable(value: Tensor) -> bool:
    """Whether a check may read the numbers of `value`: they exist, and reading them waits for no device."""
    return (
        value.device.type == "cpu"
        and type(value) is Tensor
        and not torch.compiler.is_compiling()
        and not torch._C._functorch.is_functorch_wrapped_tensor(value)
    )


def in_range(op: str, name: str, value: Tensor, size: int) -> None:
    """Ids must be in [0, size); checked if they are readable."""
    if readable(value) and value.numel() > 0:
        for extreme in torch.stack(torch.aminmax(value)).tolist():
            if not 0 <= extreme < size:
                raise ValueError(f"{op}: expected {name} in [0, {size}), the positions of the map, got {extreme}")


def generator(op: str, value: object) -> None:
    if value is not None and not isinstance(value, torch.Generator):
        raise TypeError(f"{op}: expected generator to be a torch.Generator or None, got {type(value).__name__}")


def device(op: str, value: object) -> None:
    if isinstance(value, str):
        try:
            torch.device(value)
        except RuntimeError:
            raise ValueError(f"{op}: expected device to be one of PyTorch's, got {value!r}") from None
    elif not isinstance(value, (torch.device, int)) or isinstance(value, bool):
        raise TypeError(f"{op}: expected device to be a torch.device, its name or None, got {type(value).__name__}")
