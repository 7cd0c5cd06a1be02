"""Published checkpoints and drop-in classes."""

from cgcl_fast.compat.patchnce import PatchNCELoss, PatchSampleF
from cgcl_fast.compat.published import (
    load_discriminator,
    load_generator,
    load_projector,
    published_state_dict,
)

__all__ = [
    "PatchNCELoss",
    "PatchSampleF",
    "load_discriminator",
    "load_generator",
    "load_projector",
    "published_state_dict",
]
