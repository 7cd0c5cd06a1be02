"""No op waits for the device or reads a tensor's value in Python, forward or backward, so CUDA graphs can capture it.

The ops run on fake tensors of a CUDA device, which have no values: reading one (.item(), .tolist(), bool(), nonzero, a
mask as an index) raises, as does a copy between host and device. Every operator with a Triton kernel runs its launching
function on the same fake tensors, up to the launch.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

pytest.importorskip("triton")
sys.path.insert(0, str(Path(__file__).parent.parent / "gpu"))

from gpu_cases import CASES, NAMES, OpCase, weights  # noqa: E402

from cgcl_fast import _backend, ops  # noqa: E402
from cgcl_fast.kernels import _launch  # noqa: E402
from cgcl_fast.nn import reflect_pad  # noqa: E402
from cgcl_fast.ops import _operator  # noqa: E402

SAMPLES = [
    OpCase("sample_patch_ids", lambda: ops.sample_patch_ids(65536, 256, device="cuda"), lambda g: []),
    OpCase("sample_patch_ids", lambda: ops.sample_patch_ids(4096, 4096, batch=3, device="cuda"), lambda g: []),
]
#: Operators that networks use through functions which are no public ops.
INTERNAL = [
    OpCase("reflect_pad", lambda x: reflect_pad(x, 1), lambda g: [torch.empty(2, 3, 5, 4)], (0,)),
]
DRAWS = OpCase("dag_select", lambda s: ops.dag_select(s, (64, 64), 256), lambda g: [torch.empty(2, 1, 30, 30)])


class TritonFunctions(TorchDispatchMode):
    """Operators with a Triton kernel run its Python function, whose results must look as the operator promises."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name
        if name.startswith("aten::"):  # a single number of the host may be an operand, which is handed to the kernel
            tensors = [tensor for tensor in tree_leaves((args, out)) if isinstance(tensor, Tensor)]
            copies = name in ("aten::to", "aten::_to_copy", "aten::copy_")
            devices = {tensor.device for tensor in tensors if copies or tensor.dim() > 0}
            assert len(devices) <= 1, f"{name} between {devices}"
        _, _, name = name.partition("cgcl_fast::")
        if name in _operator.triton_functions:
            module, function = _operator.triton_functions[name]
            with self:  # what the function does is looked at too
                made = getattr(importlib.import_module(f"cgcl_fast.kernels.{module}"), function)(*args)
            for result, promised in zip(tree_leaves(made), tree_leaves(out), strict=True):
                assert (result.shape, result.dtype, result.device) == (promised.shape, promised.dtype, promised.device)
                assert result.numel() == 0 or strides(result) == strides(promised), name
            self.ran.add(name)
        return out


def strides(tensor: Tensor) -> list[int]:
    """Those that say where an element lies."""
    return [stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


def backward(results: Sequence[Tensor]) -> dict[Tensor, Tensor]:
    """The gradients of the leaves: PyTorch's own engine would ask the device for a stream."""
    waiting: dict[Any, int] = {}
    nodes = [result.grad_fn for result in results if result.grad_fn is not None]
    seen = set(nodes)
    while nodes:
        for follower, _ in nodes.pop().next_functions:
            if follower is not None:
                waiting[follower] = waiting.get(follower, 0) + 1
                if follower not in seen:
                    seen.add(follower)
                    nodes.append(follower)
    held: dict[Any, dict[int, Tensor]] = {}

    def give(node: Any, index: int, gradient: Tensor | None) -> None:
        if gradient is not None:
            mine = held.setdefault(node, {})
            mine[index] = mine[index] + gradient if index in mine else gradient

    for result in results:
        if result.grad_fn is not None:
            give(result.grad_fn, result.output_nr, weights(result))
    ready = [node for node in seen if node not in waiting]
    found: dict[Tensor, Tensor] = {}
    while ready:
        node = ready.pop()
        mine = held.get(node, {})
        if hasattr(node, "variable"):
            found[node.variable] = mine[0]
            continue
        gradients = [mine.get(index) for index in range(len(node._input_metadata))]  # one for each result
        with torch.no_grad():
            given = (node.apply if hasattr(node, "apply") else node)(*gradients) if mine else ()
        given = given if isinstance(given, tuple) else (given,)
        followers = [follower for follower in node.next_functions if follower[0] is not None]
        if hasattr(node, "needs_input_grad"):  # of a Python function, which gives one for each argument, tensor or not
            given = tuple(each for each, needed in zip(given, node.needs_input_grad, strict=False) if needed)
        else:
            given = tuple(
                each for each, (other, _) in zip(given, node.next_functions, strict=False) if other is not None
            )
        given = (*given, *[None] * (len(followers) - len(given)))
        for (follower, index), gradient in zip(followers, given, strict=True):
            give(follower, index, gradient)
            waiting[follower] -= 1
            if waiting[follower] == 0:
                ready.append(follower)
    return found


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The kernels launched, which neither run nor are compiled: the tests beside this one do that."""
    monkeypatch.setattr(_launch, "_compile", lambda kernel, *_: kernel.__name__)
    with _launch.compile_only(90) as kernels:
        yield kernels


def run(case: OpCase, arguments: Sequence[Tensor], function: Callable[..., Any]) -> set[str]:
    """Forward and backward; returns the operators that ran."""
    with TritonFunctions() as mode:
        leaves = [t.detach().requires_grad_() if i in case.wrt else t for i, t in enumerate(arguments)]
        found = function(*leaves)
        results = [found] if isinstance(found, Tensor) else list(found)
        assert all(result.device.type == "cuda" for result in results)
        gradients = backward(results)
    for index in case.wrt:
        assert gradients[leaves[index]].shape == leaves[index].shape
        assert gradients[leaves[index]].device.type == "cuda"
    return mode.ran


def fake_arguments(case: OpCase) -> list[Tensor]:
    real = case.arguments("cpu")
    return [torch.empty_like(tensor, device="cuda") for tensor in real]


@pytest.mark.parametrize(
    "case",
    [*CASES, *SAMPLES, DRAWS, *INTERNAL],
    ids=[*NAMES, "sample-sparse", "sample-dense", "dag-draws", *(case.op for case in INTERNAL)],
)
def test_no_value_is_read(case: OpCase, launched: list[Any]) -> None:
    with FakeTensorMode():
        ran = run(case, fake_arguments(case), case.function)
    if _backend.has_kernel(case.op, "triton", "cuda"):
        assert ran and launched
        assert not case.wrt or any(name.endswith("_backward") for name in ran)


def test_every_op_and_every_kernel_is_looked_at(launched: list[Any]) -> None:
    cases = [*CASES, *SAMPLES]
    assert {case.op for case in cases} == set(ops.__all__)
    ran = set()
    with FakeTensorMode():
        for case in (*cases, *INTERNAL):
            ran |= run(case, fake_arguments(case), case.function)
    assert ran == set(_operator.triton_functions)


READS: dict[str, Callable[[Tensor], Any]] = {
    "item": lambda x: x.sum().item(),
    "tolist": lambda x: x.flatten()[:2].tolist(),
    "bool": lambda x: bool((x > 0).all()),
    "nonzero": lambda x: x.nonzero(),
    "mask": lambda x: x[x > 0],
    "from the host": lambda x: x + torch.ones(4).to(x.device),
    "table": lambda x: x + torch.tensor([1.0, 2.0, 3.0, 4.0], device=x.device),
    "to the host": lambda x: x.cpu(),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS.keys())
@pytest.mark.parametrize("where", ["forward", "backward", "kernel"])
def test_a_read_is_found(read: Callable, where: str, launched: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    class Reads(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            if where == "forward":
                read(x)
            return x * 2

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            if where == "backward":
                read(grad)
            return grad * 2

    def kernel(features: Tensor, ids: Tensor) -> Tensor:
        read(features)
        return features.new_empty((features.shape[0], ids.shape[-1], features.shape[1]))

    if where == "kernel":
        monkeypatch.setattr(importlib.import_module("cgcl_fast.kernels.gather_patches"), "forward", kernel)
    inputs = torch.empty(2, 3, 4, 4), torch.empty(5, dtype=torch.int64)
    case = OpCase("gather_patches", ops.gather_patches, lambda g: list(inputs), (0,))
    errors = (DataDependentOutputException, DynamicOutputShapeException, AssertionError)
    with FakeTensorMode(), pytest.raises(errors):
        run(case, fake_arguments(case), lambda x, ids: ops.gather_patches(Reads.apply(x), ids))
