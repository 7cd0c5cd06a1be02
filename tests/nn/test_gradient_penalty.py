from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from op_checks import DEVICE
from torch import Tensor, nn

from cgcl_fast.nn import GradientPenalty


def test_norms_of_a_known_critic_and_their_derivative() -> None:
    """D(x) = a Σ x² / 2 has the gradient a x, whose norm's derivative with respect to a is ‖x‖."""
    a = torch.tensor(3.0, dtype=torch.float64, requires_grad=True, device=DEVICE)
    seen: list[Tensor] = []

    def critic(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return a * x.square() / 2

    real, fake = torch.randn(2, 4, 3, 5, 6, dtype=torch.float64, device=DEVICE)
    norms = GradientPenalty.gradient_norms(critic, real.requires_grad_(), fake)
    expected = seen[0].flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, 3 * expected)
    share = ((seen[0] - real) / (fake - real)).flatten(1)
    assert (share - share[:, :1]).abs().max() < 1e-9 and share[:, 0].unique().numel() == 4
    assert (share >= 0).all() and (share <= 1).all()
    norms.sum().backward()
    torch.testing.assert_close(a.grad, expected.sum())
    assert real.grad is None


def test_a_critic_without_gradient_gives_no_nan() -> None:
    critic = nn.Conv2d(3, 1, 1).to(DEVICE)
    nn.init.zeros_(critic.weight)
    image = torch.rand(2, 3, 4, 4, device=DEVICE)
    GradientPenalty.gradient_norms(critic, image, image).sub(1).square().sum().backward()
    assert critic.weight.grad is not None and critic.weight.grad.isfinite().all()


def test_works_in_float32_under_autocast() -> None:
    critic = nn.Conv2d(3, 1, 1).to(DEVICE)
    image = torch.rand(2, 3, 4, 4, device=DEVICE)
    with torch.autocast(DEVICE.type, torch.bfloat16):
        norms = GradientPenalty.gradient_norms(critic, image.bfloat16(), image.bfloat16())
    assert norms.dtype == torch.float32
    torch.testing.assert_close(norms, (16 * critic.weight.square().sum()).sqrt().expand(2))


@pytest.mark.parametrize(("norm", "weights"), [(1.2, [10, 10, 20, 20, 20, 40]), (0.9, [10, 10, 5, 5, 5, 2.5])])
def test_the_weight_follows_the_mean_norm_of_a_period(norm: float, weights: list[float]) -> None:
    penalty = GradientPenalty(10.0, every=3).to(DEVICE)
    found = []
    for _ in weights:
        penalty.update(
            torch.tensor([norm + 0.3, norm - 0.3, 99.0], device=DEVICE), torch.tensor([1.0, 1.0, 0.0], device=DEVICE)
        )
        found.append(float(penalty.weight))
    assert found == weights


def test_processes_go_on_with_the_same_weight(tmp_path: Path) -> None:
    """Mean norms of 1.5 and 0.6 in two processes of one step: 1.05 in all of them is above 1.04 and below 1.06."""
    program = tmp_path / "two.py"
    program.write_text(
        """
import sys, torch
from cgcl_fast.engine.processes import leave_group
from cgcl_fast.nn import GradientPenalty
torch.distributed.init_process_group("gloo")
rank = torch.distributed.get_rank()
found = []
for upper in (1.04, 1.06):
    penalty = GradientPenalty(10.0, every=1, upper=upper, lower=0.8)
    penalty.update(torch.tensor([1.5 if rank else 0.6]), torch.tensor([1.0]))
    found.append(float(penalty.weight))
open(f"{sys.argv[1]}/{rank}", "w").write(str(found))
leave_group()  # else Gloo's threads may abort the process as it ends
"""
    )
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*launch, program, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [(tmp_path / str(rank)).read_text() for rank in (0, 1)] == ["[20.0, 10.0]"] * 2


def test_between_the_bounds_and_without_images_the_weight_stays() -> None:
    penalty = GradientPenalty(10.0, every=2).to(DEVICE)
    for _ in range(4):
        penalty.update(torch.tensor([1.02], device=DEVICE), torch.tensor([1.0], device=DEVICE))
    for _ in range(4):
        penalty.update(torch.tensor([5.0], device=DEVICE), torch.tensor([0.0], device=DEVICE))
    assert penalty.weight == 10
    fixed = GradientPenalty(10.0, every=0).to(DEVICE)
    for _ in range(100):
        fixed.update(torch.tensor([5.0], device=DEVICE), torch.tensor([1.0], device=DEVICE))
    assert fixed.weight == 10


def test_one_period_forgets_the_last() -> None:
    penalty = GradientPenalty(1.0, every=2).to(DEVICE)
    for norm in (3.0, 3.0, 1.02, 1.02, 0.5, 0.5):
        penalty.update(torch.tensor([norm], device=DEVICE), torch.tensor([1.0], device=DEVICE))
    assert penalty.weight == 1  # doubled, kept, halved


def test_the_state_dict_continues_a_period() -> None:
    penalty, other = GradientPenalty(10.0, every=3).to(DEVICE), GradientPenalty(1.0, every=3).to(DEVICE)
    penalty.update(torch.tensor([7.0], device=DEVICE), torch.tensor([1.0], device=DEVICE))
    other.load_state_dict(penalty.state_dict())
    for _ in range(2):
        for each in (penalty, other):
            each.update(torch.tensor([1.0], device=DEVICE), torch.tensor([1.0], device=DEVICE))
    assert penalty.weight == other.weight == 20


@pytest.mark.parametrize("bounds", [{}, {"least": 3.0, "most": 40.0}], ids=["default bounds", "own bounds"])
def test_ten_thousand_steps_stay_between_the_bounds_and_come_back_from_each(bounds: dict[str, float]) -> None:
    penalty = GradientPenalty(10.0, every=5, **bounds).to(DEVICE)
    least, most = bounds.get("least", 0.1), bounds.get("most", 1000.0)
    one, generator = torch.ones(1, device=DEVICE), torch.Generator().manual_seed(0)

    def run(steps: int, norm: float | None) -> list[float]:
        found = []
        for _ in range(steps):
            drawn = 0.8 + 0.5 * float(torch.rand((), generator=generator, device="cpu")) if norm is None else norm
            penalty.update(drawn * one, one)
            found.append(float(penalty.weight))
        return found

    for norm, end, other, back in ((5.0, most, 0.5, most / 2), (0.5, least, 5.0, least * 2)):
        found = run(10_000, norm)
        assert least * (1 - 1e-6) <= min(found) and max(found) <= most
        assert found[-1] == pytest.approx(end)
        assert run(5, other)[-1] == pytest.approx(back)
    found = run(10_000, None)
    assert least * (1 - 1e-6) <= min(found) < 2 * least and most / 2 < max(found) <= most


def test_weights_from_without_the_bounds_come_within_them_but_no_penalty_stays_none() -> None:
    """A state of a run that had no bounds may hold any weight."""
    one = torch.ones(1, device=DEVICE)
    for old, norm, expected in ((0.0, 5.0, 0.1), (float("inf"), 0.5, 1000.0), (1e-9, 1.02, 0.1), (20.0, 1.02, 20.0)):
        penalty = GradientPenalty(10.0, every=2).to(DEVICE)
        penalty.load_state_dict({**penalty.state_dict(), "weight": torch.tensor(old)})
        penalty.update(norm * one, one)
        assert penalty.weight == old
        penalty.update(norm * one, one)
        assert float(penalty.weight) == pytest.approx(expected)
    none = GradientPenalty(0.0, every=1).to(DEVICE)
    none.update(5 * one, one)
    assert none.weight == 0


@pytest.mark.parametrize(
    "options",
    [{"weight": -1.0}, {"every": -1}, {"upper": 0.5}, {"lower": -0.1}, {"lower": 2.0, "upper": 1.5}, {"least": 0.0},
     {"least": 3.0, "most": 2.0}, {"most": float("inf")}],
)  # fmt: skip
def test_wrong_options(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        GradientPenalty(**options)  # type: ignore[arg-type]
