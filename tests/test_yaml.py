"""Reading YAML: plain data only, in bounded time and memory, whoever wrote the file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from cgcl_fast._yaml import DEEPEST, MOST_BYTES, read_yaml, yaml_of, yaml_text

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
"""Each line stands for nine times the one before: half a billion entries in 500 bytes."""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("lr: 1e-3\nsize: 1_000\nrate: .5\n", {"lr": 1e-3, "size": 1000, "rate": 0.5}),
        ("flip: no\nlimit:\nnone: ~\nkeep: null\n", {"flip": False, "limit": None, "none": None, "keep": None}),
        ("- 010\n- 2020-01-01\n- 1:30\n- 0x10\n- '1'\n", ["010", "2020-01-01", "1:30", "0x10", "1"]),
        ('{"a": [1, -2.5, "x"], "b": true}', {"a": [1, -2.5, "x"], "b": True}),
        ("names:\n  0: car\n  1: bus\n", {"names": {0: "car", 1: "bus"}}),
        ("", None),
    ],
)
def test_plain_data(text: str, found: Any) -> None:
    assert yaml_of(text) == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS, "aliases and tags are not read, line 2"),
        ("a: &a\n  b: *a\n", "aliases and tags are not read, line 2"),
        ("!!python/object/apply:os.system [x]", "aliases and tags are not read"),
        ("a: !!binary aGk=", "aliases and tags are not read"),
        ("[" * 100_000, "nest"),
        ("{a: " * 100_000, f"nested more than {DEEPEST} deep"),
        ("- " * 100_000, f"nested more than {DEEPEST} deep"),
        ("a: 1\nb: 2\na: 3\n", "'a' stands there twice, line 3"),
        ("x: {1: a, +1: b}", "1 stands there twice"),
        ("? [a]\n: 1\n", "unhashable"),
        ("a: [", "did not find expected|expected the node content"),
        ("a: 1\n---\nb: 2\n", "another document"),
        ("a: " + "9" * 5000, "digits"),
    ],
)
def test_hostile_text_is_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        yaml_of(text)
    assert "\n" not in str(refused.value)


def test_files_are_named_and_bounded(tmp_path: Path) -> None:
    path = tmp_path / "options.yaml"
    path.write_text("a: [1, 2")
    with pytest.raises(ValueError, match="options.yaml: cannot be read .*line"):
        read_yaml(path)
    path.write_text("#" * (MOST_BYTES + 1))
    with pytest.raises(ValueError, match="options.yaml: cannot be read .more than 1024 KiB"):
        read_yaml(path)
    path.write_bytes(b"a: gr\xfcn\n")
    with pytest.raises(ValueError, match="options.yaml: cannot be read"):
        read_yaml(path)
    assert read_yaml(path, lambda data: data.decode("latin-1")) == {"a": "grün"}
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="a named pipe, not a regular file"):
        read_yaml(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError):
        read_yaml(tmp_path / "none.yaml")


def test_what_is_written_is_read_again() -> None:
    content = {
        **{"text": "1e5", "small": 1e-5, "yes": "yes", "day": "2020-01-01", "list": [1, "2", None, True], "inf": 1e300},
        **{"colon": "x: y", "hex": "0x10", "nothing": "", "tilde": "~", "time": "1:30", "name": "grün\nweiß *a &b !c"},
    }
    assert yaml_of(yaml_text(content)) == content == yaml.safe_load(yaml_text(content))
