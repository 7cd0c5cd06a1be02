"""`with cgcl_fast.backend(...)` applies to the thread that runs the block, not to the process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from op_cases import DIFFERENTIABLE, Case, by_name
from op_checks import DEVICE, KERNEL, native, randn

import cgcl_fast
from cgcl_fast import _backend, current_backend, ops
from cgcl_fast.kernels import INTERPRET
from cgcl_fast.ops import _operator

DEFAULT = current_backend()
TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])


def in_thread(function: Callable[[], object]) -> object:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def test_other_threads_do_not_see_it():
    with cgcl_fast.backend("reference"):
        assert in_thread(current_backend) == DEFAULT
        assert in_thread(lambda: _backend.choose_on("adain", "meta")) == "reference"
        assert current_backend() == "reference"


def test_overlapping_blocks_leave_nothing_behind():
    """Each thread enters and leaves in the order that would restore another thread's choice."""
    entered, left = threading.Barrier(2, timeout=60), threading.Event()

    def first() -> list[str]:
        with cgcl_fast.backend("reference"):
            entered.wait()
            inside = current_backend()
        left.set()
        return [inside, current_backend()]

    def second() -> list[str]:
        with cgcl_fast.backend("native"):
            entered.wait()
            assert left.wait(60)
            inside = current_backend()
        return [inside, current_backend()]

    with ThreadPoolExecutor(2) as pool:
        results = [pool.submit(function) for function in (first, second)]
        assert [result.result() for result in results] == [["reference", DEFAULT], ["native", DEFAULT]]
    assert current_backend() == DEFAULT and in_thread(current_backend) == DEFAULT


def test_one_object_in_many_blocks():
    """In itself, in another, one after the other, and in several threads at once."""
    b, other = cgcl_fast.backend("reference"), cgcl_fast.backend("native")

    def inside() -> str:
        with b:
            return current_backend()

    with b:
        with b, other:
            with b:
                assert current_backend() == "reference"
                assert in_thread(inside) == "reference"
            assert current_backend() == "native"
        assert current_backend() == "reference"
    assert current_backend() == DEFAULT
    with b:
        assert current_backend() == "reference"
    assert current_backend() == DEFAULT


@pytest.mark.parametrize("case", DIFFERENTIABLE, ids=by_name)
def test_backward_takes_the_backend_of_its_forward(case: Case, monkeypatch: pytest.MonkeyPatch):
    """Also in another thread than the forward pass's, as on a GPU, and inside another block."""
    if not native(case.op):
        pytest.skip("no kernel here")
    with cgcl_fast.backend(KERNEL):
        expected = _backend.choose_on(case.op, DEVICE, torch.float32)
    seen: list[tuple[str, str]] = []
    backend, find_kernel = cgcl_fast.backend, _operator.find_kernel

    def recorded(name: str, backend: str, device: str) -> Callable[..., object]:
        seen.append((name, backend))
        return find_kernel(name, backend, device)

    leaves = [t.requires_grad_() for t in case.tensors()]
    with backend(KERNEL):
        results = case(*leaves)
    monkeypatch.setattr(_operator, "find_kernel", recorded)
    monkeypatch.setattr(_operator, "_found", {})
    total = sum(result.sum() for result in results)

    def backward() -> None:
        with backend("reference"):
            torch.autograd.grad(total, leaves)
            assert current_backend() == "reference"

    in_thread(backward)
    assert seen and all(name.endswith("_backward") and found == expected for name, found in seen)


@pytest.mark.skipif(INTERPRET, reason="Triton's interpreter runs in one thread at a time")
def test_many_threads_of_all_backends():
    """Forward and backward at once, each thread with its own choice: every result is the choice's own, bit for bit."""
    x = randn(2, 5, 6, 7, generator=torch.Generator().manual_seed(0))

    def compute(name: str) -> list[torch.Tensor]:
        leaf = x.clone().requires_grad_()
        with cgcl_fast.backend(name):
            y = ops.instance_norm(leaf, activation="relu")
            return [y.detach(), *torch.autograd.grad(y.square().sum(), leaf)]

    names = ["reference", "auto"] * 20
    alone = {name: compute(name) for name in set(names)}
    with ThreadPoolExecutor(6) as pool:
        for name, found in zip(names, pool.map(compute, names), strict=True):
            assert all(torch.equal(*pair) for pair in zip(found, alone[name], strict=True))
    assert current_backend() == DEFAULT


def targets(function: Callable[..., torch.Tensor]) -> tuple[Callable[..., torch.Tensor], list[list[str]]]:
    """`function` compiled into one graph, and for each compilation the operators of this package in it."""
    graphs: list[list[str]] = []

    def keep(module: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        graphs.append([str(n.target) for n in module.graph.nodes if "cgcl_fast" in str(n.target)])
        return module.forward

    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, backend=keep), graphs


@pytest.mark.compile
@pytest.mark.skipif(not native("instance_norm"), reason="no kernel here")
def test_block_around_a_compiled_function():
    """Another choice compiles again, and a choice made before is found again."""
    compiled, graphs = targets(ops.instance_norm)
    x = randn(1, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    with cgcl_fast.backend(KERNEL):
        compiled(x)
    with cgcl_fast.backend("reference"):
        compiled(x)
        assert in_thread(current_backend) == DEFAULT
    with cgcl_fast.backend(KERNEL), cgcl_fast.backend("reference"), cgcl_fast.backend(KERNEL):
        compiled(x)
    assert [bool(graph) for graph in graphs] == [True, False]
    with cgcl_fast.backend("reference"):
        in_thread(lambda: compiled(x))  # in the other thread no choice is made
    assert bool(graphs[-1]) == (DEFAULT != "reference")


@pytest.mark.compile
@pytest.mark.skipif(not native("instance_norm"), reason="no kernel here")
@pytest.mark.parametrize("outer", ["reference", KERNEL])
def test_block_inside_a_compiled_function(outer: str):
    def function(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with cgcl_fast.backend("reference"):
            a = ops.instance_norm(x)
            with cgcl_fast.backend(KERNEL):
                b = ops.instance_norm(x)
        return a, b, ops.instance_norm(x)

    check_inside(function, outer, 1 if outer == "reference" else 2)


@pytest.mark.compile
@pytest.mark.skipif(not native("instance_norm"), reason="no kernel here")
@pytest.mark.skipif(TORCH < (2, 14), reason="the compiler of PyTorch 2.11 enters no block that it has not seen made")
@pytest.mark.parametrize("outer", ["reference", KERNEL])
def test_block_made_outside_a_compiled_function(outer: str):
    block = cgcl_fast.backend("reference")

    def function(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with block:
            a = ops.instance_norm(x)
        return a, ops.instance_norm(x)

    check_inside(function, outer, 0 if outer == "reference" else 1)


def check_inside(function: Callable[..., tuple[torch.Tensor, ...]], outer: str, kernels: int) -> None:
    """Compiled in a block of `outer`, the function calls so many kernels and leaves the choice as it was."""
    compiled, graphs = targets(function)
    x = randn(1, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    with cgcl_fast.backend(outer):
        found, expected = compiled(x), function(x)
        assert current_backend() == outer
    assert [len(graph) for graph in graphs] == [kernels]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert current_backend() == DEFAULT
