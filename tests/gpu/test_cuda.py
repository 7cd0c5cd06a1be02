"""Tests that need a GPU: graphs, streams, repeated runs, host synchronisation, mixed precision, ids out of range."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from gpu_cases import CASES, NAMES, TOLERANCE, OpCase, close, loss_and_images, weights
from torch import Tensor

import cgcl_fast
from cgcl_fast import _backend, ops

every_case = pytest.mark.parametrize("case", CASES, ids=NAMES)


def equal(results: list[Tensor], expected: list[Tensor]) -> bool:
    return len(results) == len(expected) and all(map(torch.equal, results, expected))


@contextmanager
def backend_of(name: str, op: str) -> Iterator[None]:
    if not _backend.has_kernel(op, name, "cuda"):
        pytest.skip(f"no {name} kernel: {_backend.problems.get((name, 'cuda'), 'none is registered')}")
    with cgcl_fast.backend(name):
        yield


def kernel_of(op: str) -> str:
    """The op whose kernel it is: the others are made of one."""
    return {"patch_nce_layers": "patch_nce"}.get(op, op)


@every_case
def test_a_kernel_runs(case: OpCase) -> None:
    assert _backend.choose_on(kernel_of(case.op), "cuda", torch.float32) != "reference"


@every_case
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_equals_the_reference(case: OpCase, dtype: torch.dtype) -> None:
    if case.op == "dag_select" and dtype != torch.float32:
        pytest.skip("rounded scores tie, and either order is right: tests/ops compares their values")
    arguments = case.arguments("cuda", dtype)
    results = case.run(arguments)
    with cgcl_fast.backend("reference"):
        close(results, case.run(arguments), TOLERANCE[dtype])


@every_case
def test_native_equals_triton(case: OpCase) -> None:
    op = kernel_of(case.op)
    arguments = case.arguments("cuda")
    with backend_of("triton", op):
        triton = case.run(arguments)
    with backend_of("native", op):
        close(case.run(arguments), triton, TOLERANCE[torch.float32])


@every_case
@pytest.mark.parametrize("backend", ["triton", "native"])
def test_graph_capture_and_replay(case: OpCase, backend: str) -> None:
    with backend_of(backend, kernel_of(case.op)):
        held = case.arguments("cuda")
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):  # compiles, and fills the allocator
                case.run(held)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = case.run(held)
        for seed in (1, 2):
            others = case.arguments("cuda", seed=seed)
            for tensor, other in zip(held, others, strict=True):
                tensor.copy_(other)
            graph.replay()
            replayed = [result.clone() for result in captured]
            assert equal(replayed, case.run(others))


def test_ids_of_a_replayed_graph_are_drawn_afresh() -> None:
    ops.sample_patch_ids(4096, 256, batch=2, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ids = ops.sample_patch_ids(4096, 256, batch=2, device="cuda")
    draws = []
    for _ in range(3):
        graph.replay()
        draws.append(ids.clone())
        assert all(row.unique().numel() == 256 and row.min() >= 0 and row.max() < 4096 for row in ids)
    assert not torch.equal(draws[0], draws[1]) and not torch.equal(draws[1], draws[2])


@every_case
def test_non_default_stream(case: OpCase) -> None:
    """The stream's earlier work delays the arguments: a kernel on another stream would read zeros."""
    values = case.arguments("cuda")
    expected = case.run(values)
    held = [torch.zeros_like(value) for value in values]
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        for tensor, value in zip(held, values, strict=True):
            tensor.copy_(value)
        results = case.run(held)
    stream.synchronize()
    assert equal(results, expected)


@every_case
def test_same_bits_each_time(case: OpCase) -> None:
    arguments = case.arguments("cuda")
    first = case.run(arguments)
    for _ in range(10):
        noise = torch.randn(1 << 20, device="cuda")  # other work in between, and other addresses
        assert equal(case.run(arguments), first)
        del noise


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape, pad", [((8, 64, 256, 256), 0), ((5, 37, 401, 203), 1)], ids=["even", "odd"])
def test_large_maps_in_one_launch(
    shape: tuple[int, ...], pad: int, dtype: torch.dtype, layout: torch.memory_format
) -> None:
    """Programs of one launch wait for each other: 20 times, as a race need not show at once."""
    B, C, H, W = shape
    g = torch.Generator().manual_seed(0)
    sizes = shape, (B, C), (B, C), (B, C, H + 2 * pad, W + 2 * pad)
    arguments = [torch.randn(size, generator=g).to("cuda", dtype) for size in sizes]
    arguments = [a.contiguous(memory_format=layout) if a.dim() == 4 else a for a in arguments]
    upstream = 1 / 16 * weights(arguments[-1])

    def run() -> list[Tensor]:
        leaves = [argument.requires_grad_() for argument in arguments]
        x, scale, shift, residual = leaves
        y = ops.adain(x, scale, shift, activation="leaky_relu", residual=residual, pad=pad)
        return [y.detach(), *torch.autograd.grad(y, leaves[:3], upstream)]

    with backend_of("triton", "adain"):
        first = run()
        for _ in range(20):
            assert equal(run(), first)
    with cgcl_fast.backend("reference"):
        close(first, run(), TOLERANCE[dtype])


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device only")
@every_case
def test_second_device(case: OpCase) -> None:
    expected = case.run(case.arguments("cuda:0"))
    results = case.run(case.arguments("cuda:1"))  # the current device is still the first
    assert all(result.device.index == 1 for result in results)
    close([result.to("cuda:0") for result in results], expected, TOLERANCE[torch.float32])


@every_case
def test_nothing_waits_for_the_device(case: OpCase) -> None:
    arguments = case.arguments("cuda")
    case.run(arguments)
    torch.cuda.set_sync_debug_mode("error")
    try:
        case.run(arguments)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", ["cut", "fastcut"])
def test_a_step_never_waits_for_the_device(name: str) -> None:
    pytest.importorskip("safetensors")
    from cgcl_fast.methods import METHODS

    kind = METHODS[name]
    method = kind(kind.Config(ngf=8, ndf=8, nce_dim=32)).to("cuda")
    images = {"A": torch.rand(1, 3, 128, 128, device="cuda"), "B": torch.rand(1, 3, 128, 128, device="cuda")}

    def step() -> None:
        shared = dict(method.choose(0.0))
        for phase in method.phases():
            phase.loss(images, shared)["loss"].backward()

    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_mixed_precision_trains(dtype: torch.dtype) -> None:
    module, batch = loss_and_images()
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler("cuda", enabled=dtype == torch.float16)
    losses = []
    for _ in range(30):
        with torch.autocast("cuda", dtype):
            loss = module(*batch)
        assert loss.dtype == torch.float32
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        losses.append(loss.detach())
    assert torch.stack(losses).isfinite().all() and losses[-1] < 0.8 * losses[0]
    assert all(parameter.isfinite().all() and parameter.dtype == torch.float32 for parameter in module.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_statistics_are_float32(dtype: torch.dtype) -> None:
    """Sums of squares that overflow float16, and a mean that bfloat16 cannot add up."""
    x = (300 + 8 * torch.randn(1, 4, 256, 256, generator=torch.Generator().manual_seed(0))).to("cuda", dtype)
    truth = F.instance_norm(x.double())
    with torch.autocast("cuda", dtype):
        y = ops.instance_norm(x)
    assert y.dtype == dtype and (y.double() - truth).abs().max() < 4 * torch.finfo(dtype).eps * truth.abs().max()


def test_gathered_ids_out_of_range_are_nan_and_their_gradient_is_dropped() -> None:
    g = torch.Generator().manual_seed(0)
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(2, 40, 9, 11, generator=g).to("cuda").to(memory_format=layout).requires_grad_()
        ids = torch.randperm(99, generator=g)[:40]
        wrong = torch.tensor([0, 7, 13, 39])
        ids[wrong] = torch.tensor([-1, 99, 2**40, -(2**63)])
        ids, good = ids.to("cuda"), torch.ones(40, dtype=torch.bool).index_fill(0, wrong, False).to("cuda")
        gathered = ops.gather_patches(x, ids)
        assert gathered[:, ~good].isnan().all()
        assert torch.equal(gathered[:, good], ops.gather_patches(x, ids[good]))
        upstream = weights(gathered)
        (gradient,) = torch.autograd.grad(gathered, x, upstream)
        (expected,) = torch.autograd.grad(ops.gather_patches(x, ids[good]), x, upstream[:, good])
        assert torch.equal(gradient, expected)
        torch.cuda.synchronize()


def test_candidates_out_of_range_come_last() -> None:
    g = torch.Generator().manual_seed(0)
    candidates = torch.randperm(400, generator=g)[:80].to("cuda")
    wrong = candidates.clone()
    wrong[torch.tensor([3, 50, 79], device="cuda")] = torch.tensor([-5, 400, 2**50], device="cuda")
    score = torch.randn(2, 1, 10, 10, generator=g).to("cuda")
    good = wrong[(wrong >= 0) & (wrong < 400)]
    ids = ops.dag_select(score, (20, 20), 70, candidates=wrong, importance=1.0)
    assert torch.equal(ids, ops.dag_select(score, (20, 20), 70, candidates=good, importance=1.0))


def test_offsets_out_of_range_do_not_crash() -> None:
    q, k = (F.normalize(torch.randn(2, 50, 32, device="cuda"), dim=-1) for _ in range(2))
    q.requires_grad_()
    loss = ops.patch_nce(q, k, offsets=torch.tensor([3, 2**40, -7], device="cuda"))
    loss.backward()
    torch.cuda.synchronize()
    assert q.grad is not None and loss.shape == ()


def test_a_generator_of_the_cpu_gives_the_same_ids() -> None:
    for positions, patches in ((65536, 256), (300, 256), (100, 100)):
        draws = [
            ops.sample_patch_ids(
                positions, patches, batch=3, generator=torch.Generator().manual_seed(5), device=device
            ).cpu()
            for device in ("cpu", "cuda")
        ]
        assert torch.equal(*draws)
