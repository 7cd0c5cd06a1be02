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
DTYPES = [torch.float32] if INTERPRET else [torch.float32, torch.float16, torch.bfloat16]
PADS = [(0, "reflect"), (1, "reflect"), (3, "reflect"), (1, "replicate"), (4, "replicate")]


def inputs(B, C, H, W, seed=0):
    g = torch.Generator().manual_seed(seed)
    return randn(B, C, H, W, generator=g), randn(C, generator=g), randn(C, generator=g)


def channels_last(x):
    return x.contiguous(memory_format=torch.channels_last)


@by_hand
def scalar_layer_norm(x, weight, bias, eps, activation):
    """The equation value by value, in Python floats."""
    y = torch.empty_like(x, dtype=torch.float64, memory_format=torch.contiguous_format)
    for b in range(x.shape[0]):
        image = [float(v) for v in x[b].flatten()]
        mean = sum(image) / len(image)
        variance = sum((v - mean) ** 2 for v in image) / len(image)
        for c in range(x.shape[1]):
            for i, v in enumerate(x[b, c].flatten()):
                value = float(weight[c]) * (float(v) - mean) / (variance + eps) ** 0.5 + float(bias[c])
                if activation != "none" and value < 0:
                    value *= 0.2 if activation == "leaky_relu" else 0.0
                y[b, c].view(-1)[i] = value
    return y


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("activation", ["none", "relu", "leaky_relu"])
def test_equals_the_equation_computed_value_by_value(activation, backend, layout):
    x, weight, bias = inputs(2, 3, 5, 4)
    with cgcl_fast.backend(backend):
        y = ops.layer_norm(layouts(x)[layout], weight, bias, eps=1e-3, activation=activation)
    torch.testing.assert_close(y.double(), scalar_layer_norm(x, weight, bias, 1e-3, activation), rtol=1e-5, atol=1e-5)


def test_is_a_group_norm_of_one_group():
    x, weight, bias = inputs(3, 4, 9, 7)
    torch.testing.assert_close(
        ops.layer_norm(channels_last(x), weight, bias), F.group_norm(x, 1, weight, bias), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("activation", ["none", "relu", "leaky_relu"])
def test_values_and_gradients_of_every_layout(activation, layout, dtype):
    x, weight, bias = inputs(2, 37, 6, 11)
    # Away from the kink of the activation, where rounding decides which side an element is on.
    mask = (F.group_norm(x, 1, weight, bias).abs() >= 0.1).float()

    def op(x, weight, bias):
        y = ops.layer_norm(layouts(x)[layout], weight, bias, activation=activation)
        return y * mask.to(y.dtype)

    assert_as_exact_as_eager(op, [x, weight, bias], dtype, scale=16.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pad, mode", PADS)
def test_padding_in_every_layout(layout, pad, mode, dtype):
    x, weight, bias = inputs(2, 37, 6, 11)

    def op(x, weight, bias):
        return ops.layer_norm(layouts(x)[layout], weight, bias, pad=pad, pad_mode=mode)

    assert_as_exact_as_eager(op, [x, weight, bias], dtype, scale=32.0)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("pad, mode", PADS[1:])
def test_padding_is_that_of_pytorch(pad, mode, backend):
    x, weight, bias = inputs(2, 3, 5, 4)
    with cgcl_fast.backend(backend):
        plain = ops.layer_norm(channels_last(x), weight, bias, activation="relu")
        y = ops.layer_norm(channels_last(x), weight, bias, activation="relu", pad=pad, pad_mode=mode)
    assert torch.equal(y, F.pad(plain, (pad,) * 4, mode=mode))


@settings(max_examples=examples(60))
@given(
    shape=st.tuples(st.integers(0, 3), st.integers(1, 70), st.integers(1, 40), st.integers(1, 40)),
    activation=st.sampled_from(["none", "relu", "leaky_relu"]),
)
def test_any_shape(shape, activation):
    x, weight, bias = inputs(*shape)

    def op(x, weight, bias):
        return ops.layer_norm(channels_last(x), weight, bias, eps=1e-2)

    assert_as_exact_as_eager(op, [x, weight, bias], scale=60.0)
    y = ops.layer_norm(channels_last(x), weight, bias, activation=activation)
    expected = ops.layer_norm(x.double(), weight.double(), bias.double(), activation=activation)
    torch.testing.assert_close(y.double(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", [(1, 64, 96, 80), (2, 130, 33, 47)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_many_chunks(shape, dtype):
    def op(x, weight, bias):
        return ops.layer_norm(channels_last(x), weight, bias, pad=1)

    assert_as_exact_as_eager(op, inputs(*shape), dtype, scale=300.0)


@pytest.mark.parametrize("offset", [1e2, 1e4])
def test_values_far_from_zero(offset):
    """Neither variance is a difference of large numbers."""
    x, weight, bias = inputs(2, 16, 30, 20)
    assert_as_exact_as_eager(
        lambda x, w, b: ops.layer_norm(channels_last(x + offset), w, b), [x, weight, bias], scale=offset
    )


@pytest.mark.parametrize("gradient", ["contiguous", "cropped", "batch last", "expanded"])
def test_gradient_may_lie_in_another_layout(gradient):
    x, weight, bias = inputs(2, 33, 5, 6)
    upstream = randn(2, 33, 7, 8, generator=torch.Generator().manual_seed(1))
    upstream = upstream[:1, :, :1].expand(2, 33, 7, 8) if gradient == "expanded" else layouts(upstream)[gradient]
    leaves = [channels_last(x).requires_grad_(), weight.requires_grad_(), bias.requires_grad_()]
    results = []
    for backend in ("auto", "reference"):
        with cgcl_fast.backend(backend):
            y = ops.layer_norm(*leaves, activation="leaky_relu", pad=1)
            results.append(torch.autograd.grad(y, leaves, upstream))
    for fast, plain in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("pad", [0, 1])
def test_memory_format_is_kept(layout, pad):
    x, weight, bias = inputs(2, 8, 4, 6)
    x = layouts(x)[layout].requires_grad_()
    y = ops.layer_norm(x, weight, bias, pad=pad)
    y.sum().backward()
    memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    assert y.is_contiguous(memory_format=memory_format) and x.grad.is_contiguous(memory_format=memory_format)


def test_float64_gradients_of_the_reference():
    x, weight, bias = inputs(2, 3, 3, 4)
    assert_gradcheck(lambda *t: ops.layer_norm(*t, activation="leaky_relu", pad=1), [x, weight, bias])


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4)])
def test_empty(shape):
    leaves = [t.requires_grad_() for t in inputs(*shape)]
    y = ops.layer_norm(*leaves)
    assert y.shape == shape
    assert [g.shape for g in torch.autograd.grad(y.sum(), leaves)] == [t.shape for t in leaves]


def test_one_value_is_its_bias():
    x, weight, bias = inputs(1, 1, 1, 1)
    torch.testing.assert_close(ops.layer_norm(x, weight, bias).flatten(), bias)


def test_nan_stays_in_its_image():
    x, weight, bias = inputs(3, 4, 8, 8)
    x[1, 2, 3, 4] = float("nan")
    y = ops.layer_norm(channels_last(x), weight, bias, activation="relu")
    assert y[1].isnan().all() and y[[0, 2]].isfinite().all()


def test_same_inputs_same_bits():
    x, weight, bias = inputs(2, 64, 33, 33)
    leaves = [channels_last(x).requires_grad_(), weight.requires_grad_(), bias.requires_grad_()]

    def run():
        y = ops.layer_norm(*leaves, pad=1)
        return [y, *torch.autograd.grad(y.square().sum(), leaves)]

    first = run()
    assert all(torch.equal(a, b) for _ in range(4) for a, b in zip(first, run(), strict=True))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_mixed_dtypes_and_autocast_keep_the_dtype_of_x(layout):
    x, weight, bias = inputs(1, 4, 5, 5)
    half = layouts(x.bfloat16())[layout].requires_grad_()
    weight.requires_grad_()
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        y = ops.layer_norm(half, weight, bias)
        same = ops.layer_norm(half, weight.bfloat16(), bias.bfloat16())
    y.sum().backward()
    assert y.dtype == same.dtype == half.grad.dtype == torch.bfloat16 and weight.grad.dtype == torch.float32


def test_bfloat16_maps_with_float32_weights_are_as_exact_in_both_layouts():
    x, weight, bias = inputs(2, 16, 12, 10)
    x = x.bfloat16()
    exact = ops.layer_norm(x.double(), weight.double(), bias.double())
    with cgcl_fast.backend("reference"):
        allowed = 2 * (ops.layer_norm(x, weight, bias).double() - exact).abs().max()
    for laid_out in (x.contiguous(), channels_last(x)):
        assert (ops.layer_norm(laid_out, weight, bias).double() - exact).abs().max() <= allowed


def test_opcheck():
    if not native("layer_norm"):
        pytest.skip("no native library")
    x, weight, bias = (t.requires_grad_() for t in inputs(2, 5, 4, 3))
    x = channels_last(x.detach()).requires_grad_()
    operator, backward = torch.ops.cgcl_fast._layer_norm.default, torch.ops.cgcl_fast._layer_norm_backward.default
    torch.library.opcheck(operator, (x, weight, bias, 1e-5, "relu"))
    torch.library.opcheck(operator, (x, weight, bias, 1e-5, "none", 2, False))
    torch.library.opcheck(operator, (x, weight, bias, 1e-5, "leaky_relu", 3, True))
    x, weight, bias, mean, rstd = x.detach(), weight.detach(), bias.detach(), torch.zeros(2), torch.ones(2)
    for grad, pad in ((x, 0), (torch.ones(2, 5, 6, 5), 1)):
        torch.library.opcheck(backward, (grad, x, weight, bias, mean, rstd, "relu", pad, False))


@pytest.mark.compile
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("pad, mode", [(0, "reflect"), (2, "reflect"), (1, "replicate")])
def test_compile(layout, pad, mode):
    def op(x, weight, bias):
        return ops.layer_norm(layouts(x)[layout], weight, bias, activation="relu", pad=pad, pad_mode=mode)

    assert_compiles(op, inputs(2, 5, 6, 7))


def test_torchscript():
    @torch.jit.script
    def scripted(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return torch.ops.cgcl_fast.layer_norm(x, weight, bias, activation="relu", pad=1)

    x, weight, bias = inputs(2, 5, 4, 4)
    for dtype in (torch.float32, torch.float64):
        arguments = channels_last(x.to(dtype)), weight.to(dtype), bias.to(dtype)
        torch.testing.assert_close(scripted(*arguments), ops.layer_norm(*arguments, activation="relu", pad=1))


@pytest.mark.parametrize("way", ["trace", "export"])
def test_what_is_recorded_needs_no_kernel(way):
    """Programs without Python have none on a GPU."""

    class Norm(torch.nn.Module):
        def forward(self, x, weight, bias):
            return ops.layer_norm(x, weight, bias, activation="relu", pad=1)

    x, weight, bias = inputs(2, 5, 4, 4)
    arguments = channels_last(x), weight, bias
    if way == "trace":
        recorded = torch.jit.trace(Norm(), arguments)
        text = " ".join(node.kind() for node in recorded.inlined_graph.nodes())
    else:
        program = torch.export.export(Norm(), arguments)
        recorded, text = program.module(), " ".join(str(node.target) for node in program.graph.nodes)
    assert "group_norm" in text and "cgcl_fast" not in text
    torch.testing.assert_close(recorded(*arguments), Norm()(*arguments))


def test_second_derivative_raises():
    if not native("layer_norm"):
        pytest.skip("no native library")

    def op(x, weight, bias):
        return ops.layer_norm(channels_last(x), weight, bias)

    assert_not_twice_differentiable(op, inputs(1, 2, 3, 3), match="layer_norm.*second derivatives")


def test_frozen_parameters_get_no_gradient():
    x, weight, bias = inputs(1, 3, 4, 4)
    bias.requires_grad_()
    ops.layer_norm(channels_last(x), weight, bias).sum().backward()
    torch.testing.assert_close(bias.grad, torch.full((3,), 16.0))
    assert x.grad is None and weight.grad is None


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"x": torch.zeros(2, 3, 4)}, ValueError, r"x of shape \(B, C, H, W\), got \(2, 3, 4\)"),
        ({"weight": torch.ones(2, 3)}, ValueError, r"weight of shape \(C,\), got \(2, 3\)"),
        ({"bias": torch.ones(4)}, ValueError, r"bias of shape \(C,\) = \(3,\), got \(4,\)"),
        ({"weight": None}, TypeError, "weight to be a Tensor"),
        ({"activation": "gelu"}, ValueError, "activation to be one of 'none', 'relu', 'leaky_relu', got 'gelu'"),
        ({"eps": -1.0}, ValueError, "eps >= 0, got -1.0"),
        ({"pad": 4}, ValueError, r"layer_norm: expected pad < H and W of x.*, got 4"),
        ({"pad_mode": "circular"}, ValueError, "pad_mode to be one of 'reflect', 'replicate', got 'circular'"),
        ({"bias": torch.ones(3, device="meta")}, ValueError, f"bias on x's device {DEVICE}, got meta"),
    ],
)
def test_errors_name_the_argument(change, error, message):
    arguments = {"x": torch.zeros(2, 3, 4, 4), "weight": torch.ones(3), "bias": torch.zeros(3)} | change
    x, weight, bias = (arguments.pop(name) for name in ("x", "weight", "bias"))
    with pytest.raises(error, match=message):
        ops.layer_norm(x, weight, bias, **arguments)


def test_operators_want_channels_last_maps():
    if not native("layer_norm") or INTERPRET or DEVICE.type != "cpu":
        pytest.skip("no native kernel here")
    x, weight, bias = inputs(2, 5, 4, 3)
    with pytest.raises(RuntimeError, match="layer_norm: expected a channels_last map"):
        torch.ops.cgcl_fast._layer_norm(x, weight, bias, 1e-5, "none")


def test_backends_agree_for_float64_without_a_kernel():
    doubles = [t.double() for t in inputs(1, 2, 3, 3)]
    a = values_and_gradients(lambda *t: ops.layer_norm(*t), doubles, "auto", torch.float64)
    b = values_and_gradients(lambda *t: ops.layer_norm(*t), doubles, "reference", torch.float64)
    assert all(torch.equal(p, q) for p, q in zip(a, b, strict=True))
