"""TensorFloat-32: products and convolutions of float32 on a GPU's tensor cores, with 10 bits of mantissa for 23."""

from __future__ import annotations

import torch


def set_tf32(allowed: bool) -> None:
    """Whether float32 is multiplied as TF32 on GPUs that have it, in matrix products (by PyTorch off) and convolutions
    (by PyTorch on) alike, of this process; sums stay float32.

    PyTorch has two sets of switches for this. Where the newer one (``fp32_precision``) alone was used, reading the
    older one raises an error, and ``torch.compile`` reads that; so the older one is used here, and both then tell the
    same.
    """
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed
