from __future__ import annotations

import importlib
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_checks import DEVICE, KERNEL, examples, native, only_on_cpu
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import cgcl_fast
from cgcl_fast.kernels import INTERPRET
from cgcl_fast.ops import sample_patch_ids

reference = importlib.import_module("cgcl_fast.ops.sample_patch_ids")


many_draws = pytest.mark.skipif(INTERPRET, reason="the draws are the same, and too many to interpret")
needs_native = pytest.mark.skipif(not native("sample_patch_ids"), reason="no native library")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator(DEVICE).manual_seed(seed)


def assert_uniform(counts: Tensor, chosen: float = 0.0) -> None:
    """Chi-square of counts that should be equal: within five standard deviations of its mean.

    `chosen`: the share that each draw takes without repetition, which makes the counts that much more alike.
    """
    counts = counts.double().flatten()
    expected = counts.mean()
    assert expected > 20
    freedom = counts.numel() - 1
    chi_square = float(((counts - expected) ** 2 / expected).sum()) / (1 - chosen)
    assert abs(chi_square - freedom) < 5 * math.sqrt(2 * freedom)


def scalar_draw(key: int, t: int) -> int:
    """splitmix64 on Python's integers."""
    z = (key + (t + 1) * 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return (z ^ (z >> 31)) % 2**63


def scalar_ids(key: int, positions: int, patches: int) -> list[int]:
    if positions < 2 * patches:
        return sorted(range(positions), key=lambda i: scalar_draw(key, i))[:patches]
    ids: dict[int, None] = {}
    t = 0
    while len(ids) < patches:
        ids.setdefault(scalar_draw(key, t) % positions)
        t += 1
    return list(ids)


@settings(max_examples=examples(60))
@given(st.integers(0, 500), st.integers(0, 140), st.one_of(st.none(), st.integers(0, 4)), st.integers(0, 2**32))
def test_ids_are_distinct_and_in_range(positions: int, patches: int, batch: int | None, seed: int) -> None:
    ids = sample_patch_ids(positions, patches, batch=batch, generator=seeded(seed))
    count = min(positions, patches)
    assert ids.dtype == torch.int64 and ids.is_contiguous()
    assert ids.shape == ((count,) if batch is None else (batch, count))
    for row in ids.reshape(-1, count).tolist() if count else []:
        assert len(set(row)) == count and all(0 <= i < positions for i in row)


@needs_native
@settings(max_examples=examples(60))
@given(st.integers(1, 3000), st.integers(0, 300), st.lists(st.integers(0, 2**63 - 2), min_size=1, max_size=3))
def test_kernel_equals_reference_and_python(positions: int, patches: int, keys: list[int]) -> None:
    count = min(positions, patches)
    fast = torch.ops.cgcl_fast._sample_patch_ids(torch.tensor(keys), positions, count)
    assert torch.equal(fast, reference.sample_patch_ids_reference(torch.tensor(keys), positions, count))
    assert fast.tolist() == [scalar_ids(key, positions, count) for key in keys]


@needs_native
def test_more_positions_than_32_bits() -> None:
    keys = torch.tensor([5, 2**63 - 2])
    fast = torch.ops.cgcl_fast._sample_patch_ids(keys, 2**62, 100)
    assert torch.equal(fast, reference.sample_patch_ids_reference(keys, 2**62, 100))
    assert int(fast.max()) > 2**40


@many_draws
@pytest.mark.parametrize("positions, patches", [(100, 10), (100, 50), (100, 60), (64, 64)])
def test_every_position_and_pair_is_equally_likely(positions: int, patches: int) -> None:
    ids = sample_patch_ids(positions, patches, batch=20000, generator=seeded())
    for place in {0, 1, patches // 2, patches - 1}:
        assert_uniform(torch.bincount(ids[:, place], minlength=positions))
    if patches < positions:
        assert_uniform(torch.bincount(ids.flatten(), minlength=positions), patches / positions)
    for a, b in [(0, 1), (1, 0), (0, patches - 1), (patches // 2, patches // 2 + 1)]:
        offsets = (ids[:, b] - ids[:, a]) % positions
        assert offsets.min() > 0
        assert_uniform(torch.bincount(offsets, minlength=positions)[1:])


@many_draws
@pytest.mark.parametrize("positions, patches", [(2, 2), (3, 3), (4, 4), (5, 5), (4, 2), (5, 3), (8, 2), (12, 3)])
def test_every_ordered_choice_is_equally_likely(positions: int, patches: int) -> None:
    choices = math.perm(positions, patches)
    ids = sample_patch_ids(positions, patches, batch=100 * choices, generator=seeded(1))
    code = torch.zeros(len(ids), dtype=torch.int64)
    for place in range(patches):
        code = code * positions + ids[:, place]
    counts = torch.bincount(code)
    assert int((counts > 0).sum()) == choices
    assert_uniform(counts[counts > 0])


def test_neighbouring_keys_are_unrelated() -> None:
    ids = reference.sample_patch_ids_reference(torch.arange(20000), 100, 10)
    assert_uniform(torch.bincount((ids[1:, 0] - ids[:-1, 0]) % 100, minlength=100))
    assert_uniform(torch.bincount(ids.flatten(), minlength=100))


def test_draws_that_repeat_forever_still_give_distinct_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "_draws", lambda keys, count: torch.full((len(keys), count), 7))
    ids = reference.sample_patch_ids_reference(torch.tensor([1, 2]), 100, 5)
    assert ids.tolist() == [[7, 0, 1, 2, 3]] * 2


@pytest.mark.skipif(not INTERPRET, reason="a GPU kernel, interpreted")
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("positions, patches, draws", [(4, 2, 1), (300, 150, 64), (1 << 20, 200, 3)])
def test_triton_goes_on_where_the_draws_are_not_enough(
    positions: int, patches: int, draws: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = importlib.import_module("cgcl_fast.kernels.sample_patch_ids")
    monkeypatch.setattr(kernels, "_enough", lambda positions, patches: draws)
    keys = torch.tensor([1, 2**63 - 2])
    fast = torch.ops.cgcl_fast._sample_patch_ids(keys, positions, patches)
    assert fast.tolist() == [scalar_ids(key, positions, patches) for key in keys.tolist()]


def test_all_positions_are_a_permutation() -> None:
    for patches in (30, 31, 1000):
        assert sorted(sample_patch_ids(30, patches).tolist()) == list(range(30))


def test_generators_reproduce_and_advance() -> None:
    a, b = (sample_patch_ids(1000, 20, batch=2, generator=g) for g in (seeded(3), seeded(3)))
    assert torch.equal(a, b) and not torch.equal(a[0], a[1])
    generator = seeded(3)
    first, state = sample_patch_ids(1000, 20, generator=generator), generator.get_state()
    second = sample_patch_ids(1000, 20, generator=generator)
    generator.set_state(state)
    assert not torch.equal(first, second)
    assert torch.equal(second, sample_patch_ids(1000, 20, generator=generator))


def test_default_generator() -> None:
    torch.manual_seed(4)
    first, second = sample_patch_ids(1000, 20), sample_patch_ids(1000, 20)
    torch.manual_seed(4)
    assert torch.equal(first, sample_patch_ids(1000, 20)) and not torch.equal(first, second)


def test_checkpointing_draws_the_same_again() -> None:
    drawn = []

    def step(x: Tensor) -> Tensor:
        drawn.append(sample_patch_ids(50, 5))
        return x[drawn[-1]].sin()

    checkpoint(step, torch.randn(50, requires_grad=True), use_reentrant=False).sum().backward()
    assert len(drawn) == 2 and torch.equal(*drawn)


@needs_native
def test_backends_agree() -> None:
    with cgcl_fast.backend(KERNEL):
        fast = sample_patch_ids(777, 100, batch=2, generator=seeded())
    with cgcl_fast.backend("reference"):
        assert torch.equal(fast, sample_patch_ids(777, 100, batch=2, generator=seeded()))


def test_other_devices_take_the_reference() -> None:
    assert sample_patch_ids(100, 5, batch=2, device="meta").shape == (2, 5)
    ids = sample_patch_ids(100, 5, generator=seeded(), device="meta")
    assert ids.is_meta and ids.shape == (5,)
    with cgcl_fast.backend("reference"), torch.device("meta"):
        assert sample_patch_ids(10, 5).is_meta


def test_fake_tensors() -> None:
    with torch._subclasses.FakeTensorMode():
        assert sample_patch_ids(100, 5).shape == (5,)
        assert sample_patch_ids(100, 500, batch=3).shape == (3, 100)


@needs_native
def test_opcheck() -> None:
    operator = torch.ops.cgcl_fast._sample_patch_ids.default
    for keys in (torch.tensor(3), torch.tensor([3, 4, 5]), torch.arange(8)[::2]):
        torch.library.opcheck(operator, (keys, 50, 7))
        torch.library.opcheck(operator, (keys, 8, 8))


@pytest.mark.compile
@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(dynamic: bool) -> None:
    compiled = torch.compile(
        lambda x: (sample_patch_ids(x.numel(), 9), sample_patch_ids(x.numel(), 9, batch=2)),
        fullgraph=True,
        dynamic=dynamic,
        backend="aot_eager",
    )
    for positions in (30, 100):
        torch.manual_seed(1)
        one, rows = compiled(torch.zeros(positions))
        torch.manual_seed(1)
        assert torch.equal(one, sample_patch_ids(positions, 9))
        assert torch.equal(rows, sample_patch_ids(positions, 9, batch=2))


@pytest.mark.compile
def test_compile_with_inductor() -> None:
    ids = torch.compile(lambda: sample_patch_ids(1000, 64, batch=3), fullgraph=True)()
    assert ids.shape == (3, 64) and all(row.unique().numel() == 64 for row in ids)


def test_torchscript() -> None:
    @torch.jit.script
    def draw(positions: int) -> Tensor:
        return torch.ops.cgcl_fast.sample_patch_ids(positions, 5, batch=2)

    torch.manual_seed(2)
    ids = draw(40)
    torch.manual_seed(2)
    assert torch.equal(ids, sample_patch_ids(40, 5, batch=2))


@pytest.mark.parametrize(
    "arguments, keywords, error, message",
    [
        ((-1, 5), {}, ValueError, "num_positions >= 0, got -1"),
        ((5, -2), {}, ValueError, "num_patches >= 0, got -2"),
        ((5, 2), {"batch": -1}, ValueError, "batch >= 0, got -1"),
        ((5.0, 2), {}, TypeError, "num_positions to be an integer, got float"),
        ((5, True), {}, TypeError, "num_patches to be an integer, got bool"),
        ((5, torch.tensor(2)), {}, TypeError, "num_patches to be an integer, got Tensor"),
        ((5, 2), {"generator": 3}, TypeError, "generator to be a torch.Generator or None, got int"),
    ],
)
def test_errors(arguments: tuple, keywords: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        sample_patch_ids(*arguments, **keywords)
    assert str(caught.value).startswith("sample_patch_ids: expected")


@only_on_cpu
@needs_native
def test_kernel_checks_its_arguments() -> None:
    operator = torch.ops.cgcl_fast._sample_patch_ids
    with pytest.raises(RuntimeError, match="0 <= num_patches <= num_positions, got 6 and 5"):
        operator(torch.tensor(1), 5, 6)
    with pytest.raises(RuntimeError, match="keys int64"):
        operator(torch.tensor(1.0), 5, 5)
