"""Fast contrastive unpaired image-to-image translation: losses, ops and trainers for PyTorch."""

import signal
import sys

# While a command loads, which takes seconds, Ctrl-C ends it without a traceback; what runs the command sees to it then.
if (
    sys.argv[:1] == ["-m"]  # it is not complete yet
    and any(word.startswith("cgcl_fast.") for word in sys.orig_argv)
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from . import _openmp as _openmp  # before PyTorch: it sets what OpenMP reads when it is loaded
from ._backend import backend, current_backend

__version__ = "0.1.0"
__all__ = ["__version__", "backend", "current_backend", "ops"]

from . import ops
