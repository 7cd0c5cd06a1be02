"""The device of a process, and several trainings in one process, as in a notebook."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from engine_checks import assert_same
from torch import nn
from toy_run import Plain, make_trainer

from cgcl_fast.engine import device_for, make_accelerator, slow_precision


def trained(folder: Path, precision: str, accumulate: int) -> dict[str, torch.Tensor]:
    """The networks after three steps on the same images."""
    trainer = make_trainer(
        folder, 3, kind=Plain, precision=precision, batch_size=2 // accumulate, accumulate=accumulate
    )
    trainer.fit()
    return {name: value.clone() for name, value in trainer.method.state_dict().items() if name[0] in "GD"}


def test_trainings_of_one_process_may_differ_in_precision_and_accumulation(tmp_path: Path) -> None:
    """There and back: what one leaves behind changes nothing of the next."""
    runs = [("fp32", 1), ("bf16", 1), ("fp32", 2), ("bf16", 2), ("fp32", 1), ("bf16", 1)]
    full, rounded, parts, _, full_again, rounded_again = (
        trained(tmp_path / str(number), *run) for number, run in enumerate(runs)
    )
    assert_same(full, full_again)
    assert_same(rounded, rounded_again)
    torch.testing.assert_close(parts, full)
    torch.testing.assert_close(rounded, full, rtol=0, atol=3e-2)  # a gradient near zero may move Adam the other way
    assert not torch.equal(rounded["G.0.weight"], full["G.0.weight"])


@pytest.mark.parametrize("other", [{"precision": "bf16"}, {"accumulate": 2}])
def test_a_trainer_made_before_that_of_another_training_is_refused(tmp_path: Path, other: dict) -> None:
    first = make_trainer(tmp_path / "first", 1, kind=Plain)
    second = make_trainer(tmp_path / "second", 1, kind=Plain, **other)
    with pytest.raises(ValueError, match="accelerator: expected fp32 and accumulate 1, got .*end a training"):
        first.fit()
    assert second.fit().step == 1


def test_accelerate_is_where_the_device_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("auto", "cpu"):
        assert make_accelerator(device=name).device == device_for(name)
    assert nn.Linear(1, 1).to(device_for("cpu")).weight.device.type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: None)
    assert device_for("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("mps"))
    assert device_for("auto", "bf16") == torch.device("mps") and device_for("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    ("device", "precision", "said"),
    [
        ("tpu", "fp32", "device must be auto, cpu or cuda, got 'tpu'"),
        ("cpu", "fp8", "precision must be fp32, bf16 or fp16, got 'fp8'"),
        ("cuda", "fp32", "this PyTorch finds no CUDA device here"),
        ("auto", "fp16", "precision fp16 needs a GPU"),
        ("cpu", "fp16", "precision fp16 needs a GPU"),
    ],
)
def test_what_is_not_here_is_named(device: str, precision: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for function in (device_for, lambda *options: make_accelerator(device=options[0], precision=options[1])):
        with pytest.raises(ValueError, match=said):
            function(device, precision)


@pytest.mark.parametrize("supported", [False, True])
def test_a_precision_without_kernels_is_said(supported: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported, raising=False)
    line = slow_precision(torch.device("cpu"), "bf16")
    assert line is None if supported else "bf16" in str(line)
    assert slow_precision(torch.device("cpu"), "fp32") is None
    assert slow_precision(torch.device("cuda"), "bf16") is None
