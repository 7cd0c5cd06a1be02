"""The training engine: runs any method's phases over batches, and stops, saves and goes on without losing anything."""

from .checkpoint import CheckpointError, Checkpoints, read_checkpoint, safe_load
from .device import device_for, make_accelerator, slow_precision
from .files import InUseError, alone_in
from .graphs import CaptureError
from .processes import leave_group
from .rng import preserved_rng, rng_state, seed_all, set_rng_state
from .schedule import Course, linear_decay
from .stages import Stage, next_stage
from .tf32 import set_tf32
from .tiles import translate_bands, translate_tiled
from .trainer import Loader, LoaderError, NonFiniteError, Options, Outcome, Trainer

__all__ = [
    "CaptureError",
    "CheckpointError",
    "Checkpoints",
    "Course",
    "InUseError",
    "Loader",
    "LoaderError",
    "NonFiniteError",
    "Options",
    "Outcome",
    "Stage",
    "Trainer",
    "alone_in",
    "device_for",
    "leave_group",
    "linear_decay",
    "make_accelerator",
    "next_stage",
    "preserved_rng",
    "read_checkpoint",
    "rng_state",
    "safe_load",
    "seed_all",
    "set_rng_state",
    "set_tf32",
    "slow_precision",
    "translate_bands",
    "translate_tiled",
]
