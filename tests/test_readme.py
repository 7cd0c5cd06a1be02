from __future__ import annotations

import re
from pathlib import Path

import torch

from cgcl_fast import ops

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_library_example_runs():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len([line for line in code.splitlines() if line and "import" not in line]) <= 10
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert torch.isfinite(names["loss"]) and names["x"].grad.abs().sum() > 0


def test_every_op_is_listed():
    listed = {name for row in re.findall(r"^\| (`.*?`) \|", README, re.M) for name in re.findall(r"`(\w+)`", row)}
    assert set(ops.__all__) <= listed
