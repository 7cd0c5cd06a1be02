"""Settings that must precede the import of PyTorch, if Python was started as ``python -m cgcl_fast.NAME``.

The environment and signals of programs that import the package are left alone.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

from ._openmp import Waiting, busy_cores, choose

waiting = Waiting("as OpenMP does", "left to the program that imports cgcl_fast")
"""How OpenMP's threads wait in this process."""


def is_command(arguments: Sequence[str], original: Sequence[str]) -> bool:
    """Whether a command of the package is being started: while Python looks for the module, `sys.argv` starts with
    -m."""
    return arguments[:1] == ["-m"] and any(word.startswith("cgcl_fast.") for word in original)


started = is_command(sys.argv, sys.orig_argv)
"""Whether a command of the package runs in this process, and so may set what concerns the whole process."""

if started:
    # While a command loads, which takes seconds, Ctrl-C ends it without a traceback; later `run` handles it.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if "torch" not in sys.modules:
        waiting = choose(os.environ, busy_cores(), os.cpu_count() or 1)
