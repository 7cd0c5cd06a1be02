"""Weights that are cast together, and trainings with them."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from engine_checks import assert_same, last_state
from torch import Tensor, nn
from toy_run import Toy, make_trainer

from cgcl_fast.engine import trainer
from cgcl_fast.engine.casting import cast_together


class Pair(nn.Module):
    casts_together = True

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(3, 2), nn.Conv2d(2, 4, 3).requires_grad_(False)
        self.scale = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x) * self.scale


def test_what_is_cast_and_given_back() -> None:
    network, other = Pair().to(memory_format=torch.channels_last), nn.Linear(3, 2)
    before = dict(network.named_parameters())
    with pytest.raises(ValueError, match="inside"), cast_together([network, other], torch.bfloat16):
        assert {n: p.dtype for n, p in network.named_parameters(remove_duplicate=False)}["scale"] == torch.float32
        assert network.used.weight.dtype == network.unused.bias.dtype == torch.bfloat16
        assert network.used.weight.requires_grad and not network.unused.weight.requires_grad
        assert network.unused.weight.stride() == before["unused.weight"].stride()
        assert other.weight.dtype == torch.float32
        raise ValueError("inside")
    assert all(p is before[n] for n, p in network.named_parameters())


def test_gradients_are_differentiated_again() -> None:
    network = Pair()
    x = torch.randn(4, 3, dtype=torch.bfloat16)
    with cast_together([network], torch.bfloat16):
        y = network.used(x).square().sum()
    (first,) = torch.autograd.grad(y, network.used.weight, create_graph=True)
    assert first.dtype == torch.float32
    (second,) = torch.autograd.grad(first.sum(), network.used.weight)
    expected = 2 * x.float().sum(1) @ x.float()  # of sum_ij d/dw_ij, by each w
    torch.testing.assert_close(second, expected.expand(2, 3), rtol=2e-2, atol=0.2)
    assert network.used.bias.grad is None and network.scale.grad is None


class Opted(Toy):
    def __init__(self, trouble: tuple[str, int] = ("", 0)) -> None:
        super().__init__(trouble)
        self.G.casts_together = True

    def after(self, batches: list[dict], kept: list[dict]) -> None:
        for part in kept:
            part["colour"] = part["colour"].float()
        super().after(batches, kept)


def test_a_training_is_the_same_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def watched(networks: tuple[nn.Module, ...], dtype: torch.dtype) -> object:
        seen.append(len(networks))
        return cast_together(networks, dtype)

    monkeypatch.setattr(trainer, "cast_together", watched)
    make_trainer(tmp_path / "together", 3, kind=Opted, precision="bf16").fit()
    assert seen == [2] * 6  # G and D, in two phases of three steps
    monkeypatch.setattr(trainer, "cast_together", lambda networks, dtype: nullcontext())
    make_trainer(tmp_path / "separate", 3, kind=Opted, precision="bf16").fit()
    assert_same(last_state(tmp_path / "together"), last_state(tmp_path / "separate"))


def test_nothing_is_cast_in_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr(trainer, "cast_together", lambda *networks: seen.append(networks) or nullcontext())
    make_trainer(tmp_path, 1, kind=Opted).fit()
    assert last_state(tmp_path)["step"] == 1 and seen == []
