r"""Updating the class-aware memory of MGUIT.

$$\beta_{p,n} = \frac{\exp(d(c_p, k_n)/\tau)}{\sum_{p'} \exp(d(c_{p'}, k_n)/\tau)}, \qquad
\hat k_n = \mathrm{unit}\Big(k_n + \sum_{\text{domains}} \sum_p \beta_{p,n} c_p\Big), \qquad
\hat v_n = \mathrm{unit}\Big(v_n + \sum_p \beta_{p,n} s_p\Big)$$

with d the cosine and unit(v) = v/‖v‖₂ (Jeong et al. 2021, Eq. 5-6, where τ = 1). The softmax is over the pixels of the
item's class, separately for each item and domain. All domains contribute to a key, only its own domain to a value.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._backend import choose_on
from . import _autocast, _check, _memory, _registry


def memory_update_reference(
    keys: Tensor,
    values: Tensor,
    contents: Sequence[Tensor],
    styles: Sequence[Tensor],
    pixel_classes: Sequence[Tensor] | None = None,
    item_class: Tensor | None = None,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """The equation above in plain PyTorch, in float32 or wider."""
    dtype = torch.promote_types(keys.dtype, torch.float32)
    for tensor in (values, *contents, *styles):
        dtype = torch.promote_types(dtype, tensor.dtype)
    k, v = keys.to(dtype), values.to(dtype)
    new_key, new_values, addressed_by_any = k, [], torch.zeros(len(keys), 1, dtype=torch.bool, device=keys.device)
    for i, (content, style) in enumerate(zip(contents, styles, strict=True)):
        c, s = content.to(dtype), style.to(dtype)
        d = _autocast.einsum("bchw,nc->bnhw", _memory.unit(c, dim=1), _memory.unit(k, dim=1)) / temperature
        if pixel_classes is not None and item_class is not None:
            same = _memory.same_class(pixel_classes[i], item_class)
        else:
            same = torch.ones_like(d, dtype=torch.bool)
        e = torch.exp(d).masked_fill(~same, 0)
        total = e.sum(dim=(0, 2, 3), keepdim=True)
        beta = e / torch.where(total > 0, total, 1)
        addressed = same.any(dim=3).any(dim=2).any(dim=0)[:, None]
        new_key = new_key + _autocast.einsum("bnhw,bchw->nc", beta, c)
        new_value = _memory.unit(v[i] + _autocast.einsum("bnhw,bvhw->nv", beta, s), dim=1)
        new_values.append(torch.where(addressed, new_value, v[i]))
        addressed_by_any = addressed_by_any | addressed
    new_key = torch.where(addressed_by_any, _memory.unit(new_key, dim=1), k)
    return new_key.to(keys.dtype), torch.stack(new_values).to(values.dtype)


def memory_update(
    keys: Tensor,
    values: Tensor,
    contents: Sequence[Tensor],
    styles: Sequence[Tensor],
    *,
    pixel_classes: Sequence[Tensor] | None = None,
    item_class: Tensor | None = None,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Write the pixels of a batch of each domain into the items that they resemble.

    Args:
        keys: (N, C), N >= 1, shared by the domains.
        values: (D, N, Cv), one set per domain, D >= 1.
        contents: D maps (B, C, H, W), any strides; sizes and batches may differ between domains. float32 and bfloat16
            have kernels, float16 on a GPU; other dtypes take the reference (keys and values may be float16 on a CPU
            too).
        styles: D maps (B, Cv, H, W), each with the B, H and W of its content.
        pixel_classes: D maps (B, H, W), any integer dtype: a pixel addresses only items of its class. Needs item_class.
        item_class: (N,), any integer dtype.
        temperature: τ, at least 0.02. At the paper's τ = 1 no pixel has more than e² times the weight of another, so
            that items of a class become alike. The lower τ, the more an item takes from the pixels that resemble it
            most.

    Returns:
        (new keys, new values), new tensors of the same shapes and dtypes. Rows have unit length, except those of items
        that no pixel addresses (their class is not in the maps, or the batch is empty), which stay unchanged: a value
        if its domain has no such pixel, a key if no domain has one. A row that would be zero is zero. The paper's batch
        is a single image; here the softmax of Eq. 5 is over the pixels of all images in a domain's batch, as one
        cluster of features per class.

        The results are detached: the update has no gradient, whatever its arguments require. Autocast casts nothing.

    Raises:
        ValueError: a number of domains, shape, device or the temperature is not as above, or classes are given for
            pixels but not for items, or the other way round.
        TypeError: an argument is not a floating-point tensor (or a sequence of them), or classes are not integers.

    Source: MGUIT (Jeong et al. 2021), Eq. 5-6.

    Example:
        >>> import torch
        >>> from cgcl_fast import ops
        >>> keys, values = torch.eye(2), torch.ones(1, 2, 1)
        >>> content, style = torch.tensor([0.0, 1.0]).reshape(1, 2, 1, 1), torch.ones(1, 1, 1, 1)
        >>> classes = torch.zeros(1, 1, 1, dtype=torch.int64)  # of the pixel, which writes into the first item alone
        >>> new_keys, new_values = ops.memory_update(
        ...     keys, values, [content], [style], pixel_classes=[classes], item_class=torch.tensor([0, 1])
        ... )
        >>> new_keys
        tensor([[0.7071, 0.7071],
                [0.0000, 1.0000]])
    """
    op = "memory_update"
    contents, styles, pixel_classes, item_class = _checked(
        op, keys, values, contents, styles, pixel_classes, item_class
    )
    temperature = _memory.temperature(op, temperature)
    keys, values = keys.detach(), values.detach()
    contents, styles = [c.detach() for c in contents], [s.detach() for s in styles]
    exact = torch.float64 in (keys.dtype, values.dtype)
    backend = choose_on(op, keys.device, *{tensor.dtype for tensor in (*contents, *styles)})
    if exact or backend == "reference":
        return memory_update_reference(keys, values, contents, styles, pixel_classes or None, item_class, temperature)
    return _memory_update(backend, keys, values, contents, styles, pixel_classes, item_class, temperature)


def _checked(
    op: str,
    keys: Tensor,
    values: Tensor,
    contents: Sequence[Tensor],
    styles: Sequence[Tensor],
    pixel_classes: Sequence[Tensor] | None,
    item_class: Tensor | None,
) -> tuple[list[Tensor], list[Tensor], list[Tensor], Tensor | None]:
    """The sequences as lists and classes as int64; without classes of pixels, an empty list."""
    _check.tensor(op, "keys", keys, 2, "(N, C)")
    _memory.items(op, "keys", keys, keys.shape[1], "keys", "(N, C)")
    N, C = keys.shape
    _check.tensor(op, "values", values, 3, "(D, N, Cv)")
    D, _, Cv = values.shape
    if D < 1 or values.shape[1] != N:
        raise ValueError(
            f"{op}: expected values of shape (D, N, Cv) with D >= 1 and keys' N = {N}, got {tuple(values.shape)}"
        )
    _check.same_device(op, "values", values, "keys", keys)
    lists: list[list[Tensor]] = []
    for name, maps in (("contents", contents), ("styles", styles), ("pixel_classes", pixel_classes)):
        if maps is None and name == "pixel_classes":
            lists.append([])
            continue
        maps = _check.sequence(op, name, maps, "Tensors, one per domain")
        if len(maps) != D:
            raise ValueError(f"{op}: expected {name} of values' {D} domains, got {len(maps)}")
        lists.append(list(maps))
    if pixel_classes is None:
        _memory.classes(op, None, item_class, "keys", keys, N, "pixel_classes")
    ids = item_class
    for d in range(D):
        content, style = lists[0][d], lists[1][d]
        _check.tensor(op, f"contents[{d}]", content, 4, "(B, C, H, W)")
        _check.tensor(op, f"styles[{d}]", style, 4, "(B, Cv, H, W)")
        B, _, H, W = content.shape
        _check.shape(op, f"contents[{d}]", content, (B, C, H, W), "(B, C, H, W)")
        _check.shape(op, f"styles[{d}]", style, (B, Cv, H, W), "(B, Cv, H, W)")
        _check.same_device(op, f"contents[{d}]", content, "keys", keys)
        _check.same_device(op, f"styles[{d}]", style, "keys", keys)
        if pixel_classes is not None:
            name = f"pixel_classes[{d}]"
            pixels, ids = _memory.classes(op, lists[2][d], item_class, f"contents[{d}]", content, N, name)
            assert pixels is not None
            lists[2][d] = pixels
    return lists[0], lists[1], lists[2], ids


def _fake(
    keys: Tensor,
    values: Tensor,
    contents: list[Tensor],
    styles: list[Tensor],
    pixel_classes: list[Tensor],
    item_class: Tensor | None,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    return keys.new_empty(keys.shape), values.new_empty(values.shape)


_registry.fake("_memory_update", _fake)
_memory_update = _registry.operator("_memory_update")
_registry.native_on_cpu("memory_update")
_registry.triton(("memory_update",), "memory_update", _memory_update="forward")
_registry.public(
    "memory_update(Tensor keys, Tensor values, Tensor[] contents, Tensor[] styles, *, Tensor[]? pixel_classes=None,"
    " Tensor? item_class=None, float temperature=1.0) -> (Tensor, Tensor)",
    memory_update,
)
