"""A run whose weights are channels_last, as on a GPU, and its checkpoints in one whose weights are contiguous."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from engine_checks import assert_same, last_state
from toy_run import Plain, make_trainer

from cgcl_fast.engine import Trainer
from cgcl_fast.networks import memory_format

FORMATS = {"channels_last": ("cpu",), "contiguous": ()}


def choose(monkeypatch: pytest.MonkeyPatch, kept: str) -> None:
    monkeypatch.setattr(memory_format, "CHANNELS_LAST_WEIGHTS", FORMATS[kept])


def trained(trainer: Trainer, kept: str, *, resume: bool = False) -> dict:
    """The checkpoint at the end, after a look at the strides of weights, moments and averages."""
    trainer.fit(resume=resume)
    last = kept == "channels_last"
    state = trainer.phases[1].optimizer.state
    for weight, average in zip(trainer.method.G.parameters(), trainer.average.networks.parameters(), strict=True):
        assert (weight.dim() == 4 and weight.stride(1) == 1) is (last and weight.dim() == 4)
        assert average.stride() == weight.stride()
        assert state[weight]["exp_avg"].stride() == state[weight]["exp_avg_sq"].stride() == weight.stride()
    return last_state(trainer.folder)


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choose(monkeypatch, "channels_last")
    expected = trained(make_trainer(tmp_path / "whole", 6, ema_decay=0.5), "channels_last")
    make_trainer(tmp_path / "resumed", 6, ema_decay=0.5, trouble=("term", 4)).fit()
    resumed = trained(make_trainer(tmp_path / "resumed", 6, ema_decay=0.5), "channels_last", resume=True)
    for name in ("method", "optimizers", "ema"):
        assert_same(resumed[name], expected[name])
    file = (tmp_path / "resumed" / "checkpoints" / "step_00000006.safetensors").read_bytes()
    for name, tensor in safetensors.torch.load(file).items():
        assert torch.equal(tensor, expected["ema"][f"G.{name}"])


@pytest.mark.parametrize("before", FORMATS)
def test_checkpoints_of_the_other_format_go_on_alike(
    before: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain, because dropout draws its mask in the order of the map's memory."""
    choose(monkeypatch, before)
    for name in FORMATS:
        make_trainer(tmp_path / name, 3, kind=Plain, ema_decay=0.5).fit()
    states = {}
    for name in FORMATS:
        choose(monkeypatch, name)
        states[name] = trained(make_trainer(tmp_path / name, 6, kind=Plain, ema_decay=0.5), name, resume=True)
    left, right = ({part: states[name][part] for part in ("method", "optimizers", "ema")} for name in FORMATS)
    torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("contiguous_maps", [False, True])
def test_large_weights_on_a_cpu_are_as_its_maps(contiguous_maps: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """And so is their gradient, which nothing copies then."""
    monkeypatch.setattr(memory_format, "CONTIGUOUS_TRAINING_ON_CPU", contiguous_maps)
    monkeypatch.setattr(memory_format, "LARGE_WEIGHT", 4 * 3 * 3 * 3 + 1)
    small, large = convs = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 6, 3))
    expected = [weight.detach().clone() for weight in convs.parameters()]
    memory_format.weights_in_fast_format(convs, torch.device("cpu"))
    assert small.weight.is_contiguous()
    assert large.weight.is_contiguous(memory_format=torch.channels_last) is not contiguous_maps
    assert all(torch.equal(a, b) for a, b in zip(convs.parameters(), expected, strict=True))
    convs(memory_format.in_fast_format(torch.randn(2, 3, 9, 9))).sum().backward()
    assert large.weight.grad is not None and large.weight.grad.stride() == large.weight.stride()
