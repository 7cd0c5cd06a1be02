"""Fast contrastive unpaired image-to-image translation: losses, ops and trainers for PyTorch."""

from . import _start as _start  # first: it sets what PyTorch reads when it is loaded
from ._backend import backend, current_backend

__version__ = "0.1.0"
__all__ = ["__version__", "backend", "current_backend", "ops"]

from . import ops
