from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
import torch

from cgcl_fast.engine import set_tf32
from cgcl_fast.kernels import _memory, patch_nce

backends = torch.backends


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    products, convolutions = torch.get_float32_matmul_precision(), backends.cudnn.allow_tf32
    yield
    torch.set_float32_matmul_precision(products)
    backends.cudnn.allow_tf32 = convolutions


@pytest.mark.parametrize("allowed", [True, False])
def test_both_are_switched_and_both_apis_tell_the_same(allowed: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        set_tf32(not allowed)
        set_tf32(allowed)
    assert (backends.cuda.matmul.fp32_precision == "tf32") == allowed
    assert (backends.cudnn.conv.fp32_precision == "tf32") == allowed  # type: ignore[attr-defined]
    assert backends.cuda.matmul.allow_tf32 == allowed
    assert backends.cudnn.allow_tf32 == allowed
    assert (torch.get_float32_matmul_precision() == "high") == allowed  # what torch.compile reads


@pytest.mark.parametrize("allowed", [True, False])
def test_kernels_multiply_as_pytorch_does(allowed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_memory, "INTERPRET", False)
    expected = "tf32" if allowed else "tf32x3"
    set_tf32(allowed)
    assert _memory.precision() == expected
    assert patch_nce._parts(torch.float32) == (2 if allowed else 3)  # bfloat16 numbers that stand for one of float32


@pytest.mark.parametrize(("precision", "expected"), [("tf32", "tf32"), ("ieee", "tf32x3")])
def test_kernels_follow_the_newer_switch_too(precision: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_memory, "INTERPRET", False)
    torch.set_float32_matmul_precision("highest")
    backends.cuda.matmul.fp32_precision = precision
    try:
        assert _memory.precision() == expected
        assert patch_nce._parts(torch.float32) == (2 if expected == "tf32" else 3)
    finally:
        torch.set_float32_matmul_precision("highest")
