"""What is counted for the model of a step, the model's formula, and the page that is made of a rehearsal."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch

from benchmarks import machine, scaling
from benchmarks.scaling_page import BEGIN, END, Links, Step, fitted, section
from cgcl_fast.info import method_parameters
from cgcl_fast.methods import METHODS

GPU = machine.ROOT / "benchmarks" / "results" / "step-cuda-h100-2026-11-27.json"


@pytest.mark.parametrize("name", METHODS)
def test_every_trained_parameter_is_exchanged_once(name: str) -> None:
    """With their defaults methods have nothing that is not trained but biases that the norm after them would subtract
    again."""
    method = scaling.method_on_meta(name)
    fixed = [key for key, parameter in method.named_parameters() if not parameter.requires_grad]
    left_out = sum(method.get_parameter(key).numel() for key in fixed)
    assert all(key.endswith(".bias") for key in fixed)
    assert sum(scaling.gradient_bytes(method)) == 4 * (method_parameters()[name]["total"] - left_out)


def test_what_is_sent_of_a_batch_is_its_images() -> None:
    assert scaling.input_bytes("cut", scaling.method_on_meta("cut"), 32) == 2 * 3 * 32 * 32 * 4


def test_parts_that_are_not_trained_are_not_exchanged() -> None:
    config = METHODS["cut"].Config
    with torch.device("meta"):
        plain, external = (METHODS["cut"](config(negatives=negatives)) for negatives in ("internal", "external"))
    assert scaling.gradient_bytes(plain) == scaling.gradient_bytes(external)
    memory = scaling.method_on_meta("mguit").G.memory
    assert scaling.buffer_bytes(scaling.method_on_meta("mguit")) >= 4 * memory.keys.numel()


def test_the_formula_by_hand() -> None:
    links = Links(in_machine=4, nvlink=100.0, network=10.0, reached=0.5, hop=0.25)
    assert links.reduction(400, 1, 1) == 0
    assert links.reduction(400, 1, 2) == 2 * 0.5 * 400 / 50 + 2 * 0.25
    # Eight GPUs in two machines: 3/4 of the bytes twice in each, and twice half of a quarter of them between both.
    assert links.reduction(400, 2, 8) == pytest.approx(2 * 0.75 * 400 / 50 + 2 * 0.5 * 100 / 5 + 2 * 2 * 3 * 0.25)

    step = Step("a", 3.0, 0.5, 1, (1 << 20, (1 << 20) + (26 << 20)), 1)
    assert step.messages == 2 + 4
    slowest = 3 + 0.5 * math.sqrt(2 * math.log(8))
    assert step.computing(1) == 3 and step.computing(8) == pytest.approx(slowest)
    assert step.efficiency(8, links, 1.0) == pytest.approx(3 / slowest)
    assert step.efficiency(8, links, 0.0) == pytest.approx(3 / (slowest + step.reduction(8, links)))


def test_the_line_is_that_of_the_medians() -> None:
    rows = [{"bytes": size, "seconds": [9.0, 0.001 + size / 1e9, 0.0]} for size in (1000, 10**6, 10**8)]
    latency, rate = fitted(rows)
    assert latency == pytest.approx(1e-3) and rate == pytest.approx(1e9)


def test_no_line_begins_below_zero() -> None:
    """Without that bound the line through both would be 3 x - 2."""
    rows = [{"bytes": size, "seconds": [seconds]} for size, seconds in ((1, 1.0), (2, 4.0))]
    latency, rate = fitted(rows)
    assert latency == 0 and rate == pytest.approx((1 + 0.25) / (1 + 0.5))


def test_a_rehearsal_fills_the_page_and_so_do_its_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By processes as a training has them."""
    page, output = tmp_path / "page.md", tmp_path / "scaling.json"
    page.write_text(f"before\n{BEGIN}\n{END}\nafter\n")
    options = ["--gpu", str(GPU), "--page", str(page)]
    assert scaling.main(["--scale", "tiny", "--note", "A rehearsal.", "--output", str(output), *options]) == 0
    document = json.loads(output.read_text())
    assert document["machine_info"]["suite"] == "scaling" and document["threads"] >= 1
    assert [row["bytes"] for row in document["exchanged"]] == list(scaling.TINY.sizes)
    (step,) = document["steps"]
    assert len(step["with"]) == len(step["without"]) == 1 and all(size > 0 for size in step["gradient_bytes"])
    assert document["counts"].keys() == METHODS.keys() and document["data"]["seconds"] > 0
    written = page.read_text()
    assert written.startswith(f"before\n{BEGIN}\n") and written.endswith(f"{END}\nafter\n")
    assert section(output, GPU) in written and "**A rehearsal.**" in written
    for measured in json.loads(GPU.read_text())["benchmarks"]:
        name, variant = measured["extra_info"]["op"].removesuffix(" step"), measured["extra_info"]["impl"]
        assert (f"`{name}`" in written and f", {variant} |" in written) or variant == "published"
    page.write_text(f"before\n{BEGIN}\n{END}\nafter\n")
    assert scaling.main(["--from", str(output), *options]) == 0
    assert page.read_text() == written
    capsys.readouterr()


def test_the_page_of_the_documentation_is_that_of_its_results() -> None:
    """Nobody has changed its numbers by hand."""
    text = (machine.ROOT / "docs" / "scaling.md").read_text()
    ((measured, gpu),) = re.findall(r"^From `(.*?)` and `(.*?)`\.$", text, re.M)
    assert section(machine.ROOT / measured, machine.ROOT / gpu) == text.split(BEGIN)[1].split(END)[0].strip()
