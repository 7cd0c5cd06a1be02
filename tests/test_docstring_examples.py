"""The examples in the docstrings of what a user imports: each is there, runs as it stands, and gives what it says."""

from __future__ import annotations

import doctest
import inspect
from types import ModuleType

import pytest

import cgcl_fast
from cgcl_fast import nn, ops

PUBLIC = [(module, name) for module in (ops, nn) for name in module.__all__] + [(cgcl_fast, "backend")]


@pytest.mark.parametrize(("module", "name"), PUBLIC, ids=[f"{module.__name__}.{name}" for module, name in PUBLIC])
def test_example(module: ModuleType, name: str) -> None:
    # Nothing is imported for it: who copies an example has all that it needs. What a method's docstring shows runs too.
    tests = doctest.DocTestFinder(recurse=inspect.isclass(getattr(module, name))).find(
        getattr(module, name), name, globs={}
    )
    examples = [test for test in tests if test.examples]
    assert any(test.name == name for test in examples), f"{name} has no example"
    runner = doctest.DocTestRunner(verbose=False)
    said: list[str] = []
    for test in examples:
        runner.run(test, out=said.append)
    assert runner.failures == 0, "".join(said)
