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
    layouts,
    native,
    randn,
    values_and_gradients,
)

import cgcl_fast
from cgcl_fast import ops
from cgcl_fast.kernels import INTERPRET

LAYOUTS = tuple(layouts(torch.zeros(1, 1, 1, 1)))
#: Of the cases that are many: all, or in Triton's slow interpreter, which sends bfloat16 to other kernels, those that
#: differ in what the kernels do.
DTYPES = [torch.float32, torch.float16, *([] if INTERPRET else [torch.bfloat16])]
DTYPES_OF_PADDED = [torch.float32] if INTERPRET else DTYPES
LAYOUTS_OF_RESIDUAL = ("contiguous", "channels_last", "cropped") if INTERPRET else LAYOUTS
SIZES_OF_PADDED = [(6, 5), (1, 3)] if INTERPRET else [(6, 5), (1, 3), (4, 1), (40, 33)]


def inputs(B, C, H, W, seed=0):
    g = torch.Generator().manual_seed(seed)
    x, residual = (randn(B, C, H, W, generator=g) for _ in range(2))
    scale, shift = (randn(B, C, generator=g) for _ in range(2))
    return x, scale, shift, residual


@by_hand
def scalar_adain(x, scale, shift, eps, activation, residual):
    """The equation pixel by pixel, in Python floats."""
    y = torch.empty_like(x, dtype=torch.float64)
    for b in range(x.shape[0]):
        for c in range(x.shape[1]):
            plane = [float(v) for v in x[b, c].flatten()]
            mean = sum(plane) / len(plane)
            variance = sum((v - mean) ** 2 for v in plane) / len(plane)
            for i, v in enumerate(plane):
                value = float(scale[b, c]) * (v - mean) / (variance + eps) ** 0.5 + float(shift[b, c])
                if activation != "none" and value < 0:
                    value *= 0.2 if activation == "leaky_relu" else 0.0
                y[b, c].view(-1)[i] = value + float(residual[b, c].flatten()[i])
    return y


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("activation", ["none", "relu", "leaky_relu"])
def test_equals_the_equation_computed_pixel_by_pixel(activation, backend):
    x, scale, shift, residual = inputs(2, 3, 5, 4)
    with cgcl_fast.backend(backend):
        y = ops.adain(x, scale, shift, eps=1e-3, activation=activation, residual=residual)
    torch.testing.assert_close(
        y.double(), scalar_adain(x, scale, shift, 1e-3, activation, residual), rtol=1e-5, atol=1e-5
    )


def test_instance_norm_equals_pytorch():
    x = inputs(3, 4, 9, 7)[0]
    torch.testing.assert_close(ops.instance_norm(x), F.instance_norm(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        ops.instance_norm(x, activation="leaky_relu"), F.leaky_relu(F.instance_norm(x), 0.2), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("activation", ["none", "relu", "leaky_relu"])
def test_values_and_gradients_of_every_layout(activation, layout, dtype):
    x, scale, shift, residual = inputs(2, 37, 6, 11)
    # Away from the kink of the activation, where rounding decides which side an element is on.
    normal = F.instance_norm(x) * scale[:, :, None, None] + shift[:, :, None, None]
    residual = torch.where(normal.abs() < 0.1, 0.0, residual)
    mask = (normal.abs() >= 0.1).float()

    def op(x, scale, shift, residual):
        y = ops.adain(layouts(x)[layout], scale, shift, activation=activation, residual=residual)
        return y * mask.to(y.dtype)

    # bfloat16 rounds x before the statistics are taken, for eager PyTorch and the kernel alike: dscale sums 66
    # products.
    assert_as_exact_as_eager(op, [x, scale, shift, residual], dtype, scale=8.0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("residual_layout", ["contiguous", "channels_last", "cropped"])
def test_gradient_and_residual_may_lie_in_another_layout(layout, residual_layout):
    x, scale, shift, residual = inputs(2, 33, 5, 6)
    x = layouts(x)[layout].requires_grad_()
    residual, upstream = layouts(residual)[residual_layout], layouts(residual)[residual_layout]
    results = []
    for backend in ("auto", "reference"):
        with cgcl_fast.backend(backend):
            y = ops.adain(x, scale, shift, activation="leaky_relu", residual=residual)
            results.append((y, torch.autograd.grad(y, x, upstream)[0]))
    for fast, plain in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-5)


@settings(max_examples=examples(60))
@given(
    shape=st.tuples(st.integers(0, 3), st.integers(1, 70), st.integers(1, 40), st.integers(1, 40)),
    channels_last=st.booleans(),
    activation=st.sampled_from(["none", "relu", "leaky_relu"]),
)
def test_any_shape(shape, channels_last, activation):
    x, scale, shift, residual = inputs(*shape)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)

    def op(x, scale, shift, residual):
        return ops.adain(x, scale, shift, eps=1e-2, activation="none", residual=residual)

    assert_as_exact_as_eager(op, [x, scale, shift, residual], scale=30.0)
    y = ops.adain(x, scale, shift, activation=activation)
    expected = ops.adain(x.double(), scale.double(), shift.double(), activation=activation)
    torch.testing.assert_close(y.double(), expected, rtol=1e-3, atol=1e-3)


PADS = [(1, "reflect"), (3, "reflect"), (1, "replicate"), (4, "replicate")]


@by_hand
def scalar_padded(y, pad, mode):
    """Every position of the padded map by itself."""
    B, C, H, W = y.shape
    found = y.new_empty(B, C, H + 2 * pad, W + 2 * pad)
    for h in range(-pad, H + pad):
        for w in range(-pad, W + pad):
            if mode == "reflect":
                row, column = (abs(t) if t < n else 2 * (n - 1) - t for t, n in ((h, H), (w, W)))
            else:
                row, column = min(max(h, 0), H - 1), min(max(w, 0), W - 1)
            found[:, :, h + pad, w + pad] = y[:, :, row, column]
    return found


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("pad, mode", PADS)
def test_padding_equals_the_result_padded_position_by_position(pad, mode, backend):
    x, scale, shift, residual = inputs(2, 3, 5, 4)
    with cgcl_fast.backend(backend):
        plain = ops.adain(x, scale, shift, activation="relu", residual=residual)
        y = ops.adain(x, scale, shift, activation="relu", residual=residual, pad=pad, pad_mode=mode)
    torch.testing.assert_close(y, scalar_padded(plain, pad, mode), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES_OF_PADDED)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pad, mode", PADS[1:3] if INTERPRET else PADS)
@pytest.mark.parametrize("with_residual", [None, "unpadded", "padded"])
def test_padding_in_every_layout(layout, pad, mode, with_residual, dtype):
    x, scale, shift, residual = inputs(2, 37, 6, 11)
    if with_residual == "padded":
        residual = randn(2, 37, 6 + 2 * pad, 11 + 2 * pad, generator=torch.Generator().manual_seed(1))

    def op(x, scale, shift, residual):
        x, r = layouts(x)[layout], layouts(residual)[layout] if with_residual else None
        return ops.adain(x, scale, shift, residual=r, pad=pad, pad_mode=mode)

    assert_as_exact_as_eager(op, [x, scale, shift, residual], dtype, scale=8.0)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("pad, mode", PADS)
def test_a_padded_residual_is_added_to_the_padded_map(pad, mode, backend):
    """Its margin need not be the reflection of its inner part. Its gradient is that of the result."""
    x, scale, shift, _ = inputs(2, 3, 5, 4)
    residual = randn(2, 3, 5 + 2 * pad, 4 + 2 * pad, generator=torch.Generator().manual_seed(1)).requires_grad_()
    with cgcl_fast.backend(backend):
        plain = ops.adain(x, scale, shift, activation="relu")
        y = ops.adain(x, scale, shift, activation="relu", residual=residual, pad=pad, pad_mode=mode)
    torch.testing.assert_close(y, scalar_padded(plain, pad, mode) + residual, rtol=1e-5, atol=1e-5)
    upstream = torch.randn_like(y)
    assert torch.equal(torch.autograd.grad(y, residual, upstream)[0], upstream)


@pytest.mark.parametrize("layout", LAYOUTS_OF_RESIDUAL)
@pytest.mark.parametrize("residual_layout", LAYOUTS_OF_RESIDUAL)
@pytest.mark.parametrize("size", SIZES_OF_PADDED)
def test_a_padded_residual_may_lie_in_any_layout(layout, residual_layout, size):
    x, scale, shift, _ = inputs(2, 33, *size)
    residual = randn(2, 33, *(n + 4 for n in size), generator=torch.Generator().manual_seed(1))
    x, residual = layouts(x)[layout].requires_grad_(), layouts(residual)[residual_layout]
    mode = "reflect" if min(size) > 2 else "replicate"
    results = []
    for backend in ("auto", "reference"):
        with cgcl_fast.backend(backend):
            y = ops.adain(x, scale, shift, activation="leaky_relu", residual=residual, pad=2, pad_mode=mode)
            results.append((y, torch.autograd.grad(y, x, residual)[0]))
    for fast, plain in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_the_inner_part_of_a_padded_map_as_residual(layout):
    x, scale, shift, _ = inputs(2, 33, 6, 5)
    residual = randn(2, 33, 8, 7, generator=torch.Generator().manual_seed(1))
    x, inner = layouts(x)[layout], layouts(residual)[layout][..., 1:-1, 1:-1]
    results = []
    for backend in ("auto", "reference"):
        with cgcl_fast.backend(backend):
            for pad in (0, 1):
                results.append(ops.adain(x, scale, shift, activation="relu", residual=inner, pad=pad))
    torch.testing.assert_close(results[:2], results[2:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("upstream_layout", LAYOUTS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_gradient_of_a_padded_map_may_lie_in_any_layout(layout, upstream_layout):
    x, scale, shift, _ = inputs(2, 33, 5, 6)
    x = layouts(x)[layout].requires_grad_()
    upstream = layouts(randn(2, 33, 9, 10, generator=torch.Generator().manual_seed(1)))[upstream_layout]
    results = []
    for backend in ("auto", "reference"):
        with cgcl_fast.backend(backend):
            y = ops.adain(x, scale, shift, activation="leaky_relu", pad=2)
            results.append(torch.autograd.grad(y, x, upstream)[0])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


def test_a_residual_of_another_size_is_refused_with_both_that_are_allowed():
    x, scale, shift, _ = inputs(2, 3, 5, 4)
    allowed = r"\(2, 3, 5, 4\) or, padded, .* = \(2, 3, 7, 6\), got \(2, 3, 6, 5\)"
    with pytest.raises(ValueError, match=allowed):
        ops.adain(x, scale, shift, residual=torch.zeros(2, 3, 6, 5), pad=1)
    with pytest.raises(ValueError, match=r"\(2, 3, 5, 4\), got \(2, 3, 7, 6\)"):
        ops.instance_norm(x, residual=torch.zeros(2, 3, 7, 6))


@settings(max_examples=examples(40))
@given(
    shape=st.tuples(st.integers(0, 2), st.integers(1, 40), st.integers(1, 20), st.integers(1, 20)),
    channels_last=st.booleans(),
    pad=st.integers(1, 3 if INTERPRET else 20),  # the gradient sums (pad + 1)² copies at a corner
    mode=st.sampled_from(["reflect", "replicate"]),
)
def test_padding_of_any_shape(shape, channels_last, pad, mode):
    if mode == "reflect" and pad >= min(shape[2:]):
        pad = min(shape[2:]) - 1
    x, scale, shift, _ = inputs(*shape)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)

    def op(x, scale, shift):
        return ops.adain(x, scale, shift, eps=1e-2, pad=pad, pad_mode=mode)

    assert_as_exact_as_eager(op, [x, scale, shift], scale=30.0 * (2 * pad + 1))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_padding_keeps_memory_format_and_statistics(layout):
    x = layouts(inputs(2, 8, 6, 7)[0])[layout].requires_grad_()
    y = ops.instance_norm(x, activation="relu", pad=2)
    y.sum().backward()
    format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    assert y.shape == (2, 8, 10, 11) and y.is_contiguous(memory_format=format) and x.grad.stride() == x.stride()
    if native("instance_norm"):
        assert torch.equal(y[..., 2:-2, 2:-2], ops.instance_norm(x, activation="relu"))


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4)])
def test_padding_of_nothing(shape):
    x = torch.zeros(shape, requires_grad=True)
    scale = torch.ones(shape[:2], requires_grad=True)
    y = ops.adain(x, scale, torch.zeros(shape[:2]), pad=1)
    y.sum().backward()
    assert y.shape == (*shape[:2], 6, 6) and x.grad.shape == shape and not scale.grad.any()


def test_one_position_replicated():
    x = inputs(2, 3, 1, 1)[0].requires_grad_()
    shift = inputs(2, 3, 1, 1)[2].requires_grad_()
    y = ops.adain(x, torch.ones(2, 3), shift, pad=1, pad_mode="replicate")
    y.sum().backward()
    torch.testing.assert_close(y, shift[:, :, None, None].expand(2, 3, 3, 3))
    torch.testing.assert_close(shift.grad, torch.full((2, 3), 9.0))
    assert not x.grad.any()


def test_expanded_gradient_of_a_padded_map():
    x = inputs(2, 5, 6, 6)[0]
    results = []
    for backend in ("auto", "reference"):
        leaf = x.clone().requires_grad_()
        with cgcl_fast.backend(backend):
            y = ops.instance_norm(leaf, activation="relu", pad=2)
            y.backward(randn(5, generator=torch.Generator().manual_seed(1))[None, :, None, None].expand_as(y))
        results.append(leaf.grad)
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["reflect", "replicate"])
def test_gradcheck_of_the_padded_reference(mode):
    def op(x, scale, shift, residual):
        return ops.adain(x, scale, shift, activation="leaky_relu", residual=residual, pad=2, pad_mode=mode)

    assert_gradcheck(op, inputs(1, 2, 3, 4))


@pytest.mark.parametrize("mode", ["reflect", "replicate"])
def test_gradcheck_of_the_reference_with_a_padded_residual(mode):
    def op(x, scale, shift, residual):
        return ops.adain(x, scale, shift, activation="leaky_relu", residual=residual, pad=2, pad_mode=mode)

    x, scale, shift, _ = inputs(1, 2, 3, 4)
    assert_gradcheck(op, (x, scale, shift, randn(1, 2, 7, 8, generator=torch.Generator().manual_seed(1))))


def test_gradcheck_of_the_reference():
    def op(x, scale, shift, residual):
        return ops.adain(x, scale, shift, activation="leaky_relu", residual=residual)

    assert_gradcheck(op, inputs(2, 3, 3, 4))


@pytest.mark.parametrize("channels_last", [False, True])
def test_expanded_gradient(channels_last):
    x = inputs(2, 35, 8, 8)[0]
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    weight = randn(35, generator=torch.Generator().manual_seed(1))
    results = []
    for backend in ("auto", "reference"):
        leaf = x.clone().requires_grad_()
        with cgcl_fast.backend(backend):
            y = ops.instance_norm(leaf, activation="relu")
            y.backward(weight[None, :, None, None].expand_as(y))
        results.append(leaf.grad)
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


def test_large_mean_and_small_variance():
    x = 1000 + 0.1 * inputs(1, 4, 64, 64)[0]
    exact = ops.instance_norm(x.double())
    assert (ops.instance_norm(x).double() - exact).abs().max() < 2e-3
    wide = x.contiguous(memory_format=torch.channels_last)
    assert (ops.instance_norm(wide).double() - exact).abs().max() < 2e-3


def test_constant_plane_gives_shift():
    y = ops.adain(torch.full((1, 2, 8, 8), 3.7), torch.ones(1, 2), torch.tensor([[0.5, -2.0]]), activation="relu")
    torch.testing.assert_close(y[0, 0], torch.full((8, 8), 0.5), rtol=0, atol=1e-3)
    assert (y[0, 1] == 0).all()


def test_single_element_plane_and_empty_batch():
    assert (ops.instance_norm(torch.randn(2, 3, 1, 1)) == 0).all()
    x = torch.randn(0, 3, 4, 4, requires_grad=True)
    y = ops.adain(x, torch.ones(0, 3), torch.zeros(0, 3))
    y.sum().backward()
    assert y.shape == x.grad.shape == (0, 3, 4, 4)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_memory_format_is_kept(layout):
    x = layouts(torch.randn(2, 8, 4, 6))[layout].requires_grad_()
    y = ops.instance_norm(x)
    y.sum().backward()
    assert y.stride() == x.stride() == x.grad.stride()


def test_nan_and_infinity_stay_in_their_plane():
    x = torch.randn(1, 3, 8, 8)
    x[0, 1, 2, 3] = float("nan")
    y = ops.instance_norm(x, activation="relu")
    assert y[0, 1].isnan().all() and y[0, [0, 2]].isfinite().all()


def test_same_inputs_same_bits():
    x, scale, shift, residual = inputs(2, 64, 33, 33)
    first = ops.adain(x, scale, shift, residual=residual)
    assert all(torch.equal(first, ops.adain(x, scale, shift, residual=residual)) for _ in range(5))


def test_mixed_dtypes_and_autocast_keep_the_dtype_of_x():
    x, scale, shift, residual = inputs(1, 4, 5, 5)
    half = x.bfloat16().requires_grad_()
    scale.requires_grad_()
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        y = ops.adain(half, scale, shift, residual=residual)
    y.sum().backward()
    assert y.dtype == half.grad.dtype == torch.bfloat16 and scale.grad.dtype == torch.float32


def test_opcheck():
    if not native("adain"):
        pytest.skip("no native library")
    x, scale, shift, residual = (t.requires_grad_() for t in inputs(2, 5, 4, 3))
    torch.library.opcheck(torch.ops.cgcl_fast._adain.default, (x, scale, shift, 1e-5, "relu", residual))
    wide = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    torch.library.opcheck(torch.ops.cgcl_fast._adain.default, (wide, None, None, 1e-5, "none", None))
    for of in (x, wide):
        arguments = of, scale, shift, 1e-5, "relu", None, 2, False
        torch.library.opcheck(torch.ops.cgcl_fast._adain.default, arguments)
    arguments = x, scale, shift, 1e-5, "relu", residual, 3, True
    torch.library.opcheck(torch.ops.cgcl_fast._adain.default, arguments)
    padded = torch.randn(2, 5, 6, 5, requires_grad=True)
    torch.library.opcheck(torch.ops.cgcl_fast._adain.default, (x, scale, shift, 1e-5, "relu", padded, 1))
    mean, rstd = torch.zeros(2, 5), torch.ones(2, 5)
    padded = torch.ones(2, 5, 6, 5)
    torch.library.opcheck(
        torch.ops.cgcl_fast._adain_backward.default, (padded, x.detach(), None, None, mean, rstd, "relu", 1, False)
    )
    torch.library.opcheck(
        torch.ops.cgcl_fast._adain_backward.default, (x.detach(), x.detach(), None, None, mean, rstd, "relu")
    )


@pytest.mark.compile
def test_compile():
    def op(x, scale, shift, residual):
        return ops.adain(x, scale, shift, activation="relu", residual=residual)

    assert_compiles(op, inputs(2, 5, 6, 7))


@pytest.mark.compile
def test_compile_with_a_padded_residual():
    def op(x, scale, shift, residual):
        return ops.adain(x, scale, shift, activation="relu", residual=residual, pad=1)

    x, scale, shift, _ = inputs(2, 5, 6, 7)
    assert_compiles(op, (x, scale, shift, randn(2, 5, 8, 9, generator=torch.Generator().manual_seed(1))))


@pytest.mark.compile
@pytest.mark.parametrize("mode", ["reflect", "replicate"])
def test_compile_padded(mode):
    def op(x, scale, shift, residual):
        y = ops.adain(x, scale, shift, activation="relu", pad=2, pad_mode=mode)
        return ops.instance_norm(y, pad=1, pad_mode=mode) + ops.adain(x, scale, shift, residual=residual, pad=3)

    assert_compiles(op, inputs(2, 5, 6, 7))


def test_torchscript():
    @torch.jit.script
    def scripted(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        return torch.ops.cgcl_fast.adain(x, scale, shift, activation="relu")

    x, scale, shift, _ = inputs(2, 5, 4, 4)
    for dtype in (torch.float32, torch.float64):
        arguments = x.to(dtype), scale.to(dtype), shift.to(dtype)
        torch.testing.assert_close(scripted(*arguments), ops.adain(*arguments, activation="relu"))


def test_torchscript_padded():
    @torch.jit.script
    def scripted(x: torch.Tensor) -> torch.Tensor:
        return torch.ops.cgcl_fast.instance_norm(x, pad=2, pad_mode="replicate")

    x = inputs(2, 5, 4, 4)[0]
    torch.testing.assert_close(scripted(x), ops.instance_norm(x, pad=2, pad_mode="replicate"))


def test_second_derivative_raises():
    if not native("adain"):
        pytest.skip("no native library")
    assert_not_twice_differentiable(ops.adain, inputs(1, 2, 3, 3)[:3], match="adain.*second derivatives")


def test_second_derivative_of_the_reference():
    x, scale, shift, _ = inputs(1, 2, 3, 3)
    leaf = x.double().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: ops.adain(x, scale.double(), shift.double()), leaf)


def test_frozen_parameters_get_no_gradient():
    x, scale, shift, _ = inputs(1, 3, 4, 4)
    shift.requires_grad_()
    ops.adain(x, scale, shift).sum().backward()
    torch.testing.assert_close(shift.grad, torch.full((1, 3), 16.0))
    assert x.grad is None and scale.grad is None


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"x": torch.zeros(2, 3, 4)}, ValueError, r"x of shape \(B, C, H, W\), got \(2, 3, 4\)"),
        ({"x": torch.zeros(2, 3, 4, 4, dtype=torch.int64)}, TypeError, "x of a floating-point dtype, got torch.int64"),
        ({"x": [1.0]}, TypeError, "x to be a Tensor.*got list"),
        ({"scale": torch.ones(2, 4)}, ValueError, r"scale of shape \(B, C\) = \(2, 3\), got \(2, 4\)"),
        ({"shift": torch.ones(3)}, ValueError, r"shift of shape \(B, C\), got \(3,\)"),
        ({"scale": None}, TypeError, "scale and shift"),
        ({"activation": "gelu"}, ValueError, "activation to be one of 'none', 'relu', 'leaky_relu', got 'gelu'"),
        ({"eps": -1.0}, ValueError, "eps >= 0, got -1.0"),
        (
            {"residual": torch.zeros(2, 3, 4, 5)},
            ValueError,
            r"residual of shape .* = \(2, 3, 4, 4\), got \(2, 3, 4, 5\)",
        ),
        ({"pad": 4}, ValueError, r"pad < H and W of x.*, got 4 for \(2, 3, 4, 4\); pad_mode 'replicate'"),
        ({"pad": -1}, ValueError, "pad >= 0, got -1"),
        ({"pad": 1.0}, TypeError, "pad to be an integer, got float"),
        ({"pad_mode": "circular"}, ValueError, "pad_mode to be one of 'reflect', 'replicate', got 'circular'"),
        (
            {"x": torch.zeros(2, 3, 0, 4), "pad": 1, "pad_mode": "replicate"},
            ValueError,
            r"x with positions to pad with, got \(2, 3, 0, 4\)",
        ),
        ({"scale": torch.ones(2, 3, device="meta")}, ValueError, f"scale on x's device {DEVICE}, got meta"),
    ],
)
def test_errors_name_the_argument(change, error, message):
    arguments = {"x": torch.zeros(2, 3, 4, 4), "scale": torch.ones(2, 3), "shift": torch.zeros(2, 3)} | change
    x, scale, shift = (arguments.pop(name) for name in ("x", "scale", "shift"))
    with pytest.raises(error, match=message):
        ops.adain(x, scale, shift, **arguments)


def test_backends_agree_for_float64_without_a_kernel():
    x, scale, shift, residual = inputs(1, 2, 3, 3)
    doubles = [t.double() for t in (x, scale, shift, residual)]

    def op(x, scale, shift, residual):
        return ops.adain(x, scale, shift, residual=residual)

    a = values_and_gradients(op, doubles, "auto", torch.float64)
    b = values_and_gradients(op, doubles, "reference", torch.float64)
    assert all(torch.equal(p, q) for p, q in zip(a, b, strict=True))
