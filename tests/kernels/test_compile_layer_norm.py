"""layer_norm's kernels compile for GPUs at the shapes of the decoders. test_interpreter.py checks their results."""

from __future__ import annotations

import pytest
import torch
from compile_checks import CAPABILITIES, assert_fits

from cgcl_fast.kernels import layer_norm

CASES = {
    "CGCL, last doubling": ((2, 64, 256, 256), torch.float32, 3, False),
    "CGCL, last doubling, bfloat16": ((2, 64, 256, 256), torch.bfloat16, 3, False),
    "CGCL, first doubling": ((2, 128, 128, 128), torch.float32, 1, True),
    "CGCL, first doubling, bfloat16": ((2, 128, 128, 128), torch.bfloat16, 1, True),
    "MGUIT at 360x360, without padding": ((1, 128, 180, 180), torch.bfloat16, 0, False),
    "1024x1024": ((1, 64, 1024, 1024), torch.bfloat16, 3, False),
    "odd": ((3, 5, 7, 9), torch.float16, 2, True),
}


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_compiles(case, capability):
    (B, C, H, W), dtype, pad, replicate = case
    x, grad = (
        torch.empty((B, C, H + 2 * p, W + 2 * p), dtype=dtype, memory_format=torch.channels_last) for p in (0, pad)
    )
    weight, bias, mean, rstd = (torch.empty(n) for n in (C, C, B, B))
    forward = assert_fits(
        layer_norm.forward, x, weight, bias, 1e-5, "relu", pad, replicate, capability=capability, most_spilled=0
    )
    assert forward == ["_chunk_moments", "_merge_moments", "_write"]
    backward = assert_fits(
        layer_norm.backward, grad, x, weight, bias, mean, rstd, "relu", pad, replicate,
        capability=capability, most_spilled=0,
    )  # fmt: skip
    assert backward == ["_chunk_gradient_sums", "_merge_gradients", "_differentiate"]
