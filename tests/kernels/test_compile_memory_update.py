"""memory_update's kernels compile for GPUs at the paper's shapes. test_interpreter.py checks their results."""

from __future__ import annotations

import pytest
import torch
from compile_checks import CAPABILITIES, assert_fits

from cgcl_fast.kernels import memory_update

NCHW, CHANNELS_LAST = torch.contiguous_format, torch.channels_last
CASES = {  # two domains, the second of half the height
    "MGUIT": ((1, 256, 90, 90), 20, 256, torch.float32, NCHW, True, "highest"),
    "MGUIT, channels_last": ((1, 256, 90, 90), 20, 256, torch.float32, CHANNELS_LAST, False, "highest"),
    "MGUIT, tf32": ((1, 256, 90, 90), 20, 256, torch.float32, NCHW, False, "high"),
    "MGUIT, batch 8, bfloat16": ((8, 256, 90, 90), 20, 256, torch.bfloat16, NCHW, True, "highest"),
    "MGUIT, batch 8, channels_last": ((8, 256, 90, 90), 20, 256, torch.bfloat16, CHANNELS_LAST, True, "highest"),
    "300 items": ((1, 256, 64, 64), 300, 256, torch.float32, NCHW, True, "highest"),
    "odd": ((3, 5, 7, 9), 3, 37, torch.float16, NCHW, True, "highest"),
}


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_compiles(case, capability):
    (B, C, H, W), N, width, dtype, memory_format, by_class, precision = case
    sizes = (B, H, W), (B, H // 2, W)
    contents, styles = (
        [torch.empty((b, channels, h, w), dtype=dtype, memory_format=memory_format) for b, h, w in sizes]
        for channels in (C, width)
    )
    items = torch.empty(N, C), torch.empty(2, N, width)
    classes = ([torch.empty(size).long() for size in sizes], torch.empty(N).long()) if by_class else ([], None)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        kernels = assert_fits(memory_update.forward, *items, contents, styles, *classes, capability=capability)
    finally:
        torch.set_float32_matmul_precision(before)
    assert kernels == 2 * ["_address", "_combine", "_combine", "_domain"]
