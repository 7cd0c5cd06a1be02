"""gather_patches' kernels compile for GPUs at the papers' shapes. test_interpreter.py checks their results."""

from __future__ import annotations

import pytest
import torch
from compile_checks import CAPABILITIES, assert_fits

from cgcl_fast.kernels import gather_patches

NCHW, CHANNELS_LAST = torch.contiguous_format, torch.channels_last
CASES = {
    "CUT, second layer": ((1, 128, 256, 256), 256, torch.float32, NCHW),
    "CUT, second layer, channels_last": ((1, 128, 256, 256), 256, torch.float32, CHANNELS_LAST),
    "CUT, image": ((1, 3, 256, 256), 256, torch.float32, NCHW),
    "a block, batch 4": ((4, 256, 64, 64), 256, torch.float32, NCHW),
    "a block, batch 16": ((16, 256, 64, 64), 256, torch.float16, NCHW),
    "a block, batch 64, channels_last": ((64, 256, 64, 64), 256, torch.bfloat16, CHANNELS_LAST),
    "odd": ((3, 5, 7, 9), 11, torch.float16, NCHW),
}


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_compiles(case, capability):
    (batch, channels, height, width), patches, dtype, memory_format = case
    features = torch.empty((batch, channels, height, width), dtype=dtype, memory_format=memory_format)
    ids = torch.empty((batch, patches), dtype=torch.int64)
    grad = torch.empty((batch, patches, channels), dtype=dtype)
    channels_last = memory_format is CHANNELS_LAST
    assert_fits(gather_patches.forward, features, ids[0], capability=capability)
    assert_fits(gather_patches.forward, features[:, :, 1:-1, 1:-1], ids, capability=capability)
    # On the meta device: only the launch is of interest here, and not the zero fill of a large map before it.
    map_of = (channels, height, width, channels_last)
    assert_fits(gather_patches.backward, grad.to("meta"), ids.to("meta"), *map_of, capability=capability)
    expanded = torch.empty(1, device="meta").to(dtype).expand(batch, patches, channels)
    assert_fits(gather_patches.backward, expanded, ids[0].to("meta"), *map_of, capability=capability)
