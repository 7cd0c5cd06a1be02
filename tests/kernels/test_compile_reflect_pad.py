"""The kernel of reflection padding compiles for GPUs at the papers' shapes. test_interpreter.py checks its results."""

from __future__ import annotations

import pytest
import torch
from compile_checks import CAPABILITIES, assert_fits

from cgcl_fast.kernels import reflect_pad

NCHW, CHANNELS_LAST = torch.contiguous_format, torch.channels_last
CASES = {
    "CUT, image": ((1, 3, 256, 256), 3, torch.float32, NCHW),
    "CUT, image, channels_last": ((1, 3, 256, 256), 3, torch.float32, CHANNELS_LAST),
    "CUT, first block, channels_last": ((1, 256, 64, 64), 1, torch.bfloat16, CHANNELS_LAST),
    "CUT, first block": ((1, 256, 64, 64), 1, torch.float32, NCHW),
    "odd, channels_last": ((3, 5, 7, 9), 2, torch.float16, CHANNELS_LAST),
}


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_compiles(case, capability):
    (B, C, H, W), size, dtype, memory_format = case
    x, y = (
        torch.empty((B, C, H + 2 * n, W + 2 * n), dtype=dtype, memory_format=memory_format, device="meta")
        for n in (0, size)
    )
    channels_last = memory_format is CHANNELS_LAST
    assert_fits(reflect_pad.forward, x, size, capability=capability, most_spilled=0)
    assert_fits(reflect_pad.backward, y, size, channels_last, capability=capability)
    expanded = torch.empty(1, device="meta").to(dtype).expand(y.shape)
    assert_fits(reflect_pad.backward, expanded, size, channels_last, capability=capability)
