from __future__ import annotations

import pytest
import torch
from op_checks import DEVICE
from torch import Tensor, nn

from cgcl_fast.nn import conv_of, reflect_pad
from cgcl_fast.ops import instance_norm


def prepare(x: Tensor) -> Tensor:
    return reflect_pad(instance_norm(x, activation="relu"), 1)


@pytest.mark.parametrize("transposed", [False, True])
def test_gradients_are_those_of_keeping(transposed: bool) -> None:
    conv = (nn.ConvTranspose2d if transposed else nn.Conv2d)(3, 4, 3).double().to(DEVICE)
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64, requires_grad=True, device=DEVICE)
    inputs = [x, *conv.parameters()]
    kept = conv(prepare(x))
    weights = torch.randn_like(kept)
    expected = torch.autograd.grad((kept * weights).sum(), inputs)
    found = conv_of(conv, prepare, x)
    torch.testing.assert_close(found, kept)
    for a, b in zip(torch.autograd.grad((found * weights).sum(), inputs), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_prepared_once_more_in_the_backward_pass_only() -> None:
    calls = []

    def counted(x: Tensor) -> Tensor:
        calls.append(torch.is_grad_enabled())
        return prepare(x)

    conv = nn.Conv2d(3, 4, 3).to(DEVICE)
    x = torch.randn(1, 3, 6, 6, requires_grad=True, device=DEVICE)
    y = conv_of(conv, counted, x)
    assert calls == [True]
    y.sum().backward()
    assert calls == [True, False]
    calls.clear()
    with torch.no_grad():
        conv_of(conv, counted, x)
    assert calls == [False]


def test_under_autocast_the_recomputed_input_has_the_dtype_of_the_first() -> None:
    conv = nn.Conv2d(3, 4, 3).to(DEVICE)
    x = torch.randn(1, 3, 6, 6, device=DEVICE).bfloat16().requires_grad_()
    with torch.autocast(x.device.type, torch.bfloat16):
        y = conv_of(conv, prepare, x)
        kept = conv(prepare(x))
    inputs = [x, conv.weight]
    found = torch.autograd.grad(y.float().sum(), inputs)
    expected = torch.autograd.grad(kept.float().sum(), inputs)
    assert y.dtype == torch.bfloat16
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)
