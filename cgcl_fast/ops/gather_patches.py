r"""The feature vectors at chosen positions, without a copy of the whole map.

$$y_{b,p} = x_{b,\,:,\,\lfloor i_{b,p}/W \rfloor,\; i_{b,p} \bmod W}$$

Published code permutes the map to (B, H·W, C) and indexes that; its gradient is scattered and permuted back, so the
whole map is copied. The gradient here is a zero fill, in which each thread then stores what belongs into the part that
it has just filled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._backend import choose
from ..kernels import _layout
from . import _check, _registry


def gather_patches_reference(features: Tensor, ids: Tensor) -> Tensor:
    """The equation above in plain PyTorch."""
    batch, _, height, width = features.shape
    ids = torch.where(ids < 0, height * width, ids)  # out of range too, while plain indexing would count from the end
    rows, columns = ids // max(width, 1), ids % max(width, 1)
    if ids.dim() == 1:
        return features[:, :, rows, columns].transpose(1, 2).contiguous()
    images = torch.arange(batch, device=ids.device)[:, None]
    return features[images, :, rows, columns].contiguous()


def gather_patches(features: Tensor, ids: Tensor) -> Tensor:
    """Gather the feature vectors at flattened positions.

    Args:
        features: (B, C, H, W), any strides; only the gathered elements are read.
        ids: int64 (P,), the same positions for every image, or (B, P); values in [0, H·W), row-major. They may repeat:
            then gradients add up. `sample_patch_ids` and `dag_select` give distinct ids.

    Returns:
        (B, P, C), contiguous, in features' dtype.

    Raises:
        ValueError: a shape or device is not as above or, on the CPU, an id is not in [0, H·W). (RuntimeError inside
            torch.compile.) Other devices cannot raise without a synchronisation: on a GPU such an id reads NaN, which
            shows in every loss, and its gradient is dropped.
        TypeError: features are not floating-point, or ids are not int64.

    Gradients to features, of any order, in features' memory format (contiguous or channels_last), or that of the map
    that they are a part of.
    Source: the patch sampling of CUT (Park et al. 2020, Sec. 3.2).

    Example:
        >>> import torch
        >>> from cgcl_fast import ops
        >>> features = torch.arange(8.0).reshape(1, 2, 2, 2)  # channel 0 is 0 to 3, channel 1 is 4 to 7
        >>> ops.gather_patches(features, torch.tensor([0, 3]))
        tensor([[[0., 4.],
                 [3., 7.]]])
    """
    op = "gather_patches"
    _check.tensor(op, "features", features, 4, "(B, C, H, W)")
    _check.position_ids(op, "ids", ids, features.shape[0], "(P,) or (B, P)")
    _check.same_device(op, "ids", ids, "features", features)
    backend = choose(op, features)
    if backend != "native":  # native code checks the ids itself
        _check.in_range(op, "ids", ids, features.shape[2] * features.shape[3])
    if backend == "reference":
        return gather_patches_reference(features, ids)
    try:
        return _gather_patches(backend, features, ids)
    except RuntimeError:  # the kernel has checked the ids; raise the more precise type of error
        _check.in_range(op, "ids", ids, features.shape[2] * features.shape[3])
        raise


def _fake_forward(features: Tensor, ids: Tensor) -> Tensor:
    return features.new_empty((features.shape[0], ids.shape[-1], features.shape[1]))


def _fake_backward(grad: Tensor, ids: Tensor, channels: int, height: int, width: int, channels_last: bool) -> Tensor:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(
        (grad.shape[0], channels, height, width), dtype=grad.dtype, device=grad.device, memory_format=layout
    )


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    features, ids = inputs
    ctx.save_for_backward(ids)
    _, *ctx.shape = features.shape
    ctx.channels_last = _layout.has_pixels(features)  # so is then the gradient of the map that they are a part of


def _backward(ctx: Any, needs: Sequence[bool], grad: Tensor) -> tuple[Tensor, None]:
    (ids,) = ctx.saved_tensors
    return _gather_patches_backward(ctx.backend, grad, ids, *ctx.shape, ctx.channels_last), None


def _setup_context_of_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])


def _backward_of_backward(ctx: Any, needs: Sequence[bool], grad: Tensor) -> tuple[Tensor | None, ...]:
    (ids,) = ctx.saved_tensors  # scattering is linear, and its transpose is gathering
    return _gather_patches(ctx.backend, grad, ids), None, None, None, None, None


_registry.fake("_gather_patches", _fake_forward)
_registry.fake("_gather_patches_backward", _fake_backward)
_gather_patches = _registry.gradient("_gather_patches", _backward, _setup_context)
_gather_patches_backward = _registry.gradient(
    "_gather_patches_backward", _backward_of_backward, _setup_context_of_backward
)
_registry.native_on_cpu("gather_patches")
_registry.native_on_cuda("gather_patches")
_registry.triton(("gather_patches",), "gather_patches", _gather_patches="forward", _gather_patches_backward="backward")
_registry.public("gather_patches(Tensor features, Tensor ids) -> Tensor", gather_patches)
