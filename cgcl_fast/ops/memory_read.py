r"""Reading the class-aware memory of MGUIT.

$$\alpha_{p,n} = \frac{\exp(d(c_p, k_n)/\tau)}{\sum_{n'} \exp(d(c_p, k_{n'})/\tau)}, \qquad
d(c, k) = \frac{c \cdot k}{\lVert c\rVert_2 \lVert k\rVert_2}, \qquad
\hat s_p = \sum_n \alpha_{p,n} v_n$$

(Jeong et al. 2021, Eq. 2-4, where τ = 1). In training, a pixel of class k only addresses the items of class k; at test
time it addresses all items.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._backend import choose
from ..kernels import _layout
from . import _autocast, _check, _memory, _registry


def memory_read_reference(
    content: Tensor,
    keys: Tensor,
    values: Tensor,
    pixel_class: Tensor | None = None,
    item_class: Tensor | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """The equation above in plain PyTorch, in float32 or wider."""
    dtype = torch.promote_types(content.dtype, torch.float32)
    c, k, v = content.to(dtype), keys.to(dtype), values.to(dtype)
    d = _autocast.einsum("bchw,nc->bnhw", _memory.unit(c, dim=1), _memory.unit(k, dim=1)) / temperature
    if pixel_class is not None and item_class is not None:
        same = _memory.same_class(pixel_class, item_class)
        # If no item has the pixel's class, the softmax is over equal logits, and its weights are then dropped.
        alpha = torch.softmax(d.masked_fill(~same, torch.finfo(dtype).min), dim=1).masked_fill(~same, 0)
    else:
        alpha = torch.softmax(d, dim=1)
    return _autocast.einsum("bnhw,nv->bvhw", alpha, v).to(content.dtype)


def memory_read(
    content: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    pixel_class: Tensor | None = None,
    item_class: Tensor | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """Read, for each pixel, the values of the items whose keys resemble its content.

    Args:
        content: (B, C, H, W), any strides; float32 and bfloat16 have kernels, float16 on a GPU, other dtypes take the
            reference.
        keys: (N, C), N >= 1, any floating dtype; the similarity is the cosine, so lengths do not matter.
        values: (N, Cv), used as they are; to translate, those of the other domain.
        pixel_class: (B, H, W), any integer dtype: a pixel reads only items of its class. Needs item_class.
        item_class: (N,), any integer dtype.
        temperature: τ, at least 0.02; all cost the same. Cosines are at most 1, so even a perfect match cannot
            select a single item: a pixel whose content equals one of N = 20 orthonormal keys effectively reads
            exp(entropy of α) = 19.2 items at the paper's τ = 1, 6.5 at 0.3, 2.0 at 0.2 and 1.01 at 0.1.

    Returns:
        (B, Cv, H, W) in content's dtype, channels_last if content is. Zeros at pixels whose class has no items. Sums
        are in float32. Content or keys of length zero have cosine 0 with everything and receive no gradient. Autocast
        casts nothing.

    Raises:
        ValueError: a shape, device or the temperature is not as above, or only one of the two classes is given.
        TypeError: an argument is not a floating-point tensor, or classes are not integers.
        RuntimeError: for second derivatives of the kernels.

    Source: MGUIT (Jeong et al. 2021), Eq. 2-4. Gradients to content, keys and values. Memory for the backward pass:
    N + 1 float32 a pixel.

    Example:
        >>> import torch
        >>> from cgcl_fast import ops
        >>> content = torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1)  # cosine 1 with the first key, 0 with the second
        >>> ops.memory_read(content, torch.eye(2), torch.tensor([[10.0], [20.0]]))
        tensor([[[[12.6894]]]])
    """
    op = "memory_read"
    _check.tensor(op, "content", content, 4, "(B, C, H, W)")
    _memory.items(op, "keys", keys, content.shape[1], "content", "(N, C)")
    _check.tensor(op, "values", values, 2, "(N, Cv)")
    if values.shape[0] != keys.shape[0]:
        raise ValueError(f"{op}: expected values of {keys.shape[0]} items like keys, got {tuple(values.shape)}")
    _check.same_device(op, "keys", keys, "content", content)
    _check.same_device(op, "values", values, "content", content)
    pixel_class, item_class = _memory.classes(op, pixel_class, item_class, "content", content, keys.shape[0])
    temperature = _memory.temperature(op, temperature)
    backend = choose(op, content)
    if backend == "reference":
        return memory_read_reference(content, keys, values, pixel_class, item_class, temperature)
    return _memory_read(backend, content, keys, values, pixel_class, item_class, temperature)[0]


def _fake_forward(
    content: Tensor,
    keys: Tensor,
    values: Tensor,
    pixel_class: Tensor | None,
    item_class: Tensor | None,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    B, _, H, W = content.shape
    out = _layout.empty_map(content, values.shape[1])
    cosines = content.new_empty((B, keys.shape[0], H * W), dtype=torch.float32)
    return out, cosines, content.new_empty((B, H * W), dtype=torch.float32)


def _fake_backward(
    grad: Tensor,
    content: Tensor,
    keys: Tensor,
    values: Tensor,
    cosines: Tensor,
    rnorm: Tensor,
    need_content: bool,
    need_keys: bool,
    need_values: bool,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    N, C = keys.shape
    _, _, H, W = content.shape
    dcontent = _layout.empty_map(content, C) if need_content else content.new_empty((0, C, H, W))
    dkeys = content.new_empty((N if need_keys else 0, C), dtype=torch.float32)
    dvalues = content.new_empty((N if need_values else 0, values.shape[1]), dtype=torch.float32)
    return dcontent, dkeys, dvalues


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    content, keys, values, _, _, ctx.temperature = inputs
    _, cosines, rnorm = output
    ctx.save_for_backward(content, keys, values, cosines, rnorm)


def _backward(ctx: Any, needs: Sequence[bool], grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    needs = needs[:3]
    if grad is None or not any(needs):
        return None, None, None, None, None, None
    content, keys, values, cosines, rnorm = ctx.saved_tensors
    dcontent, dkeys, dvalues = _memory_read_backward(
        ctx.backend, grad, content, keys, values, cosines, rnorm, *needs, ctx.temperature
    )
    return (
        dcontent if needs[0] else None,
        dkeys.to(keys.dtype) if needs[1] else None,
        dvalues.to(values.dtype) if needs[2] else None,
        None,
        None,
        None,
    )


_registry.fake("_memory_read", _fake_forward)
_registry.fake("_memory_read_backward", _fake_backward)
_memory_read = _registry.gradient("_memory_read", _backward, _setup_context, results=1)
_memory_read_backward = _registry.operator("_memory_read_backward")
_registry.once_differentiable("_memory_read_backward")
_registry.native_on_cpu("memory_read")
_registry.native_on_cuda("memory_read")
_registry.triton(("memory_read",), "memory_read", _memory_read="forward", _memory_read_backward="backward")
_registry.public(
    "memory_read(Tensor content, Tensor keys, Tensor values, *, Tensor? pixel_class=None, Tensor? item_class=None,"
    " float temperature=1.0) -> Tensor",
    memory_read,
)
