"""Tars for the tests, by the standard library."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path


def write_tar(path: Path, content: Mapping[str, bytes], form: int = tarfile.PAX_FORMAT) -> Path:
    """A tar of files by their names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def pack(folder: Path, *shards: Path) -> list[Path]:
    """The files of a folder in tars, in turn, each with a folder's own order of names."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [
        write_tar(shard, {path.relative_to(folder).as_posix(): path.read_bytes() for path in files[n :: len(shards)]})
        for n, shard in enumerate(shards)
    ]
