"""The cases of the GPU tests, on the CPU: each is valid, and every op has one."""

from __future__ import annotations

import pytest
import torch
from gpu_cases import CASES, NAMES, TOLERANCE, OpCase

import cgcl_fast
from cgcl_fast import ops


def test_every_op_has_a_case() -> None:
    assert {case.op for case in CASES} | {"sample_patch_ids"} == set(ops.__all__)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_case_runs_and_depends_on_its_inputs(case: OpCase) -> None:
    results = case.run(case.arguments("cpu"))
    with cgcl_fast.backend("reference"):
        expected, others = case.run(case.arguments("cpu")), case.run(case.arguments("cpu", seed=1))
    assert len(results) >= 1 + len(case.wrt)
    for result, truth in zip(results, expected, strict=True):
        torch.testing.assert_close(result, truth, rtol=1e-3, atol=1e-4)
    assert not torch.equal(expected[0], others[0])  # some gradients are of the upstream one alone


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_results_of_the_reference_fit_the_dtype(case: OpCase, dtype: torch.dtype) -> None:
    """What is compared with infinity or NaN is compared with nothing."""
    with cgcl_fast.backend("reference"):
        assert all(result.isfinite().all() for result in case.run(case.arguments("cpu", dtype)))
