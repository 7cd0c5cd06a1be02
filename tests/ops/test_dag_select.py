from __future__ import annotations

import importlib
from fractions import Fraction
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from op_checks import DEVICE, by_hand, examples, layouts, native, only_on_cpu, randn, randperm
from torch import Tensor

import cgcl_fast
from cgcl_fast.kernels import INTERPRET
from cgcl_fast.ops import dag_select, sample_patch_ids

LAYOUTS = (*layouts(torch.zeros(1, 1, 1, 1)), "expanded")
module = importlib.import_module("cgcl_fast.ops.dag_select")


def laid_out(x: Tensor, layout: str) -> Tensor:
    return x[:1].expand_as(x) if layout == "expanded" else layouts(x)[layout]


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def draw(positions: int, count: int, batch: int | None, seed: int = 0) -> Tensor:
    return sample_patch_ids(positions, count, batch=batch, generator=torch.Generator(DEVICE).manual_seed(seed))


@by_hand
def published(score: Tensor, size: tuple[int, int], candidates: Tensor, patches: int, first: int) -> Tensor:
    """As EnCo's pseudo-code does it: the whole score map at the feature size, then one image after the other."""
    full = F.interpolate(score, size, mode="bilinear", align_corners=False).flatten(1)
    rows = []
    for b in range(len(score)):
        points = candidates[b] if candidates.dim() == 2 else candidates
        indices = sorted(range(len(points)), key=lambda k: float(full[b, points[k]]))  # noqa: B023  sorted() is stable
        rows.append(points[indices[:first] + indices[len(indices) - (patches - first) :]])
    return torch.stack(rows) if rows else candidates.new_empty(0, patches)


@settings(max_examples=examples(80))
@given(
    st.integers(0, 3),
    st.tuples(*[st.integers(1, 9)] * 2),
    st.tuples(*[st.integers(1, 24)] * 2),
    st.integers(0, 40),
    st.floats(1, 5),
    st.floats(0, 1),
    st.booleans(),
    st.sampled_from(LAYOUTS),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
)
def test_values(
    batch: int,
    score_size: tuple[int, int],
    size: tuple[int, int],
    patches: int,
    oversample: float,
    importance: float,
    per_image: bool,
    layout: str,
    dtype: torch.dtype,
) -> None:
    positions = size[0] * size[1]
    patches = min(patches, positions)
    candidates = draw(positions, int(oversample * patches), batch if per_image else None)
    score = laid_out(random(batch, 1, *score_size, dtype=dtype), layout)
    options: dict[str, Any] = {"candidates": candidates, "importance": importance}
    ids = dag_select(score, size, patches, **options)
    first = round(importance * patches)
    assert ids.shape == (batch, patches) and ids.dtype == torch.int64
    with cgcl_fast.backend("reference"):
        assert torch.equal(ids, dag_select(score, size, patches, **options))
    wide = score.double() if dtype == torch.float64 else score.float()
    # Scores that rounding may order either way are told apart by their values, not by their ids.
    full = F.interpolate(wide, size, mode="bilinear").flatten(1) if batch else wide.new_zeros(0, positions)
    expected = published(wide, size, candidates, patches, first)
    torch.testing.assert_close(full.gather(1, ids), full.gather(1, expected), rtol=1e-5, atol=1e-5)
    for row, drawn in zip(ids.tolist(), candidates.expand(batch, -1).tolist(), strict=True):
        assert len(set(row)) == patches and set(row) <= set(drawn)


@pytest.mark.parametrize(
    "score_size, size",
    [((30, 30), (64, 64)), ((30, 30), (256, 256)), ((7, 5), (3, 11)), ((1, 1), (4, 4)), ((62, 35), (31, 70))],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_bilinear_values_are_those_of_interpolate(
    score_size: tuple[int, int], size: tuple[int, int], dtype: torch.dtype
) -> None:
    score = random(2, 1, *score_size, dtype=dtype)
    wide = score.to(torch.promote_types(dtype, torch.float32))
    every = torch.arange(size[0] * size[1]).expand(2, -1)
    expected = F.interpolate(wide, size, mode="bilinear", align_corners=False).flatten(1)
    torch.testing.assert_close(module.bilinear_at(score, size, every), expected, rtol=1e-5, atol=1e-6)


@by_hand
def exact_bilinear(score: Tensor, size: tuple[int, int], position: int) -> Fraction:
    """In rational numbers, from the definition: pixel centres at half-integers, clamped at the border."""
    taps = []
    for i, extent, length in zip(divmod(position, size[1]), score.shape, size, strict=True):
        source = max(Fraction(2 * i + 1, 2) * Fraction(extent, length) - Fraction(1, 2), Fraction(0))
        low = int(source)
        taps.append([(low, 1 - (source - low)), (min(low + 1, extent - 1), source - low)])
    return sum((y[1] * x[1] * Fraction(score[y[0], x[0]].item()) for y in taps[0] for x in taps[1]), Fraction(0))


def test_against_rational_arithmetic() -> None:
    score, size = random(1, 1, 5, 4), (13, 9)
    candidates = draw(117, 60, None)
    truth = {i: exact_bilinear(score[0, 0], size, i) for i in candidates.tolist()}
    order = sorted(candidates.tolist(), key=lambda i: truth[i])
    ids = dag_select(score, size, 15, candidates=candidates, importance=0.6)
    assert ids.tolist() == [order[:9] + order[-6:]]


@pytest.mark.parametrize(
    "importance, first", [(0.0, 0), (1.0, 8), (0.5, 4), (0.3, 2), (0.32, 3), (0.3125, 2), (0.4375, 4)]
)
def test_importance(importance: float, first: int) -> None:
    """round(β·P) lowest, the rest highest; at β = 1 the lowest P, not all candidates. Halves round to even."""
    score = torch.arange(100.0).reshape(1, 1, 10, 10)
    candidates = randperm(100, generator=torch.Generator().manual_seed(0))[:32]
    ordered = candidates.sort().values.tolist()
    ids = dag_select(score, (10, 10), 8, importance=importance, candidates=candidates)
    assert ids.tolist() == [ordered[:first] + ordered[32 - (8 - first) :]]


def test_ties_keep_the_order_of_the_candidates() -> None:
    candidates = torch.tensor([9, 3, 7, 1, 0, 8])
    score = torch.zeros(1, 1, 4, 4)
    score[0, 0, 0, 3] = -0.0  # equal to the other zeros
    assert dag_select(score, (4, 4), 4, candidates=candidates).tolist() == [[9, 3, 0, 8]]
    assert dag_select(score, (4, 4), 6, candidates=candidates).tolist() == [[9, 3, 7, 1, 0, 8]]


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_nan_comes_last_in_the_order_of_the_candidates(backend: str) -> None:
    score = random(1, 1, 8, 8)
    score[0, 0, 2, 3], score[0, 0, 6, 6] = float("inf"), float("-inf")
    score[0, 0, 1, 1], score[0, 0, 4, 4] = float("nan"), -torch.tensor(float("nan"))  # one with its sign bit set
    candidates = draw(100, 100, None)
    values = module.bilinear_at(score, (10, 10), candidates[None])[0]
    nan = values.isnan()
    assert 4 < int(nan.sum()) < 60
    expected = [*candidates[~nan][values[~nan].argsort(stable=True)].tolist(), *candidates[nan].tolist()]
    with cgcl_fast.backend(backend):
        assert dag_select(score, (10, 10), 100, candidates=candidates).tolist() == [expected]


@pytest.mark.skipif(DEVICE.type == "cpu" and not INTERPRET, reason="a GPU kernel, there or interpreted")
@pytest.mark.parametrize("wrong", [-1, 64, 2**31, 2**32 + 3, -(2**63)])
def test_gpu_kernels_put_candidates_out_of_range_last(wrong: int) -> None:
    score = random(2, 1, 5, 4)
    candidates = torch.tensor([5, wrong, 9, 60, wrong, 1])
    ids = torch.ops.cgcl_fast._dag_select(score, candidates, 8, 8, 6, 6)
    expected = dag_select(score, (8, 8), 4, candidates=candidates[[0, 2, 3, 5]], importance=1)
    assert ids.tolist() == [[*row, wrong, wrong] for row in expected.tolist()]


@pytest.mark.skipif(not native("dag_select"), reason="no native library")
def test_more_candidates_than_a_program_compares() -> None:
    count = 1000 if INTERPRET else 65536
    score, candidates = random(1, 1, 30, 30), draw(65536, count, None)
    expected = module.dag_select_reference(score, candidates, 256, 256, 300, 170)
    assert torch.equal(torch.ops.cgcl_fast._dag_select(score, candidates, 256, 256, 300, 170), expected)


def test_draws_candidates_of_its_own_for_each_image() -> None:
    score = random(1, 1, 5, 5).expand(2, -1, -1, -1)
    first, again = (dag_select(score, (32, 32), 20, generator=torch.Generator(DEVICE).manual_seed(5)) for _ in range(2))
    assert torch.equal(first, again) and not torch.equal(first[0], first[1])
    candidates = draw(1024, 80, 2, seed=5)
    assert torch.equal(first, dag_select(score, (32, 32), 20, candidates=candidates))
    torch.manual_seed(0)
    default = dag_select(score, (32, 32), 20)
    torch.manual_seed(0)
    assert torch.equal(default, dag_select(score, (32, 32), 20))


@pytest.mark.parametrize("oversample, drawn", [(1, 20), (1.55, 31), (4, 80), (100, 1024)])
def test_oversample(oversample: float, drawn: int) -> None:
    score = random(2, 1, 5, 5)
    ids = dag_select(score, (32, 32), 20, oversample=oversample, generator=torch.Generator(DEVICE).manual_seed(5))
    assert torch.equal(ids, dag_select(score, (32, 32), 20, candidates=draw(1024, drawn, 2, seed=5)))


def test_takes_all_where_there_are_too_few_positions() -> None:
    ids = dag_select(random(2, 1, 5, 5), (3, 4), 256)
    assert ids.shape == (2, 12) and all(sorted(row) == list(range(12)) for row in ids.tolist())
    assert dag_select(random(0, 1, 5, 5), (3, 4), 5).shape == (0, 5)
    assert dag_select(random(1, 1, 1, 1), (1, 1), 1).tolist() == [[0]]


def test_no_gradient_is_asked_for_or_given() -> None:
    ids = dag_select(random(1, 1, 3, 3).requires_grad_(), (8, 8), 5)
    assert not ids.requires_grad


def test_backends_and_autocast() -> None:
    score, candidates = random(2, 1, 6, 6), draw(400, 100, 2)
    with cgcl_fast.backend("auto"):
        fast = dag_select(score, (20, 20), 30, candidates=candidates)
    with torch.autocast(DEVICE.type, torch.bfloat16):
        for backend in ("auto", "reference"):
            with cgcl_fast.backend(backend):
                assert torch.equal(fast, dag_select(score, (20, 20), 30, candidates=candidates))


def test_meta_and_fake_tensors() -> None:
    assert dag_select(torch.empty(2, 1, 4, 5, device="meta"), (8, 8), 6).shape == (2, 6)
    with torch._subclasses.FakeTensorMode():
        for dtype in (torch.float32, torch.float16):
            assert dag_select(torch.empty(2, 1, 4, 5, dtype=dtype), (8, 8), 6).shape == (2, 6)
            candidates = torch.zeros(20, dtype=torch.int64)
            assert dag_select(torch.empty(2, 1, 4, 5, dtype=dtype), (8, 8), 6, candidates=candidates).shape == (2, 6)


@pytest.mark.skipif(not native("dag_select"), reason="no native library")
def test_opcheck() -> None:
    operator = torch.ops.cgcl_fast._dag_select.default
    for layout in LAYOUTS:
        for dtype in (torch.float32, torch.bfloat16):
            score = laid_out(random(2, 1, 4, 5, dtype=dtype), layout)
            for candidates in (draw(64, 20, None), draw(64, 20, 2), draw(64, 20, None).expand(2, -1)):
                torch.library.opcheck(operator, (score, candidates, 8, 8, 6, 3))


@pytest.mark.compile
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_compile(dynamic: bool, dtype: torch.dtype) -> None:
    def choose(score: Tensor, features: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
        size = features.shape[2:]
        return dag_select(score, size, 6), dag_select(score, size, 6, candidates=candidates, importance=0.25)

    compiled = torch.compile(choose, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for side in (8, 12):
        arguments = random(2, 1, 5, 4, dtype=dtype), torch.zeros(2, 3, side, side), draw(side * side, 40, 2)
        torch.manual_seed(3)
        actual = compiled(*arguments)
        torch.manual_seed(3)
        assert all(torch.equal(a, b) for a, b in zip(actual, choose(*arguments), strict=True))


def test_torchscript() -> None:
    @torch.jit.script
    def choose(score: Tensor, candidates: Tensor) -> Tensor:
        return torch.ops.cgcl_fast.dag_select(score, [20, 20], 30, candidates=candidates, importance=0.75)

    score, candidates = random(2, 1, 6, 6), draw(400, 100, 2)
    assert torch.equal(
        choose(score, candidates), dag_select(score, (20, 20), 30, candidates=candidates, importance=0.75)
    )


SCORE = torch.zeros(2, 1, 4, 4)


@pytest.mark.parametrize(
    "arguments, keywords, error, message",
    [
        (([0.0], (4, 4), 2), {}, TypeError, r"score to be a Tensor \(B, 1, h, w\), got list"),
        ((SCORE[0], (4, 4), 2), {}, ValueError, r"score of shape \(B, 1, h, w\), got \(1, 4, 4\)"),
        ((SCORE.long(), (4, 4), 2), {}, TypeError, "score of a floating-point dtype, got torch.int64"),
        ((SCORE.expand(2, 3, 4, 4), (4, 4), 2), {}, ValueError, r"score of shape .* got \(2, 3, 4, 4\)"),
        ((SCORE[:, :, :0], (4, 4), 2), {}, ValueError, r"h, w >= 1, got \(2, 1, 0, 4\)"),
        ((SCORE, 4, 2), {}, TypeError, r"size to be two integers \(H, W\), got int"),
        ((SCORE, (4, 4, 4), 2), {}, TypeError, "size to be two integers"),
        ((SCORE, (4, 4.0), 2), {}, TypeError, "size to be an integer, got float"),
        ((SCORE, (4, 0), 2), {}, ValueError, "size >= 1, got 0"),
        ((SCORE, (4, 4), -1), {}, ValueError, "num_patches >= 0, got -1"),
        ((SCORE, (4, 4), 2), {"oversample": 0.5}, ValueError, "oversample >= 1, got 0.5"),
        ((SCORE, (4, 4), 2), {"oversample": float("nan")}, ValueError, "oversample >= 1, got nan"),
        ((SCORE, (4, 4), 2), {"oversample": float("inf")}, ValueError, "oversample >= 1, got inf"),
        ((SCORE, (4, 4), 2), {"oversample": "4"}, TypeError, "oversample to be a number, got str"),
        ((SCORE, (4, 4), 2), {"importance": 1.5}, ValueError, r"importance in \[0, 1\], got 1.5"),
        ((SCORE, (4, 4), 2), {"importance": float("nan")}, ValueError, r"importance in \[0, 1\], got nan"),
        ((SCORE, (4, 4), 2), {"importance": None}, TypeError, "importance to be a number, got NoneType"),
        ((SCORE, (4, 4), 2), {"generator": 1}, TypeError, "generator to be a torch.Generator or None, got int"),
        ((SCORE, (4, 4), 2), {"candidates": [1, 2]}, TypeError, "candidates to be an int64 Tensor, got list"),
        (
            (SCORE, (4, 4), 2),
            {"candidates": torch.ones(3)},
            TypeError,
            "candidates of dtype torch.int64, got torch.float32",
        ),
        (
            (SCORE, (4, 4), 2),
            {"candidates": torch.ones(3, 3).long()},
            ValueError,
            r"candidates of shape \(K,\) or \(B, K\) with B = 2",
        ),
        ((SCORE, (4, 4), 5), {"candidates": torch.arange(4)}, ValueError, "at least num_patches = 5 candidates, got 4"),
        (
            (SCORE, (4, 4), 2),
            {"candidates": torch.arange(4).to("meta")},
            ValueError,
            f"candidates on score's device {DEVICE}, got meta",
        ),
        pytest.param(
            (SCORE, (4, 4), 2),
            {"candidates": torch.tensor([1, 2, 16])},
            ValueError,
            r"candidates in \[0, 16\), .* got 16",
            marks=only_on_cpu,
        ),
        pytest.param(
            (SCORE.double(), (4, 4), 2),
            {"candidates": torch.tensor([1, 2, -1])},
            ValueError,
            r"candidates in \[0, 16\), .* got -1",
            marks=only_on_cpu,
        ),
    ],
)
def test_errors(arguments: tuple, keywords: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        dag_select(*arguments, **keywords)
    assert str(caught.value).startswith("dag_select: expected")


@pytest.mark.skipif(not native("dag_select"), reason="no native library")
@only_on_cpu
def test_kernel_checks_its_arguments() -> None:
    operator = torch.ops.cgcl_fast._dag_select
    with pytest.raises(RuntimeError, match="first <= num_patches <= number of candidates, got 3, 2 and 5"):
        operator(SCORE, torch.arange(5), 4, 4, 2, 3)
    with pytest.raises(RuntimeError, match=r"score of shape \(B, 1, h, w\)"):
        operator(SCORE.expand(2, 3, 4, 4), torch.arange(5), 4, 4, 2, 1)
    with pytest.raises(RuntimeError, match=r"candidates of shape \(P,\) or \(B, P\) with B = 2"):
        operator(SCORE, torch.ones(3, 5).long(), 4, 4, 2, 1)
