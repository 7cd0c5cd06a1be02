from __future__ import annotations

import math

import pytest
import torch
from op_checks import DEVICE

from cgcl_fast.nn import GANLoss

LOGITS = torch.tensor([[-1.0, 0.5], [2.0, 0.0]], device=DEVICE)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


@pytest.mark.parametrize(
    ("kind", "real", "fake"),
    [
        ("lsgan", lambda v: (v - 1) ** 2, lambda v: v**2),
        ("nonsaturating", lambda v: softplus(-v), softplus),
        ("vanilla", lambda v: -math.log(1 / (1 + math.exp(-v))), lambda v: -math.log(1 - 1 / (1 + math.exp(-v)))),
        ("hinge", lambda v: max(0, 1 - v), lambda v: max(0, 1 + v)),
        ("wgan", lambda v: -v, lambda v: v),
    ],
)
def test_values(kind: str, real: object, fake: object) -> None:
    loss = GANLoss(kind)
    values = LOGITS.flatten().tolist()
    as_real = sum(map(real, values)) / 4  # type: ignore[arg-type]
    as_fake = sum(map(fake, values)) / 4  # type: ignore[arg-type]
    assert loss(LOGITS, True).item() == pytest.approx(as_real)
    assert loss(LOGITS, False).item() == pytest.approx(as_fake)
    assert loss.generator(LOGITS).item() == pytest.approx(as_real)
    assert loss.discriminator(LOGITS, LOGITS).item() == pytest.approx((as_real + as_fake) / 2)


def test_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="kind: expected 'lsgan', 'nonsaturating', .* or 'wgan', got 'wgangp'"):
        GANLoss("wgangp")
