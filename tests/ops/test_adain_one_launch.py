"""adain's kernels that measure and write large maps in one launch, with maps small enough for the interpreter."""

import importlib

import pytest
import torch
from op_checks import DEVICE, assert_as_exact_as_eager, layouts, randn, values_and_gradients

import cgcl_fast
from cgcl_fast import _backend, ops

pytestmark = pytest.mark.skipif(
    not _backend.has_kernel("adain", "triton", DEVICE.type), reason="no Triton kernel on this device"
)

#: Size of the map, channels (channels_last) and positions of a chunk, lag, and MERGED: 0 merges one chunk a round.
CASES = {
    "several rounds": ((1, 5, 4, 7), (4, 8), 1, 0),
    "one round, a block beyond the channels": ((2, 3, 5, 3), (2, 8), 2, 1),
    "one chunk a group": ((2, 3, 4, 3), (2, 16), 3, 1),
    "writing begins after the last group": ((1, 3, 3, 5), (4, 8), 9, 0),
    "one plane": ((1, 1, 9, 3), (1, 8), 1, 0),
}
PADS = [
    (0, "reflect", "unpadded"),
    (1, "reflect", None),
    (2, "reflect", "unpadded"),
    (2, "reflect", "padded"),
    (2, "replicate", "unpadded"),
    (1, "replicate", "padded"),
]
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
every_format = pytest.mark.parametrize("layout", ["contiguous", "channels_last"])


@pytest.fixture
def started(monkeypatch):
    """Names of the kernels that are launched."""
    kernels, names = importlib.import_module("cgcl_fast.kernels.adain"), []
    launch = kernels.launch

    def noted(kernel, *arguments, **constants):
        names.append(kernel.__name__)
        launch(kernel, *arguments, **constants)

    monkeypatch.setattr(kernels, "launch", noted)
    return names


@pytest.fixture
def split(monkeypatch):
    """split(chunk, lag, merged): from now on every map is split into such chunks and takes one launch a pass."""
    kernels = importlib.import_module("cgcl_fast.kernels.adain")
    for name in ("LARGEST_PLANE", "LARGEST_PLANE_BACKWARD", "LARGEST_PADDED_BACKWARD"):
        monkeypatch.setattr(kernels, name, 0)

    def into(chunk, lag, merged):
        def blocks(shape, channels_last, itemsize, maps):
            channels, positions = chunk if channels_last else (1, chunk[1])
            return kernels.Blocks(channels, positions, 1, lag)

        monkeypatch.setattr(kernels, "blocks_of", blocks)
        monkeypatch.setattr(kernels, "MERGED", merged)
        kernels._plan.cache_clear()

    yield into
    monkeypatch.undo()
    kernels._plan.cache_clear()


def inputs(shape, pad=0):
    g = torch.Generator().manual_seed(0)
    B, C, H, W = shape
    x, scale, shift = randn(*shape, generator=g), *(randn(B, C, generator=g) for _ in range(2))
    return x, scale, shift, randn(B, C, H + 2 * pad, W + 2 * pad, generator=g)


def assert_exact(case, layout, pad, mode, with_residual, dtype):
    def op(x, scale, shift, residual):
        x, r = layouts(x)[layout], layouts(residual)[layout] if with_residual else None
        return ops.adain(x, scale, shift, residual=r, pad=pad, pad_mode=mode)

    x, scale, shift, residual = inputs(case[0], pad if with_residual == "padded" else 0)
    assert_as_exact_as_eager(op, [x, scale, shift, residual], dtype, scale=8.0)


@every_case
@every_format
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_as_exact_as_eager(case, layout, dtype, split, started):
    split(*case[1:])
    assert_exact(case, layout, 0, "reflect", "unpadded", dtype)
    assert started == ["_stream_forward", "_stream_backward"]


@every_format
@pytest.mark.parametrize("pad, mode, with_residual", PADS)
def test_padded(layout, pad, mode, with_residual, split, started):
    case = CASES["several rounds"]
    split(*case[1:])
    assert_exact(case, layout, pad, mode, with_residual, torch.float32)
    assert started == ["_stream_forward", "_stream_backward"]


@every_case
@every_format
def test_without_scale_and_shift(case, layout, split, started):
    """The merged sums of gradients then are no gradients, but are kept all the same."""
    shape, *how = case
    split(*how)

    def op(x):
        return ops.instance_norm(layouts(x)[layout], activation="leaky_relu")

    x = inputs(shape)[0]
    fast, plain = (values_and_gradients(op, [x], backend, torch.float32) for backend in ("auto", "reference"))
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-5)
    assert started == ["_stream_forward", "_stream_backward"]


@every_case
@every_format
def test_same_inputs_same_bits(case, layout, split):
    shape, *how = case
    split(*how)

    def op(x, scale, shift, residual):
        return ops.adain(layouts(x)[layout], scale, shift, activation="relu", residual=residual)

    first = values_and_gradients(op, inputs(shape), "auto", torch.float32)
    assert all(map(torch.equal, values_and_gradients(op, inputs(shape), "auto", torch.float32), first))


@every_format
def test_the_rule_takes_one_launch_for_maps_beyond_the_cache(layout, monkeypatch, started):
    kernels = importlib.import_module("cgcl_fast.kernels.adain")
    shape = (1, 2, 130, 127) if layout == "contiguous" else (1, 5, 41, 30)  # beyond a program's registers, or any
    x = layouts(inputs(shape)[0])[layout].requires_grad_()
    results = []
    for cache, backend in ((kernels.IN_CACHE, "auto"), (0, "auto"), (0, "reference")):
        monkeypatch.setattr(kernels, "IN_CACHE", cache)
        kernels._plan.cache_clear()
        with cgcl_fast.backend(backend):
            y = ops.instance_norm(x, activation="leaky_relu")
            results.append([y, torch.autograd.grad(y, x, y.detach())[0]])
    kernels._plan.cache_clear()
    assert [name for name in started if "stream" in name] == ["_stream_forward", "_stream_backward"]
    assert started[-2:] == ["_stream_forward", "_stream_backward"] and len(started) > 4
    torch.testing.assert_close(results[0], results[2], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(results[1], results[2], rtol=1e-4, atol=1e-4)
