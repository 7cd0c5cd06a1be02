r"""PatchNCE: each query patch must identify its own key among other patches.

$$\ell(q_s) = -\log\frac{\exp(q_s\cdot k_s/\tau)}{\exp(q_s\cdot k_s/\tau) + \sum_{n \in N(s)}\exp(q_s\cdot n/\tau)}$$

(Park et al. 2020, CUT, Eq. 2). The negatives N(s) are the other keys of the image or of the batch, or a few of them at
cyclic offsets, and/or extra negatives such as a queue. With `loss="decoupled"` the positive is left out of the
denominator (Yeh et al. 2022, Eq. 5).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._backend import choose
from . import _autocast, _check, _registry

NEGATIVES = ("image", "batch", "none")
LOSSES = ("infonce", "decoupled")
REDUCTIONS = ("none", "mean", "sum")
MOST_KEYS_FORMED_FORWARD = 512
MOST_LAYERS = 8  # per call of the operator


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
    """The equation above in plain PyTorch, for each row of each image: (B, P), in float32 or wider."""
    dtype = torch.promote_types(query.dtype, torch.float32)
    query, key = query.to(dtype), key.to(dtype)
    extra = query.new_empty((0, query.shape[2])) if extra_negatives is None else extra_negatives.to(dtype)
    P = query.shape[1]
    others = 0 if negatives == "none" else P - 1 if offsets is None else offsets.shape[0]
    if decoupled and others + extra.shape[0] == 0:  # no negatives: loss zero, with zero gradients
        return (query[:, :, :0] * key[:, :, :0]).sum(dim=2)
    if normalize:
        query, key, extra = normalize_rows(query), normalize_rows(key), normalize_rows(extra)
    if negatives == "none":
        positive = (query * key).sum(dim=2) / temperature
        logits = positive[:, :, None][:, :, : int(not decoupled)]
    else:
        logits = _autocast.einsum("bsc,btc->bst", query, key) / temperature
        positive = logits.diagonal(dim1=1, dim2=2)
        counted = _counted_keys(P, offsets, query.device)
        if not decoupled:
            counted = counted | torch.eye(P, dtype=torch.bool, device=query.device)
        logits = logits.masked_fill(~counted, float("-inf"))
    logits = torch.cat([logits, _autocast.einsum("bsc,mc->bsm", query, extra) / temperature], dim=2)
    return torch.logsumexp(logits, dim=2) - positive


def _counted_keys(P: int, offsets: Tensor | None, device: torch.device) -> Tensor:
    """(P, P) bool: whether key t is a negative of query s."""
    if offsets is None:
        return ~torch.eye(P, dtype=torch.bool, device=device)
    counted = torch.zeros(P, P, dtype=torch.bool, device=device)
    if P > 0:
        s = torch.arange(P, device=device)[:, None]
        counted[s, (s + offsets[None, :]) % P] = True
    return counted


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
        negatives: "image": the other keys of the same image; "batch": those of all images; "none" (or None): only
            `extra_negatives`.
        num_negatives: use only this many of those keys, at the same random offsets for every query: key (s + o) mod N.
        extra_negatives: (M, C), further negatives of every query, for example a queue.
        offsets: int64 (M,), distinct, between 1 and N - 1, where N is P ("image") or B·P ("batch"): replaces the random
            offsets. On a GPU they are not checked in advance: an offset out of range makes the losses NaN.
        normalize: first divide each vector by its length + 1e-7.
        loss: "infonce", or "decoupled": without the positive in the denominator; a row without negatives is then 0.
        reduction: "none" (B, P), "mean" or "sum". The mean of no rows is NaN, as in PyTorch.

    Returns:
        The loss, in the widest dtype of the inputs; under autocast in float32. Arithmetic is in float32 or wider.

    Raises:
        ValueError: a shape, device, option or offset is not as above.
        TypeError: an argument is not a floating-point tensor, or offsets is not int64.
        RuntimeError: for second derivatives of the kernels.

    Source: CUT, Eq. 2 and 3; CGCL, Eq. 6 (offsets); gradients to query, key and extra_negatives. If only the query
    needs one it is formed in the forward pass: two matrix products in all. Memory O(B·P·C).

    Example:
        >>> import torch
        >>> from cgcl_fast import ops
        >>> rows = torch.eye(2)[None]  # two patches, orthogonal to each other: log(1 + exp(-1)) each
        >>> ops.patch_nce(rows, rows, temperature=1)
        tensor(0.3133)
    """
    temperature = _check_options("patch_nce", temperature, negatives, normalize, loss, reduction)
    layer = _prepare(_NAMES, query, key, negatives, num_negatives, extra_negatives, offsets)
    among_keys = "none" if negatives in (None, "none") else "all"
    decoupled = loss == "decoupled"
    backend = choose("patch_nce", layer.query)
    if backend == "reference":
        losses = patch_nce_reference(
            layer.query, layer.key, layer.extra, layer.offsets, temperature, among_keys, decoupled, normalize
        )
    else:
        query_grad, key_grad = _formed_forward([layer], among_keys, reduction, backend)
        losses = _patch_nce(
            backend, layer.query, layer.key, layer.extra, layer.offsets,
            temperature, among_keys, decoupled, normalize, query_grad, key_grad,
        )[0]  # fmt: skip
    losses = _reduce(losses, query.shape[:2], reduction)
    dtype = layer.query.dtype
    return losses if losses.dtype == dtype or _autocast.enabled(query) else losses.to(dtype)


def patch_nce_layers(
    queries: Sequence[Tensor],
    keys: Sequence[Tensor],
    *,
    temperature: float = 0.07,
    negatives: str | None = "image",
    num_negatives: int | None = None,
    extra_negatives: Tensor | Sequence[Tensor] | None = None,
    offsets: Tensor | Sequence[Tensor] | None = None,
    normalize: bool = False,
    loss: str = "infonce",
    reduction: str = "mean",
) -> list[Tensor]:
    """`patch_nce` of several layers in one call; their numbers of patches and channels may differ.

    On a GPU each pass is one launch; CUT's layers are so small that launch overhead dominates.

    Args:
        queries, keys: one (B, P, C) per layer.
        extra_negatives, offsets: one for all layers, or one per layer.
        temperature, negatives, num_negatives, normalize, loss, reduction: as in `patch_nce`, the same for each layer.

    Returns:
        One result per layer, as `patch_nce` returns it.

    Raises:
        ValueError, TypeError: as `patch_nce`, naming the layer; or lists differ in length.
        RuntimeError: when a gradient is differentiated again with the kernels.

    Example:
        >>> import torch
        >>> from cgcl_fast import ops
        >>> rows = torch.eye(2)[None]
        >>> ops.patch_nce_layers([rows, rows], [rows, -rows], temperature=1)
        [tensor(0.3133), tensor(1.3133)]
    """
    op = "patch_nce_layers"
    queries = _check.sequence(op, "queries", queries, "Tensors, one a layer")
    keys = _check.sequence(op, "keys", keys, "Tensors, one a layer")
    if len(queries) != len(keys):
        raise ValueError(f"{op}: expected as many keys as queries, got {len(keys)} and {len(queries)}")
    temperature = _check_options(op, temperature, negatives, normalize, loss, reduction)
    extras = _for_each(op, "extra_negatives", extra_negatives, len(queries))
    fixed = _for_each(op, "offsets", offsets, len(queries))
    layers = [
        _prepare(_names_of(i), query, key, negatives, num_negatives, extra, steps)
        for i, (query, key, extra, steps) in enumerate(zip(queries, keys, extras, fixed, strict=True))
    ]
    among_keys = "none" if negatives in (None, "none") else "all"
    decoupled = loss == "decoupled"
    results: list[Tensor] = []
    for group in _groups(layers):
        backend = choose(op, group[0].query)
        shapes = [query.shape[:2] for query in queries[len(results) : len(results) + len(group)]]
        if backend == "reference":
            losses = [
                patch_nce_reference(
                    layer.query, layer.key, layer.extra, layer.offsets, temperature, among_keys, decoupled, normalize
                )
                for layer in group
            ]
            reduced = [_reduce(part, shape, reduction) for part, shape in zip(losses, shapes, strict=True)]
        else:
            rows = _patch_nce_layers(
                backend,
                [layer.query for layer in group],
                [layer.key for layer in group],
                [layer.extra for layer in group if layer.extra is not None],
                [layer.offsets for layer in group if layer.offsets is not None],
                temperature, among_keys, decoupled, normalize, *_formed_forward(group, among_keys, reduction, backend),
            )[0]  # fmt: skip
            reduced = _reduce_layers(rows, shapes, reduction)
        results += [
            loss if loss.dtype == layer.query.dtype or _autocast.enabled(layer.query) else loss.to(layer.query.dtype)
            for loss, layer in zip(reduced, group, strict=True)
        ]
    return results


class _Names(NamedTuple):
    """How errors name the op and its arguments."""

    op: str
    query: str
    key: str
    extra: str
    offsets: str


_NAMES = _Names("patch_nce", "query", "key", "extra_negatives", "offsets")


@functools.cache
def _names_of(layer: int) -> _Names:
    arguments = (f"{name}[{layer}]" for name in ("queries", "keys", "extra_negatives", "offsets"))
    return _Names("patch_nce_layers", *arguments)


class _Layer(NamedTuple):
    """The operator's arguments for a layer; with negatives of the whole batch, its images count as one."""

    query: Tensor
    key: Tensor
    extra: Tensor | None
    offsets: Tensor | None


def _check_options(
    op: str, temperature: float, negatives: str | None, normalize: bool, loss: str, reduction: str
) -> float:
    """Check the options; returns the temperature as a float."""
    _check.choice(op, "negatives", "none" if negatives is None else negatives, NEGATIVES)
    _check.choice(op, "loss", loss, LOSSES)
    _check.choice(op, "reduction", reduction, REDUCTIONS)
    _check.boolean(op, "normalize", normalize)
    return _check.positive(op, "temperature", temperature)


def _prepare(
    names: _Names,
    query: Tensor,
    key: Tensor,
    negatives: str | None,
    num_negatives: int | None,
    extra: Tensor | None,
    offsets: Tensor | None,
) -> _Layer:
    """The checked arguments of a layer, in a common dtype."""
    op = names.op
    _check.tensor(op, names.query, query, 3, "(B, P, C)")
    _check.tensor(op, names.key, key, 3, "(B, P, C)")
    if key.shape != query.shape:
        _check.shape(op, names.key, key, tuple(query.shape), f"(B, P, C), {names.query}'s")
    _check.same_device(op, names.key, key, names.query, query)
    if extra is not None:
        _check.tensor(op, names.extra, extra, 2, "(M, C)")
        _check.shape(op, names.extra, extra, (extra.shape[0], query.shape[2]), "(M, C)")
        _check.same_device(op, names.extra, extra, names.query, query)
    B, P, C = query.shape
    count = B * P if negatives == "batch" else P
    offsets = _resolve_offsets(names, negatives or "none", num_negatives, offsets, count, query.device)
    dtype = query.dtype
    if key.dtype != dtype or (extra is not None and extra.dtype != dtype):
        dtype = torch.promote_types(dtype, key.dtype)
        dtype = dtype if extra is None else torch.promote_types(dtype, extra.dtype)
        query, key = query.to(dtype), key.to(dtype)
        extra = None if extra is None else extra.to(dtype)
    if negatives == "batch":
        query, key = query.reshape(1, count, C), key.reshape(1, count, C)
    return _Layer(query, key, extra, offsets)


def _for_each(op: str, name: str, given: Tensor | Sequence[Tensor] | None, count: int) -> Sequence[Tensor | None]:
    """`given` as one entry per layer."""
    if given is None or isinstance(given, Tensor):
        return [given] * count
    _check.sequence(op, name, given, "Tensors, one a layer, or one Tensor for all")
    if len(given) != count:
        raise ValueError(f"{op}: expected one of {name} for each of {count} layers, got {len(given)}")
    if any(part is None for part in given):
        raise TypeError(f"{op}: expected {name} to be a list of Tensors, got one with None")
    return given


def _groups(layers: list[_Layer]) -> list[list[_Layer]]:
    """Groups of neighbouring layers of the same dtype, device and kind of negatives, one launch each."""

    def kind(layer: _Layer) -> tuple[Any, ...]:
        # A layer with few keys has no offsets, while others have num_negatives of them.
        return layer.query.dtype, layer.query.device, layer.offsets is None

    groups: list[list[_Layer]] = []
    for layer in layers:
        if groups and kind(layer) == kind(groups[-1][-1]) and len(groups[-1]) < MOST_LAYERS:
            groups[-1].append(layer)
        else:
            groups.append([layer])
    return groups


def _formed_forward(layers: list[_Layer], among_keys: str, reduction: str, backend: str) -> tuple[bool, bool]:
    """Whether the forward pass forms the gradient of the queries, and whether that of the keys."""
    grad = torch.is_grad_enabled()
    query_grad = grad and any(layer.query.requires_grad for layer in layers)
    # If all rows count the same, the gradient of the keys is known before the upstream gradient, too. But for many keys
    # its partial sums would need more memory than the logits' tiles, and on a GPU forming it early saves nothing.
    key_grad = grad and any(layer.key.requires_grad for layer in layers) and reduction != "none"
    few = all(layer.key.shape[1] <= MOST_KEYS_FORMED_FORWARD for layer in layers)
    return query_grad, key_grad and among_keys == "all" and few and backend == "native"


def _reduce(losses: Tensor, shape: Sequence[int], reduction: str) -> Tensor:
    if reduction == "none":
        return losses.reshape(shape)
    return losses.mean() if reduction == "mean" else losses.sum()


def _reduce_layers(rows: Tensor, shapes: Sequence[Sequence[int]], reduction: str) -> list[Tensor]:
    """The results of layers whose losses are stored one after the other; layers of equal size share a launch."""
    sizes = [B * P for B, P in shapes]
    if reduction != "none" and all(size == sizes[0] for size in sizes):
        table = rows.reshape(len(sizes), sizes[0])
        return list((table.mean(1) if reduction == "mean" else table.sum(1)).unbind())
    return [_reduce(part, shape, reduction) for part, shape in zip(rows.split(sizes), shapes, strict=True)]


def _resolve_offsets(
    names: _Names, negatives: str, num_negatives: int | None, offsets: Tensor | None, count: int, device: torch.device
) -> Tensor | None:
    op, name = names.op, names.offsets
    if negatives == "none":
        if num_negatives is not None or offsets is not None:
            raise ValueError(
                f'{op}: num_negatives and offsets choose among keys: expected negatives "image" or "batch"'
            )
        return None
    if num_negatives is not None:
        num_negatives = _check.count(op, "num_negatives", num_negatives)
    if offsets is None:
        if num_negatives is None or num_negatives >= count - 1:
            return None
        return torch.randperm(count - 1, device=device)[:num_negatives] + 1
    _check.integer_ids(op, name, offsets)
    if offsets.dim() != 1:
        raise ValueError(f"{op}: expected {name} of shape (M,), got {tuple(offsets.shape)}")
    if num_negatives is not None and num_negatives != offsets.shape[0]:
        raise ValueError(
            f"{op}: expected num_negatives to be the number of offsets {offsets.shape[0]}, got {num_negatives}"
        )
    if offsets.device.type != "cpu" and offsets.device != device:
        raise ValueError(f"{op}: expected {name} on {names.query}'s device {device} or the CPU, got {offsets.device}")
    if _check.readable(offsets):
        values = offsets.tolist()
        if any(not 1 <= value < count for value in values):
            raise ValueError(f"{op}: expected {name} between 1 and {count - 1} (the other keys), got {values}")
        if len(set(values)) < len(values):
            raise ValueError(f"{op}: expected distinct {name}, got {values}")
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


def _backward(ctx: Any, needs: Sequence[bool], grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    rest = (None,) * 7
    if grad is None:
        return None, None, None, *rest
    query, key, extra, offsets, denominator, unit_grad, unit_key_grad = ctx.saved_tensors
    need_query, need_key = needs[:2]
    need_extra = extra is not None and needs[2]
    if need_query and not ctx.has_unit_grad:
        raise RuntimeError("cgcl_fast._patch_nce: query_grad=False was given but the query's gradient is asked for")
    saved = (query, key, extra, offsets, denominator, unit_grad, unit_key_grad)
    dquery, dkey, dextra = _patch_nce_backward(
        ctx.backend, grad, *saved, *ctx.options, need_query, need_key, need_extra
    )
    return (
        dquery.to(query.dtype) if need_query else None,
        dkey.to(key.dtype) if need_key else None,
        dextra.to(extra.dtype) if need_extra else None,
        *rest,
    )


def _sizes(tensors: Sequence[Tensor]) -> list[int]:
    return [tensor.numel() for tensor in tensors]


def _fake_layers(
    queries: list[Tensor],
    keys: list[Tensor],
    extras: list[Tensor],
    offsets: list[Tensor],
    temperature: float,
    negatives: str,
    decoupled: bool,
    normalize: bool,
    query_grad: bool,
    key_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows, size = sum(query.shape[0] * query.shape[1] for query in queries), sum(_sizes(queries))

    def empty(*sizes: int) -> Tensor:
        return queries[0].new_empty(sizes, dtype=torch.float32)

    return empty(rows), empty(2, rows), empty(size if query_grad else 0), empty(size if key_grad else 0)


def _fake_layers_backward(
    grad: Tensor,
    queries: list[Tensor],
    keys: list[Tensor],
    extras: list[Tensor],
    offsets: list[Tensor],
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
    size, extra_size = sum(_sizes(queries)), sum(_sizes(extras))

    def empty(size: int) -> Tensor:
        return queries[0].new_empty((size,), dtype=torch.float32)

    return empty(size if need_query else 0), empty(size if need_key else 0), empty(extra_size if need_extra else 0)


def _setup_layers_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *lists, temperature, negatives, decoupled, normalize, query_grad, _ = inputs
    _, denominator, unit_grad, unit_key_grad = output
    ctx.save_for_backward(*(tensor for tensors in lists for tensor in tensors), denominator, unit_grad, unit_key_grad)
    ctx.lengths = [len(tensors) for tensors in lists]
    ctx.options = (temperature, negatives, decoupled, normalize)
    ctx.has_unit_grad = query_grad


def _layers_backward(ctx: Any, needs: Sequence[Any], grad: Tensor | None, *_: Any) -> tuple[Any, ...]:
    saved = list(ctx.saved_tensors)
    lists = [[saved.pop(0) for _ in range(length)] for length in ctx.lengths]
    grads: list[list[Tensor | None]] = [[None] * length for length in ctx.lengths]
    rest = (None,) * 6
    if grad is None:
        return (*grads, *rest)
    wanted = [any(need) for need in needs[:3]]
    if wanted[0] and not ctx.has_unit_grad:
        raise RuntimeError(
            "cgcl_fast._patch_nce_layers: query_grad=False was given but queries' gradients are asked for"
        )
    flat_grads = _patch_nce_layers_backward(ctx.backend, grad, *lists, *saved, *ctx.options, *wanted)
    for i, (flat, tensors, need) in enumerate(zip(flat_grads, lists, needs, strict=False)):
        if wanted[i]:
            parts = flat.to(tensors[0].dtype).split(_sizes(tensors))
            grads[i] = [
                part.view(tensor.shape) if asked else None
                for part, tensor, asked in zip(parts, tensors, need, strict=True)
            ]
    return (*grads, *rest)


_registry.fake("_patch_nce", _fake_forward)
_registry.fake("_patch_nce_backward", _fake_backward)
_patch_nce = _registry.gradient("_patch_nce", _backward, _setup_context, results=1)
_patch_nce_backward = _registry.operator("_patch_nce_backward")
_registry.once_differentiable("_patch_nce_backward")
_registry.native_on_cpu("patch_nce")
_registry.native_on_cpu("patch_nce_layers")
_registry.fake("_patch_nce_layers", _fake_layers)
_registry.fake("_patch_nce_layers_backward", _fake_layers_backward)
_patch_nce_layers = _registry.gradient("_patch_nce_layers", _layers_backward, _setup_layers_context, results=1)
_patch_nce_layers_backward = _registry.operator("_patch_nce_layers_backward")
_registry.once_differentiable("_patch_nce_layers_backward")
_registry.triton(
    ("patch_nce", "patch_nce_layers"),
    "patch_nce",
    _patch_nce="forward",
    _patch_nce_backward="backward",
    _patch_nce_layers="forward_layers",
    _patch_nce_layers_backward="backward_layers",
)
_registry.public(
    'patch_nce(Tensor query, Tensor key, *, float temperature=0.07, str? negatives="image", int? num_negatives=None,'
    ' Tensor? extra_negatives=None, Tensor? offsets=None, bool normalize=False, str loss="infonce",'
    ' str reduction="mean") -> Tensor',
    patch_nce,
)
_registry.public(
    'patch_nce_layers(Tensor[] queries, Tensor[] keys, *, float temperature=0.07, str? negatives="image",'
    " int? num_negatives=None, Tensor[]? extra_negatives=None, Tensor[]? offsets=None, bool normalize=False,"
    ' str loss="infonce", str reduction="mean") -> Tensor[]',
    patch_nce_layers,
)
