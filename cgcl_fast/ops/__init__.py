"""The ops: functions on tensors with the equation and a reference in PyTorch beside each, and kernels behind."""

from .adain import adain, instance_norm
from .patch_nce import patch_nce, patch_nce_layers

__all__ = ["adain", "instance_norm", "patch_nce", "patch_nce_layers"]
