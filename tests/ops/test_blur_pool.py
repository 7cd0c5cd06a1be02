from __future__ import annotations

import importlib
from typing import Any

import op_checks
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from op_checks import KERNEL, assert_as_exact_as_eager, examples, layouts, native, randn
from torch import Tensor

import cgcl_fast
from cgcl_fast import nn, ops
from cgcl_fast.kernels import INTERPRET

module = importlib.import_module("cgcl_fast.ops.blur_pool")
OPS = {"blur_down": ops.blur_down, "blur_up": ops.blur_up}
REFERENCES = {"blur_down": module.blur_down_reference, "blur_up": module.blur_up_reference}
LAYOUTS = (*layouts(torch.zeros(1, 1, 1, 1)), "expanded")
SIZES = [(8, 8), (7, 9), (2, 3), (3, 2), (2, 2), (15, 6), (4, 33)]
LARGEST = 12 if INTERPRET else 40
every_op = pytest.mark.parametrize("op", OPS)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def laid_out(x: Tensor, layout: str) -> Tensor:
    return x[:1].expand_as(x) if layout == "expanded" else layouts(x)[layout]


def halved(n: int) -> int:
    return (n + 1) // 2


def doubled(n: int) -> int:
    return 2 * n


def result_size(op: str, height: int, width: int) -> tuple[int, int]:
    size = halved if op == "blur_down" else doubled
    return size(height), size(width)


@op_checks.by_hand
def matrix(op: str, n: int) -> Tensor:
    """The map of one axis, one weight at a time, from the padding and the filter as published."""
    if op == "blur_down":
        found = torch.zeros(halved(n), n, dtype=torch.float64)
        for i in range(halved(n)):
            for k, weight in enumerate((0.25, 0.5, 0.25)):
                at = 2 * i + k - 1
                found[i, -at if at < 0 else 2 * (n - 1) - at if at >= n else at] += weight
        return found
    found = torch.zeros(2 * n, n, dtype=torch.float64)
    for j in range(-1, n + 1):  # of the padded map, whose pixel j adds to the positions from 2 j - 1 to 2 j + 2
        for k, weight in enumerate((0.25, 0.75, 0.75, 0.25)):
            if 0 <= (i := 2 * j + k - 1) < 2 * n:
                found[i, min(max(j, 0), n - 1)] += weight
    return found


def plain(op: str, x: Tensor) -> Tensor:
    rows, columns = (matrix(op, n).to(x) for n in x.shape[2:])
    return rows @ x @ columns.T


@every_op
@pytest.mark.parametrize("size", SIZES)
def test_values_and_gradient_of_the_reference_are_the_published_filter_s(op: str, size: tuple[int, int]) -> None:
    x = random(2, 3, *size, dtype=torch.float64).requires_grad_()
    found, expected = OPS[op](x), plain(op, x)
    torch.testing.assert_close(found, expected)
    upstream = random(*expected.shape, seed=1, dtype=torch.float64)
    gradients = [torch.autograd.grad(y, x, upstream)[0] for y in (found, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (3, 1), (5, 7)])
def test_up_is_bilinear_interpolation(size: tuple[int, int]) -> None:
    x = random(2, 3, *size)
    torch.testing.assert_close(ops.blur_up(x), F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False))


@settings(max_examples=examples(80))
@given(
    st.sampled_from(sorted(OPS)),
    st.tuples(st.integers(0, 2), *[st.integers(1, LARGEST)] * 3),
    st.sampled_from(LAYOUTS),
    st.sampled_from(LAYOUTS),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_values_and_gradient(
    op: str, shape: tuple[int, ...], layout: str, upstream_layout: str, dtype: torch.dtype
) -> None:
    least = 2 if op == "blur_down" else 1
    shape = (*shape[:2], *(max(n, least) for n in shape[2:]))
    x = laid_out(random(*shape, dtype=dtype), layout)
    upstream = laid_out(random(*shape[:2], *result_size(op, *shape[2:]), seed=1, dtype=dtype), upstream_layout)

    def values(backend: str, wide: bool) -> list[Tensor]:
        kind = torch.float64 if wide else dtype
        leaf = x.to(kind).requires_grad_()
        with cgcl_fast.backend(backend):
            y = OPS[op](leaf)
            return [y.detach(), *torch.autograd.grad(y, leaf, upstream.to(kind))]

    for fast, eager, truth in zip(
        values("auto", False), values("reference", False), values("reference", True), strict=True
    ):
        assert fast.dtype == dtype and fast.shape == eager.shape
        if fast.numel() > 0:
            allowed = 2 * (eager.double() - truth).abs().max() + 2 * torch.finfo(dtype).eps * truth.abs().max()
            assert (fast.double() - truth).abs().max() <= allowed


@every_op
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_many_tiles(op: str, layout: str, dtype: torch.dtype) -> None:
    """More channels, rows and columns than one tile of the kernels holds, on several threads."""
    shape = (1, 9, 11, 40) if INTERPRET else (2, 270, 19, 22)

    def function(x: Tensor) -> Tensor:
        return OPS[op](laid_out(x, layout))

    assert_as_exact_as_eager(function, [random(*shape)], dtype, ulps=2)


@every_op
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_memory_format_is_kept(op: str, memory_format: torch.memory_format, dtype: torch.dtype) -> None:
    """By the result and, also for an upstream gradient of other strides, by the gradient."""
    x = random(2, 6, 5, 4, dtype=dtype).contiguous(memory_format=memory_format).requires_grad_()
    y = OPS[op](x)
    assert y.is_contiguous(memory_format=memory_format)
    y.sum().backward()  # an expanded gradient, all strides zero
    expected = plain(op, torch.ones(2, 6, 5, 4, dtype=torch.float64).requires_grad_())
    assert x.grad is not None and (dtype == torch.float64 or x.grad.stride() == x.stride())
    ones = torch.ones_like(expected)
    total = matrix(op, 5).T @ ones @ matrix(op, 4)
    torch.testing.assert_close(x.grad.double(), total, rtol=torch.finfo(dtype).eps, atol=1e-6)


@every_op
def test_nothing_is_kept_for_the_backward_pass(op: str) -> None:
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, keep):
        OPS[op](random(1, 2, 8, 8).requires_grad_())
    assert not saved


@every_op
def test_empty_maps_and_single_pixels(op: str) -> None:
    for shape in ((0, 3, 4, 6), (2, 0, 4, 6)):
        x = random(*shape).requires_grad_()
        y = OPS[op](x)
        assert y.shape == (*shape[:2], *result_size(op, 4, 6))
        assert torch.autograd.grad(y.sum(), x)[0].shape == shape
    pixel = torch.full((1, 1, 1, 1), 3.0, requires_grad=True)
    y = ops.blur_up(pixel)
    assert y.tolist() == [[[[3.0, 3.0], [3.0, 3.0]]]]
    assert torch.autograd.grad(y.sum(), pixel)[0].item() == 4.0


@every_op
@pytest.mark.parametrize("channels_last", [False, True])
def test_infinity_stays_where_the_filter_reaches(op: str, channels_last: bool) -> None:
    """No weight of zero makes NaN of it. Each image has it at another position."""

    def infinite(height: int, width: int) -> Tensor:
        n = height * width
        x = torch.where(torch.eye(n) == 1, torch.inf, 0.0).reshape(n, 1, height, width).expand(n, 3, height, width)
        return x.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)

    x = infinite(5, 6)
    y = OPS[op](x)
    assert torch.equal(y.isinf(), plain(op, x.isinf().double()) > 0) and not y.isnan().any()
    leaf = torch.zeros(y.shape[2] * y.shape[3], 3, 5, 6)
    leaf = leaf.contiguous(memory_format=torch.channels_last) if channels_last else leaf
    upstream = infinite(*y.shape[2:])
    (found,) = torch.autograd.grad(OPS[op](leaf.requires_grad_()), leaf, upstream)
    reached = matrix(op, 5).T @ upstream.isinf().double() @ matrix(op, 6) > 0
    assert torch.equal(found.isinf(), reached) and not found.isnan().any()


@every_op
@pytest.mark.parametrize("size", [(4, 3), (2, 2)])
def test_gradcheck_of_the_reference(op: str, size: tuple[int, int]) -> None:
    x = random(1, 2, *size, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(OPS[op], x)
    assert torch.autograd.gradgradcheck(OPS[op], x)


@every_op
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_second_derivative(op: str, layout: str) -> None:
    """Of a gradient penalty."""
    x = laid_out(random(2, 3, 5, 4), layout).requires_grad_()

    def penalty() -> Tensor:
        (gradient,) = torch.autograd.grad(OPS[op](x).pow(3).sum(), x, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), x)[0]

    fast = penalty()
    with cgcl_fast.backend("reference"):
        torch.testing.assert_close(fast, penalty())
    assert fast.abs().sum() > 0


@every_op
def test_backends_agree(op: str) -> None:
    if not native(op):
        pytest.skip("no native library")
    x = random(2, 3, 4, 5)
    with cgcl_fast.backend(KERNEL):
        fast = OPS[op](x)
    torch.testing.assert_close(fast, REFERENCES[op](x))


@every_op
def test_meta_and_fake_tensors(op: str) -> None:
    expected = (2, 3, *result_size(op, 4, 5))
    assert OPS[op](torch.empty(2, 3, 4, 5, device="meta")).shape == expected
    with torch._subclasses.FakeTensorMode():
        for dtype in (torch.float32, torch.float16):
            x = torch.empty(2, 3, 4, 5, dtype=dtype, requires_grad=True)
            y = OPS[op](x)
            assert y.shape == expected and y.dtype == dtype
            assert torch.autograd.grad(y.sum(), x)[0].shape == x.shape


@every_op
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "expanded"])
def test_opcheck(op: str, layout: str) -> None:
    if not native(op):
        pytest.skip("no native library")
    forward, backward = (getattr(torch.ops.cgcl_fast, f"_{op}{part}").default for part in ("", "_backward"))
    channels_last = layout.endswith("channels_last")
    size = (4, 3) if op == "blur_down" else ()
    for dtype in (torch.float32,) if INTERPRET else (torch.float32, torch.bfloat16):
        torch.library.opcheck(forward, (laid_out(random(2, 5, 4, 3, dtype=dtype), layout).requires_grad_(),))
        grad = laid_out(random(2, 5, *result_size(op, 4, 3), dtype=dtype), layout).requires_grad_()
        torch.library.opcheck(backward, (grad, *size, channels_last))


@pytest.mark.compile
@every_op
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_compile(op: str, dynamic: bool, dtype: torch.dtype) -> None:
    compiled = torch.compile(OPS[op], fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for side in (4, 7):
        x = random(2, 5, side, 3, dtype=dtype).requires_grad_()
        y, expected = compiled(x), OPS[op](x)
        torch.testing.assert_close(y, expected)
        upstream = random(*y.shape, seed=1, dtype=dtype)
        torch.testing.assert_close(*(torch.autograd.grad(z, x, upstream)[0] for z in (y, expected)))


def test_torchscript() -> None:
    @torch.jit.script
    def there_and_back(x: Tensor) -> Tensor:
        return torch.ops.cgcl_fast.blur_up(torch.ops.cgcl_fast.blur_down(x))

    x = random(2, 3, 4, 6).requires_grad_()
    y = there_and_back(x)
    assert torch.equal(y, ops.blur_up(ops.blur_down(x)))
    y.sum().backward()
    assert x.grad is not None and float(x.grad.sum()) == pytest.approx(y.numel())


def test_nn_has_them_too() -> None:
    assert nn.blur_down is ops.blur_down and nn.blur_up is ops.blur_up


@pytest.mark.parametrize(
    "op, x, error, message",
    [
        ("blur_down", torch.zeros(1, 2, 1, 4), ValueError, r"H and W at least 2, got \(1, 2, 1, 4\)"),
        ("blur_down", torch.zeros(1, 2, 4, 0), ValueError, r"H and W at least 2, got \(1, 2, 4, 0\)"),
        ("blur_up", torch.zeros(1, 2, 0, 4), ValueError, r"H and W at least 1, got \(1, 2, 0, 4\)"),
        ("blur_up", torch.zeros(2, 4, 4), ValueError, r"x of shape \(B, C, H, W\), got \(2, 4, 4\)"),
        ("blur_down", torch.zeros(1, 2, 4, 4, dtype=torch.int64), TypeError, "x of a floating-point dtype"),
    ],
)
def test_errors(op: str, x: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        OPS[op](x)
    assert str(caught.value).startswith(f"{op}: expected")


@pytest.mark.parametrize(
    "name, arguments, message",
    [
        ("_blur_down", ((1, 2, 1, 4),), "blur_down: expected x with H and W of at least 2"),
        ("_blur_down_backward", ((1, 2, 3, 4), 7, 8, False), "blur_down: expected grad with H and W of half"),
        ("_blur_up", ((1, 2, 0, 4),), "blur_up: expected x with H and W of at least 1"),
        ("_blur_up_backward", ((1, 2, 3, 4), False), "blur_up: expected grad with even H and W"),
    ],
)
def test_operators_check_sizes(name: str, arguments: tuple[Any, ...], message: str) -> None:
    """What the public functions have checked: a C++ program calls the kernels without them."""
    shape, *others = arguments
    if not native("blur_down"):
        pytest.skip("no native library")
    with pytest.raises(RuntimeError, match=message):
        getattr(torch.ops.cgcl_fast, name)(torch.zeros(shape), *others)
