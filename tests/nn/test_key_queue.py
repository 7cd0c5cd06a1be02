from __future__ import annotations

import pytest
import torch
from op_checks import DEVICE
from torch import nn

from cgcl_fast.nn import KeyQueue, momentum_update


def unit(*rows: tuple[float, float]) -> torch.Tensor:
    return nn.functional.normalize(torch.tensor(rows, dtype=torch.float32, device=DEVICE))


def test_first_in_first_out_and_normalised() -> None:
    queue = KeyQueue(4, 2).to(DEVICE)
    torch.testing.assert_close(queue.rows.norm(dim=1), torch.ones(4, device=DEVICE))
    queue.enqueue(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]], device=DEVICE))
    queue.enqueue(torch.tensor([[1.0, 1.0], [-2.0, 0.0]], device=DEVICE))
    torch.testing.assert_close(queue.rows, unit((-1, 0), (1, 0), (0, 1), (1, 1)))
    assert queue.position == 1


def test_more_than_fits_keeps_the_last() -> None:
    queue = KeyQueue(2, 2).to(DEVICE)
    queue.enqueue(torch.tensor([[1.0, 0.0]], device=DEVICE))
    queue.enqueue(torch.tensor([[1.0, 1.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]], device=DEVICE))
    assert queue.position == 1
    torch.testing.assert_close(queue.rows, unit((0, -1), (-1, 0)))


def test_the_state_goes_on() -> None:
    first = KeyQueue(5, 3).to(DEVICE)
    first.enqueue(torch.randn(3, 3, device=DEVICE))
    second = KeyQueue(5, 3).to(DEVICE)
    second.load_state_dict(first.state_dict())
    more = torch.randn(4, 3, device=DEVICE)
    first.enqueue(more)
    second.enqueue(more)
    assert torch.equal(first.rows, second.rows) and first.position == second.position


def test_wrong_keys_and_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"keys: expected \(N, 2\), got \(3, 4\)"):
        KeyQueue(4, 2).to(DEVICE).enqueue(torch.zeros(3, 4, device=DEVICE))
    with pytest.raises(ValueError, match="size and dim"):
        KeyQueue(0, 2)


def test_momentum() -> None:
    average, module = nn.BatchNorm1d(2).to(DEVICE), nn.BatchNorm1d(2).to(DEVICE)
    nn.init.constant_(module.weight, 3.0)
    module.running_mean = torch.tensor([4.0, 5.0], device=DEVICE)
    momentum_update(average, module, 0.75)
    torch.testing.assert_close(average.weight.detach(), torch.full((2,), 1.5, device=DEVICE))
    assert average.running_mean is not None and average.running_mean.tolist() == [4.0, 5.0]
