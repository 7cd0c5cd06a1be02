"""The ops' results for NaN, infinity and large numbers, and their independence of the number of threads."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from op_checks import DEVICE, native, only_on_cpu, randint, randn, randperm, values_and_gradients
from torch import Tensor

import cgcl_fast
from cgcl_fast import ops
from cgcl_fast.kernels import INTERPRET

SPECIAL = (math.nan, math.inf, -math.inf)
KINDS = {"NaN": torch.isnan, "inf": torch.isposinf, "-inf": torch.isneginf}


def drawn(*shapes: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [randn(*shape, generator=generator) for shape in shapes]


def both(op: Callable[..., Tensor], inputs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Results and gradients of the kernels, and of the reference."""
    kernels, reference = (values_and_gradients(op, inputs, b, torch.float32) for b in ("auto", "reference"))
    return kernels, reference


def assert_same(results: list[Tensor], expected: list[Tensor], what: str, kinds: bool = True) -> None:
    """NaN and each infinity at the same places, and the same numbers at the others.

    Without `kinds` a gradient need only have some of them where the reference has some: Triton's patch_nce adds the
    positive to products that it has weight 0 in, and 0·inf is NaN where the reference has a multiple of inf.
    """
    for i, (result, plain) in enumerate(zip(results, expected, strict=True)):
        part = "the result" if i == 0 else f"gradient {i - 1}"
        tests = KINDS if kinds or i == 0 else {"no number": lambda t: ~t.isfinite()}
        for kind, test in tests.items():
            found, wanted = test(result), test(plain)
            assert torch.equal(found, wanted), (
                f"{what}: {kind} at {int(found.sum())} places of {part}, expected {int(wanted.sum())}"
            )
        torch.testing.assert_close(
            result.nan_to_num(0, 0, 0), plain.nan_to_num(0, 0, 0), rtol=1e-3, atol=1e-4, msg=f"{what}: {part}"
        )


def with_special_values(inputs: list[Tensor], places: list[int]) -> Iterator[tuple[str, list[Tensor]]]:
    """The inputs with a special value in one of `places` elements, evenly spread, of one of them; then with two."""
    for i, count in enumerate(places):
        for j in range(min(count, 1) if INTERPRET else count):
            for value in SPECIAL:
                changed = [tensor.clone() for tensor in inputs]
                flat = changed[i].view(-1)
                flat[j * len(flat) // count] = value
                yield f"{value} in input {i}", changed
    changed = [tensor.clone() for tensor in inputs]
    changed[0].view(-1)[0], changed[0].view(-1)[-1] = math.inf, -math.inf
    yield "inf and -inf in input 0", [tensor.clone() for tensor in changed]
    changed[0].view(-1)[0] = math.nan
    yield "NaN and -inf in input 0", [tensor.clone() for tensor in changed]


def assert_same_with_special_values(
    op: Callable[..., Tensor], inputs: list[Tensor], places: list[int], kinds: bool = True
) -> None:
    for what, changed in with_special_values(inputs, places):
        found, expected = both(op, changed)
        assert_same(found, expected, what, kinds)


BY_TRITON = INTERPRET or DEVICE.type != "cpu"  # as far as patch_nce goes
NEGATIVES = [
    {"negatives": "image"},
    {"negatives": "batch"},
    {"negatives": "none"},
    {"negatives": "image", "offsets": [1, 4]},
    {"negatives": "batch", "offsets": [2, 9, 5]},
]


@pytest.mark.parametrize("extra", [0, 3])
@pytest.mark.parametrize("loss", ["infonce", "decoupled"])
@pytest.mark.parametrize("chosen", NEGATIVES, ids=str)
def test_patch_nce_has_nan_and_infinity_where_the_reference_does(chosen, loss, extra):
    offsets = torch.tensor(chosen["offsets"]) if "offsets" in chosen else None
    # The reference multiplies keys that a query does not count with 0, and 0·NaN is NaN: gathered keys have none.
    gathers = offsets is not None and BY_TRITON

    for normalize in (False, True):
        for reduction in ("none",) if INTERPRET else ("none", "mean", "sum"):

            def op(query, key, extra, normalize=normalize, reduction=reduction):
                return ops.patch_nce(
                    query, key, extra_negatives=extra, temperature=0.5, normalize=normalize, loss=loss,
                    reduction=reduction, negatives=chosen["negatives"], offsets=offsets,
                )  # fmt: skip

            inputs = drawn((2, 6, 5), (2, 6, 5), (extra, 5))
            if gathers:
                for what, changed in with_special_values(inputs, [1, 1, 0]):
                    found, expected = both(op, changed)
                    assert_same(found[:1], expected[:1], what)
            else:
                assert_same_with_special_values(
                    op, inputs, [1, 1, min(extra, 1)] if INTERPRET or normalize else [3, 3, extra], not BY_TRITON
                )


@pytest.mark.parametrize("loss", ["infonce", "decoupled"])
@pytest.mark.parametrize("value", SPECIAL)
def test_a_row_of_special_values_only(value, loss):
    """All products of a row are NaN, or the same infinity: no largest one hides them."""

    def op(query, key):
        return ops.patch_nce(query, key, temperature=0.5, loss=loss, reduction="none")

    query, key = drawn((2, 6, 5), (2, 6, 5))
    query[0, 2], key = value, key.abs()
    found, expected = both(op, [query, key])
    assert not expected[0][0, 2].isfinite() and expected[0][1].isfinite().all()
    assert_same(found, expected, f"a row of {value}", not BY_TRITON)


def test_layers_have_nan_and_infinity_where_the_reference_does():
    def op(*tensors):
        losses = ops.patch_nce_layers(tensors[:2], tensors[2:4], temperature=0.5, reduction="none")
        return torch.cat([loss.flatten() for loss in losses])

    assert_same_with_special_values(op, drawn((1, 6, 5), (2, 4, 3), (1, 6, 5), (2, 4, 3)), [1, 1, 1, 1], not BY_TRITON)


def test_a_loss_without_negatives_ignores_special_values():
    """Decoupled without a negative it is 0, and so are its gradients."""
    for shape, negatives in (((3, 1, 4), "image"), ((2, 3, 4), "none")):
        query, key = drawn(shape, shape)
        query[0], key[1] = math.nan, math.inf

        def op(query, key, negatives=negatives):
            return ops.patch_nce(query, key, negatives=negatives, loss="decoupled", reduction="none")

        for backend in ("auto", "reference"):
            for result in values_and_gradients(op, [query, key], backend, torch.float32):
                assert torch.equal(result, torch.zeros_like(result))


def classes(B: int, N: int, H: int, W: int) -> tuple[Tensor, Tensor]:
    """Three classes of pixels, of which items have two, the first and last pixel's (with special values) among them."""
    pixels = randint(0, 3, (B, H, W), generator=torch.Generator().manual_seed(3))
    pixels[:, 0, 0], pixels[:, -1, -1] = 0, 1
    return pixels, torch.arange(N) % 2


@pytest.mark.parametrize("by_class", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_memory_read_has_nan_and_infinity_where_the_reference_does(channels_last, by_class):
    pixel_class, item_class = classes(2, 5, 3, 7) if by_class else (None, None)

    def op(content, keys, values):
        if channels_last:
            content = content.contiguous(memory_format=torch.channels_last)
        return ops.memory_read(content, keys, values, pixel_class=pixel_class, item_class=item_class)

    # A key with infinity reaches pixels of other classes as 0·NaN: on one channel of their gradient, and by way of the
    # length on all channels in the reference.
    assert_same_with_special_values(op, drawn((2, 6, 3, 7), (5, 6), (5, 4)), [3, 0 if by_class else 3, 3])


@pytest.mark.parametrize("by_class", [False, True])
def test_memory_update_has_nan_and_infinity_where_the_reference_does(by_class):
    pixel_class, item_class = classes(2, 5, 3, 7) if by_class else (None, None)

    def op(keys, values, content, style):
        new = ops.memory_update(
            keys, values, [content], [style],
            pixel_classes=None if pixel_class is None else [pixel_class], item_class=item_class,
        )  # fmt: skip
        return torch.cat([part.flatten() for part in new]) + 0 * keys.nan_to_num(0, 0, 0).sum()

    assert_same_with_special_values(op, drawn((5, 6), (1, 5, 4), (2, 6, 3, 7), (2, 4, 3, 7)), [3, 3, 3, 3])


@pytest.mark.parametrize("by_class", [False, True])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_memory_contrast_has_nan_and_infinity_where_the_reference_does(reduction, by_class):
    pixel_class, item_class = classes(2, 5, 3, 7) if by_class else (None, None)

    def op(features, items):
        return ops.memory_contrast(
            features, items, temperature=0.5, pixel_class=pixel_class, item_class=item_class, reduction=reduction
        )

    assert_same_with_special_values(op, drawn((2, 6, 3, 7), (5, 6)), [3, 5])
    assert_same_with_special_values(
        op, drawn((2, 6, 3, 7), (1, 6)) if not by_class else drawn((2, 6, 3, 7), (5, 6), seed=1), [1, 1]
    )


@pytest.mark.parametrize("activation", ["none", "relu", "leaky_relu"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_adain_has_nan_and_infinity_where_the_reference_does(channels_last, activation):
    def op(x, scale, shift, residual):
        if channels_last:
            x, residual = (t.contiguous(memory_format=torch.channels_last) for t in (x, residual))
        return ops.adain(x, scale, shift, activation=activation, residual=residual)

    assert_same_with_special_values(op, drawn((2, 3, 5, 4), (2, 3), (2, 3), (2, 3, 5, 4)), [3, 3, 3, 2])

    def norm(x):
        return ops.instance_norm(x, activation=activation)

    assert_same_with_special_values(norm, drawn((2, 3, 5, 4)), [3])


@pytest.mark.parametrize("channels_last", [False, True])
def test_instance_norm_of_squares_that_overflow(channels_last):
    (x,) = drawn((1, 3, 8, 8))
    x = 1e25 * (x.contiguous(memory_format=torch.channels_last) if channels_last else x)
    found, expected = both(ops.instance_norm, [x])
    assert_same(found, expected, "squares that overflow")


@pytest.mark.parametrize("channels_last", [False, True])
def test_gather_patches_has_nan_and_infinity_where_the_reference_does(channels_last):
    ids = torch.tensor([[3, 7, 3, 0], [1, 1, 1, 9]])

    def op(features):
        if channels_last:
            features = features.contiguous(memory_format=torch.channels_last)
        result = ops.gather_patches(features, ids)
        return result * result  # whose gradient has special values too

    for what, changed in with_special_values(drawn((2, 3, 5, 2)), [6]):
        changed[0][1, :, 0, 1] = math.inf
        found, expected = both(op, changed)
        assert_same(found, expected, what)


def test_dag_select_orders_nan_and_infinity_as_the_reference_does():
    candidates = randperm(64, generator=torch.Generator().manual_seed(2))[:40]
    for what, (score,) in with_special_values(drawn((2, 1, 4, 4)), [5]):
        results = []
        for backend in ("auto", "reference"):
            with cgcl_fast.backend(backend):
                results.append(ops.dag_select(score, (8, 8), 16, candidates=candidates))
        assert torch.equal(*results), what


LARGE = [8e6, 8e10] if INTERPRET else [14.0, 8e2, 8e4, 8e6, 8e8, 8e10]


@pytest.mark.parametrize("reduction", ["none", "sum"])
@pytest.mark.parametrize("loss", ["infonce", "decoupled"])
@pytest.mark.parametrize("chosen", [NEGATIVES[0], NEGATIVES[2], NEGATIVES[3]], ids=str)
def test_large_logits_have_gradients_as_exact_as_eager(chosen, loss, reduction):
    """Weights formed from products that are rounded otherwise than those of their sum would not add up to 1."""
    offsets = torch.tensor(chosen["offsets"]) if "offsets" in chosen else None
    # One image for the interpreter, whose matrix products round a row by its place in a block; tensor cores do not.
    shapes = ((1, 40, 20), (1, 40, 20), (17, 20)) if INTERPRET else ((2, 150, 70), (2, 150, 70), (40, 70))
    query, key, extra = (F.normalize(tensor, dim=-1) for tensor in drawn(*shapes))

    def op(query, key, extra):
        return ops.patch_nce(
            query, key, extra_negatives=extra, temperature=0.07, loss=loss, reduction=reduction,
            negatives=chosen["negatives"], offsets=offsets,
        )  # fmt: skip

    for logit in LARGE:
        inputs = [query * (0.07 * logit), key, extra]
        exact = values_and_gradients(op, inputs, "reference", torch.float64)
        eager = values_and_gradients(op, inputs, "reference", torch.float32)
        fast = values_and_gradients(op, inputs, "auto", torch.float32)
        for i, (truth, plain, result) in enumerate(zip(exact, eager, fast, strict=True)):
            # While weights of a row are alike, the last digits of its products are what they differ by.
            roundings = 16 if logit > 1e6 else max(logit, 16)
            allowed = 2 * (plain - truth).abs().max() + roundings * torch.finfo(torch.float32).eps * truth.abs().max()
            assert (result - truth).abs().max() <= allowed, f"logits of {logit:g}, {'loss' if i == 0 else i}"


def of_all_ops() -> Iterator[tuple[str, Callable[..., Tensor], list[Tensor]]]:
    """Every op with C++ kernels, at sizes that several threads share."""
    for shape in ((1, 256, 64), (1, 21, 40), (2, 37, 13), (3, 5, 7), (1, 9, 511), (5, 130, 65)):
        for reduction in ("none", "mean"):
            for loss in ("infonce", "decoupled"):

                def nce(query, key, extra, reduction=reduction, loss=loss):
                    return ops.patch_nce(
                        query, key, extra_negatives=extra, normalize=True, reduction=reduction, loss=loss
                    )

                yield f"patch_nce {shape} {reduction} {loss}", nce, drawn(shape, shape, (33, shape[2]))

    def few(query, key):
        return ops.patch_nce(query, key, offsets=torch.tensor([1, 5, 9]), negatives="batch")

    yield "patch_nce with offsets", few, drawn((2, 100, 33), (2, 100, 33))
    for channels_last in (False, True):

        def laid_out(x, channels_last=channels_last):
            return x.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)

        def adain(x, scale, shift, laid_out=laid_out):
            return ops.adain(laid_out(x), scale, shift, activation="leaky_relu")

        def gather(x, laid_out=laid_out):
            ids = torch.arange(300) * 7 % 1200  # some of them several times
            return ops.gather_patches(laid_out(x), ids // 2 * 2)

        def read(content, keys, values, laid_out=laid_out):
            return ops.memory_read(laid_out(content), keys, values)

        def update(keys, values, content, style, laid_out=laid_out):
            new = ops.memory_update(keys, values, [laid_out(content)], [laid_out(style)])
            return torch.cat([part.flatten() for part in new]) + 0 * keys.sum()

        def contrast(features, items, laid_out=laid_out):
            return ops.memory_contrast(laid_out(features), items, temperature=0.1, reduction="none")

        def down(x, laid_out=laid_out):
            return ops.blur_down(laid_out(x))

        def up(x, laid_out=laid_out):
            return ops.blur_up(laid_out(x))

        if channels_last:

            def norm(x, weight, bias, laid_out=laid_out):
                return ops.layer_norm(laid_out(x), weight, bias, activation="leaky_relu", pad=1)

            yield "layer_norm", norm, drawn((3, 37, 40, 30), (37,), (37,))
        yield "blur_down", down, drawn((2, 37, 41, 30))
        yield "blur_up", up, drawn((2, 37, 41, 30))
        yield "adain", adain, drawn((3, 37, 40, 30), (3, 37), (3, 37))
        yield "gather_patches", gather, drawn((2, 37, 40, 30))
        yield "memory_read", read, drawn((3, 21, 40, 30), (9, 21), (9, 13))
        yield "memory_update", update, drawn((9, 21), (1, 9, 13), (3, 21, 40, 30), (3, 13, 40, 30))
        yield "memory_contrast", contrast, drawn((3, 21, 40, 30), (9, 21))


@only_on_cpu
@pytest.mark.skipif(INTERPRET or not native("patch_nce"), reason="of the C++ kernels")
def test_bits_do_not_depend_on_the_number_of_threads():
    threads = torch.get_num_threads()
    try:
        for what, op, inputs in of_all_ops():
            results = []
            for count in (1, 2, 3, 4):
                torch.set_num_threads(count)
                results.append(values_and_gradients(op, inputs, "native", torch.float32))
            for count, result in enumerate(results[1:], start=2):
                for i, (one, many) in enumerate(zip(results[0], result, strict=True)):
                    assert torch.equal(one, many), f"{what}: {'the result' if i == 0 else i} with {count} threads"
    finally:
        torch.set_num_threads(threads)
