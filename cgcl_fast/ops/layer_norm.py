r"""Layer normalisation of a feature map over its channels and positions, with its activation and padding in one pass.

$$y_c = \mathrm{act}\Big(w_c\,\frac{x_c - \mu(x)}{\sqrt{\sigma^2(x) + \epsilon}} + b_c\Big)$$

Mean and biased variance are over all values of an image (Ba et al. 2016, Eq. 2), w and b of a channel c. It is the norm
of the up-convolutions of MUNIT's decoder, which CGL and CGCL have, and of DRIT's, which MGUIT has: instance norm there
would take away what the style has put into the means and variances of channels.

It is a group norm of one group. PyTorch's own, on a GPU, copies a channels_last map into contiguous memory and leaves
its result there (2.11 to 2.14), so that the next convolution copies it back. With `pad`, y already has the margin that
this convolution needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._backend import choose
from ..kernels import _layout
from . import _check, _pad, _registry
from .adain import activated, check_options, padded_shape


def layer_norm_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    activation: str = "none",
    pad: int = 0,
    pad_mode: str = "reflect",
) -> Tensor:
    """The equation above in plain PyTorch, in float32 or wider."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    centred = wide - wide.mean(dim=(1, 2, 3), keepdim=True)
    variance = centred.square().mean(dim=(1, 2, 3), keepdim=True)
    normal = centred * torch.rsqrt(variance + eps)
    w, b = (p.to(wide.dtype)[:, None, None] for p in (weight, bias))
    return _finished(w * normal + b, x.dtype, activation, pad, pad_mode)


def _finished(y: Tensor, dtype: torch.dtype, activation: str, pad: int, pad_mode: str) -> Tensor:
    y = activated(y, activation)
    if pad > 0:
        y = _pad.padded(y, pad, pad_mode)
    return y.to(dtype)


def layer_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    eps: float = 1e-5,
    activation: str = "none",
    pad: int = 0,
    pad_mode: str = "reflect",
) -> Tensor:
    """Normalise each image of `x` over channels and positions, scale and shift its channels, activate and pad it.

    Args:
        x: features (B, C, H, W). channels_last ones of float32 and bfloat16 have kernels (on a GPU float16 too); others
            take PyTorch's group norm, which is as fast for contiguous maps, or the reference.
        weight: (C,), multiplies the normalised channels. Any floating dtype.
        bias: (C,), is added to them.
        eps: added to the variance.
        activation: "none", "relu" or "leaky_relu" (slope 0.2).
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

    Source: Ba et al. 2016, Eq. 2; the decoders of MUNIT (Huang et al. 2018) and DRIT (Lee et al. 2018). Gradients to x,
    weight and bias.

    Example:
        >>> import torch
        >>> from cgcl_fast import ops
        >>> x = torch.tensor([[[[1.0]], [[3.0]]]])  # mean 2, variance 1
        >>> ops.layer_norm(x, weight=torch.tensor([2.0, 4.0]), bias=torch.tensor([5.0, 5.0]), eps=0).flatten()
        tensor([3., 9.])
    """
    op = "layer_norm"
    _check.tensor(op, "x", x, 4, "(B, C, H, W)")
    for name, parameter in (("weight", weight), ("bias", bias)):
        _check.tensor(op, name, parameter, 1, "(C,)")
        _check.shape(op, name, parameter, (x.shape[1],), "(C,)")
        _check.same_device(op, name, parameter, "x", x)
    eps, pad = check_options(op, x, eps, activation, pad, pad_mode)
    backend = choose(op, x)
    if backend == "reference":
        return layer_norm_reference(x, weight, bias, eps, activation, pad, pad_mode)
    # A trace and an exported program have PyTorch's: there is no CUDA C++ kernel for programs without Python.
    recorded = torch.jit.is_tracing() or torch.compiler.is_exporting()
    if not recorded and _layout.is_channels_last(x):
        return _layer_norm(backend, x, weight, bias, eps, activation, pad, pad_mode == "replicate")[0]
    mixed = x.device.type == "cpu" and x.dtype == torch.bfloat16 and weight.dtype == bias.dtype == torch.float32
    if x.numel() == 0 or not (mixed or x.dtype == weight.dtype == bias.dtype):
        return layer_norm_reference(x, weight, bias, eps, activation, pad, pad_mode)
    # Unlike F.group_norm it takes an image of one value.
    normal = torch.group_norm(x, 1, weight, bias, eps, torch.backends.cudnn.enabled)
    return _finished(normal, x.dtype, activation, pad, pad_mode)


def _fake_forward(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, activation: str, pad: int = 0, replicate: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    y = torch.empty(padded_shape(x, pad), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    mean = x.new_empty(x.shape[0], dtype=torch.float32)
    return y, mean, torch.empty_like(mean)


def _fake_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    rstd: Tensor,
    activation: str,
    pad: int = 0,
    replicate: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    dweight = x.new_empty(x.shape[1], dtype=torch.float32)
    return torch.empty_like(x, memory_format=torch.channels_last), dweight, torch.empty_like(dweight)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, weight, bias, _, ctx.activation, ctx.pad, ctx.replicate = inputs
    ctx.save_for_backward(x, weight, bias, output[1], output[2])


def _backward(ctx: Any, needs: Sequence[bool], grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 7
    x, weight, bias, mean, rstd = ctx.saved_tensors
    dx, dweight, dbias = _layer_norm_backward(
        ctx.backend, grad, x, weight, bias, mean, rstd, ctx.activation, ctx.pad, ctx.replicate
    )
    return dx, dweight.to(weight.dtype), dbias.to(bias.dtype), None, None, None, None


_registry.fake("_layer_norm", _fake_forward)
_registry.fake("_layer_norm_backward", _fake_backward)
_layer_norm = _registry.gradient("_layer_norm", _backward, _setup_context, results=1)
_layer_norm_backward = _registry.operator("_layer_norm_backward")
_registry.once_differentiable("_layer_norm_backward")
_registry.native_on_cpu("layer_norm")
_registry.triton(("layer_norm",), "layer_norm", _layer_norm="forward", _layer_norm_backward="backward")
_registry.public(
    'layer_norm(Tensor x, Tensor weight, Tensor bias, *, float eps=1e-05, str activation="none", int pad=0,'
    ' str pad_mode="reflect") -> Tensor',
    layer_norm,
)
