from __future__ import annotations

import importlib
from typing import Any

import op_checks
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_checks import DEVICE, KERNEL, examples, layouts, native, only_on_cpu, randint, randn
from torch import Tensor

import cgcl_fast
from cgcl_fast.kernels import INTERPRET
from cgcl_fast.ops import gather_patches, sample_patch_ids

LAYOUTS = (*layouts(torch.zeros(1, 1, 1, 1)), "expanded")
reference = importlib.import_module("cgcl_fast.ops.gather_patches").gather_patches_reference


def laid_out(x: Tensor, layout: str) -> Tensor:
    return x[:1].expand_as(x) if layout == "expanded" else layouts(x)[layout]


def error(actual: Tensor, truth: Tensor) -> float:
    return float((actual.detach().double() - truth).abs().max())


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def random_ids(positions: int, patches: int, batch: int | None, seed: int = 0) -> Tensor:
    return sample_patch_ids(positions, patches, batch=batch, generator=torch.Generator(DEVICE).manual_seed(seed))


@op_checks.by_hand
def by_hand(features: Tensor, ids: Tensor) -> Tensor:
    """One element at a time."""
    batch, channels, _, width = features.shape
    rows = ids.tolist() if ids.dim() == 2 else [ids.tolist()] * batch
    values = [
        [[features[b, c, i // width, i % width].item() for c in range(channels)] for i in row]
        for b, row in enumerate(rows)
    ]
    return torch.tensor(values, dtype=features.dtype).reshape(batch, ids.shape[-1], channels)


@op_checks.by_hand
def scattered_by_hand(grad: Tensor, ids: Tensor, shape: torch.Size) -> Tensor:
    """The gradient in float64, one element at a time."""
    out = torch.zeros(shape, dtype=torch.float64)
    for b in range(shape[0]):
        for p, i in enumerate((ids[b] if ids.dim() == 2 else ids).tolist()):
            out[b, :, i // shape[3], i % shape[3]] += grad[b, p].double()
    return out


@settings(max_examples=examples(80))
@given(
    st.tuples(st.integers(0, 3), st.integers(1, 40), st.integers(1, 12), st.integers(1, 12)),
    st.integers(0, 150),
    st.booleans(),
    st.sampled_from(LAYOUTS),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
    st.data(),
)
def test_values_and_gradient(
    shape: tuple[int, ...], patches: int, per_image: bool, layout: str, dtype: torch.dtype, data: st.DataObject
) -> None:
    features = laid_out(random(*shape, dtype=dtype), layout).requires_grad_()
    ids = random_ids(shape[2] * shape[3], patches, shape[0] if per_image else None, data.draw(st.integers(0, 99)))
    gathered = gather_patches(features, ids)
    assert gathered.is_contiguous() and gathered.dtype == dtype
    assert torch.equal(gathered, by_hand(features.detach(), ids))
    assert torch.equal(gathered, reference(features, ids))
    upstream = random(*gathered.shape, seed=1, dtype=dtype)
    (gradient,) = torch.autograd.grad(gathered, features, upstream)
    assert torch.equal(gradient.double(), scattered_by_hand(upstream, ids, features.shape))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 37, 70, 67), (1, 300, 65, 64)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_many_tiles(shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> None:
    """More patches, channels and pixels than one tile of the kernels holds, on several threads."""
    features = laid_out(random(*shape, dtype=dtype), layout).requires_grad_()
    ids = random_ids(shape[2] * shape[3], 40 if INTERPRET else 1000, shape[0])
    gathered, expected = gather_patches(features, ids), reference(features, ids)
    assert torch.equal(gathered, expected)
    upstream = random(*gathered.shape, seed=1, dtype=dtype)
    (gradient,) = torch.autograd.grad(gathered, features, upstream)
    assert torch.equal(gradient, torch.autograd.grad(expected, features, upstream)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_gradients_of_repeated_ids_add_up(layout: str, dtype: torch.dtype) -> None:
    features = laid_out(random(2, 21, 5, 6, dtype=dtype), layout).requires_grad_()
    patches = examples(500)
    ids = randint(0, 30, (2, patches), generator=torch.Generator().manual_seed(0))
    upstream = random(2, patches, 21, seed=1, dtype=dtype)
    (gradient,) = torch.autograd.grad(gather_patches(features, ids), features, upstream)
    (eager,) = torch.autograd.grad(reference(features, ids), features, upstream)
    truth = scattered_by_hand(upstream, ids, features.shape)
    assert error(gradient, truth) <= 2 * error(eager, truth)
    assert gradient.is_contiguous(memory_format=getattr(torch, f"{layout}_format", torch.channels_last))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_gradient_keeps_the_memory_format(layout: str) -> None:
    features = laid_out(random(2, 6, 5, 4), layout).requires_grad_()
    gather_patches(features, random_ids(20, 7, None)).sum().backward()  # an expanded gradient, all strides zero
    assert features.grad is not None and features.grad.stride() == features.stride()
    assert torch.equal(
        features.grad, scattered_by_hand(torch.ones(2, 7, 6), random_ids(20, 7, None), features.shape).float()
    )


@pytest.mark.parametrize("strided", ["transposed", "cropped", "expanded"])
def test_strided_gradients_and_ids(strided: str) -> None:
    features, ids = random(2, 6, 5, 4).requires_grad_(), random_ids(20, 14, 2)[:, ::2]
    upstream = {
        "transposed": random(2, 6, 7).transpose(1, 2),
        "cropped": random(3, 9, 8)[1:, 1:8, 1:7],
        "expanded": random(1, 1, 6).expand(2, 7, 6),
    }[strided]
    (gradient,) = torch.autograd.grad(gather_patches(features, ids), features, upstream)
    assert torch.equal(gradient, scattered_by_hand(upstream, ids, features.shape).float())


def test_a_single_element_and_no_patches() -> None:
    x = torch.tensor([[[[3.0]]]], requires_grad=True)
    y = gather_patches(x, torch.tensor([0]))
    assert y.tolist() == [[[3.0]]]
    none = gather_patches(random(2, 3, 4, 5).requires_grad_(), torch.empty(0, dtype=torch.int64))
    assert none.shape == (2, 0, 3)
    empty = random(0, 3, 4, 5).requires_grad_()
    gather_patches(empty, torch.tensor([1, 2])).sum().backward()
    assert empty.grad is not None and empty.grad.shape == (0, 3, 4, 5)
    assert gather_patches(random(2, 3, 0, 5), torch.empty(0, dtype=torch.int64)).shape == (2, 0, 3)


@pytest.mark.skipif(INTERPRET, reason="of the CPU's kernels")
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_large_gradients_that_reuse_memory(layout: str) -> None:
    """Gradients above 32 MiB take over the memory of one that is gone, never of one that is still there."""
    features = laid_out(torch.zeros(1, 130, 257, 256), layout).requires_grad_()
    patches = examples(300)
    ids = random_ids(257 * 256, patches, None)

    def gradient(value: float) -> Tensor:
        (result,) = torch.autograd.grad(gather_patches(features, ids).sum() * value, features)
        return result

    def is_right(result: Tensor, value: float) -> bool:
        rows = result.flatten(2)[0]
        return bool((rows[:, ids] == value).all()) and int(result.count_nonzero()) == patches * 130

    for value in (1.0, 2.0):  # each is freed before the next
        kept = gradient(value)
        assert kept.stride() == features.stride() and is_right(kept, value)
        del kept
    first, second = gradient(3.0), gradient(4.0)
    assert is_right(first, 3.0) and is_right(second, 4.0)
    del first
    third, view = gradient(5.0), second[:, 1:]
    del second
    fourth = gradient(6.0)
    assert is_right(third, 5.0) and is_right(fourth, 6.0) and int(view.count_nonzero()) == patches * 129


def test_same_result_twice() -> None:
    positions, patches = (60, 100) if INTERPRET else (2500, 3000)  # ids repeat
    features, ids = random(1, 64, 50, 50).requires_grad_(), torch.randint(0, positions, (patches,))
    runs = [torch.autograd.grad(gather_patches(features, ids).square().sum(), features)[0] for _ in range(3)]
    assert all(torch.equal(run, runs[0]) for run in runs)


@pytest.mark.parametrize("per_image", [False, True])
def test_gradcheck_of_the_reference(per_image: bool) -> None:
    features = random(2, 3, 4, 3, dtype=torch.float64).requires_grad_()
    ids = random_ids(12, 5, 2 if per_image else None)
    assert torch.autograd.gradcheck(lambda x: gather_patches(x, ids), features)
    assert torch.autograd.gradgradcheck(lambda x: gather_patches(x, ids), features)


def test_second_derivative() -> None:
    features, ids = random(2, 3, 4, 3).requires_grad_(), random_ids(12, 5, 2)

    def penalty() -> Tensor:
        gathered = gather_patches(features, ids)
        (gradient,) = torch.autograd.grad(gathered.pow(3).sum(), features, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), features)[0]

    fast = penalty()
    with cgcl_fast.backend("reference"):
        assert torch.allclose(fast, penalty())
    assert fast.abs().sum() > 0


@pytest.mark.skipif(not native("gather_patches"), reason="no native library")
def test_backends_agree() -> None:
    features, ids = random(2, 3, 4, 5), random_ids(20, 6, 2)
    with cgcl_fast.backend(KERNEL):
        fast = gather_patches(features, ids)
    with cgcl_fast.backend("reference"):
        assert torch.equal(fast, gather_patches(features, ids))


def test_autocast_keeps_the_dtype() -> None:
    with torch.autocast(DEVICE.type, torch.bfloat16):
        assert gather_patches(random(1, 3, 4, 5), torch.tensor([1])).dtype == torch.float32
        assert gather_patches(random(1, 3, 4, 5, dtype=torch.bfloat16), torch.tensor([1])).dtype == torch.bfloat16


def test_meta_and_fake_tensors() -> None:
    assert gather_patches(
        torch.empty(2, 3, 4, 5, device="meta"), torch.empty(6, dtype=torch.int64, device="meta")
    ).shape == (2, 6, 3)
    with torch._subclasses.FakeTensorMode():
        for dtype in (torch.float32, torch.float16):
            features = torch.empty(2, 3, 4, 5, dtype=dtype, requires_grad=True)
            y = gather_patches(features, torch.zeros(2, 6, dtype=torch.int64))
            assert y.shape == (2, 6, 3) and y.dtype == dtype
            assert torch.autograd.grad(y.sum(), features)[0].shape == features.shape


@pytest.mark.skipif(not native("gather_patches"), reason="no native library")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck(layout: str) -> None:
    forward, backward = (
        torch.ops.cgcl_fast._gather_patches.default,
        torch.ops.cgcl_fast._gather_patches_backward.default,
    )
    for dtype in (torch.float32,) if INTERPRET else (torch.float32, torch.bfloat16):
        features = laid_out(random(2, 5, 4, 3, dtype=dtype), layout).requires_grad_()
        for batch in (None, 2):
            ids = random_ids(12, 5, batch)
            torch.library.opcheck(forward, (features, ids))
            grad = random(2, 5, 5, dtype=dtype).requires_grad_()
            torch.library.opcheck(backward, (grad, ids, 5, 4, 3, layout.endswith("channels_last")))


@pytest.mark.compile
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_compile(dynamic: bool, dtype: torch.dtype) -> None:
    compiled = torch.compile(gather_patches, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for side in (4, 6):
        features, ids = random(2, 5, side, 3, dtype=dtype).requires_grad_(), random_ids(side * 3, 5, 2)
        y, expected = compiled(features, ids), gather_patches(features, ids)
        assert torch.equal(y, expected)
        upstream = random(*y.shape, seed=1, dtype=dtype)
        gradients = [torch.autograd.grad(z, features, upstream)[0] for z in (y, expected)]
        assert torch.equal(*gradients)


def test_torchscript() -> None:
    @torch.jit.script
    def gather(features: Tensor, ids: Tensor) -> Tensor:
        return torch.ops.cgcl_fast.gather_patches(features, ids)

    features, ids = random(2, 3, 4, 5).requires_grad_(), random_ids(20, 6, 2)
    y = gather(features, ids)
    assert torch.equal(y, gather_patches(features, ids))
    y.sum().backward()
    assert features.grad is not None and float(features.grad.sum()) == 2 * 6 * 3


@only_on_cpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("wrong", [-1, -20, 20, 2**40, -(2**63)])
@pytest.mark.parametrize("per_image", [False, True])
def test_ids_out_of_range_are_named(wrong: int, dtype: torch.dtype, per_image: bool) -> None:
    ids = torch.tensor([[3, 4], [5, wrong]]) if per_image else torch.tensor([3, wrong])
    with pytest.raises(ValueError, match=rf"gather_patches: expected ids in \[0, 20\), .* got {wrong}$"):
        gather_patches(random(2, 3, 4, 5, dtype=dtype), ids)


@pytest.mark.skipif(DEVICE.type == "cpu" and not INTERPRET, reason="a GPU kernel, there or interpreted")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("wrong", [-1, 20, 2**31, 2**32 + 3, -(2**63)])
def test_gpu_kernels_read_nan_out_of_range_and_write_nothing_there(wrong: int, layout: str) -> None:
    features, upstream = laid_out(random(2, 3, 4, 5), layout), random(2, 4, 3)
    ids = torch.tensor([[3, wrong, 19, wrong], [0, 1, wrong, 0]])
    right = ids != wrong
    gathered = torch.ops.cgcl_fast._gather_patches(features, ids)
    assert gathered[~right].isnan().all()
    assert torch.equal(gathered[right], reference(features, ids.where(right, 0))[right])
    gradient = torch.ops.cgcl_fast._gather_patches_backward(upstream, ids, 3, 4, 5, layout == "channels_last")
    dropped = torch.where(right[..., None], upstream, 0)
    assert torch.equal(gradient, scattered_by_hand(dropped, ids.where(right, 0), features.shape).float())


@pytest.mark.parametrize(
    "features, ids, error, message",
    [
        ([1.0], torch.tensor([0]), TypeError, r"features to be a Tensor \(B, C, H, W\), got list"),
        (
            torch.zeros(1, 1, 2, 2, dtype=torch.int64),
            torch.tensor([0]),
            TypeError,
            "features of a floating-point dtype, got torch.int64",
        ),
        (torch.zeros(1, 2, 2), torch.tensor([0]), ValueError, r"features of shape \(B, C, H, W\), got \(1, 2, 2\)"),
        (torch.zeros(1, 1, 2, 2), [0], TypeError, "ids to be an int64 Tensor, got list"),
        (
            torch.zeros(1, 1, 2, 2),
            torch.tensor([0], dtype=torch.int32),
            TypeError,
            "ids of dtype torch.int64, got torch.int32",
        ),
        (
            torch.zeros(1, 1, 2, 2),
            torch.zeros(2, 3, dtype=torch.int64),
            ValueError,
            r"ids of shape \(P,\) or \(B, P\) with B = 1, got \(2, 3\)",
        ),
        (torch.zeros(1, 1, 2, 2), torch.tensor(0), ValueError, r"ids of shape \(P,\) or \(B, P\) with B = 1, got \(\)"),
        (
            torch.zeros(1, 1, 2, 2),
            torch.zeros(3, dtype=torch.int64, device="meta"),
            ValueError,
            f"ids on features's device {DEVICE}, got meta",
        ),
    ],
)
def test_errors(features: Any, ids: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        gather_patches(features, ids)
    assert str(caught.value).startswith("gather_patches: expected")


@pytest.mark.skipif(not native("gather_patches"), reason="no native library")
@only_on_cpu
def test_kernel_checks_its_arguments() -> None:
    grad, ids = random(2, 3, 4), torch.tensor([0, 1, 2])
    backward = torch.ops.cgcl_fast._gather_patches_backward
    with pytest.raises(RuntimeError, match=r"grad of shape \(B, P, C\) = \(2, 3, 5\), got \(2, 3, 4\)"):
        backward(grad, ids, 5, 4, 4, False)
    with pytest.raises(RuntimeError, match=r"ids of shape \(P,\) or \(B, P\) with B = 2"):
        torch.ops.cgcl_fast._gather_patches(random(2, 3, 4, 5), torch.zeros(3, 2, dtype=torch.int64))
    with cgcl_fast.backend("native"), pytest.raises(RuntimeError, match=r"ids in \[0, 2\), .* got 2"):
        backward(grad, ids, 4, 1, 2, False)
    with cgcl_fast.backend("native"), pytest.raises(RuntimeError, match="float32 or bfloat16"):
        torch.ops.cgcl_fast._gather_patches(torch.zeros(1, 1, 2, 2, dtype=torch.float64), ids)
