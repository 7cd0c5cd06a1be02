"""Adversarial losses on discriminator outputs of any shape."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class GANLoss(nn.Module):
    """What the discriminator and the generator minimise.

    ===============  ======================================  ===================
    kind             discriminator, real and fake            generator
    ===============  ======================================  ===================
    "lsgan"          (D(y) - 1)²,  D(G(x))²                  (D(G(x)) - 1)²
    "nonsaturating"  softplus(-D(y)),  softplus(D(G(x)))     softplus(-D(G(x)))
    "vanilla"        the same                                the same
    "hinge"          max(0, 1 - D(y)),  max(0, 1 + D(G(x)))  max(0, 1 - D(G(x)))
    "wgan"           -D(y),  D(G(x))                         -D(G(x))
    ===============  ======================================  ===================

    "vanilla" is what the published code calls the cross entropy of sigmoids. The generator's "hinge" is clipped, as in
    DCLGAN's and EnCo's code; elsewhere it is often that of "wgan".

    Args:
        kind: one of these.

    Raises:
        ValueError: another ``kind``.

    Example:
        >>> import torch
        >>> from cgcl_fast.nn import GANLoss
        >>> gan = GANLoss("lsgan")
        >>> real, fake = torch.full((1, 1, 30, 30), 0.5), torch.zeros(1, 1, 30, 30)  # D(y), D(G(x))
        >>> gan.discriminator(real, fake), gan.generator(fake)
        (tensor(0.1250), tensor(1.))
    """

    def __init__(self, kind: str = "lsgan") -> None:
        super().__init__()
        if kind not in ("lsgan", "nonsaturating", "vanilla", "hinge", "wgan"):
            raise ValueError(f"kind: expected 'lsgan', 'nonsaturating', 'vanilla', 'hinge' or 'wgan', got {kind!r}")
        self.kind = kind

    def forward(self, logits: Tensor, real: bool) -> Tensor:
        """Mean distance of ``logits`` from being called ``real`` (or fake). Scalar."""
        if self.kind == "lsgan":
            return (logits - float(real)).square().mean()
        signed = -logits if real else logits
        if self.kind == "hinge":
            return F.relu(1 + signed).mean()
        return signed.mean() if self.kind == "wgan" else F.softplus(signed).mean()

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """(loss on real + loss on fake) / 2."""
        return (self(real, True) + self(fake, False)) * 0.5

    def generator(self, fake: Tensor) -> Tensor:
        """Loss of the generator whose translation got these logits."""
        return self(fake, True)
