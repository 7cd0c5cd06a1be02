"""Learning-rate schedules as pure functions of the step: they have no state, and a longer run just needs a new one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Schedule = Callable[[int], float]


def linear_decay(steps: int, decay_steps: int, warmup_steps: int = 0) -> Schedule:
    """Factor 1 until the last ``decay_steps`` of ``steps``, then linearly to 0, which the step after the last would
    have.

    This is the rule of the published CUT and CycleGAN, 1 - max(0, e + 1 - n) / (n_decay + 1) in epoch e from 0, in any
    unit of time; with warm-up that of the published EnCo, (e + 1) / n_warmup in the first n_warmup epochs.

    Args:
        steps: length of the training.
        decay_steps: length of the decay at the end, 0..steps.
        warmup_steps: length of the linear increase to factor 1 at the beginning.

    Returns:
        A function from the step (0-based) to the factor of the learning rate, in [0, 1].
    """
    if not 0 <= decay_steps <= steps:
        raise ValueError(f"decay_steps must lie in 0..steps={steps}, got {decay_steps}")

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        if step < steps - decay_steps:
            return 1.0
        return max(0.0, (steps - step) / (decay_steps + 1)) if decay_steps else 1.0

    return factor


@dataclass(frozen=True)
class Course:
    """The division of a training of ``steps``: epochs at the full learning rate, then epochs of decay.

    An epoch is a pass over the data if ``steps`` is the length of that many passes. Otherwise it is an equal share of
    ``steps``, which preserves the proportion of the phases.

    Args:
        steps: length of the training.
        epochs: epochs at the full rate.
        decay_epochs: epochs of decay that follow.
        warmup_epochs: how many of the former increase to the full rate.
        ahead: how many steps fewer a run has made than if its epochs had always had their current length
            (:meth:`Stage.ahead`): the run itself has that many steps fewer than ``steps``.

    Raises:
        ValueError: more warm-up than epochs at the full rate.
    """

    steps: int
    epochs: int
    decay_epochs: int = 0
    warmup_epochs: int = 0
    ahead: int = 0

    def __post_init__(self) -> None:
        if self.warmup_epochs > self.epochs:
            raise ValueError(f"warmup_epochs: expected at most epochs {self.epochs}, got {self.warmup_epochs}")

    def start_of(self, epoch: int) -> int:
        """The run's first step of an epoch."""
        return -(-epoch * self.steps // (self.epochs + self.decay_epochs)) - self.ahead

    def epoch_of(self, step: int) -> int:
        """The epoch of a step of the run."""
        return (step + self.ahead) * (self.epochs + self.decay_epochs) // self.steps

    @property
    def own_steps(self) -> int:
        """The step at which the run ends."""
        return self.steps - self.ahead

    @property
    def full_steps(self) -> int:
        """The number of the run's steps before the decay."""
        return self.start_of(self.epochs)

    def schedule(self, *, policy: str = "linear", interval: str = "step") -> Schedule:
        """The factor of the learning rates at each step of the run.

        Args:
            policy: "linear" decay to zero, or "constant".
            interval: it changes with each "step", or at the end of an "epoch".
        """
        decays = policy == "linear"
        if interval == "epoch":
            decay = self.decay_epochs if decays else 0
            of_epoch = linear_decay(self.epochs + self.decay_epochs, decay, self.warmup_epochs)
            return lambda step: of_epoch(self.epoch_of(step))
        decay = self.own_steps - self.full_steps if decays else 0
        of_step = linear_decay(self.steps, decay, self.start_of(self.warmup_epochs) + self.ahead)
        return lambda step: of_step(step + self.ahead)
