"""patch_nce's kernels compile for GPUs at the papers' shapes. test_interpreter.py checks their results."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from compile_checks import CAPABILITIES, MOST_SPILLED, assert_fits

from cgcl_fast.kernels import patch_nce

CUT = [(1, 256, 256)] * 5
#: Bytes a thread for parts of float32 on sm_90. They are registers of before and after the loop, but for six that
#: are fetched in it once per block of 32 keys; (1, 4096, 256) takes 0.23 ms on an H100 with them, 1.7 ms before.
SPILLED = 256
CASES: dict[str, dict[str, Any]] = {
    "CUT, a layer": {"layers": [(1, 256, 256)], "spilled": SPILLED},
    "CUT, a layer, float16": {"layers": [(1, 256, 256)], "dtype": torch.float16},
    "CUT, tf32": {"layers": CUT, "precision": "high"},
    "CUT, batch 4, tf32": {"layers": [(4, 256, 256)] * 5, "precision": "high", "spilled": SPILLED},
    "CUT, batch 16": {"layers": [(16, 256, 256)] * 5, "spilled": SPILLED},
    "CUT, batch 16, bfloat16": {"layers": [(16, 256, 256)] * 5, "dtype": torch.bfloat16},
    "CUT, 4096 patches": {"layers": [(4, 4096, 256)], "spilled": SPILLED},
    "CUT, 4096 patches, bfloat16": {"layers": [(4, 4096, 256)], "dtype": torch.bfloat16},
    "EnCo, decoupled": {"layers": [(4, 256, 256)] * 4, "decoupled": True, "dtype": torch.float16},
    "SinCUT, a queue": {"layers": [(2, 256, 256)], "extra": 16384, "spilled": SPILLED},
    "SinCUT, a queue alone, float16": {
        "layers": [(64, 256, 256)], "extra": 16384, "negatives": "none", "dtype": torch.float16,
    },
    "CGCL, 16 offsets": {"layers": [(1, 256, 256), (1, 64, 256)], "offsets": 16},
    "CGCL, 16 offsets, bfloat16": {"layers": [(16, 4096, 256)], "offsets": 16, "dtype": torch.bfloat16},
    "512 channels": {"layers": [(1, 256, 512)], "spilled": SPILLED},
    "40 channels": {"layers": [(3, 70, 40)], "decoupled": True, "spilled": SPILLED},
    "3 channels, 4 offsets": {"layers": [(3, 70, 3)], "offsets": 4},
    "colours": {"layers": [(2, 300, 3)], "dtype": torch.float16, "extra": 5},
    "layers of different sizes": {
        "layers": [(1, 256, 64), (2, 100, 256), (1, 16, 128)], "extra": 32, "offsets": 3, "spilled": SPILLED,
    },
}  # fmt: skip


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_compiles(case, capability, request):
    request.addfinalizer(functools.partial(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision()))
    torch.set_float32_matmul_precision(case.get("precision", "highest"))
    dtype, negatives, decoupled = case.get("dtype", torch.float32), case.get("negatives", "all"), "decoupled" in case
    queries = [torch.empty(shape, dtype=dtype) for shape in case["layers"]]
    extras = [torch.empty(case["extra"], q.shape[2], dtype=dtype) for q in queries] if "extra" in case else []
    offsets = [torch.empty(case["offsets"], dtype=torch.int64)] * len(queries) if "offsets" in case else []
    rows, numbers = sum(q.shape[:2].numel() for q in queries), sum(q.numel() for q in queries)
    layers = (queries, queries, extras, offsets)
    options = (0.07, negatives, decoupled, True)
    most_spilled = case.get("spilled", MOST_SPILLED) if capability == 90 else MOST_SPILLED
    limits = {"capability": capability, "most_spilled": most_spilled}
    names = assert_fits(patch_nce.forward_layers, *layers, *options, True, False, **limits)
    assert names[:2] == ["_prepare", "_rows"]
    saved = torch.empty(2, rows), torch.empty(numbers), torch.empty(0)
    needs = (True, True, bool(extras))
    names = assert_fits(patch_nce.backward_layers, torch.empty(rows), *layers, *saved, *options, *needs, **limits)
    assert names.count("_columns") == 1 + bool(extras) and names[0] == "_scale_rows"
