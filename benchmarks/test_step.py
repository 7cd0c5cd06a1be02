"""The profile of a step: what an operator costs, what kind it is of, and what is written and printed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from benchmarks import step


def test_bytes_and_flops_are_those_of_the_tensors() -> None:
    x, weight = torch.rand(2, 3, 8, 10), torch.rand(5, 3, 3, 3)
    operators = step.Operators()
    with operators.watching():
        y = F.conv2d(x, weight, padding=1)
        y.view(-1)  # moves nothing
        y + y  # one tensor twice
        x.expand(4, 2, 3, 8, 10) + 1
    costs = operators.costs
    conv = costs["convolutions", "convolution"]
    assert conv.flops == 2 * y.numel() * 3 * 9 and conv.bytes == 4 * (x.numel() + weight.numel() + y.numel())
    assert costs["other", "view"].bytes == 0 and conv.seconds > 0
    added = costs["other", "add"]
    assert added.calls == 2 and added.bytes == 4 * (2 * y.numel() + x.numel() + 4 * x.numel()) and added.flops == 0


def test_what_an_optimiser_does_is_its_own() -> None:
    weight = torch.nn.Parameter(torch.ones(4))
    adam = torch.optim.Adam([weight], lr=0.1)
    operators = step.Operators()
    with operators.watching():
        (weight * 2).sum().backward()
        adam.step()
        weight.detach().mul(3)
    kinds = step.kinds_of(operators.costs)
    assert kinds["optimiser"].calls > 2
    assert {name for kind, name in operators.costs if kind == "other"} >= {"mul", "sum"}
    outside = sum(cost.calls for (_, name), cost in operators.costs.items() if name == "mul")
    adam.step()  # the hooks are gone
    assert sum(cost.calls for (_, name), cost in operators.costs.items() if name == "mul") == outside


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("_adain_backward", "norms"),
        ("reflection_pad2d_backward", "padding"),
        ("upsample_bilinear2d", "resampling"),
        ("_blur_down", "resampling"),
        ("_patch_nce_layers", "loss"),
        ("mse_loss_backward", "loss"),
        ("addmm", "products"),
        ("_to_copy", "copies"),
        ("mul", "other"),
    ],
)
def test_kinds(name: str, kind: str) -> None:
    assert step.kind_of(name) == kind


def test_a_convolution_of_each_channel_by_itself_is_a_blur() -> None:
    operators = step.Operators()
    x = torch.rand(1, 4, 8, 8, requires_grad=True)
    with operators.watching():
        F.conv2d(x, torch.rand(4, 1, 3, 3), groups=4).sum().backward()
        F.conv2d(x.detach(), torch.rand(4, 4, 3, 3))
    assert operators.costs["resampling", "convolution"].calls == 1
    assert operators.costs["resampling", "convolution_backward"].calls == 1
    assert operators.costs["convolutions", "convolution"].calls == 1


def test_the_floor_is_the_larger_of_two() -> None:
    rates = {"copy_bytes_per_second": 10.0, "matmul_flops_per_second": 100.0}
    assert step.Cost(bytes=20, flops=100).floor(rates) == 2.0
    assert step.Cost(bytes=20, flops=300).floor(rates) == 3.0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_rehearsal_writes_and_prints_the_kinds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], precision: str
) -> None:
    path = tmp_path / "step.json"
    options = ["cut", "--rehearse", "--size", "32", "--steps", "1", "--precision", precision, "--output", str(path)]
    options += ["--return-freed"] if precision == "bf16" else []
    assert step.main(options) == 0
    document = json.loads(path.read_text())
    assert document["machine_info"]["precision"] == precision and document["machine_info"]["suite"] == "step"
    assert document["machine_info"]["freed"] == "returned" or precision == "fp32"
    found = document["profile"]
    expected = {"convolutions", "norms", "padding", "loss", "products", "copies", "optimiser", "other", "data"}
    assert expected <= found["kinds"].keys()
    assert len(found["seconds"]) == 1 and found["page_faults"] >= 0 and found["peak_bytes"] > 0
    for kind in expected - {"data"}:
        of_kind = [entry for entry in found["operators"] if entry["kind"] == kind]
        for name in ("calls", "bytes", "flops"):
            assert found["kinds"][kind][name] == sum(entry[name] for entry in of_kind)
    assert found["kinds"]["data"]["bytes"] >= 2 * 3 * 32 * 32 * 4
    convolutions = {entry["name"]: entry for entry in found["operators"] if entry["kind"] == "convolutions"}
    # Backward makes the gradients of weight and input, but for the input of the first layers.
    forward, backward = (convolutions[name]["flops"] for name in ("convolution", "convolution_backward"))
    assert forward > 0 and backward < 2 * forward
    printed = capsys.readouterr().out
    assert all(f"| {kind} |" in printed for kind in expected) and "| **step** |" in printed


def test_wrong_options_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for options in (["nothing"], ["cut", "--threads", "0"], ["cut", "--progress", "1"]):
        with pytest.raises(SystemExit, match="2"):
            step.main(options)
    assert "--progress: expected from 0 to below 1, got 1.0" in capsys.readouterr().err
