"""Networks, and steps of the methods, stay in one memory format from end to end: what they dispatch, counted."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from methods import graph_cases
from methods.one_step import phases_of_a_step
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cgcl_fast.networks import ContentEncoder, PatchDiscriminator, ResnetGenerator, StyleEncoder, memory_format
from cgcl_fast.networks.memory_format import in_fast_format
from cgcl_fast.ops import gather_patches

PADS = ("reflection_pad2d", "replication_pad2d")
#: Of which PyTorch's own, on a GPU, copy a channels_last map into contiguous memory, or leave their result there. (The
#: reflection of a map has a kernel of this package there.)
CONTIGUOUS_ON_A_GPU = (
    *("native_group_norm", "native_group_norm_backward", "pixel_shuffle", "pixel_unshuffle"),
    *("replication_pad2d", "replication_pad2d_backward", "native_layer_norm"),
)
#: What a padding is made of, or its gradient, where it is a pass of its own without a kernel.
PASSES = ("index_select", "index", "gather", "flip", "cat")


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """channels_last in training too, whatever this CPU is."""
    monkeypatch.setattr(memory_format, "CONTIGUOUS_TRAINING_ON_CPU", False)


def is_map(value: Any) -> bool:
    """Whether the value is a tensor of which one can tell in which of the two orders it lies: none that is expanded."""
    if not isinstance(value, Tensor) or value.dim() != 4 or 0 in value.stride():
        return False
    return value.shape[1] > 1 and math.prod(value.shape[2:]) > 1


def order(x: Tensor) -> tuple[int, ...]:
    """Dimensions from the outermost to the innermost."""
    return tuple(sorted(range(4), key=lambda d: (-x.stride(d), d)))


def is_channels_last(x: Tensor) -> bool:
    return x.stride(1) == 1 and order(x)[-1] == 1


class Dispatched(TorchDispatchMode):
    """Counts operators, and of those that make a map the ones that turn its order or make one that is not
    channels_last."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: Counter[str] = Counter()
        self.turned: list[str] = []
        self.made: list[tuple[int, ...]] = []  # shapes of what those made

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        self.operators[name] += 1
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        maps = [x for x in given if is_map(x)]
        made = [x for x in tree_leaves(result) if is_map(x)]
        views = made and any(x.data_ptr() == made[0].data_ptr() for x in given) and name != "copy_"
        if name == "copy_":
            wrong = len(maps) == 2 and is_channels_last(maps[0]) != is_channels_last(maps[1])
        else:
            wrong = not views and not all(map(is_channels_last, made))
        if wrong:
            shapes = [(tuple(x.shape), x.stride()) for x in (*maps, *made)]
            self.turned.append(f"{name}: {shapes}")
            self.made.append(tuple(made[0].shape))
        return result

    def count(self, *names: str) -> int:
        return sum(self.operators[name] for name in names)


def dispatched(network: nn.Module, call: Callable[..., Any], inputs: Sequence[Tensor]) -> Dispatched:
    network.to(memory_format=torch.channels_last)
    inputs = [x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x for x in inputs]
    with Dispatched() as seen:
        results = [x for x in tree_leaves(call(*inputs)) if isinstance(x, Tensor) and x.requires_grad]
        torch.autograd.backward(results, [torch.ones_like(x) for x in results])
    assert seen.count("convolution") == seen.count("convolution_backward") > 0
    return seen


def image(size: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_generator() -> None:
    network = ResnetGenerator(ngf=4, n_blocks=3)
    seen = dispatched(network, network, [image(16)])
    assert seen.turned == []
    # That of the image and that of the last blur in front of the first block: the norms do the rest.
    assert seen.count("reflection_pad2d") == 2 and seen.count("reflection_pad2d_backward") == 1
    assert seen.count(*PASSES) == 0


def test_generator_without_blurs() -> None:
    network = ResnetGenerator(ngf=4, n_blocks=3, antialias=False)
    seen = dispatched(network, network, [image(16)])
    assert seen.count("reflection_pad2d") == 1 and seen.count("reflection_pad2d_backward") == 0
    assert seen.count(*PASSES) == 0


@pytest.mark.parametrize("stop", [False, True])
def test_generator_with_features(stop: bool) -> None:
    network = ResnetGenerator(ngf=4, n_blocks=5)
    layers = (0, 4, 8, 12, 16)
    seen = dispatched(network, lambda x: (network.encode if stop else network)(x, layers), [image(16)])
    assert seen.turned == []
    assert seen.count("reflection_pad2d") == 2 and seen.count("reflection_pad2d_backward") == 1
    assert seen.count(*PASSES) == 0


def test_patches_of_features() -> None:
    """Features of residual blocks are parts of padded maps, which nothing copies, and neither is their gradient
    turned."""
    network = ResnetGenerator(ngf=4, n_blocks=5)
    ids = torch.arange(4)
    seen = dispatched(
        network, lambda x: [gather_patches(f, ids) for f in network.encode(x, (8, 12, 16, 17))], [image(16)]
    )
    assert seen.turned == []
    assert seen.count(*PASSES, "clone") == 0


def test_encoding() -> None:
    network = ResnetGenerator(ngf=4, n_blocks=2, antialias=False)
    assert dispatched(network, lambda x: network.encode(x, (4, 10)), [image(16)]).turned == []


def test_discriminator() -> None:
    network = PatchDiscriminator(3, 4)
    seen = dispatched(network, network, [image(32)])
    assert seen.turned == []


def test_encoders() -> None:
    content = ContentEncoder(ngf=4, n_blocks=2)
    seen = dispatched(content, content, [image(16)])
    assert seen.turned == []
    assert seen.count(*PADS) == 1
    style = StyleEncoder(ngf=4, style_dim=3, n_domains=2)
    turned = dispatched(style, style, [image(16), torch.eye(2)]).turned
    # The gradient of the first weight is put together of that of the image's part and of the label's: no map.
    assert [text for text in turned if str(tuple(style.stem.weight.shape)) not in text] == []


STEPS = [
    *("cut", "cut, external negatives", "fastcut", "enco", "enco, decoupled, fresh draws", "cyclegan"),
    *("cgl", "cgcl", "mguit", "mguit, the authors' terms", "mguit, single memory"),
]


@pytest.mark.parametrize("case", STEPS)
def test_step(case: str) -> None:
    """Of a whole step only images, which have three channels, and weights are ever in the other format."""
    method = graph_cases.method_of(case).to(memory_format=torch.channels_last)
    batch, shared = method.prepare(graph_cases.batch_of(case)), method.choose(0.0)
    with Dispatched() as seen:
        for _ in phases_of_a_step(method, batch, shared):
            pass
    assert seen.count("convolution_backward") > 0
    assert seen.count(*CONTIGUOUS_ON_A_GPU) == 0
    weights = {kind_of_weight(tuple(p.shape)) for p in method.parameters()}
    for text, shape in zip(seen.turned, seen.made, strict=True):
        of_images = set(re.findall(r"\(\(\d+, (\d+),", text)) == {"3"}
        margin, styles = 1 in shape[2:], shape[1:3] == (2, 2)  # of a padding; scales and shifts of a block's two norms
        assert of_images or margin or styles or kind_of_weight(shape) in weights, text


def kind_of_weight(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a weight, whichever of its two numbers of channels comes first."""
    return *sorted(shape[:2]), *shape[2:]


def test_what_is_counted() -> None:
    x = image(8).contiguous(memory_format=torch.channels_last)
    with Dispatched() as seen:
        x.contiguous()
        torch.empty_like(x, memory_format=torch.contiguous_format).copy_(x)
        (x + x).permute(0, 2, 3, 1).flip(1)
    assert [text.split(":")[0] for text in seen.turned] == ["clone", "empty_like", "copy_", "flip"]


def test_format_by_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    x = image(8)
    assert is_channels_last(in_fast_format(x))
    monkeypatch.setattr(memory_format, "CONTIGUOUS_TRAINING_ON_CPU", True)
    assert in_fast_format(x) is x
    with torch.no_grad():
        assert is_channels_last(in_fast_format(x))
    assert is_channels_last(torch.jit.script(in_fast_format)(x))


@pytest.mark.parametrize("network", [ResnetGenerator(ngf=4, n_blocks=2), PatchDiscriminator(3, 4)])
def test_contiguous_training(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU whose convolutions want it so, all maps are contiguous, and numbers are the same to float precision."""
    x = image(32)
    expected = network(x)
    monkeypatch.setattr(memory_format, "CONTIGUOUS_TRAINING_ON_CPU", True)
    with Dispatched() as seen:
        y = network(x)
        y.sum().backward()
    assert seen.count("clone") == 0
    assert y.is_contiguous()
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
