r"""PatchNCE: each query patch is to be told from other patches by its key.

$$\ell(q_s) = -\log\frac{\exp(q_s\cdot k_s/\tau)}{\exp(q_s\cdot k_s/\tau) + \sum_{n \in N(s)}\exp(q_s\cdot n/\tau)}$$

(Park et al. 2020, CUT, Eq. 3). N(s) are the other keys of the image or of the batch, a few of them at cyclic offsets,
and/or extra negatives such as a queue. With `loss="decoupled"` the positive is left out of the denominator (Yeh et al.
2022, Eq. 5).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._backend import choose
from . import _autocast, _check, _registry

NEGATIVES = ("image", "batch", "none")
LOSSES = ("infonce", "decoupled")
REDUCTIONS = ("none", "mean", "sum")
MOST_KEYS_FORMED_FORWARD = 512


def normalize_rows(v: Tensor) -> Tensor:
    """v/(‖v‖₂ + 1e-7) over the last dimension, with a zero gradient of the norm at zero."""
    return v / (torch.linalg.vector_norm(v, dim=-1, keepdim=True) + 1e-7)


def patch_nce_reference(
    query: Tensor,
    key: Tensor,
    extra_negatives: Tensor | None,
    offsets: Tensor | None,
    temperature: float,
    negatives: str,
    decoupled: bool,
    normalize: bool,
) -> Tensor:
    """The equation above in plain PyTorch for each row of each image: (B, P), in float32 or wider."""
    dtype = torch.promote_types(query.dtype, torch.float32)
    query, key = query.to(dtype), key.to(dtype)
    extra = query.new_empty((0, query.shape[2])) if extra_negatives is None else extra_negatives.to(dtype)
    if normalize:
        query, key, extra = normalize_rows(query), normalize_rows(key), normalize_rows(extra)
    P = query.shape[1]
    logits = query @ key.transpose(1, 2) / temperature
    positive = logits.diagonal(dim1=1, dim2=2)
    counted = _counted_keys(P, offsets, negatives, query.device)
    if not decoupled:
        counted = counted | torch.eye(P, dtype=torch.bool, device=query.device)
    logits = logits.masked_fill(~counted, float("-inf"))
    logits = torch.cat([logits, query @ extra.T / temperature], dim=2)
    if decoupled:  # a row without negatives has nothing to be told from: its loss is zero
        contrasted = counted.any(dim=1) | (extra.shape[0] > 0)
        logits = torch.where(contrasted[:, None], logits, 0.0)
        return torch.where(contrasted, torch.logsumexp(logits, dim=2) - positive, 0.0)
    return torch.logsumexp(logits, dim=2) - positive


def _counted_keys(P: int, offsets: Tensor | None, negatives: str, device: torch.device) -> Tensor:
    """(P, P) bool: whether key t is a negative of query s."""
    s = torch.arange(P, device=device)
    if offsets is not None:
        counted = torch.zeros(P, P, dtype=torch.bool, device=device)
        if P > 0:
            counted[s[:, None], (s[:, None] + offsets[None, :]) % P] = True
        return counted
    if negatives == "none":
        return torch.zeros(P, P, dtype=torch.bool, device=device)
    return ~torch.eye(P, dtype=torch.bool, device=device)


def patch_nce(
    query: Tensor,
    key: Tensor,
    *,
    temperature: float = 0.07,
    negatives: str | None = "image",
    num_negatives: int | None = None,
    extra_negatives: Tensor | None = None,
    offsets: Tensor | None = None,
    normalize: bool = False,
    loss: str = "infonce",
    reduction: str = "mean",
) -> Tensor:
    """Contrastive loss of query patches against their keys, without ever storing the P×P logits.

    Args:
        query: (B, P, C), patch vectors of the translated image, usually of unit length.
        key: (B, P, C), key s is the positive of query s.
        temperature: τ > 0.
        negatives: "image", the other keys of the same image; "batch", those of all images; "none" (or None), only
            `extra_negatives`.
        num_negatives: use only this many of those keys, at the same random offsets for every query: key (s + o) mod N.
        extra_negatives: (M, C), further negatives of every query, for example a queue.
        offsets: int64 (M,), distinct, between 1 and N - 1, where N is P ("image") or B·P ("batch"): fixes the offsets.
            On a GPU they are not read in advance: an offset out of range makes the losses NaN.
        normalize: divide each vector by its length + 1e-7 first.
        loss: "infonce", or "decoupled", without the positive in the denominator; a row without negatives is then 0.
        reduction: "none" (B, P), "mean" or "sum". The mean of no rows is NaN, as in PyTorch.

    Returns:
        The loss, in the widest dtype of the inputs; under autocast in float32. Arithmetic is in float32 at least.

    Raises:
        ValueError: a shape, device, option or offset is not as above.
        TypeError: an argument is not a floating-point tensor, or offsets is not int64.
        RuntimeError: when its gradient is differentiated again with the kernels.

    Source: CUT, Eq. 2 and 3; CGCL, Eq. 6 (offsets); gradients to query, key and extra_negatives. If only the query
    needs one it is formed in the forward pass: two matrix products in all. Memory O(B·P·C).
    """
    op = "patch_nce"
    _check.tensor(op, "query", query, 3, "(B, P, C)")
    _check.tensor(op, "key", key, 3, "(B, P, C)")
    _check.shape(op, "key", key, tuple(query.shape), "(B, P, C), query's")
    _check.same_device(op, "key", key, "query", query)
    negatives = "none" if negatives is None else negatives
    _check.choice(op, "negatives", negatives, NEGATIVES)
    _check.choice(op, "loss", loss, LOSSES)
    _check.choice(op, "reduction", reduction, REDUCTIONS)
    if not temperature > 0:
        raise ValueError(f"{op}: expected temperature > 0, got {temperature}")
    if extra_negatives is not None:
        _check.tensor(op, "extra_negatives", extra_negatives, 2, "(M, C)")
        _check.shape(op, "extra_negatives", extra_negatives, (extra_negatives.shape[0], query.shape[2]), "(M, C)")
        _check.same_device(op, "extra_negatives", extra_negatives, "query", query)

    B, P, C = query.shape
    count = B * P if negatives == "batch" else P
    offsets = _resolve_offsets(negatives, num_negatives, offsets, count, query.device)

    dtype = torch.promote_types(query.dtype, key.dtype)
    if extra_negatives is not None:
        dtype = torch.promote_types(dtype, extra_negatives.dtype)
        extra_negatives = extra_negatives.to(dtype)
    query, key = query.to(dtype), key.to(dtype)
    if negatives == "batch":
        query, key = query.reshape(1, count, C), key.reshape(1, count, C)
    among_keys = "none" if negatives == "none" else "all"
    decoupled = loss == "decoupled"
    backend = choose(op, query)
    if backend == "reference":
        losses = patch_nce_reference(
            query, key, extra_negatives, offsets, temperature, among_keys, decoupled, normalize
        )
    else:
        query_grad = torch.is_grad_enabled() and query.requires_grad
        # Where every row counts the same, the gradient of the keys too is known before the upstream gradient; for many
        # keys its partial sums would take more memory than the logits' tiles.
        key_grad = torch.is_grad_enabled() and key.requires_grad and reduction != "none"
        # On a GPU nothing is saved by forming it early.
        key_grad = key_grad and among_keys == "all" and count <= MOST_KEYS_FORMED_FORWARD and backend == "native"
        losses = torch.ops.cgcl_fast._patch_nce(
            query, key, extra_negatives, offsets, temperature, among_keys, decoupled, normalize, query_grad, key_grad
        )[0]
    if negatives == "batch":
        losses = losses.reshape(B, P)
    if reduction == "mean":
        losses = losses.mean()
    elif reduction == "sum":
        losses = losses.sum()
    return losses if _autocast.enabled(query) else losses.to(dtype)


def patch_nce_layers(queries: Sequence[Tensor], keys: Sequence[Tensor], **options: Any) -> list[Tensor]:
    """`patch_nce` of several layers, whose numbers of patches and channels may differ.

    Args:
        queries, keys: one (B, P, C) a layer.
        options: those of `patch_nce`, the same for each layer.

    Returns:
        One result a layer.

    Raises:
        ValueError: the lists differ in length; and as `patch_nce`.
    """
    if len(queries) != len(keys):
        raise ValueError(f"patch_nce_layers: expected as many keys as queries, got {len(keys)} and {len(queries)}")
    return [patch_nce(query, key, **options) for query, key in zip(queries, keys, strict=True)]


def _resolve_offsets(
    negatives: str, num_negatives: int | None, offsets: Tensor | None, count: int, device: torch.device
) -> Tensor | None:
    op = "patch_nce"
    if negatives == "none":
        if num_negatives is not None or offsets is not None:
            raise ValueError(
                f'{op}: num_negatives and offsets choose among keys: expected negatives "image" or "batch"'
            )
        return None
    if num_negatives is not None and num_negatives < 0:
        raise ValueError(f"{op}: expected num_negatives >= 0, got {num_negatives}")
    if offsets is None:
        if num_negatives is None or num_negatives >= count - 1:
            return None
        return torch.randperm(count - 1, device=device)[:num_negatives] + 1
    _check.integer_ids(op, "offsets", offsets)
    if offsets.dim() != 1:
        raise ValueError(f"{op}: expected offsets of shape (M,), got {tuple(offsets.shape)}")
    if num_negatives is not None and num_negatives != offsets.shape[0]:
        raise ValueError(
            f"{op}: expected num_negatives to be the number of offsets {offsets.shape[0]}, got {num_negatives}"
        )
    if offsets.device.type == "cpu" and not torch.compiler.is_compiling():
        values = offsets.tolist()
        if any(not 1 <= value < count for value in values):
            raise ValueError(f"{op}: expected offsets between 1 and {count - 1} (the other keys), got {values}")
        if len(set(values)) < len(values):
            raise ValueError(f"{op}: expected distinct offsets, got {values}")
    return offsets.to(device)


def _fake_forward(
    query: Tensor,
    key: Tensor,
    extra: Tensor | None,
    offsets: Tensor | None,
    temperature: float,
    negatives: str,
    decoupled: bool,
    normalize: bool,
    query_grad: bool,
    key_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    B, P, C = query.shape
    loss = query.new_empty((B, P), dtype=torch.float32)
    denominator = query.new_empty((2, B, P), dtype=torch.float32)
    unit_grad = query.new_empty((B if query_grad else 0, P, C), dtype=torch.float32)
    return loss, denominator, unit_grad, query.new_empty((B if key_grad else 0, P, C), dtype=torch.float32)


def _fake_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    extra: Tensor | None,
    offsets: Tensor | None,
    denominator: Tensor,
    unit_grad: Tensor,
    unit_key_grad: Tensor,
    temperature: float,
    negatives: str,
    decoupled: bool,
    normalize: bool,
    need_query: bool,
    need_key: bool,
    need_extra: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    B, P, C = query.shape
    M = extra.shape[0] if extra is not None and need_extra else 0

    def empty(*sizes: int) -> Tensor:
        return query.new_empty(sizes, dtype=torch.float32)

    return empty(B if need_query else 0, P, C), empty(B if need_key else 0, P, C), empty(M, C)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    query, key, extra, offsets, temperature, negatives, decoupled, normalize, query_grad, _ = inputs
    _, denominator, unit_grad, unit_key_grad = output
    ctx.save_for_backward(query, key, extra, offsets, denominator, unit_grad, unit_key_grad)
    ctx.options = (temperature, negatives, decoupled, normalize)
    ctx.has_unit_grad = query_grad
    ctx.mark_non_differentiable(denominator, unit_grad, unit_key_grad)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    rest = (None,) * 7
    if grad is None:
        return None, None, None, *rest
    query, key, extra, offsets, denominator, unit_grad, unit_key_grad = ctx.saved_tensors
    need_query, need_key = ctx.needs_input_grad[:2]
    need_extra = extra is not None and ctx.needs_input_grad[2]
    if need_query and not ctx.has_unit_grad:
        raise RuntimeError("cgcl_fast._patch_nce: query_grad=False was given but the query's gradient is asked for")
    saved = (query, key, extra, offsets, denominator, unit_grad, unit_key_grad)
    dquery, dkey, dextra = torch.ops.cgcl_fast._patch_nce_backward(
        grad, *saved, *ctx.options, need_query, need_key, need_extra
    )
    return (
        dquery.to(query.dtype) if need_query else None,
        dkey.to(key.dtype) if need_key else None,
        dextra.to(extra.dtype) if need_extra else None,
        *rest,
    )


_registry.fake("_patch_nce", _fake_forward)
_registry.fake("_patch_nce_backward", _fake_backward)
_registry.gradient("_patch_nce", _backward, _setup_context)
_registry.once_differentiable("_patch_nce_backward", "patch_nce")
_registry.native_on_cpu("patch_nce")
_registry.native_on_cpu("patch_nce_layers")
_registry.triton(("patch_nce",), "patch_nce", _patch_nce="forward", _patch_nce_backward="backward")
_registry.public(
    'patch_nce(Tensor query, Tensor key, *, float temperature=0.07, str? negatives="image", int? num_negatives=None,'
    ' Tensor? extra_negatives=None, Tensor? offsets=None, bool normalize=False, str loss="infonce",'
    ' str reduction="mean") -> Tensor',
    patch_nce,
)
