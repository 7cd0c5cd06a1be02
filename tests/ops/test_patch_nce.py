import functools
import importlib
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from op_checks import (
    DEVICE,
    assert_as_exact_as_eager,
    assert_compiles,
    assert_gradcheck,
    assert_not_twice_differentiable,
    by_hand,
    examples,
    native,
    only_on_cpu,
    randn,
    values_and_gradients,
)

import cgcl_fast
from cgcl_fast import ops
from cgcl_fast.kernels import INTERPRET

LOGIT = 1 / 0.07  # the largest logit of unit vectors


def unit(*shape, seed=0):
    return F.normalize(randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


@by_hand
def scalar_patch_nce(query, key, temperature, negatives, offsets, extra, loss):
    """The equation query by query, in Python floats."""
    B, P, C = query.shape
    keys = [[key[b, t].tolist() for t in range(P)] for b in range(B)]
    losses = torch.zeros(B, P, dtype=torch.float64)

    def logit(q, k):
        return sum(x * y for x, y in zip(q, k, strict=True)) / temperature

    for b in range(B):
        for s in range(P):
            candidates = keys[b] if negatives == "image" else [k for image in keys for k in image]
            own = s if negatives == "image" else b * P + s
            if negatives == "none":
                others = []
            elif offsets is not None:
                others = [candidates[(own + o) % len(candidates)] for o in offsets]
            else:
                others = [k for t, k in enumerate(candidates) if t != own]
            others = others + ([] if extra is None else extra.tolist())
            q = query[b, s].tolist()
            positive = logit(q, keys[b][s])
            terms = [logit(q, k) for k in others] + ([positive] if loss == "infonce" else [])
            if terms:
                losses[b, s] = math.log(sum(math.exp(term) for term in terms)) - positive
    return losses


CASES = [
    {"negatives": negatives, "offsets": offsets, "extra": extra, "loss": loss}
    for negatives, offsets in [
        ("image", None),
        ("batch", None),
        ("image", [1, 4]),
        ("batch", [2, 9, 5]),
        ("none", None),
    ]
    for extra in (None, 7)
    for loss in ("infonce", "decoupled")
]


def options(case):
    result = {"negatives": case["negatives"], "loss": case["loss"]}
    if case["offsets"] is not None:
        result["offsets"] = torch.tensor(case["offsets"])
    return result


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_equation_computed_query_by_query(case, backend):
    query, key = unit(2, 6, 5), unit(2, 6, 5, seed=1)
    extra = None if case["extra"] is None else unit(case["extra"], 5, seed=2)
    expected = scalar_patch_nce(query, key, 0.1, case["negatives"], case["offsets"], extra, case["loss"])
    with cgcl_fast.backend(backend):
        result = ops.patch_nce(query, key, temperature=0.1, extra_negatives=extra, reduction="none", **options(case))
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients_to_all_three(case, dtype, normalize):
    query, key, extra = unit(2, 21, 40), unit(2, 21, 40, seed=1), unit(case["extra"] or 0, 40, seed=2)
    if normalize:
        query, key, extra = 3 * query, 2 * key, 5 * extra

    def op(query, key, extra):
        return ops.patch_nce(query, key, extra_negatives=extra, normalize=normalize, reduction="none", **options(case))

    assert_as_exact_as_eager(op, [query, key, extra], dtype, scale=2 * LOGIT)


@settings(max_examples=examples(40))
@given(
    shape=st.tuples(st.integers(0, 3), st.integers(1, 70), st.integers(1, 50)),
    extra=st.integers(0, 20),
    negatives=st.sampled_from(["image", "batch", "none"]),
    loss=st.sampled_from(["infonce", "decoupled"]),
)
def test_any_shape(shape, extra, negatives, loss):
    B, P, C = shape

    def op(query, key, extra):
        return ops.patch_nce(query, key, negatives=negatives, extra_negatives=extra, loss=loss, reduction="none")

    inputs = [unit(B, P, C), unit(B, P, C, seed=1), unit(extra, C, seed=2)]
    assert_as_exact_as_eager(op, inputs, scale=4 * LOGIT)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_query_gradient_formed_in_the_forward_pass(reduction):
    """Only the query needs a gradient, as in CUT, where keys are detached."""
    key = unit(2, 50, 32, seed=1)

    def op(query):
        return ops.patch_nce(query, key.to(query.dtype), reduction=reduction)

    assert_as_exact_as_eager(op, [unit(2, 50, 32)], scale=LOGIT)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("shape", [(2, 70, 24)] if INTERPRET else [(1, 300, 24), (2, 50, 32), (5, 33, 16), (1, 600, 8)])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_of_a_reduced_loss(case, shape, reduction):
    """All gradients are formed in the forward pass here, for images fewer and more than threads, up to 512 keys."""
    query, key, extra = 3 * unit(*shape), 2 * unit(*shape, seed=1), unit(case["extra"] or 0, shape[2], seed=2)

    def op(query, key, extra):
        return ops.patch_nce(query, key, extra_negatives=extra, normalize=True, reduction=reduction, **options(case))

    rows = shape[0] * shape[1] if reduction == "sum" else 1
    assert_as_exact_as_eager(op, [query, key, extra], scale=2 * LOGIT * rows**0.5)


@pytest.mark.parametrize("negatives, offsets", [("image", None), ("image", [1, 7]), ("none", None)])
def test_many_channels(negatives, offsets):
    """More than a block of the GPU kernels: walked in chunks, the last one not full."""

    def op(query, key, extra):
        chosen = None if offsets is None else torch.tensor(offsets)
        return ops.patch_nce(
            query, key, extra_negatives=extra, negatives=negatives, offsets=chosen, normalize=True, reduction="none"
        )

    assert_as_exact_as_eager(op, [3 * unit(2, 20, 300), unit(2, 20, 300, seed=1), unit(6, 300, seed=2)], scale=LOGIT)


def test_equals_published_code():
    """The loss as CUT's authors compute it: the positive beside the masked logits of the image, then cross entropy."""
    query, key = unit(3, 64, 32), unit(3, 64, 32, seed=1)
    positive = (query * key).sum(-1, keepdim=True)
    others = (query @ key.transpose(1, 2)).masked_fill(torch.eye(64, dtype=torch.bool), -10.0)
    logits = torch.cat([positive, others], dim=2).flatten(0, 1) / 0.07
    expected = F.cross_entropy(logits, torch.zeros(3 * 64, dtype=torch.long))
    torch.testing.assert_close(ops.patch_nce(query, key), expected, rtol=1e-5, atol=1e-6)


def test_reductions():
    query, key = unit(2, 9, 8), unit(2, 9, 8, seed=1)
    losses = ops.patch_nce(query, key, reduction="none")
    assert losses.shape == (2, 9)
    torch.testing.assert_close(ops.patch_nce(query, key), losses.mean())
    torch.testing.assert_close(ops.patch_nce(query, key, reduction="sum"), losses.sum())


def test_gradcheck_of_the_reference():
    offsets = torch.tensor([1, 3])

    def op(query, key, extra):
        shared = {"temperature": 0.5, "extra_negatives": extra, "normalize": True, "reduction": "none"}
        dense = ops.patch_nce(query, key, **shared)
        return dense + ops.patch_nce(query, key, offsets=offsets, loss="decoupled", **shared)

    assert_gradcheck(op, [torch.randn(2, 4, 3), torch.randn(2, 4, 3), torch.randn(2, 3)])


def test_strided_inputs_and_expanded_gradient():
    wide = randn(2, 40, 30, 2, generator=torch.Generator().manual_seed(0))
    results = []
    for backend in ("auto", "reference"):
        query = wide[:, ::2, :, 0].transpose(1, 2)[:, :, :16].detach().requires_grad_()
        key = wide[..., 1].transpose(1, 2)[:, :, 4:20].detach().requires_grad_()
        assert not query.is_contiguous() and not key.is_contiguous()
        with cgcl_fast.backend(backend):
            ops.patch_nce(query, key, normalize=True, reduction="none").backward(torch.tensor(0.5).expand(2, 30))
        results.append((query.grad, key.grad))
    for fast, plain in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-5)


def test_zero_vectors_have_finite_gradients():
    query = torch.zeros(1, 4, 8, requires_grad=True)
    key = unit(1, 4, 8)
    loss = ops.patch_nce(query, key, normalize=True)
    loss.backward()
    torch.testing.assert_close(loss, torch.tensor(math.log(4.0)))
    assert query.grad.isfinite().all()


def test_large_logits_do_not_overflow():
    query, key = 40 * unit(1, 16, 8), 40 * unit(1, 16, 8, seed=1)
    expected = ops.patch_nce(query.double(), key.double(), reduction="none")
    torch.testing.assert_close(ops.patch_nce(query, key, reduction="none").double(), expected, rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("loss", ["infonce", "decoupled"])
def test_single_patch_has_nothing_to_be_told_from(loss):
    query = unit(3, 1, 8).requires_grad_()
    result = ops.patch_nce(query, unit(3, 1, 8, seed=1), loss=loss, reduction="none")
    result.sum().backward()
    torch.testing.assert_close(result, torch.zeros(3, 1), rtol=0, atol=1e-5)
    torch.testing.assert_close(query.grad, torch.zeros(3, 1, 8), rtol=0, atol=1e-5)


def test_empty_batch():
    query = torch.zeros(0, 4, 8, requires_grad=True)
    result = ops.patch_nce(query, torch.zeros(0, 4, 8), reduction="none")
    result.sum().backward()
    assert result.shape == (0, 4) and query.grad.shape == (0, 4, 8)
    assert ops.patch_nce(query, query, reduction="mean").isnan()


def test_num_negatives_draws_distinct_offsets_from_the_default_generator():
    query, key = unit(1, 32, 16), unit(1, 32, 16, seed=1)
    torch.manual_seed(3)
    first = ops.patch_nce(query, key, num_negatives=5)
    second = ops.patch_nce(query, key, num_negatives=5)
    torch.manual_seed(3)
    assert torch.equal(first, ops.patch_nce(query, key, num_negatives=5)) and not torch.equal(first, second)
    everything = ops.patch_nce(query, key, num_negatives=31)
    assert torch.equal(everything, ops.patch_nce(query, key)) and first < everything
    assert torch.equal(ops.patch_nce(query, key, num_negatives=99), everything)


SIZES = ((2, 9, 8), (1, 21, 4), (3, 2, 20))


def layers_of(sizes, seed=0):
    return [3 * unit(*size, seed=seed + i) for i, size in enumerate(sizes)]


@pytest.mark.parametrize("reduction", ["none"] if INTERPRET else ["none", "mean", "sum"])
@pytest.mark.parametrize("sizes", [SIZES, ((2, 9, 8),) * 3, ((2, 9, 8),) * 9], ids=["unlike", "alike", "many"])
@pytest.mark.parametrize("case", CASES[:: 5 if INTERPRET else 1], ids=str)
def test_layers_are_the_layers_one_by_one(case, sizes, reduction):
    queries, keys = layers_of(sizes), layers_of(sizes, seed=20)
    extras = [2 * unit(5 + i, C, seed=40 + i) for i, (_, _, C) in enumerate(sizes)] if case["extra"] else None
    chosen = options(case) | {"normalize": True, "reduction": reduction}
    if case["offsets"] is not None:  # fewer where a layer has fewer patches
        chosen["offsets"] = [
            torch.tensor([o for o in case["offsets"] if o < (B * P if case["negatives"] == "batch" else P)])
            for B, P, _ in sizes
        ]
    leaves = [tensor.requires_grad_() for tensor in (*queries, *keys, *(extras or []))]
    results = ops.patch_nce_layers(queries, keys, extra_negatives=extras, **chosen)
    single = []
    for i, (query, key) in enumerate(zip(queries, keys, strict=True)):
        own = chosen | ({"offsets": chosen["offsets"][i]} if "offsets" in chosen else {})
        single.append(ops.patch_nce(query, key, extra_negatives=None if extras is None else extras[i], **own))
    upstream = [randn(*r.shape, generator=torch.Generator().manual_seed(i)) for i, r in enumerate(single)]
    found, expected = (torch.autograd.grad(losses, leaves, upstream) for losses in (results, single))
    for result, loss in zip((*results, *found), (*single, *expected), strict=True):
        torch.testing.assert_close(result, loss, rtol=1e-5, atol=1e-5)


def test_layers_need_not_all_have_a_gradient():
    queries, keys = layers_of(SIZES), layers_of(SIZES, seed=20)
    wanted = [queries[1].requires_grad_(), keys[2].requires_grad_()]
    together = ops.patch_nce_layers(queries, keys, reduction="none")
    alone = [ops.patch_nce(q, k, reduction="none") for q, k in zip(queries, keys, strict=True)]
    found, expected = (
        torch.autograd.grad(sum(loss.square().sum() for loss in losses), wanted) for losses in (together, alone)
    )
    for gradient, other in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-5, atol=1e-5)


def test_layers_of_other_kinds():
    """No layers, layers without rows, layers of different dtypes, one set of negatives for all."""
    assert ops.patch_nce_layers([], []) == []
    queries, keys = layers_of(((2, 9, 8), (0, 4, 8), (1, 9, 8))), layers_of(((2, 9, 8), (0, 4, 8), (1, 9, 8)), seed=20)
    extra, offsets = unit(7, 8), torch.tensor([1, 3])
    for dtypes in ((torch.float32,) * 3, (torch.float32, torch.float64, torch.bfloat16)):
        q, k = ([t.to(dtype) for t, dtype in zip(tensors, dtypes, strict=True)] for tensors in (queries, keys))
        results = ops.patch_nce_layers(q, k, extra_negatives=extra, offsets=offsets, normalize=True, reduction="sum")
        for i, result in enumerate(results):
            expected = ops.patch_nce(
                q[i], k[i], extra_negatives=extra, offsets=offsets, normalize=True, reduction="sum"
            )
            assert result.dtype == expected.dtype
            torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_with_all_gradients(dtype):
    sizes = SIZES

    def op(*tensors):
        queries, keys, extras = tensors[:3], tensors[3:6], tensors[6:]
        losses = ops.patch_nce_layers(queries, keys, extra_negatives=extras, reduction="none")
        return torch.cat([loss.flatten() for loss in losses])

    inputs = [unit(*size, seed=i) for i, size in enumerate(sizes * 2)]
    inputs += [unit(6, C, seed=9 + C) for _, _, C in sizes]
    assert_as_exact_as_eager(op, inputs, dtype, scale=2 * LOGIT)


def layered(*tensors):
    losses = ops.patch_nce_layers(tensors[:2], tensors[2:4], extra_negatives=tensors[4:], normalize=True)
    return torch.stack(losses)


def layered_inputs():
    return [unit(*shape, seed=i) for i, shape in enumerate(((2, 7, 8), (1, 5, 4)) * 2)] + [unit(5, 8), unit(5, 4)]


@pytest.mark.parametrize("negatives", ["image", "none"])
def test_vectors_of_no_channels_are_not_read(negatives):
    """All logits are zero: the losses are those of a uniform choice. Nothing may be read where no memory is."""
    query, key, extra = (torch.zeros(*shape, requires_grad=True) for shape in ((2, 5, 0), (2, 5, 0), (3, 0)))
    losses = ops.patch_nce(query, key, negatives=negatives, extra_negatives=extra, reduction="none")
    torch.testing.assert_close(losses, torch.full((2, 5), math.log(8.0 if negatives == "image" else 4.0)))
    losses.sum().backward()
    assert query.grad.shape == key.grad.shape == (2, 5, 0) and extra.grad.shape == (3, 0)


def test_layers_of_more_and_of_fewer_keys_than_negatives_are_asked_for():
    """The latter take all of their keys, and have no offsets."""
    sizes = ((2, 9, 8), (1, 3, 8), (2, 1, 8), (1, 7, 8))
    queries, keys = layers_of(sizes), layers_of(sizes, seed=20)
    for extras in (None, [unit(5, 8, seed=i) for i in range(4)]):
        options = {"num_negatives": 4, "reduction": "none"}
        torch.manual_seed(0)
        together = ops.patch_nce_layers(queries, keys, extra_negatives=extras, **options)
        torch.manual_seed(0)
        for i, loss in enumerate(together):
            extra = None if extras is None else extras[i]
            alone = ops.patch_nce(queries[i], keys[i], extra_negatives=extra, **options)
            torch.testing.assert_close(loss, alone)


@pytest.mark.compile
def test_layers_compile():
    assert_compiles(layered, layered_inputs())


def test_layers_second_derivative_raises():
    if not native("patch_nce_layers"):
        pytest.skip("no native library")
    assert_not_twice_differentiable(layered, layered_inputs(), match="patch_nce_layers.*second derivatives")


def test_layers_opcheck():
    if not native("patch_nce_layers"):
        pytest.skip("no native library")
    queries, keys = (layers_of(SIZES[:2], seed) for seed in (0, 20))
    extras = [unit(3, C, seed=40) for _, _, C in SIZES[:2]]
    rows, size = sum(q.shape[:2].numel() for q in queries), sum(q.numel() for q in queries)
    offsets = [torch.tensor([1, 3])] * 2
    saved = torch.ones(2, rows), torch.ones(size), torch.ones(0)
    arguments = (torch.ones(rows), queries, keys, extras, offsets, *saved, 0.1, "all", False, True, True, True, True)
    torch.library.opcheck(torch.ops.cgcl_fast._patch_nce_layers_backward.default, arguments)
    leaves = [[tensor.detach().requires_grad_() for tensor in tensors] for tensors in (queries, keys, extras)]
    for chosen in ([], offsets):
        arguments = (*leaves, chosen, 0.1, "all", False, True, True, True)
        torch.library.opcheck(torch.ops.cgcl_fast._patch_nce_layers.default, arguments)


def test_layers_torchscript():
    @torch.jit.script
    def scripted(queries: list[torch.Tensor], keys: list[torch.Tensor]) -> list[torch.Tensor]:
        return torch.ops.cgcl_fast.patch_nce_layers(queries, keys, temperature=0.1, reduction="sum")

    queries, keys = layers_of(SIZES), layers_of(SIZES, seed=20)
    for result, expected in zip(
        scripted(queries, keys),
        ops.patch_nce_layers(queries, keys, temperature=0.1, reduction="sum"),
        strict=True,
    ):
        torch.testing.assert_close(result, expected)


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"keys": layers_of(SIZES[:2])}, ValueError, "as many keys as queries, got 2 and 3"),
        ({"keys": layers_of(SIZES[:2]) + [torch.zeros(3, 2, 5)]}, ValueError, r"keys\[2\] of shape .*queries\[2\]'s"),
        (
            {"queries": [*layers_of(SIZES[:2]), None]},
            TypeError,
            r"queries\[2\] to be a Tensor \(B, P, C\), got NoneType",
        ),
        ({"extra_negatives": [torch.zeros(3, 8)]}, ValueError, "one of extra_negatives for each of 3 layers, got 1"),
        ({"extra_negatives": torch.zeros(3, 8)}, ValueError, r"extra_negatives\[1\] of shape \(M, C\) = \(3, 4\)"),
        ({"loss": "triplet"}, ValueError, "patch_nce_layers: expected loss to be one of"),
        ({"temperature": -1.0}, ValueError, "patch_nce_layers: expected a finite temperature > 0"),
    ],
)
def test_layers_errors_name_the_layer(change, error, message):
    arguments = {"queries": layers_of(SIZES), "keys": layers_of(SIZES)} | change
    queries, keys = arguments.pop("queries"), arguments.pop("keys")
    with pytest.raises(error, match=message):
        ops.patch_nce_layers(queries, keys, **arguments)


@only_on_cpu
def test_layers_offsets_out_of_range_name_the_layer():
    with pytest.raises(ValueError, match=r"offsets\[2\] between 1 and 1 "):
        ops.patch_nce_layers(layers_of(SIZES), layers_of(SIZES), offsets=torch.tensor([1, 2]))


def test_same_inputs_same_bits():
    P = 70 if INTERPRET else 200
    inputs = [unit(2, P, 64), unit(2, P, 64, seed=1), unit(30, 64, seed=2)]

    def op(query, key, extra):
        return ops.patch_nce(query, key, extra_negatives=extra)

    first = values_and_gradients(op, inputs, "auto", torch.float32)
    for _ in range(3):
        assert all(map(torch.equal, first, values_and_gradients(op, inputs, "auto", torch.float32)))


by_triton = pytest.mark.skipif(not INTERPRET and DEVICE.type != "cuda", reason="of the Triton kernels")


@pytest.fixture(params=[2, 3])
def shares(request, monkeypatch):
    """Several programs share the keys, extra negatives or queries of each block of rows."""
    kernels = importlib.import_module("cgcl_fast.kernels.patch_nce")
    monkeypatch.setattr(kernels, "_share_count", lambda blocks, others: max(1, min(others, request.param)))
    if INTERPRET:
        monkeypatch.setattr(kernels, "_tile", lambda *_: kernels._Tile(16, 16, 4, 2))
    return request.param


SHARED = ((2, 20, 20), (1, 40, 8)) if INTERPRET else ((2, 150, 70), (1, 200, 256))


@by_triton
@pytest.mark.parametrize(
    "case", [case for case in CASES if case["negatives"] != "batch"][:: 3 if INTERPRET else 1], ids=str
)
def test_shares_of_layers_add_up(case, shares):
    def op(*tensors):
        losses = ops.patch_nce_layers(
            tensors[:2], tensors[2:4], extra_negatives=tensors[4:] if case["extra"] else None,
            normalize=True, reduction="none", **options(case),
        )  # fmt: skip
        return torch.cat([loss.flatten() for loss in losses])

    inputs = [3 * unit(*size, seed=i) for i, size in enumerate(SHARED * 2)]
    inputs += [2 * unit(40, C, seed=9 + C) for _, _, C in SHARED] if case["extra"] else []
    assert_as_exact_as_eager(op, inputs, scale=2 * LOGIT)
    first, again = (values_and_gradients(op, inputs, "auto", torch.float32) for _ in range(2))
    assert all(map(torch.equal, first, again))


@by_triton
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_shares_pass_on_nan_and_infinity(value, shares):
    query, key = unit(1, 40, 8), unit(1, 40, 8, seed=1)
    key[0, 20, 3] = value

    def op(query, key):
        return ops.patch_nce(query, key, reduction="none")

    found, expected = (values_and_gradients(op, [query, key], b, torch.float32) for b in ("auto", "reference"))
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-5, equal_nan=True)
    for result, plain in zip(found[1:], expected[1:], strict=True):
        assert torch.equal(result.isfinite(), plain.isfinite())
        torch.testing.assert_close(result.nan_to_num(0, 0, 0), plain.nan_to_num(0, 0, 0), rtol=1e-4, atol=1e-5)


@by_triton
def test_layers_do_not_read_each_other(shares):
    """Bit by bit, whatever the other layer holds."""
    results = []
    for other in (1.0, math.nan):
        queries, keys = ([unit(*size, seed=i + s) for i, size in enumerate(SHARED)] for s in (0, 20))
        queries[0], keys[0] = other * queries[0], other * keys[0]
        leaves = [queries[1].requires_grad_(), keys[1].requires_grad_()]
        losses = ops.patch_nce_layers(queries, keys, extra_negatives=[unit(40, C) for _, _, C in SHARED])
        results.append([losses[1].detach(), *torch.autograd.grad(losses[1], leaves)])
    assert all(map(torch.equal, *results))


@by_triton
@pytest.mark.parametrize("shared", [False, True])
def test_where_tf32_is_allowed_products_are_more_exact_than_tf32(shared, monkeypatch, request):
    request.addfinalizer(functools.partial(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision()))
    torch.set_float32_matmul_precision("high")
    if shared:
        monkeypatch.setattr(importlib.import_module("cgcl_fast.kernels.patch_nce"), "FEW_KEYS", 0)
    inputs = [unit(1, 70, 64), unit(1, 70, 64, seed=1), unit(30, 64, seed=2)]

    def op(query, key, extra):
        return ops.patch_nce(query, key, extra_negatives=extra, reduction="none")

    exact = values_and_gradients(op, inputs, "reference", torch.float64)
    for result, truth in zip(values_and_gradients(op, inputs, "auto", torch.float32), exact, strict=True):
        assert (result - truth).abs().max() <= 2**-13 * truth.abs().max()  # logits of 14 in TF32 are 14 · 2**-12 wrong


def test_dtypes_of_the_result():
    query, key = unit(1, 8, 4), unit(1, 8, 4, seed=1)
    assert ops.patch_nce(query.bfloat16(), key.bfloat16()).dtype == torch.bfloat16
    assert ops.patch_nce(query.bfloat16(), key).dtype == torch.float32
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        assert ops.patch_nce(query.bfloat16(), key.bfloat16()).dtype == torch.float32


def test_opcheck():
    if not native("patch_nce"):
        pytest.skip("no native library")
    query, key, extra = (t.requires_grad_() for t in (unit(2, 5, 4), unit(2, 5, 4, seed=1), unit(3, 4, seed=2)))
    for offsets in (None, torch.tensor([1, 3])):
        arguments = (query, key, extra, offsets, 0.1, "all", False, True, True, True)
        torch.library.opcheck(torch.ops.cgcl_fast._patch_nce.default, arguments)
    torch.library.opcheck(
        torch.ops.cgcl_fast._patch_nce.default, (query, key, None, None, 0.1, "none", True, False, True, False)
    )
    detached = query.detach(), key.detach(), extra.detach(), None
    saved = torch.ones(2, 5), *detached, torch.ones(2, 2, 5), torch.ones(2, 5, 4), torch.ones(0, 5, 4)
    torch.library.opcheck(
        torch.ops.cgcl_fast._patch_nce_backward.default, (*saved, 0.1, "all", False, False, True, True, True)
    )


@pytest.mark.compile
def test_compile():
    def op(query, key, extra):
        return ops.patch_nce(query, key, extra_negatives=extra, negatives="batch", reduction="none")

    assert_compiles(op, [unit(2, 7, 8), unit(2, 7, 8, seed=1), unit(5, 8, seed=2)])


def test_torchscript():
    @torch.jit.script
    def scripted(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return torch.ops.cgcl_fast.patch_nce(query, key, temperature=0.1, reduction="sum")

    query, key = unit(2, 7, 8), unit(2, 7, 8, seed=1)
    for dtype in (torch.float32, torch.float64):
        expected = ops.patch_nce(query.to(dtype), key.to(dtype), temperature=0.1, reduction="sum")
        torch.testing.assert_close(scripted(query.to(dtype), key.to(dtype)), expected)


@pytest.mark.parametrize("key_needs_gradient", [False, True])
def test_second_derivative_raises(key_needs_gradient):
    if not native("patch_nce"):
        pytest.skip("no native library")
    key = unit(1, 5, 4, seed=1).requires_grad_(key_needs_gradient)
    assert_not_twice_differentiable(
        lambda query: ops.patch_nce(query, key), [unit(1, 5, 4)], match="patch_nce.*second derivatives"
    )


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"query": torch.zeros(4, 8)}, ValueError, r"query of shape \(B, P, C\), got \(4, 8\)"),
        ({"key": torch.zeros(2, 5, 8)}, ValueError, r"key of shape .* = \(2, 4, 8\), got \(2, 5, 8\)"),
        ({"key": torch.zeros(2, 4, 8, dtype=torch.long)}, TypeError, "key of a floating-point dtype"),
        ({"temperature": 0.0}, ValueError, "temperature > 0, got 0.0"),
        ({"temperature": float("nan")}, ValueError, "temperature > 0, got nan"),
        ({"negatives": "all"}, ValueError, "negatives to be one of 'image', 'batch', 'none', got 'all'"),
        ({"loss": "triplet"}, ValueError, "loss to be one of"),
        ({"reduction": "avg"}, ValueError, "reduction to be one of"),
        ({"extra_negatives": torch.zeros(3, 9)}, ValueError, r"extra_negatives of shape \(M, C\) = \(3, 8\)"),
        ({"num_negatives": -1}, ValueError, "num_negatives >= 0, got -1"),
        pytest.param(
            {"offsets": torch.tensor([4])}, ValueError, r"offsets between 1 and 3 .*got \[4\]", marks=only_on_cpu
        ),
        pytest.param({"offsets": torch.tensor([0])}, ValueError, "offsets between 1 and 3", marks=only_on_cpu),
        pytest.param({"offsets": torch.tensor([1, 1])}, ValueError, "distinct offsets", marks=only_on_cpu),
        ({"offsets": torch.tensor([1.0])}, TypeError, "offsets of dtype torch.int64, got torch.float32"),
        ({"offsets": torch.tensor([[1]])}, ValueError, r"offsets of shape \(M,\), got \(1, 1\)"),
        (
            {"offsets": torch.tensor([1]), "num_negatives": 2},
            ValueError,
            "num_negatives to be the number of offsets 1, got 2",
        ),
        ({"negatives": "none", "num_negatives": 2}, ValueError, "choose among keys"),
    ],
)
def test_errors_name_the_argument(change, error, message):
    arguments = {"query": torch.zeros(2, 4, 8), "key": torch.zeros(2, 4, 8)} | change
    query, key = arguments.pop("query"), arguments.pop("key")
    with pytest.raises(error, match=message):
        ops.patch_nce(query, key, **arguments)


def test_kernel_reads_nothing_at_offsets_out_of_range():
    if not native("patch_nce"):
        pytest.skip("no native library")
    query = unit(1, 4, 8)
    arguments = (0.1, "all", False, False, False, False)
    if INTERPRET or DEVICE.type != "cpu":  # on a GPU nothing waits for the offsets' values
        for offset in (-(2**62), -1, 0, 4, 2**62):
            result = torch.ops.cgcl_fast._patch_nce(query, query, None, torch.tensor([1, offset]), *arguments)
            assert result[0].isnan().all()
        return
    with pytest.raises(RuntimeError, match="offsets between 1 and 3"):
        torch.ops.cgcl_fast._patch_nce(query, query, None, torch.tensor([4]), *arguments)
