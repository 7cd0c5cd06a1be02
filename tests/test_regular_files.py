"""Anything that is not a regular file is rejected before anyone waits for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hostile import NO_FILES, no_waiting

from cgcl_fast._files import check_regular


@pytest.mark.parametrize("kind", [*NO_FILES, "a folder"])
def test_what_is_no_regular_file_is_named(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "thing"
    NO_FILES.get(kind, Path.mkdir)(path)
    with no_waiting(), pytest.raises(OSError, match=f"{kind}, not a regular file") as refused:
        check_regular(path, missing_ok=True)
    assert refused.value.filename == str(path)


def test_files_and_links_to_files_are_regular(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "broken").symlink_to("nowhere")
    check_regular(tmp_path / "file")
    check_regular(tmp_path / "link")
    for name in ("nowhere", "broken"):
        check_regular(tmp_path / name, missing_ok=True)
        with pytest.raises(FileNotFoundError):
            check_regular(tmp_path / name)
