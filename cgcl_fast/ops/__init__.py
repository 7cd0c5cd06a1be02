"""The ops: functions on tensors with the equation and a reference in PyTorch beside each, and kernels behind."""

from .adain import adain, instance_norm
from .memory_contrast import memory_contrast
from .memory_read import memory_read
from .memory_update import memory_update
from .patch_nce import patch_nce, patch_nce_layers

__all__ = ["adain", "instance_norm", "memory_contrast", "memory_read", "memory_update", "patch_nce", "patch_nce_layers"]
