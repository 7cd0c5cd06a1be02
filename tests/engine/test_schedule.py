"""The learning rate of every step, against the published rule, which PyTorch's own scheduler applies epoch by epoch."""

from __future__ import annotations

import pytest
import torch

from cgcl_fast.engine import Course, linear_decay


def published(epochs: int, decay_epochs: int, warmup_epochs: int = 0) -> list[float]:
    """The rate of each epoch as the published train.py has it, counting its epochs from 1 and with epoch_count 1: the
    scheduler steps at the end of an epoch."""

    def rule(e: int) -> float:
        if e < warmup_epochs:
            return (e + 1) / warmup_epochs
        return 1.0 - max(0, e + 1 - epochs) / float(decay_epochs + 1)

    weight = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rule)
    rates = []
    for _ in range(1, epochs + decay_epochs + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


SETTINGS = [  # epochs, decay_epochs, warmup_epochs, steps an epoch
    (4, 2, 0, 3),
    (200, 200, 0, 2),
    (150, 50, 0, 3),
    (100, 100, 20, 2),
    (8, 8, 0, 5),
    (1, 0, 0, 7),
    (3, 0, 2, 4),
    (1, 5, 0, 1),
    (2, 7, 2, 6),
    (30, 30, 0, 1),
]


@pytest.mark.parametrize(("epochs", "decay_epochs", "warmup_epochs", "batches"), SETTINGS)
def test_epochs_at_the_full_rate_and_then_those_of_decay(
    epochs: int, decay_epochs: int, warmup_epochs: int, batches: int
) -> None:
    steps = (epochs + decay_epochs) * batches
    course = Course(steps, epochs, decay_epochs, warmup_epochs)
    assert course.full_steps == epochs * batches
    assert [course.epoch_of(step) for step in range(steps)] == [step // batches for step in range(steps)]

    stairs = course.schedule(interval="epoch")
    rates = published(epochs, decay_epochs, warmup_epochs)
    assert [stairs(step) for step in range(steps)] == pytest.approx([rate for rate in rates for _ in range(batches)])

    # The same rule with a step in the place of an epoch.
    line = course.schedule()
    rates = published(epochs * batches, decay_epochs * batches, warmup_epochs * batches)
    assert [line(step) for step in range(steps)] == pytest.approx(rates)

    constant = [course.schedule(policy="constant", interval=interval) for interval in ("step", "epoch")]
    for step in range(warmup_epochs * batches, steps):
        assert [schedule(step) for schedule in constant] == [1, 1]
    for step in range(warmup_epochs * batches):
        assert [schedule(step) for schedule in constant] == [line(step), stairs(step)]


@pytest.mark.parametrize(
    ("steps", "epochs", "decay_epochs", "full"),
    [(1500, 200, 200, 750), (2500, 150, 50, 1875), (12, 4, 2, 8), (7, 1, 1, 4), (3, 200, 200, 2), (5, 3, 0, 5)],
)
def test_steps_keep_the_proportion(steps: int, epochs: int, decay_epochs: int, full: int) -> None:
    course = Course(steps, epochs, decay_epochs)
    assert course.full_steps == full
    line = course.schedule()
    assert [line(step) for step in range(steps)] == pytest.approx(published(full, steps - full))
    stairs, rates = course.schedule(interval="epoch"), published(epochs, decay_epochs)
    found = [stairs(step) for step in range(steps)]
    assert found == pytest.approx([rates[step * (epochs + decay_epochs) // steps] for step in range(steps)])
    assert [rate == 1 for rate in found] == [step < full for step in range(steps)]


def test_a_warm_up_beyond_the_full_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="warmup_epochs: expected at most epochs 4, got 20"):
        Course(60, 4, 2, 20)


def test_linear_decay() -> None:
    factor = linear_decay(10, 4)
    assert [factor(step) for step in range(11)] == pytest.approx([1] * 6 + [0.8, 0.6, 0.4, 0.2, 0])
    assert linear_decay(3, 0)(2) == 1
    with pytest.raises(ValueError, match="decay_steps"):
        linear_decay(3, 4)
