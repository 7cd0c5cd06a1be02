"""dag_select's kernels compile for GPUs at the papers' shapes. test_interpreter.py checks their results."""

from __future__ import annotations

import pytest
import torch
from compile_checks import CAPABILITIES, assert_fits

from cgcl_fast.kernels import _launch, dag_select

CASES = {
    "EnCo": (1, (30, 30), (256, 256), 1024, 256, torch.float32),
    "EnCo, a block, batch 16": (16, (30, 30), (64, 64), 1024, 256, torch.bfloat16),
    "EnCo, batch 64": (64, (30, 30), (256, 256), 1024, 256, torch.float16),
    "all of a large map": (1, (62, 62), (256, 256), 65536, 65536, torch.float32),
    "odd": (3, (7, 5), (11, 13), 101, 7, torch.float32),
    "one": (1, (1, 1), (1, 1), 1, 1, torch.float32),
}


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_compiles(case, capability):
    batch, size, (height, width), count, patches, dtype = case
    score, candidates = torch.empty(batch, 1, *size, dtype=dtype), torch.empty(batch, count, dtype=torch.int64)
    arguments = height, width, patches, patches // 2
    assert_fits(dag_select.forward, score, candidates, *arguments, capability=capability)
    if batch > 1:
        assert_fits(dag_select.forward, score.mT, candidates[0], *arguments, capability=capability)


def test_products_and_sums_are_rounded_as_on_the_cpu():
    score, candidates = torch.empty(1, 1, 30, 30), torch.empty(1024, dtype=torch.int64)
    with _launch.compile_only(90) as compiled:
        dag_select.forward(score, candidates, 256, 256, 256, 128)
        assert compiled[0].name == "_order" and "mul" in compiled[0].ptx
        assert "fma.rn.f32" not in compiled[0].ptx
