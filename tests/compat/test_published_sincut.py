"""SinCUT's published weights: names and shapes as published, and the numbers that such a file gives."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from networks.plain_stylegan2 import act, fir
from torch import Tensor

from cgcl_fast import compat
from cgcl_fast.networks import StyleGAN2Discriminator, StyleGAN2Generator

State = dict[str, Tensor]


def shapes_of_generator(full: int, half: int, blocks: int = 3) -> dict[str, tuple[int, ...]]:
    """By the description of the published modules: convolution and biased activation, blurs with their kernels."""
    found: dict[str, tuple[int, ...]] = {}

    def conv(name: str, a: int, b: int, kernel: int, first: int = 0) -> None:
        found[f"{name}.{first}.weight"], found[f"{name}.{first + 1}.bias"] = (b, a, kernel, kernel), (1, b, 1, 1)

    conv("encoder.convs.1", 3, full, 1)
    conv("encoder.convs.2.conv1", full, full, 3)
    found["encoder.convs.2.conv2.0.kernel"] = (4, 4)
    conv("encoder.convs.2.conv2", full, half, 3, first=1)
    found["encoder.convs.2.skip.0.kernel"] = (4, 4)
    found["encoder.convs.2.skip.1.weight"] = (half, full, 1, 1)
    for name in [*(f"encoder.convs.{3 + i}" for i in range(blocks)), *(f"decoder.convs.{i}" for i in range(blocks))]:
        conv(f"{name}.conv1", half, half, 3)
        conv(f"{name}.conv2", half, half, 3)
    up = f"decoder.convs.{blocks}"
    found[f"{up}.conv.weight"], found[f"{up}.conv.blur.kernel"] = (1, full, half, 3, 3), (4, 4)
    found[f"{up}.noise.weight"], found[f"{up}.activate.bias"] = (1,), (1, full, 1, 1)
    conv(f"decoder.convs.{blocks + 1}", full, 3, 1)
    return found


def shapes_of_discriminator(widths: list[int]) -> dict[str, tuple[int, ...]]:
    found = {"convs.0.0.weight": (widths[0], 3, 1, 1), "convs.0.1.bias": (1, widths[0], 1, 1)}
    for i, (a, b) in enumerate(zip(widths, widths[1:], strict=False)):
        name = f"convs.{i + 1}"
        found[f"{name}.conv1.0.weight"], found[f"{name}.conv1.1.bias"] = (a, a, 3, 3), (1, a, 1, 1)
        found[f"{name}.conv2.0.kernel"] = found[f"{name}.skip.0.kernel"] = (4, 4)
        found[f"{name}.conv2.1.weight"], found[f"{name}.conv2.2.bias"] = (b, a, 3, 3), (1, b, 1, 1)
        found[f"{name}.skip.1.weight"] = (b, a, 1, 1)
    last = widths[-1]
    found["final_conv.0.weight"], found["final_conv.1.bias"] = (last, last, 3, 3), (1, last, 1, 1)
    found["final_linear.0.weight"], found["final_linear.0.bias"] = (last, 16 * last), (last,)
    found["final_linear.1.weight"], found["final_linear.1.bias"] = (1, last), (1,)
    return found


def drawn(shapes: dict[str, tuple[int, ...]]) -> State:
    generator = torch.Generator().manual_seed(5)
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    kernel = torch.outer(taps, taps) / 64
    return {
        name: kernel * (4 if ".conv.blur" in name else 1)
        if name.endswith("kernel")
        else torch.randn(shape, generator=generator)
        for name, shape in shapes.items()
    }


def conv(state: State, name: str, x: Tensor, first: int = 0, **options: int) -> Tensor:
    weight = state[f"{name}.{first}.weight"]
    y = F.conv2d(x, weight / math.sqrt(weight[0].numel()), **options)
    return act(y + state[f"{name}.{first + 1}.bias"])


def halving(state: State, name: str, x: Tensor) -> Tensor:
    y = conv(state, f"{name}.conv2", fir(conv(state, f"{name}.conv1", x, padding=1), 2, 2), first=1, stride=2)
    skip = state[f"{name}.skip.1.weight"]
    return (y + F.conv2d(fir(x, 1, 1), skip / math.sqrt(skip.shape[1]), stride=2)) / math.sqrt(2)


def published_generator(state: State, x: Tensor, blocks: int) -> Tensor:
    """Without noise, which is zero in the mean."""
    x = halving(state, "encoder.convs.2", conv(state, "encoder.convs.1", x))
    for name in [*(f"encoder.convs.{3 + i}" for i in range(blocks)), *(f"decoder.convs.{i}" for i in range(blocks))]:
        y = conv(state, f"{name}.conv2", conv(state, f"{name}.conv1", x, padding=1), padding=1)
        x = (y + x) / math.sqrt(2)
    up = f"decoder.convs.{blocks}"
    weight = state[f"{up}.conv.weight"][0]
    weight = weight / math.sqrt(weight[0].numel())
    weight = weight * (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).rsqrt()
    x = fir(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2), 1, 1, gain=4.0)
    return conv(state, f"decoder.convs.{blocks + 1}", act(x + state[f"{up}.activate.bias"]))


@pytest.mark.parametrize(("ngf", "blocks"), [(1, 3), (2, 1)])
def test_generator_computes_what_the_file_says_and_comes_back(ngf: int, blocks: int, tmp_path: Path) -> None:
    state = drawn(shapes_of_generator(8 * ngf, 16 * ngf, blocks))
    torch.save(state, tmp_path / "latest_net_G.pth")
    found = compat.load_generator(tmp_path / "latest_net_G.pth")
    assert isinstance(found, StyleGAN2Generator) and found.config["n_blocks"] == 2 * blocks
    image = torch.rand(2, 3, 12, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    expected = published_generator(state, image, blocks)  # to the border
    torch.testing.assert_close(found.eval()(image), expected, rtol=1e-4, atol=1e-4)
    noise = found.train()(image) - expected
    assert noise.std() > 0.01  # the file's strength is not zero
    back = compat.published_state_dict(found)
    assert {name: tuple(t.shape) for name, t in back.items()} == shapes_of_generator(8 * ngf, 16 * ngf, blocks)
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())


def test_discriminator_computes_what_the_file_says_and_comes_back() -> None:
    """At the published widths: 8 times 4 channels for crops of 64x64, and no more than 384."""
    state = drawn(shapes_of_discriminator([32, 64, 128, 256, 384]))
    found = compat.load_discriminator({f"module.{name}": tensor for name, tensor in state.items()})
    assert isinstance(found, StyleGAN2Discriminator) and found.config["size"] == 64 and found.config["ndf"] == 8
    x = image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    x = conv(state, "convs.0", x)
    for i in range(4):
        x = halving(state, f"convs.{i + 1}", x)
    x = conv(state, "final_conv", x, padding=1).flatten(1)
    weight, bias = state["final_linear.0.weight"], state["final_linear.0.bias"]
    x = act(x @ (weight / math.sqrt(weight.shape[1])).T + bias)
    x = x @ (state["final_linear.1.weight"] / math.sqrt(x.shape[1])).T + state["final_linear.1.bias"]
    torch.testing.assert_close(found(image), x, rtol=1e-4, atol=1e-4)
    back = compat.published_state_dict(found)
    assert back.keys() == state.keys() and all(torch.equal(back[name], tensor) for name, tensor in state.items())


def test_what_is_not_as_published_is_named() -> None:
    state = drawn(shapes_of_generator(8, 16))
    for wrong, said in (
        ({**state, "encoder.convs.2.conv2.0.kernel": torch.ones(4, 4)}, "expected the blur kernel of"),
        ({**state, "decoder.convs.3.conv.modulation.weight": torch.ones(4, 4)}, "unknown decoder.convs.3.conv.mod"),
        ({k: v for k, v in state.items() if k != "decoder.convs.4.1.bias"}, "lacks head.bias"),
        ({**state, "decoder.convs.999999999.0.weight": torch.ones(1)}, "numbered without gaps"),
        ({**state, "encoder.convs.1.0.weight": torch.ones(8)}, "encoder.convs.1.0.weight: expected 4 dimensions"),
    ):
        with pytest.raises(ValueError, match=f"not a published SinCUT generator .*{said}"):
            compat.load_generator(wrong)
    for module in (StyleGAN2Generator(ngf=1), StyleGAN2Generator(ngf=1, n_blocks=3, published=True)):
        with pytest.raises(ValueError, match="expected a generator as published"):
            compat.published_state_dict(module)
    with pytest.raises(ValueError, match="at most 384 channels without minibatch_stddev"):
        compat.published_state_dict(StyleGAN2Discriminator(ndf=1, size=8))
