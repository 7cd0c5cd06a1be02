"""memory_read's kernels compile for GPUs at the paper's shapes. test_interpreter.py checks their results."""

from __future__ import annotations

import pytest
import torch
from compile_checks import CAPABILITIES, assert_fits

from cgcl_fast.kernels import memory_read

NCHW, CHANNELS_LAST = torch.contiguous_format, torch.channels_last
CASES = {
    "MGUIT": ((1, 256, 90, 90), 20, 256, torch.float32, NCHW, True, "highest"),
    "MGUIT, channels_last": ((1, 256, 90, 90), 20, 256, torch.float32, CHANNELS_LAST, False, "highest"),
    "MGUIT, tf32": ((1, 256, 90, 90), 20, 256, torch.float32, NCHW, False, "high"),
    "MGUIT, bfloat16": ((1, 256, 90, 90), 20, 256, torch.bfloat16, NCHW, False, "high"),
    "MGUIT, batch 8, bfloat16": ((8, 256, 90, 90), 20, 256, torch.bfloat16, NCHW, True, "highest"),
    "MGUIT, batch 8, channels_last": ((8, 256, 90, 90), 20, 256, torch.bfloat16, CHANNELS_LAST, True, "highest"),
    "300 items": ((1, 256, 64, 64), 300, 256, torch.float32, NCHW, True, "highest"),
    "odd": ((3, 5, 7, 9), 3, 37, torch.float16, NCHW, True, "highest"),
}


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_compiles(case, capability):
    shape, N, width, dtype, memory_format, by_class, precision = case
    B, C, H, W = shape
    content = torch.empty(shape, dtype=dtype, memory_format=memory_format)
    grad = torch.empty((B, width, H, W), dtype=dtype, memory_format=memory_format)
    items = torch.empty(N, C), torch.empty(N, width)
    classes = (torch.empty(B, H, W).long(), torch.empty(N).long()) if by_class else (None, None)
    saved = torch.empty(B, N, H * W), torch.empty(B, H * W)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        forward = assert_fits(memory_read.forward, content, *items, *classes, capability=capability)
        backward = assert_fits(
            memory_read.backward, grad, content, *items, *saved, True, True, True, capability=capability
        )
    finally:
        torch.set_float32_matmul_precision(before)
    assert forward == ["_read"] and set(backward) == {"_weights_backward", "_combine", "_item_gradients"}
