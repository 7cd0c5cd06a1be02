"""Tensors whose offsets do not fit 32 bits, on a GPU: the last image of a batch equals the image alone."""

from __future__ import annotations

import pytest
import torch
from gpu_cases import close, weights
from torch import Tensor

from cgcl_fast import ops


def large(shape: tuple[int, ...], least_free: int) -> Tensor:
    """bfloat16, beyond 2^31 elements: offsets in 32 bits would overflow."""
    if torch.cuda.mem_get_info()[0] < least_free:
        pytest.skip(f"needs {least_free >> 30} GiB of free GPU memory")
    x = torch.empty(shape, dtype=torch.bfloat16, device="cuda")
    assert x.numel() > 2**31
    return x.normal_(generator=torch.Generator("cuda").manual_seed(0))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_adain_beyond_32_bits(layout: torch.memory_format) -> None:
    x = large((3, 256, 2048, 1400), 24 << 30).contiguous(memory_format=layout).requires_grad_()
    y = ops.instance_norm(x, activation="relu")
    (gradient,) = torch.autograd.grad(y, x, y.detach())
    last = x.detach()[-1:].requires_grad_()
    expected = ops.instance_norm(last, activation="relu")
    close([y.detach()[-1:], gradient[-1:]], [expected.detach(), *torch.autograd.grad(expected, last, expected)], 1e-2)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_gather_beyond_32_bits(layout: torch.memory_format) -> None:
    x = large((2, 512, 1500, 1400), 20 << 30).contiguous(memory_format=layout).requires_grad_()
    ids = torch.tensor([0, 2_099_999, 1_048_576, 77], device="cuda")
    gathered = ops.gather_patches(x, ids)
    expected = x.detach().flatten(2)[:, :, ids].transpose(1, 2)
    assert torch.equal(gathered, expected)
    (gradient,) = torch.autograd.grad(gathered, x, weights(gathered))
    assert torch.equal(gradient.flatten(2)[:, :, ids].transpose(1, 2), weights(gathered))
    assert sum(int(image.count_nonzero()) for image in gradient) == 2 * 512 * 4


def test_memory_beyond_32_bits() -> None:
    x = large((3, 256, 2048, 1400), 30 << 30)
    keys, values = torch.randn(2, 20, 256, device="cuda")
    read = ops.memory_read(x, keys, values)
    close([read[-1:]], [ops.memory_read(x[-1:], keys, values)], 1e-2)
    del read
    losses = ops.memory_contrast(x, keys, temperature=1.0, reduction="none")
    close([losses[-1:]], [ops.memory_contrast(x[-1:], keys, temperature=1.0, reduction="none")], 1e-2)
