"""The norms of published weights: instance norm, which has no weights, batch norm, or none."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from cgcl_fast.nn import reflect_pad
from cgcl_fast.ops import instance_norm

NORMS = ("instance", "batch", "none")


class Norm(nn.Module):
    """A norm and its activation.

    Instance norm has no scale and shift, as in CycleGAN and CUT; batch norm has both, and running statistics. As
    published, a convolution before an instance norm has a bias, otherwise not (``has_bias``).

    Args:
        channels: width.
        kind: "instance", "batch" or "none".
        activation: "none", "relu" or "leaky_relu", of slope 0.2.

    Raises:
        ValueError: another ``kind``.
    """

    def __init__(self, channels: int, kind: str = "instance", activation: str = "none") -> None:
        super().__init__()
        check_norm(kind)
        self.kind = kind
        self.activation = activation
        self.batch = nn.BatchNorm2d(channels) if kind == "batch" else None

    def forward(self, x: Tensor, residual: Tensor | None = None, pad: int = 0) -> Tensor:
        """(B, C, H, W) to (B, C, H + 2 pad, W + 2 pad), padded by reflection; ``residual``, of the latter shape, is
        added after that."""
        if self.kind == "instance":
            return instance_norm(x, activation=self.activation, residual=residual, pad=pad)
        if self.batch is not None:
            x = self.batch(x)
        if self.activation != "none":
            x = F.relu(x) if self.activation == "relu" else F.leaky_relu(x, 0.2)
        x = reflect_pad(x, pad) if pad > 0 else x
        return x if residual is None else x + residual


def check_norm(kind: str) -> None:
    """Raise a ValueError if there is no such norm."""
    if kind not in NORMS:
        raise ValueError(f"norm: expected one of {', '.join(NORMS)}, got {kind!r}")


def has_bias(kind: str) -> bool:
    """Whether a convolution before the norm has a bias."""
    return kind == "instance"
