"""Instance normalisation as modules, with and without the scale and shift of a style."""

from __future__ import annotations

from torch import Tensor, nn

from cgcl_fast.ops import _check, adain, instance_norm
from cgcl_fast.ops.adain import ACTIVATIONS, PAD_MODES


class _InstanceNorm(nn.Module):
    """The options that both modules have."""

    def __init__(self, *, eps: float = 1e-5, activation: str = "none", pad: int = 0, pad_mode: str = "reflect") -> None:
        super().__init__()
        name = type(self).__name__
        _check.choice(name, "activation", activation, ACTIVATIONS)
        _check.choice(name, "pad_mode", pad_mode, PAD_MODES)
        self.eps = _check.number(name, "eps", eps)
        if not 0 <= self.eps < float("inf"):
            raise ValueError(f"{name}: expected a finite eps >= 0, got {self.eps}")
        self.activation = activation
        self.pad = _check.count(name, "pad", pad)
        self.pad_mode = pad_mode

    def extra_repr(self) -> str:
        padding = f", pad={self.pad}, pad_mode={self.pad_mode!r}" if self.pad else ""
        return f"eps={self.eps}, activation={self.activation!r}{padding}"


class AdaIN(_InstanceNorm):
    """Adaptive instance normalisation, whose scale and shift come with the map: :func:`cgcl_fast.ops.adain`.

    Args:
        eps: added to the variance.
        activation: "none", "relu" or "leaky_relu" (slope 0.2).
        pad: pixels that the result has more on each side, for a convolution without padding to follow.
        pad_mode: "reflect" or "replicate".

    Raises:
        ValueError, TypeError: an option is not one of these.

    Example:
        >>> import torch
        >>> from cgcl_fast.nn import AdaIN
        >>> norm = AdaIN(activation="relu", pad=1)
        >>> x, style = torch.randn(2, 8, 16, 16), torch.randn(2, 16)  # the style from a mapping network, say
        >>> norm(x, *style.chunk(2, dim=1)).shape
        torch.Size([2, 8, 18, 18])
    """

    def forward(self, x: Tensor, scale: Tensor, shift: Tensor, residual: Tensor | None = None) -> Tensor:
        """Normalise ``x``, scale, shift and activate it, add ``residual`` and pad the sum.

        Args:
            x: (B, C, H, W).
            scale: (B, C).
            shift: (B, C).
            residual: (B, C, H, W).

        Returns:
            (B, C, H + 2 pad, W + 2 pad).
        """
        return adain(
            x,
            scale,
            shift,
            eps=self.eps,
            activation=self.activation,
            residual=residual,
            pad=self.pad,
            pad_mode=self.pad_mode,
        )


class InstanceNorm(_InstanceNorm):
    """Instance normalisation without scale and shift, as in CycleGAN and CUT: :func:`cgcl_fast.ops.instance_norm`.

    Unlike ``torch.nn.InstanceNorm2d`` it takes maps of any number of channels and does its activation, residual and
    padding in the same pass.

    Args:
        eps: added to the biased variance.
        activation: "none", "relu" or "leaky_relu" (slope 0.2).
        pad: pixels that the result has more on each side, for a convolution without padding to follow.
        pad_mode: "reflect" or "replicate".

    Raises:
        ValueError, TypeError: an option is not one of these.

    Example:
        >>> import torch
        >>> from cgcl_fast.nn import InstanceNorm
        >>> block = torch.nn.Sequential(InstanceNorm(activation="relu", pad=1), torch.nn.Conv2d(8, 4, 3))
        >>> block(torch.randn(2, 8, 16, 16)).shape
        torch.Size([2, 4, 16, 16])
    """

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """(B, C, H, W), and as ``residual`` the same, to (B, C, H + 2 pad, W + 2 pad)."""
        return instance_norm(
            x, eps=self.eps, activation=self.activation, residual=residual, pad=self.pad, pad_mode=self.pad_mode
        )
