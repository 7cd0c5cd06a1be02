"""The ops under autocast: inputs are not cast, and losses stay in float32."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor


def enabled(x: Tensor) -> bool:
    """Whether autocast is on for x's device; False for devices without autocast, such as meta."""
    device = x.device.type
    return _casts(device) and torch.is_autocast_enabled(device)


@torch.compiler.assume_constant_result  # PyTorch 2.11's Dynamo cannot trace it
def _casts(device: str) -> bool:
    return torch.amp.is_autocast_available(device)


def einsum(equation: str, a: Tensor, b: Tensor) -> Tensor:
    """torch.einsum of two tensors in their own dtype, even under autocast: the products of the references.

    Each index of a tensor must also be in the other tensor or in the result.
    """
    if not enabled(a):
        return torch.einsum(equation, a, b)
    if torch.compiler.is_compiling():  # its backward pass is compiled without autocast
        return _product(equation, a, b)
    return _Einsum.apply(equation, a, b)


def _product(equation: str, a: Tensor, b: Tensor) -> Tensor:
    with torch.autocast(a.device.type, enabled=False):
        return torch.einsum(equation, a, b)


class _Einsum(torch.autograd.Function):
    """Its derivatives, of any order and mode, do not cast either, wherever they run."""

    generate_vmap_rule = True

    @staticmethod
    def forward(equation: str, a: Tensor, b: Tensor) -> Tensor:
        return _product(equation, a, b)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[str, Tensor, Tensor], output: Tensor) -> None:
        ctx.equation, a, b = inputs
        ctx.save_for_backward(a, b)
        ctx.save_for_forward(a, b)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor | None, Tensor | None]:
        a, b = ctx.saved_tensors
        of_a, of_b, of_result = re.split(",|->", ctx.equation)
        _, need_a, need_b = ctx.needs_input_grad
        return (
            None,
            _Einsum.apply(f"{of_result},{of_b}->{of_a}", grad, b) if need_a else None,
            _Einsum.apply(f"{of_result},{of_a}->{of_b}", grad, a) if need_b else None,
        )

    @staticmethod
    def jvp(ctx: Any, _: None, a_tangent: Tensor | None, b_tangent: Tensor | None) -> Tensor | None:
        a, b = ctx.saved_tensors
        of_a = None if a_tangent is None else _Einsum.apply(ctx.equation, a_tangent, b)
        of_b = None if b_tangent is None else _Einsum.apply(ctx.equation, a, b_tangent)
        return of_b if of_a is None else of_a if of_b is None else of_a + of_b
