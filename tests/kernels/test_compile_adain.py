"""adain's kernels compile for GPUs at the papers' shapes. test_interpreter.py checks their results."""

from __future__ import annotations

import pytest
import torch
from compile_checks import CAPABILITIES, assert_fits

from cgcl_fast.kernels import adain

NCHW, CHANNELS_LAST = torch.contiguous_format, torch.channels_last
CASES = {
    "CUT, a block": ((1, 256, 64, 64), torch.float32, NCHW),
    "CUT, a block, channels_last": ((1, 256, 64, 64), torch.float32, CHANNELS_LAST),
    "CUT, first layer": ((1, 64, 256, 256), torch.float32, NCHW),
    "CUT, first layer, channels_last": ((1, 64, 256, 256), torch.float32, CHANNELS_LAST),
    "CUT, batch 64": ((64, 256, 64, 64), torch.bfloat16, NCHW),
    "MGUIT at 360x360": ((1, 128, 180, 180), torch.bfloat16, NCHW),
    "1024x1024, channels_last": ((1, 64, 1024, 1024), torch.bfloat16, CHANNELS_LAST),
    "odd": ((3, 5, 7, 9), torch.float16, NCHW),
}


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_compiles(case, capability):
    shape, dtype, memory_format = case
    x = torch.empty(shape, dtype=dtype, memory_format=memory_format)
    scale, shift, mean, rstd = (torch.empty(shape[:2]) for _ in range(4))
    residual = x if x.shape[1] == 256 else None
    assert_fits(adain.forward, x, scale, shift, 1e-5, "relu", residual, capability=capability)
    assert_fits(adain.backward, x, x, scale, shift, mean, rstd, "relu", capability=capability)


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize(
    "name, pad, replicate",
    [
        ("CUT, a block", 1, False),
        ("CUT, a block, channels_last", 1, False),
        ("CUT, first layer", 3, False),
        ("odd", 2, True),
    ],
)
def test_compiles_with_padding(name, pad, replicate, capability):
    shape, dtype, memory_format = CASES[name]
    B, C, H, W = shape
    x, grad = (torch.empty((B, C, H + 2 * p, W + 2 * p), dtype=dtype, memory_format=memory_format) for p in (0, pad))
    scale, shift, mean, rstd = (torch.empty(shape[:2]) for _ in range(4))
    for residual in (x, grad):
        assert_fits(adain.forward, x, scale, shift, 1e-5, "relu", residual, pad, replicate, capability=capability)
    assert_fits(adain.backward, grad, x, scale, shift, mean, rstd, "relu", pad, replicate, capability=capability)
