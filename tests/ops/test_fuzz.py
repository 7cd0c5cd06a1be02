"""Random calls of every op, the same in every run: `make fuzz` draws others."""

from __future__ import annotations

import fuzz
import pytest
from op_checks import DEVICE

from cgcl_fast import ops
from cgcl_fast.kernels import INTERPRET

CASES = 60 if DEVICE.type == "cpu" and not INTERPRET else 5
BLOCKS = range(5)


def test_every_op_is_drawn() -> None:
    assert set(fuzz.DRAWS) == set(ops.__all__)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("op", fuzz.DRAWS)
def test_results_and_gradients_are_the_reference_s(op: str, block: int) -> None:
    for seed in range(block * CASES, (block + 1) * CASES):
        fuzz.assert_agrees(op, seed)


@pytest.mark.parametrize("op", fuzz.DRAWS)
def test_wrong_arguments_raise_what_they_should(op: str) -> None:
    for seed in range(4 * CASES):
        fuzz.assert_wrong_is_named(op, seed)
