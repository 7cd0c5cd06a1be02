"""Learning-rate schedules as pure functions of the step: no state to save, and a longer run only needs a new one."""

from __future__ import annotations

from collections.abc import Callable

Schedule = Callable[[int], float]


def linear_decay(steps: int, decay_steps: int) -> Schedule:
    """Factor 1 until the last ``decay_steps`` of ``steps``, then linearly to 0, which the step after them would have.

    Args:
        steps: length of the training.
        decay_steps: how many of these decay, 0..steps.

    Returns:
        A function from the step (0-based) to the factor of the learning rate, in [0, 1].
    """
    if not 0 <= decay_steps <= steps:
        raise ValueError(f"decay_steps must lie in 0..steps={steps}, got {decay_steps}")

    def factor(step: int) -> float:
        if step < steps - decay_steps:
            return 1.0
        return max(0.0, (steps - step) / (decay_steps + 1)) if decay_steps else 1.0

    return factor
