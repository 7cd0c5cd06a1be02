"""The ops: functions on tensors. Each file has an op's equation, its reference in PyTorch and its public function."""

from .adain import adain, instance_norm
from .blur_pool import blur_down, blur_up
from .dag_select import dag_select
from .gather_patches import gather_patches
from .layer_norm import layer_norm
from .memory_contrast import memory_contrast
from .memory_read import memory_read
from .memory_update import memory_update
from .patch_nce import patch_nce, patch_nce_layers
from .sample_patch_ids import sample_patch_ids

__all__ = [
    "adain",
    "blur_down",
    "blur_up",
    "dag_select",
    "gather_patches",
    "instance_norm",
    "layer_norm",
    "memory_contrast",
    "memory_read",
    "memory_update",
    "patch_nce",
    "patch_nce_layers",
    "sample_patch_ids",
]
