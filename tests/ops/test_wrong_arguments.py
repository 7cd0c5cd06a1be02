"""Invalid values for every argument of every op: the error names the op, the argument and the value."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy
import pytest
import torch
from op_checks import DEVICE, only_on_cpu
from torch import Tensor

import cgcl_fast
from cgcl_fast import ops

OTHER = torch.device("meta")


def ones(*shape: int) -> Tensor:
    return torch.ones(shape)


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.int64)


#: A valid call of each op with all of its arguments, and the kind of each.
VALID: dict[str, dict[str, tuple[str, Any]]] = {
    "adain": {
        "x": ("tensor", ones(2, 3, 4, 4)),
        "scale": ("tensor", ones(2, 3)),
        "shift": ("tensor", ones(2, 3)),
        "eps": ("number", 1e-5),
        "activation": ("choice", "relu"),
        "residual": ("optional tensor", ones(2, 3, 4, 4)),
        "pad": ("count", 1),
        "pad_mode": ("choice", "replicate"),
    },
    "instance_norm": {
        "x": ("tensor", ones(2, 3, 4, 4)),
        "eps": ("number", 1e-5),
        "activation": ("choice", "relu"),
        "residual": ("optional tensor", ones(2, 3, 4, 4)),
        "pad": ("count", 1),
        "pad_mode": ("choice", "replicate"),
    },
    "layer_norm": {
        "x": ("tensor", ones(2, 3, 4, 4)),
        "weight": ("tensor", ones(3)),
        "bias": ("tensor", ones(3)),
        "eps": ("number", 1e-5),
        "activation": ("choice", "relu"),
        "pad": ("count", 1),
        "pad_mode": ("choice", "replicate"),
    },
    "blur_down": {"x": ("only tensor", ones(2, 3, 4, 4))},
    "blur_up": {"x": ("only tensor", ones(2, 3, 4, 4))},
    "sample_patch_ids": {
        "num_positions": ("count", 20),
        "num_patches": ("count", 5),
        "batch": ("optional count", 2),
        "generator": ("generator", torch.Generator()),
        "device": ("device", DEVICE),
    },
    "gather_patches": {"features": ("tensor", ones(2, 3, 4, 4)), "ids": ("ids", zeros(2, 5))},
    "patch_nce": {
        "query": ("tensor", ones(2, 5, 3)),
        "key": ("tensor", ones(2, 5, 3)),
        "temperature": ("positive", 0.07),
        "negatives": ("optional choice", "image"),
        "num_negatives": ("optional count", 2),
        "extra_negatives": ("optional tensor", ones(4, 3)),
        "offsets": ("optional ids", zeros(2) + torch.tensor([1, 2])),
        "normalize": ("flag", True),
        "loss": ("choice", "decoupled"),
        "reduction": ("choice", "mean"),
    },
    "patch_nce_layers": {
        "queries": ("tensors", [ones(2, 5, 3), ones(2, 4, 3)]),
        "keys": ("tensors", [ones(2, 5, 3), ones(2, 4, 3)]),
        "temperature": ("positive", 0.07),
        "negatives": ("optional choice", "image"),
        "num_negatives": ("optional count", 2),
        "extra_negatives": ("optional tensors", [ones(4, 3), ones(2, 3)]),
        "offsets": ("optional ids of layers", [zeros(2) + torch.tensor([1, 2])] * 2),
        "normalize": ("flag", True),
        "loss": ("choice", "decoupled"),
        "reduction": ("choice", "mean"),
    },
    "dag_select": {
        "score": ("tensor", ones(2, 1, 3, 3)),
        "size": ("size", (4, 4)),
        "num_patches": ("count", 3),
        "oversample": ("positive", 2.0),
        "importance": ("number", 0.5),
        "candidates": ("optional ids", torch.arange(8).repeat(2, 1)),
        "generator": ("generator", torch.Generator()),
    },
    "memory_read": {
        "content": ("tensor", ones(2, 3, 4, 4)),
        "keys": ("tensor", ones(5, 3)),
        "values": ("tensor", ones(5, 2)),
        "pixel_class": ("classes", zeros(2, 4, 4)),
        "item_class": ("classes", zeros(5)),
    },
    "memory_update": {
        "keys": ("tensor", ones(5, 3)),
        "values": ("tensor", ones(1, 5, 2)),
        "contents": ("tensors", [ones(2, 3, 4, 4)]),
        "styles": ("tensors", [ones(2, 2, 4, 4)]),
        "pixel_classes": ("classes of domains", [zeros(2, 4, 4)]),
        "item_class": ("classes", zeros(5)),
    },
    "memory_contrast": {
        "features": ("tensor", ones(2, 3, 4, 4)),
        "items": ("tensor", ones(5, 3)),
        "temperature": ("positive", 0.1),
        "pixel_class": ("classes", zeros(2, 4, 4)),
        "item_class": ("classes", zeros(5)),
        "reduction": ("choice", "sum"),
    },
}

NAN, INF = float("nan"), float("inf")
NOT_NUMBERS = ["1", None, True, ones(1)[0], numpy.ones(1), 1j, [1.0]]
NOT_COUNTS = [2**63, 2**64, -1, 1.0, NAN, "3", True, ones(1).long()[0], numpy.float64(3), [3]]


def not_dense(value: Tensor) -> Iterator[Tensor]:
    yield value.to_sparse()
    if value.dim() == 2:
        yield value.to_sparse_csr()
    yield torch.nested.nested_tensor([value[0], value[0]] if value.dim() > 1 else [value, value])
    if value.dim() > 1:
        yield torch.nested.nested_tensor([value[0], value[0]], layout=torch.jagged)
    if value.dtype is torch.float32 and value.device.type == "cpu" and torch.backends.mkldnn.is_available():
        yield value.to_mkldnn()


def wrong(kind: str, value: Any) -> Iterator[Any]:
    """Values that an argument of `kind` must refuse."""
    optional = kind.startswith("optional ")
    kind = kind.removeprefix("optional ")
    if kind == "only tensor":  # which may be on any device
        yield from (other for other in wrong("tensor", value) if getattr(other, "device", None) != OTHER)
    elif kind in ("tensor", "ids", "classes"):
        yield from not_dense(value)
        yield from (
            value.to(OTHER),
            value[..., None, None],
            value.cpu().numpy(),
            value.tolist(),
            "text",
            3,
            value.bool(),
        )
        yield from (value.to(torch.complex64), value.to(torch.float8_e4m3fn), value.to(torch.float8_e5m2))
        yield from () if optional or kind == "classes" else (None,)
        yield from (value.int(), value.long()) if kind == "tensor" else (value.float().requires_grad_(), value.half())
    elif kind in ("tensors", "ids of layers", "classes of domains"):
        yield from ("text", 3, {0: value[0]}, value[0].cpu().numpy(), value[:-1], [*value, value[0]])
        yield from (iter(value), *(() if optional or "classes" in kind else (None, value[0])))
        for element in wrong({"tensors": "tensor", "ids of layers": "optional ids"}.get(kind, "classes"), value[0]):
            yield [element, *value[1:]]
    elif kind in ("number", "positive"):
        yield from (*NOT_NUMBERS, NAN, INF, -INF, -1, -1e-30, 10**400, numpy.float32("nan"))
        yield from (0, 0.0) if kind == "positive" else ()
    elif kind == "count":
        yield from (*NOT_COUNTS, *(() if optional else (None,)))
    elif kind == "size":
        yield from (4, None, "44", ones(2), numpy.ones(2), (4,), (4, 4, 4), (2**32, 2**32))
        yield from ((4, count) for count in (0, None, *NOT_COUNTS))
    elif kind == "flag":
        yield from ("yes", 2, 1, 0.0, None, ones(1)[0].bool(), numpy.bool_(True))
    elif kind == "choice":
        yield from ("other", 3, True, ["mean"], ones(2), numpy.array(["mean", "sum"]), *(() if optional else (None,)))
    elif kind == "generator":
        yield from (3, "seed", numpy.random.default_rng(0))
    elif kind == "device":
        yield from ("nowhere", "cpu:x", 1.5, True, ones(1))
    else:
        raise AssertionError(kind)


def shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} {value.layout} {value.device.type} {'nested' if value.is_nested else value.dim()}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(shown, value))}]"
    return f"{type(value).__name__} {value}"[:40]


ARGUMENTS = [(op, name) for op, arguments in VALID.items() for name in arguments]


def test_every_op_is_here():
    assert set(VALID) == set(ops.__all__)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("op", VALID)
def test_valid_arguments_are_taken(op, backend):
    with cgcl_fast.backend(backend):
        result = getattr(ops, op)(**{name: value for name, (_, value) in VALID[op].items()})
    found = [result] if isinstance(result, Tensor) else list(result)
    assert found and all(isinstance(part, Tensor) and part.numel() and part.isfinite().all() for part in found)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("op, name", ARGUMENTS, ids=[f"{op}-{name}" for op, name in ARGUMENTS])
def test_wrong_arguments(op, name, backend):
    arguments = {other: value for other, (_, value) in VALID[op].items()}
    kind, valid = VALID[op][name]
    for value in wrong(kind, valid):
        with cgcl_fast.backend(backend):
            try:
                getattr(ops, op)(**{**arguments, name: value})
            except (TypeError, ValueError) as error:
                text = str(error)
                assert re.search(rf"^{op}: .*\b{name}\b", text), f"{shown(value)}: {text}"
                assert "expected" in text and "\n" not in text and len(text) < 300, f"{shown(value)}: {text}"
            else:
                raise AssertionError(f"{op} took {name} = {shown(value)}")


@only_on_cpu
@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("batch", [0, 2])
@pytest.mark.parametrize("outside", [-1, 16, 2**62, -(2**63)])
def test_ids_out_of_range(outside, batch, backend):
    """One row of ids for all images is looked at where there are no images, too."""
    ids = torch.tensor([3, outside, 0])
    for channels in (0, 3):
        with cgcl_fast.backend(backend), pytest.raises(ValueError, match=rf"ids in \[0, 16\).* got {outside}"):
            ops.gather_patches(torch.zeros(batch, channels, 4, 4), ids)
    for count in (0, 2):
        with cgcl_fast.backend(backend), pytest.raises(ValueError, match=rf"candidates in \[0, 16\).* got {outside}"):
            ops.dag_select(torch.zeros(batch, 1, 3, 3), (4, 4), count, candidates=ids)


def test_numbers_of_other_types_are_taken():
    """Whole numbers, and numpy's."""
    x, half = torch.randn(1, 2, 3, 4, generator=torch.Generator("cpu").manual_seed(0), device="cpu").to(DEVICE), 0.5
    expected = ops.instance_norm(x, eps=half)
    assert torch.equal(ops.instance_norm(x, eps=numpy.float32(half)), expected)
    assert torch.equal(ops.instance_norm(x, eps=numpy.float64(half)), expected)
    q = x[0]
    assert torch.equal(ops.patch_nce(q, q, temperature=1), ops.patch_nce(q, q, temperature=1.0))
    ids = [ops.sample_patch_ids(n, k, generator=torch.Generator().manual_seed(0)) for n, k in ((50, 7), (50, 7))]
    assert torch.equal(*ids)
    drawn = ops.sample_patch_ids(numpy.int64(50), numpy.int32(7), generator=torch.Generator().manual_seed(0))
    assert torch.equal(drawn, ids[0])


def test_errors_never_print_the_numbers_of_a_tensor():
    with pytest.raises(TypeError, match="expected size to be two integers .* got Tensor$"):
        ops.dag_select(torch.zeros(1, 1, 3, 3), torch.arange(1000), 3)
    with pytest.raises(TypeError, match="expected reduction to be one of .* got Tensor$"):
        ops.patch_nce(torch.zeros(1, 3, 2), torch.zeros(1, 3, 2), reduction=torch.arange(1000))


@pytest.mark.compile
def test_checks_are_of_one_graph_with_symbolic_sizes():
    """Arguments of every kind, sizes and numbers that vary from call to call."""

    def function(x: Tensor, scale: Tensor, ids: Tensor, eps: float, temperature: float) -> Tensor:
        y = ops.adain(x, scale, scale, eps=eps, activation="relu", residual=x)
        patches = ops.gather_patches(y, ids)
        loss = ops.patch_nce(patches, patches, temperature=temperature, num_negatives=1, normalize=True)
        chosen = ops.dag_select(y[:, :1], x.shape[2:], x.shape[3] - 1, candidates=ids)
        return loss + chosen.sum() + ops.sample_patch_ids(x.shape[2] * x.shape[3], x.shape[2]).max() * 0

    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend="eager")
    generator = torch.Generator("cpu").manual_seed(0)
    for size, eps in ((5, 1e-5), (6, 0.1), (7, 0.5)):
        x = torch.randn(2, 4, size, size + 1, generator=generator, device="cpu").to(DEVICE)
        arguments = x, torch.ones(2, 4), torch.arange(size + 5), eps, 1.0 + eps
        torch.manual_seed(0)
        expected = function(*arguments)
        torch.manual_seed(0)
        torch.testing.assert_close(compiled(*arguments), expected, rtol=1e-5, atol=1e-5)
