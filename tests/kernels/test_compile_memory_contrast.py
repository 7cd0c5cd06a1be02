"""memory_contrast's kernels compile for GPUs at the paper's shapes. test_interpreter.py checks their results."""

from __future__ import annotations

import pytest
import torch
from compile_checks import CAPABILITIES, assert_fits

from cgcl_fast.kernels import memory_contrast

NCHW, CHANNELS_LAST = torch.contiguous_format, torch.channels_last
CASES = {
    "MGUIT": ((1, 256, 90, 90), 20, torch.float32, NCHW, True, "highest"),
    "MGUIT, channels_last": ((1, 256, 90, 90), 20, torch.float32, CHANNELS_LAST, False, "highest"),
    "MGUIT, tf32": ((1, 256, 90, 90), 20, torch.float32, NCHW, False, "high"),
    "MGUIT, batch 8, bfloat16": ((8, 256, 90, 90), 20, torch.bfloat16, NCHW, True, "highest"),
    "MGUIT, batch 8, channels_last": ((8, 256, 90, 90), 20, torch.bfloat16, CHANNELS_LAST, True, "highest"),
    "300 items": ((1, 256, 64, 64), 300, torch.float32, NCHW, True, "highest"),
    "odd": ((3, 5, 7, 9), 3, torch.float16, NCHW, True, "highest"),
}


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_compiles(case, capability):
    shape, N, dtype, memory_format, by_class, precision = case
    B, C, H, W = shape
    features = torch.empty(shape, dtype=dtype, memory_format=memory_format)
    items = torch.empty(N, C)
    classes = (torch.empty(B, H, W).long(), torch.empty(N).long()) if by_class else (None, None)
    saved = torch.empty(B, N, H * W)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        forward = assert_fits(memory_contrast.forward, features, items, 0.1, *classes, capability=capability)
        for needs in ((True, True), (True, False), (False, True)):
            backward = assert_fits(
                memory_contrast.backward, torch.empty(B, H, W), features, items, saved, 0.1, *needs,
                capability=capability,
            )  # fmt: skip
            assert set(backward) == {"_combine", "_item_gradients"} if needs[1] else {"_combine"}
    finally:
        torch.set_float32_matmul_precision(before)
    assert forward == ["_contrast"]
