"""Fast contrastive unpaired image-to-image translation: losses, ops and trainers for PyTorch."""

from . import _start as _start  # first: sets what PyTorch reads on import
from ._backend import backend, current_backend

__version__ = "0.1.0"
__all__ = ["__version__", "backend", "current_backend", "ops"]

from . import ops
