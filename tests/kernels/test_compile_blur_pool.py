"""The blurs' kernels compile for GPUs at the papers' shapes. test_interpreter.py checks their results."""

from __future__ import annotations

import pytest
import torch
from compile_checks import CAPABILITIES, assert_fits

from cgcl_fast.kernels import blur_pool

NCHW, CHANNELS_LAST = torch.contiguous_format, torch.channels_last
CASES = {
    "CUT": ((1, 128, 256, 256), torch.float32, NCHW),
    "CUT, channels_last": ((1, 128, 256, 256), torch.float32, CHANNELS_LAST),
    "CUT, channels_last, bf16": ((1, 256, 128, 128), torch.bfloat16, CHANNELS_LAST),
    "image": ((1, 3, 256, 256), torch.float32, NCHW),
    "odd": ((3, 5, 7, 9), torch.float16, NCHW),
    "odd, channels_last": ((3, 5, 7, 9), torch.float16, CHANNELS_LAST),
}


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_compiles(case, capability):
    (batch, channels, height, width), dtype, memory_format = case

    def empty(height, width):
        return torch.empty((batch, channels, height, width), dtype=dtype, memory_format=memory_format, device="meta")

    x, small, large = empty(height, width), empty((height + 1) // 2, (width + 1) // 2), empty(2 * height, 2 * width)
    channels_last = memory_format is CHANNELS_LAST
    assert_fits(blur_pool.down, x, capability=capability, most_spilled=0)
    assert_fits(blur_pool.down_backward, small, height, width, channels_last, capability=capability, most_spilled=0)
    assert_fits(blur_pool.up, x, capability=capability, most_spilled=0)
    assert_fits(blur_pool.up_backward, large, channels_last, capability=capability, most_spilled=0)
    expanded = torch.empty(1, device="meta").to(dtype).expand(large.shape)
    assert_fits(blur_pool.up_backward, expanded, channels_last, capability=capability, most_spilled=0)
