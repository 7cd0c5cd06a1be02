"""What methods need of their data, and that data knows nothing of methods."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

import cgcl_fast.data
from cgcl_fast.data import open_dataset
from cgcl_fast.data.needs import Crops, DataNeeds
from cgcl_fast.methods import base


def test_data_imports_nothing_of_methods_and_networks():
    imported = {
        name
        for path in Path(cgcl_fast.data.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names])
        if name.startswith("cgcl_fast")
    }
    assert {name for name in imported if not name.startswith("cgcl_fast.data")} <= {
        "cgcl_fast._files",
        "cgcl_fast._renamed",
        "cgcl_fast._yaml",
    }
    assert base.DataNeeds is DataNeeds and base.Crops is Crops  # where methods have them from


@pytest.mark.parametrize(
    "needs",
    [
        {"classes": ("car", "person"), "object_size": 8, "min_object": 4, "random_pairs": True},
        {"crops": Crops(count=2, size=16, min_width=32, max_width=40)},
    ],
)
def test_needs_are_the_keywords_in_one(needs):
    options = {"domains": ("sunny", "rainy"), "size": 32, "limit": 2}
    one, other = open_dataset(**options, **needs)[0], open_dataset(**options, needs=DataNeeds(**needs))[0]
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]
