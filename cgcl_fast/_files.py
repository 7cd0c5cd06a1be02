"""Checks of files named by users or found in folders, before they are opened."""

from __future__ import annotations

import errno
import os
import stat

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def check_regular(path: str | os.PathLike[str], *, missing_ok: bool = False) -> None:
    """Check a foreign file before opening it: opening a pipe would block for ever, and reading a device may never end.

    Args:
        path: a file, or a link to one.
        missing_ok: accept a missing file, for example one about to be written.

    Raises:
        OSError: it is not a regular file (``strerror`` says what it is), or cannot be accessed.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if missing_ok:
            return
        raise
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "something else")
        raise OSError(errno.EINVAL, f"{kind}, not a regular file", os.fspath(path))
