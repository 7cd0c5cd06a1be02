"""The gradient penalty of WGAN-GP (Gulrajani et al. 2017, Eq. 3) with the adaptive weight that CGL and CGCL use."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, distributed, nn


class GradientPenalty(nn.Module):
    """λ_gp · E[(‖∇ D(x̂)‖₂ - 1)²] at x̂ drawn on the line between a real and a generated image (CGCL, Eq. 8).

    Every ``every`` steps the mean norm of those steps decides on λ_gp: above ``upper`` it is doubled, below ``lower``
    halved (Chen et al. 2018, "Deep Photo Enhancer", Sec. 4), within ``least`` and ``most``. The state dict includes the
    weight and the sums of the period, so a resumed run continues in the middle of it.

    The papers give no bounds. Without bounds, norms that stay on one side drive the weight to infinity or to 0, which
    no doubling leaves again, within a few thousand steps. The defaults lie two decades below and above WGAN-GP's
    λ_gp = 10: seven changes lead back from either.

    Args:
        weight: λ_gp at the beginning.
        every: steps between changes of the weight; 0 keeps it.
        upper: mean norm above which the weight is doubled.
        lower: mean norm below which the weight is halved.
        least: lower bound of the weight, above 0.
        most: upper bound of the weight. An initial weight outside the bounds is moved inside after ``every`` steps,
            except 0, which stays 0: no penalty.

    Raises:
        ValueError: a bound is out of order, or a number negative.

    Example:
        >>> import torch
        >>> from cgcl_fast.nn import GradientPenalty
        >>> penalty, critic = GradientPenalty(), torch.nn.Conv2d(3, 1, 4)
        >>> norms = penalty.gradient_norms(critic, torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8))
        >>> loss = penalty.weight * (norms - 1).square().mean()
        >>> loss.backward()
        >>> penalty.update(norms, torch.ones(2))  # after the step; both images count
    """

    weight: Tensor
    norms: Tensor
    images: Tensor
    steps: Tensor

    def __init__(
        self,
        weight: float = 10.0,
        every: int = 50,
        upper: float = 1.05,
        lower: float = 1.001,
        least: float = 0.1,
        most: float = 1000.0,
    ) -> None:
        super().__init__()
        if weight < 0 or every < 0:
            raise ValueError(f"weight and every: expected at least 0, got {weight} and {every}")
        if not 0 <= lower <= upper:
            raise ValueError(f"lower and upper: expected 0 <= lower <= upper, got {lower} and {upper}")
        if not 0 < least <= most < math.inf:
            raise ValueError(f"least and most: expected 0 < least <= most, both finite, got {least} and {most}")
        self.every, self.upper, self.lower = every, upper, lower
        self.least, self.most = (least, most) if weight else (0.0, 0.0)
        self.register_buffer("weight", torch.tensor(float(weight)))
        self.register_buffer("norms", torch.zeros(()))
        self.register_buffer("images", torch.zeros(()))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @staticmethod
    def gradient_norms(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
        """‖∇ D(x̂)‖₂ of each image, which can be differentiated with respect to the critic's weights.

        Args:
            critic: (B, C, H, W) to outputs of shape (B, ...), which are summed for each image (as StarGAN does),
                without operations that can be differentiated only once.
            real: (B, C, H, W).
            fake: the same shape; no gradient flows into either.

        Returns:
            (B,), float32 or wider.
        """
        with torch.enable_grad(), torch.autocast(real.device.type, enabled=False):  # squares of gradients: float32
            real, fake = (image.detach().to(torch.promote_types(image.dtype, torch.float32)) for image in (real, fake))
            share = torch.rand(len(real), 1, 1, 1, dtype=real.dtype, device=real.device)
            between = torch.lerp(real, fake, share).requires_grad_()
            judged = critic(between)
            ones = torch.ones_like(judged, requires_grad=True)
            (gradient,) = torch.autograd.grad(judged, between, ones, create_graph=True)
            with torch.no_grad():  # the root of zero has no derivative
                norms = (gradient.square().sum((1, 2, 3), keepdim=True) + 1e-12).sqrt()
            # The norm is the slope of D along u = ∇ D(x̂) / ‖∇ D(x̂)‖, and so is its derivative by the weights, as that
            # of u is at right angles to ∇ D(x̂). The gradient is linear in `ones`, with that slope as the factor: what
            # is differentiated is a forward pass of u. The norm's own gradient would turn each weight's in memory.
            (slope,) = torch.autograd.grad(gradient, ones, gradient.detach() / norms, create_graph=True)
            return slope.reshape(len(real), -1).sum(1)

    @torch.no_grad()
    def update(self, norms: Tensor, counted: Tensor) -> None:
        """Called once a step with ``gradient_norms`` (B,) and which images count, (B,) of 0 and 1; of several processes
        by all, which go on with the same weight."""
        if not self.every:
            return
        sums = torch.stack([(norms * counted).sum(), counted.sum()]).to(self.norms)
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(sums)
        self.norms += sums[0]
        self.images += sums[1]
        self.steps += 1
        # Selected on the device: reading the number of steps would wait for it.
        due = self.steps >= self.every
        mean = self.norms / self.images.clamp(min=1)
        doubled, halved = mean > self.upper, (mean < self.lower) & (self.images > 0)
        changed = self.weight * (1 + doubled.to(self.weight) - 0.5 * halved.to(self.weight))
        self.weight.copy_(torch.where(due, changed.clamp(self.least, self.most), self.weight))
        for sum_ in (self.norms, self.images, self.steps):
            sum_ *= ~due
