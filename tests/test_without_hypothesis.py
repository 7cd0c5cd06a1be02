"""The stand-in for hypothesis draws what a test requests, and fails when the test fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
TESTS = """
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

drawn = []
settings.register_profile("ci", max_examples=3)
settings.load_profile("ci")

@pytest.mark.parametrize("sign", [1, -1])
@settings(deadline=None, max_examples=settings.default.max_examples * 7 // 100)
@given(st.tuples(st.integers(3, 5), st.booleans()), st.data())
def test_draws(sign, pair, data):
    drawn.append(pair)
    assert 3 <= pair[0] <= 5 and data.draw(st.sampled_from("ab")) in "ab"

def test_count():
    assert len(drawn) == 14 and len(set(drawn)) > 2

@given(n=st.integers(0, 1))
def test_fails(n):
    assert n == 0
"""


def test_stand_in(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    folder = str(HERE / "without_hypothesis")
    code = f"import sys; sys.path.insert(0, {folder!r}); import pytest; pytest.main(sys.argv[1:])"
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", f"--rootdir={tmp_path}", str(tmp_path)]
    result = subprocess.run([sys.executable, "-c", code, *options], capture_output=True, text=True, check=False)
    assert "1 failed, 3 passed" in result.stdout, result.stdout + result.stderr
    assert "example: {'n': 1}" in result.stdout
