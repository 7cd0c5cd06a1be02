r"""The feature contrastive loss of MGUIT.

$$\ell_p = -\log \frac{\exp(c_p \cdot k_{p+}/\tau)}{\sum_n \exp(c_p \cdot k_n/\tau)}$$

(Jeong et al. 2021, Eq. 8), with k₊ the item nearest to the pixel: pulls features to their item and items apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._backend import choose
from ..kernels import _layout
from . import _autocast, _check, _memory, _registry

REDUCTIONS = ("none", "mean", "sum")


def memory_contrast_reference(
    features: Tensor,
    items: Tensor,
    temperature: float,
    pixel_class: Tensor | None = None,
    item_class: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The equation above in plain PyTorch, in float32 or wider: the losses (B, H, W), and how many pixels count."""
    dtype = torch.promote_types(features.dtype, torch.float32)
    logits = _autocast.einsum("bchw,nc->bnhw", features.to(dtype), items.to(dtype)) / temperature
    counts = torch.ones_like(logits[:, 0], dtype=torch.bool)
    if pixel_class is not None and item_class is not None:
        same = _memory.same_class(pixel_class, item_class)
        counts = same.any(dim=1)
        # Logits of zero if no item has the pixel's class: that loss is dropped, but its gradient must not be NaN.
        logits = logits.masked_fill(~same, float("-inf")).masked_fill(~counts[:, None], 0)
    nearest = logits.detach().argmax(dim=1, keepdim=True)
    positive = logits.gather(1, nearest).squeeze(1)
    loss = torch.logsumexp(logits, dim=1) - positive
    return torch.where(counts, loss, 0), counts.sum()


def memory_contrast(
    features: Tensor,
    items: Tensor,
    *,
    temperature: float,
    pixel_class: Tensor | None = None,
    item_class: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Contrast each pixel's nearest item with the others.

    Args:
        features: (B, C, H, W), any strides; float32 and bfloat16 have kernels, float16 on a GPU, other dtypes take the
            reference. The logits are dot products, as in the equation: normalise features first to get cosines.
        items: (N, C), N >= 1, keys or values of the memory, usually of unit length; any floating dtype.
        temperature: τ > 0.
        pixel_class: (B, H, W), any integer dtype: contrast a pixel only with items of its class. Needs item_class.
        item_class: (N,), any integer dtype.
        reduction: "none" (B, H, W), "mean" or "sum". A pixel whose class has no items has loss 0 and does not count in
            the mean; the mean of no pixels is 0.

    Returns:
        The loss in features' dtype; under autocast in float32. Arithmetic is in float32 or wider. The nearest item has
        the largest dot product, the first one if several do; for items of unit length it is also the one at the
        smallest distance. The choice of the nearest item has no gradient.

    Raises:
        ValueError: a shape, device or option is not as above, or only one of the two classes is given.
        TypeError: an argument is not a floating-point tensor, or classes are not integers.
        RuntimeError: for second derivatives of the kernels.

    Source: MGUIT (Jeong et al. 2021), Eq. 8, whose sum over pixels is reduction="sum". Gradients to features and items.

    Example:
        >>> import torch
        >>> from cgcl_fast import ops
        >>> features = torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1)
        >>> ops.memory_contrast(features, torch.eye(2), temperature=1)  # log(1 + exp(-1))
        tensor(0.3133)
    """
    op = "memory_contrast"
    _check.tensor(op, "features", features, 4, "(B, C, H, W)")
    _memory.items(op, "items", items, features.shape[1], "features", "(N, C)")
    _check.same_device(op, "items", items, "features", features)
    _check.choice(op, "reduction", reduction, REDUCTIONS)
    temperature = _check.positive(op, "temperature", temperature)
    pixel_class, item_class = _memory.classes(op, pixel_class, item_class, "features", features, items.shape[0])
    backend = choose(op, features)
    if backend == "reference":
        loss, counted = memory_contrast_reference(features, items, temperature, pixel_class, item_class)
    else:
        loss, _, counted = _memory_contrast(backend, features, items, temperature, pixel_class, item_class)
    if reduction == "mean":  # 0 for no pixels
        loss = loss.sum() / (max(loss.numel(), 1) if pixel_class is None else counted.clamp(min=1))
    elif reduction == "sum":
        loss = loss.sum()
    return loss if loss.dtype == features.dtype or _autocast.enabled(features) else loss.to(features.dtype)


def _fake_forward(
    features: Tensor, items: Tensor, temperature: float, pixel_class: Tensor | None, item_class: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    B, _, H, W = features.shape
    loss = features.new_empty((B, H, W), dtype=torch.float32)
    logit_grad = features.new_empty((B, items.shape[0], H * W), dtype=torch.float32)
    return loss, logit_grad, features.new_empty((), dtype=torch.int64)


def _fake_backward(
    grad: Tensor,
    features: Tensor,
    items: Tensor,
    logit_grad: Tensor,
    temperature: float,
    need_features: bool,
    need_items: bool,
) -> tuple[Tensor, Tensor]:
    N, C = items.shape
    _, _, H, W = features.shape
    dfeatures = _layout.empty_map(features, C) if need_features else features.new_empty((0, C, H, W))
    return dfeatures, features.new_empty((N if need_items else 0, C), dtype=torch.float32)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    features, items, temperature, _, _ = inputs
    _, logit_grad, counted = output
    ctx.save_for_backward(features, items, logit_grad)
    ctx.temperature = temperature


def _backward(ctx: Any, needs: Sequence[bool], grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    needs = needs[:2]
    if grad is None or not any(needs):
        return None, None, None, None, None
    features, items, logit_grad = ctx.saved_tensors
    dfeatures, ditems = _memory_contrast_backward(
        ctx.backend, grad, features, items, logit_grad, ctx.temperature, *needs
    )
    return dfeatures if needs[0] else None, ditems.to(items.dtype) if needs[1] else None, None, None, None


_registry.fake("_memory_contrast", _fake_forward)
_registry.fake("_memory_contrast_backward", _fake_backward)
_memory_contrast = _registry.gradient("_memory_contrast", _backward, _setup_context, results=3)
_memory_contrast_backward = _registry.operator("_memory_contrast_backward")
_registry.once_differentiable("_memory_contrast_backward")
_registry.native_on_cpu("memory_contrast")
_registry.triton(
    ("memory_contrast",), "memory_contrast", _memory_contrast="forward", _memory_contrast_backward="backward"
)
_registry.public(
    "memory_contrast(Tensor features, Tensor items, *, float temperature, Tensor? pixel_class=None,"
    ' Tensor? item_class=None, str reduction="mean") -> Tensor',
    memory_contrast,
)
