"""A layout is a file of the package; no other file has to name it."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

import cgcl_fast.data.layouts as package
from cgcl_fast.data import find_domains, open_dataset
from cgcl_fast.data.layouts import _layout

SOURCE = """
from cgcl_fast.data.layouts._layout import Layout
from cgcl_fast.data.layouts._place import Place

def domains(root, split):
    folder = root / f"{split}.of"
    return {path.name[1:]: Place(path) for path in sorted(folder.glob("@*"))} if folder.is_dir() else {}

LAYOUT = Layout(domains=domains, expected="{split}.of/@{name}")
"""


def test_one_more_file_is_one_more_layout(tmp_path, monkeypatch):
    for name in ("east", "west"):
        path = tmp_path / "data" / "train.of" / f"@{name}" / "0.png"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (24, 20)).save(path)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "at_signs.py").write_text(SOURCE)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / "more")])
    _layout.layouts.cache_clear()
    try:
        assert find_domains(tmp_path / "data") == ("east", "west")
        assert open_dataset(tmp_path / "data", size=16).count("B") == 1
    finally:
        _layout.layouts.cache_clear()


def test_every_file_is_a_layout():
    files = {path.stem for path in Path(package.__file__).parent.glob("[!_]*.py")}
    assert len(_layout.layouts()) == len(files) and {"joined", "nested", "split_folders", "cityscapes"} <= files
