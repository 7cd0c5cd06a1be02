"""Images of several sizes: the number of passes through a network, the smallest size of each method, and runs on
folders whose images all differ in size.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cgcl_fast import train
from cgcl_fast.methods import METHODS
from cgcl_fast.methods.base import check_image
from cgcl_fast.methods.sizes import split_rows, stack, together

from .graph_cases import CASES, batch_of
from .one_step import phases_of_a_step
from .tiny import TINY, TINY_OF

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from engine_checks import assert_same, last_state, log_of  # noqa: E402

SIZES = {"A": [(40, 36), (45, 38), (40, 36)], "B": [(36, 52), (32, 56)]}
"""(width, height) of the images of the two domains."""


def test_together_runs_once_a_size_and_keeps_the_order() -> None:
    passes: list[tuple[int, ...]] = []

    def network(x: Tensor, shift: Tensor) -> tuple[Tensor, list[Tensor]]:
        passes.append(tuple(x.shape))
        return x + shift.view(-1, 1, 1, 1), [x.mean((1, 2, 3)), shift]

    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 3, 4, 4), (1, 3, 4, 6), (1, 3, 4, 4), (3, 3, 4, 6)]
    jobs = [
        (torch.rand(shape, generator=generator), torch.arange(shape[0]) + 10.0 * i) for i, shape in enumerate(shapes)
    ]
    found = together(network, jobs)
    assert passes == [(3, 3, 4, 4), (4, 3, 4, 6)]
    for result, job in zip(found, jobs, strict=True):
        assert_same(result, network(*job))
    (single,) = together(torch.neg, [jobs[0][0]])
    assert torch.equal(single, -jobs[0][0])


def test_stack_is_one_batch_where_sizes_agree() -> None:
    a, b, c = torch.zeros(1, 3, 4, 4), torch.ones(2, 3, 4, 4), torch.ones(1, 3, 4, 8)
    (both,) = stack([a, b])
    assert torch.equal(both, torch.cat([a, b]))
    assert all(x is y for x, y in zip(stack([a, c]), (a, c), strict=True))


NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    **{case: CASES[case] for case in ("cut", "fastcut", "enco", "mguit", "cgl", "cgcl", "cyclegan")},
    "cut, two halvings, deep D": ("cut", {**CASES["cut"][1], "n_down": 2, "d_layers": 3}),
    "cut, shallow D, strided": ("cut", {**CASES["cut"][1], "d_layers": 1, "antialias": False}),
    "cyclegan, two halvings": ("cyclegan", {**CASES["cyclegan"][1], "n_down": 2, "d_layers": 3}),
    "mguit, deep D": ("mguit", {**CASES["mguit"][1], "d_layers": 3, "n_scales": 3}),
    "cgl, deep D": ("cgl", {**CASES["cgl"][1], "d_layers": 5, "object_size": 32}),
}


@pytest.mark.parametrize("case", NETWORKS)
def test_the_least_size_named_is_enough_and_less_is_not(case: str) -> None:
    name, options = NETWORKS[case]
    config = METHODS[name].Config(**options)
    least = -(-config.least_size() // 4) * 4
    check_image({"A": torch.zeros(3, least, least + 4)}, config)
    with pytest.raises(ValueError, match=f"size: networks with these options need images of at least {least}x{least}"):
        check_image({"A": torch.zeros(3, least - 4, least)}, config)

    def step(height: int, width: int) -> None:
        method = METHODS[name](config)
        batch = batch_of(name, images=1)
        batch |= {side: torch.rand(1, 3, height, width) * 2 - 1 for side in "AB"}
        batch |= {f"{side}_object": torch.rand(1, 3, *[options.get("object_size", 16)] * 2) for side in "AB"}
        batch = {name: value for name, value in method.prepare(batch).items() if isinstance(value, Tensor)}
        for _, losses in phases_of_a_step(method, batch, method.choose(0.0)):
            assert losses["loss"].isfinite()

    step(least, least)
    step(least, least + 12)
    if least > 8:  # below which a step may do, but no more than that
        with pytest.raises((ValueError, RuntimeError)):
            step(least - 4, least)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Noise with a box in each image, in the layout of two domains and in that of any number."""
    root, random = tmp_path_factory.mktemp("images"), np.random.RandomState(0)
    for place, name in ((f"{layout}/{folder}", name) for layout, folder, name in (
        ("two", "trainA", "A"), ("two", "trainB", "B"), ("any", "day/train", "A"), ("any", "night/train", "B"),
    )):  # fmt: skip
        (root / place).mkdir(parents=True)
        for number, (width, height) in enumerate(SIZES[name]):
            pixels = random.randint(0, 256, (height, width, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(root / place / f"{number}.png")
            said = {"size": [width, height], "boxes": [{"class": "1", "box": [3.0, 5.0, 24.0, 28.0]}]}
            (root / place / f"{number}.json").write_text(json.dumps(said))
    return {name: root / ("any" if name in ("cgl", "cgcl") else "two") for name in METHODS}


def run_of(method: str, data: Path) -> list[str]:
    options = [*TINY, *TINY_OF.get(method, []), "--data", str(data), "--eval-images", "0", "--batch-size", "1"]
    return [method, *options, *(["--n-blocks", "1"] if method in ("mguit", "cyclegan") else [])]


@pytest.mark.parametrize(
    ("method", "mode"),
    [(name, "scale_width" if name == "cgl" else "none") for name in METHODS if name != "sincut"]
    + [("cut", "scale_width")],
)
def test_runs_on_images_of_several_sizes_resume_exactly(
    method: str, mode: str, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[tuple[torch.Size, torch.Size]] = set()
    prepare = METHODS[method].prepare

    def recorded(self: Any, batch: dict[str, Any]) -> dict[str, Any]:
        seen.add((batch["A"].shape[2:], batch["B"].shape[2:]))
        return prepare(self, batch)

    monkeypatch.setattr(METHODS[method], "prepare", recorded)
    run = [*run_of(method, folders[method]), "--preprocess", mode, "--steps", "5", "--save-every", "2"]
    assert train.main([*run, "--output", str(tmp_path / "whole")]) == 0
    assert any(a != b for a, b in seen)
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    for number in (4, 5):
        for file in (tmp_path / "resumed" / "checkpoints").glob(f"step_{number:08d}.*"):
            file.unlink()
    assert last_state(tmp_path / "resumed")["step"] == 2
    assert train.main(["--resume", "--output", str(tmp_path / "resumed")]) == 0
    assert_same(last_state(tmp_path / "resumed"), last_state(tmp_path / "whole"), method)
    assert log_of(tmp_path / "resumed") == log_of(tmp_path / "whole")


@pytest.mark.parametrize("used", [(0,), (1,), (0, 1, 2)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradient_of_split_rows(used: tuple[int, ...], layout: torch.memory_format) -> None:
    """That of a part that nothing uses is zero, and the whole is in the memory format of the map."""
    x = torch.randn(6, 4, 3, 5).contiguous(memory_format=layout).requires_grad_()
    found = []
    for split in (split_rows, torch.split):
        parts = split(x, [1, 2, 3])
        assert [len(part) for part in parts] == [1, 2, 3]
        total = torch.stack([(parts[i] ** 2 * (i + 1)).sum() for i in used]).sum()
        found.append(torch.autograd.grad(total, x)[0])
    assert torch.equal(*found)
    assert found[0].is_contiguous(memory_format=layout)


def test_rows_of_a_map_within_a_margin_keep_their_memory_format() -> None:
    x = torch.randn(3, 4, 6, 7).contiguous(memory_format=torch.channels_last)
    inner = x[..., 1:-1, 1:-1].detach().requires_grad_()
    found = []
    for split in (split_rows, torch.split):
        of_first, _ = split(inner, [2, 1])
        found.append(torch.autograd.grad(of_first.square().sum(), inner)[0])
    assert torch.equal(*found)
    assert found[0].is_contiguous(memory_format=torch.channels_last)


def test_one_part_is_the_whole() -> None:
    x = torch.randn(2, 3)
    assert split_rows(x, [2])[0] is x
