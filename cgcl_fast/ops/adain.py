r"""Adaptive instance normalisation with its activation, residual and padding in one pass.

$$y = \mathrm{act}\Big(s\,\frac{x - \mu(x)}{\sqrt{\sigma^2(x) + \epsilon}} + t\Big) \;[+\; r]$$

Mean and biased variance are over the positions of each channel of each image (Huang & Belongie 2017, Eq. 8). The
style-conditioned decoders of MUNIT, CGL and CGCL use it; without s and t it is the InstanceNorm of CUT's generator.
With `pad`, y already has the margin that the next convolution needs. Padding is linear, pad(y + r) = pad(y) + pad(r),
so r may have that margin too: a chain of residual blocks stays padded from one to the next.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .._backend import choose
from ..kernels import _layout
from . import _check, _pad, _registry

ACTIVATIONS = ("none", "relu", "leaky_relu")
PAD_MODES = ("reflect", "replicate")


def adain_reference(
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    eps: float = 1e-5,
    activation: str = "none",
    residual: Tensor | None = None,
    pad: int = 0,
    pad_mode: str = "reflect",
) -> Tensor:
    """The equation above in plain PyTorch, in float32 or wider."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    mean = wide.mean(dim=(2, 3), keepdim=True)
    centred = wide - mean
    variance = centred.square().mean(dim=(2, 3), keepdim=True)
    y = centred * torch.rsqrt(variance + eps)
    if scale is not None:
        y = y * scale[:, :, None, None].to(wide.dtype)
    if shift is not None:
        y = y + shift[:, :, None, None].to(wide.dtype)
    y = activated(y, activation)
    after = residual is not None and residual.shape != x.shape  # it has the margin already
    if residual is not None and not after:
        y = y + residual.to(wide.dtype)
    if pad > 0:
        y = _pad.padded(y, pad, pad_mode)
    if residual is not None and after:
        y = y + residual.to(wide.dtype)
    return y.to(x.dtype)


def activated(y: Tensor, activation: str) -> Tensor:
    if activation == "relu":
        return torch.relu(y)
    return F.leaky_relu(y, 0.2) if activation == "leaky_relu" else y


def _normalise(
    op: str,
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    eps: float,
    activation: str,
    residual: Tensor | None,
    pad: int,
    pad_mode: str,
) -> Tensor:
    _check.tensor(op, "x", x, 4, "(B, C, H, W)")
    eps, pad = check_options(op, x, eps, activation, pad, pad_mode)
    for name, parameter in (("scale", scale), ("shift", shift)):
        if parameter is not None:
            _check.tensor(op, name, parameter, 2, "(B, C)")
            _check.shape(op, name, parameter, (x.shape[0], x.shape[1]), "(B, C)")
            _check.same_device(op, name, parameter, "x", x)
    if residual is not None:
        _check_residual(op, residual, x, pad)
        residual = residual if residual.dtype == x.dtype else residual.to(x.dtype)
    backend = choose(op, x)
    if backend == "reference":
        return adain_reference(x, scale, shift, eps, activation, residual, pad, pad_mode)
    return _adain(backend, x, scale, shift, eps, activation, residual, pad, pad_mode == "replicate")[0]


def _check_residual(op: str, residual: Tensor, x: Tensor, pad: int) -> None:
    _check.tensor(op, "residual", residual, 4, "(B, C, H, W)")
    if pad == 0:
        _check.shape(op, "residual", residual, tuple(x.shape), "(B, C, H, W)")
    elif residual.shape != x.shape and residual.shape != padded_shape(x, pad):
        raise ValueError(
            f"{op}: expected residual of shape (B, C, H, W) = {tuple(x.shape)} or, padded, (B, C, H + 2 pad, W + 2 pad)"
            f" = {padded_shape(x, pad)}, got {tuple(residual.shape)}"
        )
    _check.same_device(op, "residual", residual, "x", x)


def padded_shape(x: Tensor, pad: int) -> tuple[int, ...]:
    B, C, H, W = x.shape
    return B, C, H + 2 * pad, W + 2 * pad


def check_options(op: str, x: Tensor, eps: object, activation: str, pad: object, pad_mode: str) -> tuple[float, int]:
    """The options that all norms have: eps and pad as numbers, or an error."""
    _check.choice(op, "activation", activation, ACTIVATIONS)
    eps = _check.number(op, "eps", eps)
    if not 0 <= eps < math.inf:
        raise ValueError(f"{op}: expected a finite eps >= 0, got {eps}")
    pad = _check.count(op, "pad", pad)
    _check.choice(op, "pad_mode", pad_mode, PAD_MODES)
    if pad > 0:
        _check_pad(op, pad, pad_mode, x)
    return eps, pad


def _check_pad(op: str, pad: int, pad_mode: str, x: Tensor) -> None:
    _, _, H, W = x.shape
    if pad_mode == "reflect" and (pad >= H or pad >= W):
        raise ValueError(
            f"{op}: expected pad < H and W of x, which is what there is to reflect, got {pad} for {tuple(x.shape)}; "
            "pad_mode 'replicate' takes any"
        )
    if H == 0 or W == 0:
        raise ValueError(f"{op}: expected x with positions to pad with, got {tuple(x.shape)}")


def adain(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    *,
    eps: float = 1e-5,
    activation: str = "none",
    residual: Tensor | None = None,
    pad: int = 0,
    pad_mode: str = "reflect",
) -> Tensor:
    """Instance-normalise `x`, scale and shift it per image and channel, activate it, add a residual and pad the sum.

    Args:
        x: features (B, C, H, W), any strides; float32 and bfloat16 have kernels (on a GPU float16 too), others take
            the reference.
        scale: (B, C), multiplies the normalised features (not 1 + scale). Any floating dtype.
        shift: (B, C), is added to them.
        eps: added to the variance.
        activation: "none", "relu" or "leaky_relu" (slope 0.2).
        residual: (B, C, H, W), added after the activation; or with its own margin, (B, C, H + 2 pad, W + 2 pad), added
            after the padding. The latter's gradient is that of the result itself, without a pass over the map.
        pad: extra pixels on each of the four sides, for a following convolution without padding. They cost no
            additional pass over the map, forward or backward.
        pad_mode: "reflect", which needs H and W larger than `pad`, or "replicate".

    Returns:
        (B, C, H + 2 pad, W + 2 pad) in x's dtype, channels_last if x is. Mean and biased variance are in float32, over
        the map without the padding.

    Raises:
        ValueError: a shape, device or option is not as above.
        TypeError: an argument is not a floating-point tensor.
        RuntimeError: for second derivatives of the kernels.

    Source: Huang & Belongie 2017, Eq. 8. Gradients to x, scale, shift and residual.

    Example:
        >>> import torch
        >>> from cgcl_fast import ops
        >>> x = torch.tensor([[[[1.0, 3.0]]]])  # mean 2, variance 1
        >>> ops.adain(x, scale=torch.tensor([[2.0]]), shift=torch.tensor([[5.0]]), eps=0)
        tensor([[[[3., 7.]]]])
    """
    if scale is None or shift is None:
        raise TypeError("adain: expected scale and shift of shape (B, C), got None; instance_norm has neither")
    return _normalise("adain", x, scale, shift, eps, activation, residual, pad, pad_mode)


def instance_norm(
    x: Tensor,
    *,
    eps: float = 1e-5,
    activation: str = "none",
    residual: Tensor | None = None,
    pad: int = 0,
    pad_mode: str = "reflect",
) -> Tensor:
    """Instance normalisation without affine parameters: `adain` with scale 1 and shift 0.

    Args:
        x: features (B, C, H, W).
        eps: added to the biased variance.
        activation: "none", "relu" or "leaky_relu" (slope 0.2).
        residual, pad, pad_mode: as `adain`.

    Returns:
        (B, C, H + 2 pad, W + 2 pad) in x's dtype and memory format.

    Raises:
        ValueError, TypeError, RuntimeError: as `adain`.

    Example:
        >>> import torch
        >>> from cgcl_fast import ops
        >>> ops.instance_norm(torch.tensor([[[[1.0, 3.0]]]]), eps=0, activation="relu")
        tensor([[[[0., 1.]]]])
    """
    return _normalise("instance_norm", x, None, None, eps, activation, residual, pad, pad_mode)


def _fake_forward(
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    eps: float,
    activation: str,
    residual: Tensor | None,
    pad: int = 0,
    replicate: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    shape = padded_shape(x, pad)
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=_layout.kernel_format(x))
    mean = x.new_empty((x.shape[0], x.shape[1]), dtype=torch.float32)
    return y, mean, torch.empty_like(mean)


def _fake_backward(
    grad: Tensor,
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    activation: str,
    pad: int = 0,
    replicate: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    batch = 0 if scale is None and shift is None else x.shape[0]
    dscale = x.new_empty((batch, x.shape[1]), dtype=torch.float32)
    return torch.empty_like(x, memory_format=_layout.kernel_format(x)), dscale, torch.empty_like(dscale)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, scale, shift, _, ctx.activation, residual, ctx.pad, ctx.replicate = inputs
    ctx.has_residual = residual is not None
    ctx.fold = ctx.pad > 0 and residual is not None and residual.shape == x.shape
    ctx.save_for_backward(x, scale, shift, output[1], output[2])


def _backward(ctx: Any, needs: Sequence[bool], grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 8
    x, scale, shift, mean, rstd = ctx.saved_tensors
    pad = ctx.pad
    if ctx.fold:  # the residual's gradient is the unpadded one, so that must be computed anyway
        grad, pad = _pad.folded(grad, pad, "replicate" if ctx.replicate else "reflect"), 0
    dx = dscale = dshift = None
    if any(needs[:3]):
        dx, dscale, dshift = _adain_backward(
            ctx.backend, grad, x, scale, shift, mean, rstd, ctx.activation, pad, ctx.replicate
        )
        dscale = dscale.to(scale.dtype) if scale is not None else None
        dshift = dshift.to(shift.dtype) if shift is not None else None
    return dx, dscale, dshift, None, None, grad if ctx.has_residual else None, None, None


_registry.fake("_adain", _fake_forward)
_registry.fake("_adain_backward", _fake_backward)
_adain = _registry.gradient("_adain", _backward, _setup_context, results=1)
_adain_backward = _registry.operator("_adain_backward")
_registry.once_differentiable("_adain_backward")
_registry.native_on_cpu("adain")
_registry.native_on_cpu("instance_norm")
_registry.native_on_cuda("adain")
_registry.native_on_cuda("instance_norm")
_registry.triton(("adain", "instance_norm"), "adain", _adain="forward", _adain_backward="backward")
_registry.public(
    'adain(Tensor x, Tensor scale, Tensor shift, *, float eps=1e-05, str activation="none", Tensor? residual=None,'
    ' int pad=0, str pad_mode="reflect") -> Tensor',
    adain,
)
_registry.public(
    'instance_norm(Tensor x, *, float eps=1e-05, str activation="none", Tensor? residual=None,'
    ' int pad=0, str pad_mode="reflect") -> Tensor',
    instance_norm,
)
