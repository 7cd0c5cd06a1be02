from __future__ import annotations

import pytest
import torch

from cgcl_fast import compat
from cgcl_fast.networks import PixelDiscriminator
from networks.plain_unet import Pixel
from networks.plain_weights import check_alike, randomise


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
def test_outputs_and_gradients_are_those_of_the_published_chain(norm: str) -> None:
    plain = Pixel(2, 3, norm).double()
    randomise(plain)
    ours = compat.load_discriminator(plain.state_dict()).double()
    assert isinstance(ours, PixelDiscriminator) and ours.config == {"input_nc": 2, "ndf": 3, "norm": norm}
    plain.load_state_dict(compat.published_state_dict(ours))  # read in single precision
    assert check_alike(plain, ours, torch.rand(2, 2, 5, 7, dtype=torch.float64)).shape == (2, 1, 5, 7)
    for conv, number in zip(ours.convs, (0, 2, 5), strict=True):
        torch.testing.assert_close(conv.weight.grad, plain.net[number].weight.grad)


def test_a_pixel_is_judged_by_itself_without_a_norm() -> None:
    ours = PixelDiscriminator(norm="none")
    x = torch.rand(1, 3, 4, 4)
    changed = x.clone()
    changed[..., 2, 1] += 1
    assert ((ours(changed) != ours(x)).nonzero()[:, 2:] == torch.tensor([2, 1])).all()
    with pytest.raises(ValueError, match=r"x: expected \(B, 3, H, W\), got \(1, 4, 8, 8\)"):
        ours(torch.zeros(1, 4, 8, 8))
