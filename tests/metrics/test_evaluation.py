"""The metrics that a run logs at every save."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from cgcl_fast.data import open_dataset, to_tensor
from cgcl_fast.metrics import (
    DISTANCES,
    Evaluation,
    colour_statistics,
    colour_transfer,
    evaluation_of,
    psnr,
    table,
)


class Brighter(nn.Module):
    """Adds a constant, and what the batch says is random."""

    def __init__(self, amount: float, noise: float = 0.0) -> None:
        super().__init__()
        self.amount = nn.Parameter(torch.tensor(amount))
        self.noise = noise
        self.sizes: list[int] = []

    def samples(self, batch: dict) -> dict[str, Tensor]:
        self.sizes.append(len(batch["A"]))
        image = batch["A"] + self.amount + self.noise * torch.randn(())
        columns = {"source": batch["A"]}
        if "truth" in batch:
            return {**columns, "translated": image, "truth": batch["truth"]}
        for name in ("night", "rainy"):
            columns |= {name: image, f"{name} reference": image.flip(3), f"{name} truth": batch[f"truth_{name}"]}
        return columns


def scenes(count: int) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(count)) - 0.5


def test_figures_are_means_over_all_scenes_of_each_comparison() -> None:
    a = scenes(6)
    truth = (a + 0.2) * torch.tensor([1.0, 0.9, 0.8]).view(1, 3, 1, 1)
    colours = colour_statistics([truth])
    evaluation = Evaluation({"A": a, "A_paths": list("abcdef"), "truth": truth}, {"translated": colours})
    method = Brighter(0.1)
    figures = evaluation(method)
    assert method.sizes == [4, 2]
    later = evaluation(Brighter(0.2))
    assert later.keys() == figures.keys() and later["psnr/after"] != figures["psnr/after"]
    assert all(later[name] == figures[name] for name in figures if not name.endswith("/after"))
    assert figures.keys() == {f"{name}/{what}" for name in DISTANCES for what in ("before", "colour_transfer", "after")}
    for name, distance in DISTANCES.items():
        for what, image in (("before", a), ("colour_transfer", colour_transfer(a, colours)), ("after", a + 0.1)):
            assert figures[f"{name}/{what}"] == pytest.approx(float(distance.measure(image, truth).mean()), rel=1e-5)
    assert figures["psnr/before"] < figures["psnr/after"]


def test_several_target_domains_count_alike_and_a_scene_that_is_its_own_truth_does_not() -> None:
    a = scenes(3)
    batch = {"A": a, "truth_night": a + 0.2, "truth_rainy": a - 0.1}
    batch["truth_rainy"][2] = a[2]
    figures = Evaluation(batch)(Brighter(0.1))
    night, rainy = psnr(a + 0.1, a + 0.2), psnr(a + 0.1, a - 0.1)[:2]
    assert figures["psnr/after"] == pytest.approx(float(torch.cat([night, rainy]).mean()), rel=1e-5)
    assert figures["psnr/before"] < 40  # the scene that is its own truth would have 100
    assert not any("transfer" in name for name in figures)


def test_random_styles_are_the_same_in_each_call() -> None:
    evaluation = Evaluation({"A": scenes(2), "truth": scenes(2)})
    method = Brighter(0.0, noise=0.5)
    torch.manual_seed(1)
    first = evaluation(method)
    torch.manual_seed(2)
    assert evaluation(method) == first


def test_without_truth_there_is_nothing_to_measure(tmp_path: Path) -> None:
    for name in ("trainA", "trainB"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (20, 20), (90, 60, 30)).save(tmp_path / name / "1.png")
    assert evaluation_of(open_dataset(tmp_path, size=16), 4) is None


def test_streets_are_compared_with_their_colour_transfer() -> None:
    dataset = open_dataset(None, size=32, limit=3)
    evaluation = evaluation_of(dataset, 5)
    assert evaluation is not None and evaluation.scenes == 5
    colours = evaluation.statistics["translated"]
    night = colour_statistics([to_tensor(dataset.picture("B", index).image)[None] for index in range(3)])
    torch.testing.assert_close((colours.mean, colours.std), (night.mean, night.std))
    figures = evaluation(Brighter(0.0))
    assert figures["delta_e/colour_transfer"] < figures["delta_e/before"] == pytest.approx(figures["delta_e/after"])


def test_table_names_every_distance_and_its_direction() -> None:
    figures = {"psnr/before": 10.0, "psnr/colour_transfer": 12.345, "psnr/after": 20.0, "delta_e/after": 3.0}
    lines = table(figures, 16).splitlines()
    assert len(lines) == 3 and len({len(line) for line in lines}) == 1
    assert lines[0].split()[-4:] == ["before", "colour", "transfer", "after"] and "16 test scenes" in lines[0]
    assert "higher is closer" in lines[1] and lines[1].split()[-3:] == ["10.00", "12.35", "20.00"]
    assert "lower is closer" in lines[2] and lines[2].split()[-3:] == ["-", "-", "3.00"]
