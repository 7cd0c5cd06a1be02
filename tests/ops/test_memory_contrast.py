import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from op_checks import (
    DEVICE,
    KERNEL,
    assert_as_exact_as_eager,
    assert_compiles,
    assert_gradcheck,
    assert_not_twice_differentiable,
    by_hand,
    examples,
    layouts,
    native,
    randint,
    randn,
)

import cgcl_fast
from cgcl_fast import ops
from cgcl_fast.kernels import INTERPRET
from cgcl_fast.ops.memory_contrast import memory_contrast_reference

LAYOUTS = tuple(layouts(torch.zeros(1, 1, 1, 1)))
LARGE = (13, 11) if INTERPRET else (29, 31)  # more pixels than a tile or chunk of the kernels has
TAU = 0.2


def random(*shape, seed=0, dtype=torch.float32):
    return randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def unit(*shape, seed=0, dim=1):
    return F.normalize(random(*shape, seed=seed), dim=dim)


def classes(B, H, W, N, count=4, seed=0):
    """Classes of pixels and items; some classes of pixels may have no items."""
    generator = torch.Generator().manual_seed(seed)
    pixels = randint(0, count, (B, H, W), generator=generator)
    return {"pixel_class": pixels, "item_class": randint(0, count, (N,), generator=generator)}


@by_hand
def scalar_contrast(features, items, temperature, pixel_class=None, item_class=None):
    """The equation pixel by pixel, in Python floats: losses, and how many pixels count."""
    B, C, H, W = features.shape
    losses, count = torch.zeros(B, H, W, dtype=torch.float64), 0
    for b in range(B):
        for y in range(H):
            for x in range(W):
                logits = [
                    sum(f * i for f, i in zip(features[b, :, y, x].tolist(), item.tolist(), strict=True)) / temperature
                    for n, item in enumerate(items)
                    if pixel_class is None or pixel_class[b, y, x] == item_class[n]
                ]
                if logits:
                    count += 1
                    nearest = max(logits)
                    losses[b, y, x] = math.log(sum(math.exp(logit - nearest) for logit in logits))
    return losses, count


@settings(max_examples=examples(40))
@given(
    st.tuples(st.integers(0, 3), st.integers(1, 30), st.integers(1, 7), st.integers(1, 9)),
    st.integers(1, 13),
    st.booleans(),
    st.sampled_from(LAYOUTS),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
)
def test_values(shape, N, by_class, layout, dtype):
    features, items = layouts(unit(*shape).to(dtype))[layout], unit(N, shape[1], seed=1)
    options = classes(shape[0], *shape[2:], N) if by_class else {}
    truth, count = scalar_contrast(features, items, TAU, **options)
    reduced = {"none": truth, "sum": truth.sum(), "mean": truth.sum() / max(count, 1)}
    rounding = torch.finfo(dtype).eps if dtype in (torch.bfloat16, torch.float16) else 2e-6
    for reduction, expected in reduced.items():
        loss = ops.memory_contrast(features, items, temperature=TAU, reduction=reduction, **options)
        assert loss.dtype == dtype
        torch.testing.assert_close(loss.double(), expected, rtol=2 * rounding, atol=rounding)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("by_class", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients(layout, by_class, reduction):
    """More channels, pixels and items than one block of the kernels holds, on several threads."""
    options = {"temperature": TAU, "reduction": reduction, **(classes(2, *LARGE, 23) if by_class else {})}
    inputs = [layouts(unit(2, 37, *LARGE))[layout], unit(23, 37, seed=1)]
    assert_as_exact_as_eager(lambda f, i: ops.memory_contrast(f, i, **options), inputs, scale=1 / TAU)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_gradients_in_bfloat16(layout, reduction):
    inputs = [layouts(unit(2, 37, *LARGE).bfloat16())[layout], unit(23, 37, seed=1)]
    assert_as_exact_as_eager(
        lambda f, i: ops.memory_contrast(f, i, temperature=TAU, reduction=reduction), inputs, torch.bfloat16, 1 / TAU
    )


@pytest.mark.parametrize(
    "shape, N", [((1, 256, 15, 10), 20), ((3, 1, 1, 300), 1), ((1, 16, 40, 1), 5), ((2, 24, 6, 7), 150)]
)
def test_gradients_of_other_shapes(shape, N):
    inputs = [unit(*shape), unit(N, shape[1], seed=1)]
    for features in (inputs[0], inputs[0].to(memory_format=torch.channels_last)):
        assert_as_exact_as_eager(
            lambda f, i: ops.memory_contrast(f, i, temperature=TAU, reduction="sum"),
            [features, inputs[1]],
            scale=1 / TAU,
        )


@pytest.mark.parametrize("wrt", [0, 1])
def test_gradient_to_one_argument(wrt):
    inputs = [random(2, 5, 6, 7), random(4, 5, seed=1)]
    leaf = inputs[wrt].requires_grad_()
    (fast,) = torch.autograd.grad(ops.memory_contrast(*inputs, temperature=1.0, reduction="sum"), leaf)
    (slow,) = torch.autograd.grad(memory_contrast_reference(*inputs, 1.0)[0].sum(), leaf)
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("upstream", ["expanded", "transposed"])
def test_strided_gradients(upstream):
    inputs = [t.requires_grad_() for t in (random(2, 19, 9, 8), random(4, 19, seed=1))]
    grad = random(1, 1, 8).expand(2, 9, 8) if upstream == "expanded" else random(8, 9, 2).permute(2, 1, 0)
    fast = torch.autograd.grad(ops.memory_contrast(*inputs, temperature=1.0, reduction="none"), inputs, grad)
    slow = torch.autograd.grad(memory_contrast_reference(*inputs, 1.0)[0], inputs, grad)
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_memory_format_is_kept(memory_format):
    features = random(2, 6, 5, 4).contiguous(memory_format=memory_format).requires_grad_()
    ops.memory_contrast(features, random(3, 6), temperature=1.0).backward()
    assert features.grad is not None and features.grad.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_large_logits_do_not_overflow(backend):
    features, items = (t.requires_grad_() for t in (random(1, 8, 3, 3), random(5, 8, seed=1)))
    with cgcl_fast.backend(backend):
        loss = ops.memory_contrast(1000 * features, items, temperature=1e-3, reduction="none")
        loss.sum().backward()
    assert loss.min() >= 0 and all(t.isfinite().all() for t in (loss, features.grad, items.grad))


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_zero_features_are_as_far_from_every_item(backend):
    features, items = torch.zeros(1, 4, 2, 2).requires_grad_(), unit(5, 4).requires_grad_()
    with cgcl_fast.backend(backend):
        loss = ops.memory_contrast(features, items, temperature=TAU)
        loss.backward()
    torch.testing.assert_close(loss.detach(), torch.tensor(math.log(5)))
    # The first of equals is the nearest.
    torch.testing.assert_close(features.grad[0, :, 0, 0], (items.detach().mean(dim=0) - items.detach()[0]) / TAU / 4)
    assert items.grad.eq(0).all()


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_pixels_of_a_class_without_items_do_not_count(backend):
    features, items = (t.requires_grad_() for t in (random(1, 5, 2, 3), random(3, 5, seed=1)))
    pixels, ids = torch.tensor([[[0, 7, 0], [7, 1, 0]]]), torch.tensor([0, 0, 5])
    options = {"temperature": 1.0, "pixel_class": pixels, "item_class": ids}
    with cgcl_fast.backend(backend):
        losses = ops.memory_contrast(features, items, reduction="none", **options)
        mean = ops.memory_contrast(features, items, **options)
        mean.backward()
    without = pixels != 0
    assert losses[without].eq(0).all() and losses[~without].ne(0).all()
    torch.testing.assert_close(mean, losses.sum() / 3)
    assert features.grad.permute(0, 2, 3, 1)[without].eq(0).all() and items.grad[2].eq(0).all()


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_mean_of_no_pixels_is_zero(backend):
    features, items = random(1, 4, 2, 2).requires_grad_(), random(3, 4).requires_grad_()
    options = {"pixel_class": torch.full((1, 2, 2), 9), "item_class": torch.zeros(3).long()}
    with cgcl_fast.backend(backend):
        loss = ops.memory_contrast(features, items, temperature=1.0, **options)
        loss.backward()
        assert loss == 0 and features.grad.eq(0).all() and items.grad.eq(0).all()
        assert ops.memory_contrast(features[:0], items, temperature=1.0) == 0


@pytest.mark.parametrize("shape", [(0, 4, 5, 6), (2, 4, 0, 6), (1, 4, 1, 1)])
def test_empty_and_single(shape):
    features, items = (t.requires_grad_() for t in (random(*shape), random(3, 4, seed=1)))
    loss = ops.memory_contrast(features, items, temperature=1.0, reduction="none")
    loss.sum().backward()
    assert loss.shape == (shape[0], *shape[2:]) and features.grad.shape == features.shape
    torch.testing.assert_close(loss, memory_contrast_reference(features, items, 1.0)[0])
    alone = ops.memory_contrast(features, items[:1], temperature=1.0, reduction="sum")
    assert alone == 0  # nothing to be told from


def test_nan_stays_in_its_pixel():
    features = random(1, 4, 2, 2)
    features[0, 1, 0, 1] = float("nan")
    loss = ops.memory_contrast(features, random(3, 4), temperature=1.0, reduction="none")
    assert loss[0, 0, 1].isnan() and loss[0, 0, 0].isfinite() and loss[0, 1].isfinite().all()


def test_same_bits_with_any_number_of_threads():
    inputs = [t.requires_grad_() for t in (random(3, 33, *LARGE), random(7, 33))]
    threads, runs = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3, 1):
            torch.set_num_threads(count)
            losses = ops.memory_contrast(*inputs, temperature=1.0, reduction="none")
            runs.append([losses, *torch.autograd.grad(losses.square().sum(), inputs)])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(*pair) for run in runs[1:] for pair in zip(run, runs[0], strict=True))


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("options", [{}, classes(2, 3, 2, 4)], ids=["all", "by class"])
def test_gradcheck_of_the_reference(options, reduction):
    assert_gradcheck(
        lambda f, i: ops.memory_contrast(f, i, temperature=TAU, reduction=reduction, **options),
        [random(2, 5, 3, 2), random(4, 5, seed=1)],
    )


@pytest.mark.skipif(not native("memory_contrast"), reason="no native library")
def test_second_derivative_raises():
    assert_not_twice_differentiable(
        lambda f, i: ops.memory_contrast(f, i, temperature=1.0), [random(1, 4, 2, 2), random(3, 4)], "memory_contrast"
    )


@pytest.mark.skipif(not native("memory_contrast"), reason="no native library")
def test_backends():
    inputs = random(1, 4, 5, 6), random(3, 4)
    with cgcl_fast.backend(KERNEL):
        fast = ops.memory_contrast(*inputs, temperature=TAU, reduction="none")
        assert torch.equal(fast, torch.ops.cgcl_fast._memory_contrast(*inputs, TAU, None, None)[0])
    with cgcl_fast.backend("reference"):
        slow = ops.memory_contrast(*inputs, temperature=TAU, reduction="none")
    assert torch.equal(slow, memory_contrast_reference(*inputs, TAU)[0])


def test_loss_is_float32_under_autocast():
    features, items = random(1, 4, 5, 6).bfloat16(), random(3, 4)
    assert ops.memory_contrast(features, items, temperature=TAU).dtype == torch.bfloat16
    with torch.autocast(DEVICE.type, torch.bfloat16):
        loss = ops.memory_contrast(features, items, temperature=TAU)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, ops.memory_contrast(features.float(), items, temperature=TAU))


def test_meta_tensors():
    features, items = torch.empty(2, 4, 5, 6, device="meta"), torch.empty(3, 4, device="meta")
    assert ops.memory_contrast(features, items, temperature=TAU).shape == ()
    assert ops.memory_contrast(features, items, temperature=TAU, reduction="none").shape == (2, 5, 6)


@pytest.mark.skipif(not native("memory_contrast"), reason="no native library")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck(layout):
    inputs = [layouts(random(2, 5, 4, 3))[layout], random(6, 5)]
    leaves = [t.requires_grad_() for t in inputs]
    forward = torch.ops.cgcl_fast._memory_contrast.default
    backward = torch.ops.cgcl_fast._memory_contrast_backward.default
    torch.library.opcheck(forward, (*leaves, TAU, None, None))
    torch.library.opcheck(forward, (*leaves, TAU, *classes(2, 4, 3, 6).values()))
    with torch.no_grad():
        loss, logit_grad, _ = forward(*inputs, TAU, None, None)
    for needs in ((True, True), (True, False), (False, True)):
        arguments = (loss, *(t.detach() for t in inputs), logit_grad, TAU, *needs)
        torch.library.opcheck(backward, arguments, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.compile
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("options", [{}, classes(2, 6, 7, 5)], ids=["all", "by class"])
def test_compile(options, reduction):
    inputs = [random(2, 8, 6, 7), random(5, 8)]
    assert_compiles(lambda f, i: ops.memory_contrast(f, i, temperature=1.0, reduction=reduction, **options), inputs)


def test_torchscript():
    @torch.jit.script
    def contrast(features: torch.Tensor, items: torch.Tensor, pixels: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        by_class = torch.ops.cgcl_fast.memory_contrast(
            features, items, temperature=0.2, pixel_class=pixels, item_class=ids, reduction="sum"
        )
        return by_class + torch.ops.cgcl_fast.memory_contrast(features, items, temperature=0.2)

    inputs, options = (random(2, 3, 4, 5), random(6, 3)), classes(2, 4, 5, 6)
    expected = ops.memory_contrast(*inputs, temperature=TAU, reduction="sum", **options)
    expected = expected + ops.memory_contrast(*inputs, temperature=TAU)
    assert torch.equal(contrast(*inputs, *options.values()), expected)


x, m, p, i = torch.zeros(2, 3, 4, 5), torch.zeros(6, 3), torch.zeros(2, 4, 5).long(), torch.zeros(6).long()


@pytest.mark.parametrize(
    "arguments, options, error, match",
    [
        (([], m), {}, TypeError, r"expected features to be a Tensor \(B, C, H, W\), got list"),
        ((p[:, None], m), {}, TypeError, "expected features of a floating-point dtype, got torch.int64"),
        ((x[0], m), {}, ValueError, r"expected features of shape \(B, C, H, W\), got \(3, 4, 5\)"),
        ((x, m[0]), {}, ValueError, r"expected items of shape \(N, C\), got \(3,\)"),
        ((x, m[:, :2]), {}, ValueError, r"expected items with features's 3 channels, got \(6, 2\)"),
        ((x, m[:0]), {}, ValueError, r"expected items with at least one item, got \(0, 3\)"),
        ((x, m.to("meta")), {}, ValueError, f"expected items on features's device {DEVICE}, got meta"),
        ((x, m), {"temperature": 0.0}, ValueError, "expected a finite temperature > 0, got 0.0"),
        ((x, m), {"temperature": float("nan")}, ValueError, "expected a finite temperature > 0, got nan"),
        ((x, m), {"reduction": "max"}, ValueError, "expected reduction to be one of 'none', 'mean', 'sum', got 'max'"),
        ((x, m), {"pixel_class": p}, ValueError, "expected item_class with pixel_class, got None"),
        ((x, m), {"item_class": i}, ValueError, "expected pixel_class with item_class, got None"),
        ((x, m), {"pixel_class": x, "item_class": i}, TypeError, "pixel_class of an integer dtype, got torch.float32"),
        (
            (x, m),
            {"pixel_class": p[:1], "item_class": i},
            ValueError,
            r"expected pixel_class of shape \(B, H, W\) = \(2, 4, 5\), got \(1, 4, 5\)",
        ),
        (
            (x, m),
            {"pixel_class": p, "item_class": i[:5]},
            ValueError,
            r"expected item_class of shape \(N,\) = \(6,\), got \(5,\)",
        ),
    ],
)
def test_errors(arguments, options, error, match):
    with pytest.raises(error, match=f"^memory_contrast: .*{match}"):
        ops.memory_contrast(*arguments, **{"temperature": TAU, **options})
