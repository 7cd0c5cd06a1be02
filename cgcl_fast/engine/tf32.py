"""TensorFloat-32: float32 products and convolutions on a GPU's tensor cores, with 10 instead of 23 bits of mantissa."""

from __future__ import annotations

import torch


def set_tf32(allowed: bool) -> None:
    """Set whether this process multiplies float32 as TF32 on GPUs that support it, in matrix products (PyTorch's
    default: off) and in convolutions (default: on). Sums stay float32.

    PyTorch has two sets of switches for this. If only the newer one (``fp32_precision``) was used, reading the older
    one raises an error, and ``torch.compile`` reads it. So this uses the older one, after which both agree.
    """
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed
