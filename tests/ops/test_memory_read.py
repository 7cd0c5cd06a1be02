import math

import pytest
import torch
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
from cgcl_fast.ops.memory_read import memory_read_reference

LAYOUTS = tuple(layouts(torch.zeros(1, 1, 1, 1)))
LARGE = (13, 11) if INTERPRET else (29, 31)  # more pixels than a tile or chunk of the kernels has


def random(*shape, seed=0, dtype=torch.float32):
    return randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def classes(B, H, W, N, count=4, seed=0):
    """Classes of pixels and items; some classes of pixels may have no items."""
    generator = torch.Generator().manual_seed(seed)
    pixels = randint(0, count, (B, H, W), generator=generator)
    return {"pixel_class": pixels, "item_class": randint(0, count, (N,), generator=generator)}


def cosine(c, k):
    lengths = math.sqrt(sum(x * x for x in c)) * math.sqrt(sum(x * x for x in k))
    return sum(x * y for x, y in zip(c, k, strict=True)) / lengths if lengths > 0 else 0.0


@by_hand
def scalar_read(content, keys, values, pixel_class=None, item_class=None, temperature=1.0):
    """The equation pixel by pixel, in Python floats."""
    B, _, H, W = content.shape
    out = torch.zeros(B, values.shape[1], H, W, dtype=torch.float64)
    for b in range(B):
        for y in range(H):
            for x in range(W):
                c = content[b, :, y, x].tolist()
                items = [n for n in range(len(keys)) if pixel_class is None or pixel_class[b, y, x] == item_class[n]]
                weights = [math.exp(cosine(c, keys[n].tolist()) / temperature) for n in items]
                for n, weight in zip(items, weights, strict=True):
                    out[b, :, y, x] += weight / sum(weights) * values[n].double()
    return out


@settings(max_examples=examples(40))
@given(
    st.tuples(st.integers(0, 3), st.integers(1, 40), st.integers(1, 7), st.integers(1, 9)),
    st.integers(1, 13),
    st.integers(1, 35),
    st.booleans(),
    st.sampled_from(LAYOUTS),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
    st.sampled_from([1.0, 0.3, 7.0]),
)
def test_values(shape, N, width, by_class, layout, dtype, temperature):
    B, C, H, W = shape
    content = layouts(random(*shape, dtype=dtype))[layout]
    keys, values = random(N, C, seed=1), random(N, width, seed=2)
    options = {"temperature": temperature, **(classes(B, H, W, N) if by_class else {})}
    out = ops.memory_read(content, keys, values, **options)
    assert out.dtype == dtype and out.shape == (B, width, H, W)
    truth = scalar_read(content, keys, values, **options)
    rounding = torch.finfo(dtype).eps if dtype in (torch.bfloat16, torch.float16) else 1e-6
    torch.testing.assert_close(out.double(), truth, rtol=2 * rounding, atol=4 * rounding)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("by_class", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.1])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients(layout, temperature, by_class, dtype):
    """More channels, pixels and items than one block of the kernels holds, on several threads."""
    content = layouts(random(2, 37, *LARGE, dtype=dtype))[layout]
    options = {"temperature": temperature, **(classes(2, *LARGE, 23) if by_class else {})}
    assert_as_exact_as_eager(
        lambda c, k, v: ops.memory_read(c, k, v, **options),
        [content, random(23, 37, seed=1), random(23, 50, seed=2)],
        dtype,
        scale=8.0,
    )


@pytest.mark.parametrize(
    "shape, N, width",
    [((1, 256, 15, 10), 20, 256), ((3, 1, 1, 300), 1, 1), ((1, 16, 40, 1), 5, 3), ((2, 24, 6, 7), 150, 40)],
)
def test_gradients_of_other_shapes(shape, N, width):
    inputs = [random(*shape), random(N, shape[1], seed=1), random(N, width, seed=2)]
    assert_as_exact_as_eager(ops.memory_read, inputs, scale=8.0)
    inputs[0] = inputs[0].to(memory_format=torch.channels_last)
    assert_as_exact_as_eager(ops.memory_read, inputs, scale=8.0)


@pytest.mark.parametrize("upstream", ["expanded", "transposed", "channels_last", "cropped"])
def test_strided_gradients(upstream):
    inputs = [t.requires_grad_() for t in (random(2, 19, 9, 8), random(4, 19, seed=1), random(4, 21, seed=2))]
    grad = random(1, 1, 1, 8).expand(2, 21, 9, 8) if upstream == "expanded" else layouts(random(2, 21, 9, 8))[upstream]
    fast = torch.autograd.grad(ops.memory_read(*inputs), inputs, grad)
    slow = torch.autograd.grad(memory_read_reference(*inputs), inputs, grad)
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("wrt", [(0,), (1,), (2,), (0, 2)])
def test_gradients_to_some_arguments(wrt):
    inputs = [random(2, 5, 6, 7), random(4, 5, seed=1), random(4, 3, seed=2)]
    for i in wrt:
        inputs[i].requires_grad_()
    leaves = [inputs[i] for i in wrt]
    fast = torch.autograd.grad(ops.memory_read(*inputs).square().sum(), leaves)
    slow = torch.autograd.grad(memory_read_reference(*inputs).square().sum(), leaves)
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.02, 0.07, 0.5])
@pytest.mark.parametrize("N", [6, 40])
def test_temperature_is_one_with_longer_cosines(N, temperature):
    """In float64, by hand: the softmax of cosine/τ and its derivatives. Some contents are keys, or their opposites."""
    keys, values = random(N, 5, seed=1), random(N, 3, seed=2)
    content = torch.cat([keys[:4], -keys[:2], random(2, 5)]).T.reshape(1, 5, 2, 4).contiguous()
    wide = [t.double().requires_grad_() for t in (content, keys, values)]
    rows, exact_keys = wide[0].flatten(2)[0].T, wide[1]
    cosines = (rows @ exact_keys.T) / rows.norm(dim=1, keepdim=True) / exact_keys.norm(dim=1)
    exact = ((cosines / temperature).softmax(dim=1) @ wide[2]).T.reshape(1, 3, 2, 4)
    grad = random(1, 3, 2, 4, seed=4)
    truths = torch.autograd.grad(exact, wide, grad.double())
    leaves = [t.requires_grad_() for t in (content, keys, values)]
    found = ops.memory_read(*leaves, temperature=temperature)
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-5)
    for gradient, truth in zip(torch.autograd.grad(found, leaves, grad), truths, strict=True):
        torch.testing.assert_close(gradient.double(), truth, rtol=1e-3, atol=1e-4)


def test_items_in_effect_by_temperature():
    """The figures in the docstring: exp(entropy) of the weights where the content is one of 20 orthonormal keys."""
    keys = torch.eye(20)
    for temperature, expected in ((1.0, 19.163), (0.3, 6.450), (0.2, 1.990), (0.1, 1.0095)):
        weights = ops.memory_read(keys[3].reshape(1, 20, 1, 1), keys, keys, temperature=temperature).flatten().double()
        assert math.exp(-(weights * weights.log()).sum()) == pytest.approx(expected, abs=2e-3)
        assert weights.argmax() == 3 and weights.sum() == pytest.approx(1, abs=1e-5)


def test_the_operator_reads_at_the_temperature_of_the_paper_unless_told():
    inputs = [t.requires_grad_() for t in (random(2, 4, 5, 6), random(3, 4, seed=1), random(3, 5, seed=2))]
    grad = random(2, 5, 5, 6, seed=3)
    by_default = torch.ops.cgcl_fast._memory_read(*inputs, None, None)[0]
    expected = ops.memory_read(*inputs, temperature=1.0)
    assert torch.equal(by_default, expected)
    for pair in zip(*(torch.autograd.grad(out, inputs, grad) for out in (by_default, expected)), strict=True):
        assert torch.equal(*pair)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_memory_format_is_kept(memory_format):
    content = random(2, 6, 5, 4).contiguous(memory_format=memory_format).requires_grad_()
    out = ops.memory_read(content, random(3, 6), random(3, 7))
    out.sum().backward()
    assert out.is_contiguous(memory_format=memory_format)
    assert content.grad is not None and content.grad.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_zero_vectors(backend):
    content, keys = random(1, 5, 3, 3), random(4, 5, seed=1)
    content[:, :, 1, 1], keys[2] = 0, 0
    content, keys, values = content.requires_grad_(), keys.requires_grad_(), random(4, 6, seed=2).requires_grad_()
    with cgcl_fast.backend(backend):
        out = ops.memory_read(content, keys, values)
        out.square().sum().backward()
    torch.testing.assert_close(out[0, :, 1, 1], values.mean(dim=0))  # every cosine is 0
    assert content.grad[0, :, 1, 1].eq(0).all() and keys.grad[2].eq(0).all()
    assert all(t.grad.isfinite().all() and t.grad.abs().sum() > 0 for t in (content, keys, values))


def test_pixels_of_a_class_without_items_read_zeros_and_learn_nothing():
    content, keys, values = (t.requires_grad_() for t in (random(1, 5, 2, 3), random(2, 5), random(2, 4)))
    pixels = torch.tensor([[[0, 7, 0], [7, 1, 0]]])
    out = ops.memory_read(content, keys, values, pixel_class=pixels, item_class=torch.tensor([0, 0]))
    out.square().sum().backward()
    without = pixels[:, None] != 0
    assert out.masked_select(without).eq(0).all() and out.masked_select(~without).ne(0).all()
    assert content.grad.masked_select(without).eq(0).all()


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.int8, torch.uint8])
def test_other_integer_classes(dtype):
    content, keys, values, options = random(2, 3, 4, 5), random(6, 3), random(6, 2), classes(2, 4, 5, 6)
    narrow = {name: value.to(dtype) for name, value in options.items()}
    assert torch.equal(
        ops.memory_read(content, keys, values, **narrow), ops.memory_read(content, keys, values, **options)
    )


def test_nan_stays_in_its_pixel():
    content = random(1, 4, 2, 2)
    content[0, 1, 0, 1] = float("nan")
    out = ops.memory_read(content, random(3, 4), random(3, 5))
    assert out[0, :, 0, 1].isnan().all() and out[0, :, 1].isfinite().all() and out[0, :, 0, 0].isfinite().all()


@pytest.mark.parametrize("shape", [(0, 4, 5, 6), (2, 4, 0, 6), (1, 4, 1, 1)])
def test_empty_and_single(shape):
    content, keys, values = (t.requires_grad_() for t in (random(*shape), random(3, 4), random(3, 7)))
    out = ops.memory_read(content, keys, values)
    out.sum().backward()
    assert out.shape == (shape[0], 7, *shape[2:]) and content.grad.shape == content.shape
    torch.testing.assert_close(out, memory_read_reference(content, keys, values))
    torch.testing.assert_close(values.grad.sum(), torch.tensor(7.0 * content[:, 0].numel()))


def test_same_bits_with_any_number_of_threads():
    inputs = [t.requires_grad_() for t in (random(3, 33, *LARGE), random(7, 33), random(7, 18))]
    threads, runs = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3, 1):
            torch.set_num_threads(count)
            out = ops.memory_read(*inputs)
            runs.append([out, *torch.autograd.grad(out.square().sum(), inputs)])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(*pair) for run in runs[1:] for pair in zip(run, runs[0], strict=True))


@pytest.mark.parametrize(
    "options", [{}, classes(2, 3, 2, 4), {"temperature": 0.3}], ids=["all", "by class", "temperature"]
)
def test_gradcheck_of_the_reference(options):
    inputs = [random(2, 5, 3, 2), random(4, 5, seed=1), random(4, 3, seed=2)]
    assert_gradcheck(lambda *t: ops.memory_read(*t, **options), inputs)


@pytest.mark.skipif(not native("memory_read"), reason="no native library")
def test_second_derivative_raises():
    assert_not_twice_differentiable(ops.memory_read, [random(1, 4, 2, 2), random(3, 4), random(3, 5)], "memory_read")


@pytest.mark.skipif(not native("memory_read"), reason="no native library")
def test_backends():
    inputs = random(1, 4, 5, 6), random(3, 4), random(3, 5)
    with cgcl_fast.backend(KERNEL):
        fast = ops.memory_read(*inputs)
        assert torch.equal(fast, torch.ops.cgcl_fast._memory_read(*inputs, None, None)[0])
    with cgcl_fast.backend("reference"):
        slow = ops.memory_read(*inputs)
    assert torch.equal(slow, memory_read_reference(*inputs))


def test_autocast_keeps_the_dtype():
    content, keys, values = random(1, 4, 5, 6), random(3, 4), random(3, 5)
    with torch.autocast(DEVICE.type, torch.bfloat16):
        assert torch.equal(
            ops.memory_read(content, keys, values), torch.ops.cgcl_fast.memory_read(content, keys, values)
        )
        assert ops.memory_read(content, keys, values).dtype == torch.float32
        assert ops.memory_read(content.bfloat16(), keys, values).dtype == torch.bfloat16


def test_meta_tensors():
    out = ops.memory_read(*(torch.empty(shape, device="meta") for shape in ((2, 4, 5, 6), (3, 4), (3, 7))))
    assert out.shape == (2, 7, 5, 6) and out.device.type == "meta"


@pytest.mark.skipif(not native("memory_read"), reason="no native library")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck(layout):
    inputs = [layouts(random(2, 5, 4, 3))[layout], random(6, 5), random(6, 4)]
    leaves = [t.requires_grad_() for t in inputs]
    options = classes(2, 4, 3, 6)
    forward, backward = torch.ops.cgcl_fast._memory_read.default, torch.ops.cgcl_fast._memory_read_backward.default
    torch.library.opcheck(forward, (*leaves, None, None))
    torch.library.opcheck(forward, (*leaves, options["pixel_class"], options["item_class"]))
    torch.library.opcheck(forward, (*leaves, None, None, 0.3))
    with torch.no_grad():
        out, cosines, rnorm = forward(*inputs, None, None)
    tests = ("test_schema", "test_faketensor")
    for needs in ((True, True, True), (True, False, False), (False, True, True)):
        torch.library.opcheck(backward, (out, *(t.detach() for t in inputs), cosines, rnorm, *needs), test_utils=tests)


@pytest.mark.compile
@pytest.mark.parametrize(
    "options", [{}, classes(2, 6, 7, 5), {"temperature": 0.3}], ids=["all", "by class", "temperature"]
)
def test_compile(options):
    inputs = [random(2, 8, 6, 7), random(5, 8), random(5, 3)]
    assert_compiles(lambda *t: ops.memory_read(*t, **options), inputs)
    inputs[0] = inputs[0].to(memory_format=torch.channels_last)
    assert_compiles(lambda *t: ops.memory_read(*t, **options), inputs)


def test_torchscript():
    @torch.jit.script
    def read(
        content: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, pixels: torch.Tensor, items: torch.Tensor
    ) -> torch.Tensor:
        by_class = torch.ops.cgcl_fast.memory_read(content, keys, values, pixel_class=pixels, item_class=items)
        return by_class + torch.ops.cgcl_fast.memory_read(content, keys, values, temperature=0.5)

    inputs, options = (random(2, 3, 4, 5), random(6, 3), random(6, 2)), classes(2, 4, 5, 6)
    expected = ops.memory_read(*inputs, **options) + ops.memory_read(*inputs, temperature=0.5)
    assert torch.equal(read(*inputs, *options.values()), expected)


x, k, v, p, i = (
    torch.zeros(2, 3, 4, 5),
    torch.zeros(6, 3),
    torch.zeros(6, 2),
    torch.zeros(2, 4, 5).long(),
    torch.zeros(6),
)


@pytest.mark.parametrize(
    "arguments, options, error, match",
    [
        ((3, k, v), {}, TypeError, r"expected content to be a Tensor \(B, C, H, W\), got int"),
        ((p, k, v), {}, TypeError, "expected content of a floating-point dtype, got torch.int64"),
        ((x[0], k, v), {}, ValueError, r"expected content of shape \(B, C, H, W\), got \(3, 4, 5\)"),
        ((x, k[0], v), {}, ValueError, r"expected keys of shape \(N, C\), got \(3,\)"),
        ((x, k[:, :2], v), {}, ValueError, r"expected keys with content's 3 channels, got \(6, 2\)"),
        ((x, k[:0], v[:0]), {}, ValueError, r"expected keys with at least one item, got \(0, 3\)"),
        ((x, k, v[0]), {}, ValueError, r"expected values of shape \(N, Cv\), got \(2,\)"),
        ((x, k, v[:4]), {}, ValueError, r"expected values of 6 items like keys, got \(4, 2\)"),
        ((x, k.to("meta"), v), {}, ValueError, f"expected keys on content's device {DEVICE}, got meta"),
        ((x, k, v.to("meta")), {}, ValueError, f"expected values on content's device {DEVICE}, got meta"),
        ((x, k, v), {"temperature": 0.01}, ValueError, "expected temperature of at least 0.02, got 0.01"),
        ((x, k, v), {"temperature": math.inf}, ValueError, "expected a finite temperature > 0, got inf"),
        ((x, k, v), {"temperature": "1"}, TypeError, "temperature"),
        ((x, k, v), {"pixel_class": p}, ValueError, "expected item_class with pixel_class, got None"),
        ((x, k, v), {"item_class": i.long()}, ValueError, "expected pixel_class with item_class, got None"),
        (
            (x, k, v),
            {"pixel_class": p, "item_class": i},
            TypeError,
            "item_class of an integer dtype, got torch.float32",
        ),
        (
            (x, k, v),
            {"pixel_class": p, "item_class": [0] * 6},
            TypeError,
            "item_class to be an integer Tensor, got list",
        ),
        (
            (x, k, v),
            {"pixel_class": p[:1], "item_class": i.long()},
            ValueError,
            r"expected pixel_class of shape \(B, H, W\) = \(2, 4, 5\), got \(1, 4, 5\)",
        ),
        (
            (x, k, v),
            {"pixel_class": p, "item_class": i[:5].long()},
            ValueError,
            r"expected item_class of shape \(N,\) = \(6,\), got \(5,\)",
        ),
        (
            (x, k, v),
            {"pixel_class": p.to("meta"), "item_class": i.long()},
            ValueError,
            f"expected pixel_class on content's device {DEVICE}, got meta",
        ),
    ],
)
def test_errors(arguments, options, error, match):
    with pytest.raises(error, match=f"^memory_read: .*{match}"):
        ops.memory_read(*arguments, **options)


def test_without_channels_the_values_have_a_gradient():
    """All cosines are zero, and a pixel reads the mean of the values."""
    content, keys, values = torch.zeros(1, 0, 3, 3), torch.zeros(2, 0), random(2, 5, seed=1).requires_grad_()
    out = ops.memory_read(content, keys, values)
    torch.testing.assert_close(out, values.mean(0)[None, :, None, None].expand(1, 5, 3, 3))
    out.sum().backward()
    torch.testing.assert_close(values.grad, torch.full((2, 5), 4.5))
