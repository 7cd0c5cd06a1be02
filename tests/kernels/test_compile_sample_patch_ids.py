"""sample_patch_ids' kernels compile for GPUs at the papers' shapes. test_interpreter.py checks their results."""

from __future__ import annotations

import pytest
import torch
from compile_checks import CAPABILITIES, assert_fits

from cgcl_fast.kernels import sample_patch_ids

CASES = {
    "CUT, second layer": (65536, 256, 1),
    "CUT, a block, batch 16": (4096, 256, 16),
    "EnCo's candidates, batch 64": (65536, 1024, 64),
    "all of a block": (4096, 4096, 1),
    "most of a block, batch 64": (4096, 4000, 64),
    "many": (1 << 20, 1 << 16, 2),
    "more than 32 bits": (1 << 40, 256, 1),
    "one": (1, 1, 1),
    "odd": (101, 7, 3),
}


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_compiles(case, capability):
    positions, patches, batch = case
    keys = torch.empty(batch, dtype=torch.int64)
    names = assert_fits(sample_patch_ids.forward, keys, positions, patches, capability=capability)
    assert names == (["_rank"] if positions < 2 * patches else ["_mark", "_compact"])
    if batch == 1:
        assert_fits(sample_patch_ids.forward, keys[0], positions, patches, capability=capability)
