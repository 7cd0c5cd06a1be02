"""The norms of published weights: instance norm, which has no weights, batch norm, or none; and layer norm."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgcl_fast.nn import reflect_pad
from cgcl_fast.ops import instance_norm, layer_norm

NORMS = ("instance", "batch", "none")


class Norm(nn.Module):
    """A norm and its activation.

    Instance norm has no scale and shift, as in CycleGAN and CUT; batch norm has both, and running statistics. As
    published, a convolution before an instance norm has a bias, otherwise not (``has_bias``). Such a
    norm subtracts it again, so it is not added: :class:`NormedConv2d`.

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


class LayerNormReLU(nn.GroupNorm):
    """Layer norm over channels and positions with a scale and shift of each channel, ReLU, and padding.

    Weights and their names are those of a group norm of one group.

    Args:
        channels: width.
        pad: pixels on each side, for the convolution after it.
        pad_mode: "reflect" or "replicate".
    """

    def __init__(self, channels: int, pad: int = 0, pad_mode: str = "reflect") -> None:
        super().__init__(1, channels)
        self.pad, self.pad_mode = pad, pad_mode

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H + 2 pad, W + 2 pad)."""
        return layer_norm(
            x, self.weight, self.bias, eps=self.eps, activation="relu", pad=self.pad, pad_mode=self.pad_mode
        )


class NormedConv2d(nn.Conv2d):
    """A convolution whose output goes only into an instance norm or AdaIN, or into another norm without having a bias.

    mean(x + b) = mean(x) + b, so the norm of x + b is that of x: the bias has no effect, and no gradient. It is kept,
    as published files have it, but neither added nor trained; on a GPU that saves a pass over the map forward and one
    backward.

    Args:
        arguments, options: of ``nn.Conv2d``.
        is_feature: whether the output may be a feature as well, to which the network adds the bias
            (:func:`with_bias`). It requires a gradient then.
    """

    def __init__(self, *arguments: Any, is_feature: bool = False, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if self.bias is not None:
            self.bias.requires_grad_(is_feature)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) to (B, out, h, w), without the bias."""
        return self._conv_forward(x, self.weight, None)


class NormedConvTranspose2d(nn.ConvTranspose2d):
    """:class:`NormedConv2d` for a transposed convolution."""

    def __init__(self, *arguments: Any, is_feature: bool = False, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if self.bias is not None:
            self.bias.requires_grad_(is_feature)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(B, in, H, W) to (B, out, h, w), without the bias."""
        return F.conv_transpose2d(
            x,
            self.weight,
            None,
            self.stride,
            self.padding,  # type: ignore[arg-type]
            self.output_padding,
            self.groups,
            self.dilation,
        )


def with_bias(layer: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
    """What ``layer`` gave, a map (B, C, H, W) or rows (B, P, C) of it, as a feature: with the bias, if that is a
    convolution which leaves it out."""
    if not isinstance(layer, (NormedConv2d, NormedConvTranspose2d)) or layer.bias is None:
        return y
    bias = layer.bias.to(y.dtype)
    return y + (bias.view(-1, 1, 1) if y.dim() == 4 else bias)


class _ZeroGradient(torch.autograd.Function):
    """x, with a gradient of zeros to all else."""

    @staticmethod
    def forward(x: Tensor, *unused: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        return grad, *(torch.zeros_like(tensor) for tensor in ctx.saved_tensors)


def zero_gradient(x: Tensor, convs: Iterable[nn.Module]) -> Tensor:
    """``x``, whose gradient to the biases that ``convs`` left out is zero instead of none: a network that is used
    without features has a gradient of each parameter, as DistributedDataParallel expects."""
    if torch.jit.is_tracing() or torch.compiler.is_exporting() or not torch.is_grad_enabled():
        return x
    left_out = [conv.bias for conv in convs if isinstance(conv.bias, Tensor) and conv.bias.requires_grad]
    return _ZeroGradient.apply(x, *left_out) if left_out else x


def check_norm(kind: str) -> None:
    """Raise a ValueError if there is no such norm."""
    if kind not in NORMS:
        raise ValueError(f"norm: expected one of {', '.join(NORMS)}, got {kind!r}")


def has_bias(kind: str) -> bool:
    """Whether a convolution before the norm has a bias, as published."""
    return kind == "instance"
