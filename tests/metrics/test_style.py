"""The effect of references, for generators whose result is known."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cgcl_fast.data import open_dataset
from cgcl_fast.data.streets.dataset import StreetsDataset
from cgcl_fast.metrics import StyleEvaluation, delta_e, delta_e_of_all, style_evaluation_of, style_table
from cgcl_fast.metrics.colour_transfer import colour_statistics, colour_transfer
from cgcl_fast.networks import MGUITGenerator, StyledGenerator
from cgcl_fast.train import main

DOMAINS = ("day", "night")
OFFSET = {"day": 0.3, "night": -0.3}
FIGURES = {
    "right", "wrong", "share", "both", "spread", "random_spread", "true_spread", "code_error", "code_constant",
    "random_code_error", "random_code_constant", "code_spread", "transfer_right", "transfer_wrong", "transfer_share",
    "change_share",
}  # fmt: skip


def looks(count: int) -> Tensor:
    """Styles of two numbers, all different: what is added to red and to blue. They lie about 0 as random ones do."""
    return torch.linspace(-0.25, 0.25, count)[:, None] * torch.tensor([1.0, -0.6]) + torch.tensor([0.02, 0.0])


def rendered(scene: Tensor, domain: str, look: Tensor) -> Tensor:
    """A scene (3, H, W) or scenes (B, 3, H, W) in the looks (2,) or (B, 2). Flat green tells the domain."""
    shift = torch.stack([look[..., 0], torch.full_like(look[..., 0], OFFSET[domain]), look[..., 1]], -1)
    return scene + shift[..., None, None]


def style_batch(scenes: int = 5, references: int = 6) -> dict[str, Tensor]:
    """As a data set gives it; 6 references and 5 scenes are more than a chunk. Scenes have mean 0 in each channel, so
    that an image tells its look."""
    draw = torch.Generator().manual_seed(0)

    def scene(count: int) -> Tensor:
        image = torch.rand(count, 3, 12, 10, generator=draw) * 0.8 - 0.4
        return image - image.mean((2, 3), keepdim=True)

    a = scene(scenes)
    batch = {"A": a, "A_domain": torch.arange(scenes) % 2}
    for number, name in enumerate(DOMAINS):
        look = looks(references) * (1 - 0.4 * number)
        batch[f"reference_{name}"] = rendered(scene(references), name, look)
        batch[f"truth_{name}"] = torch.stack(
            [rendered(image.expand(references, -1, -1, -1), name, look) for image in a]
        )
    return batch


class Fake(StyledGenerator):
    """Gives an image the look that ``change`` makes of the style."""

    def __init__(self, change: Callable[[Tensor], Tensor] = lambda style: style) -> None:
        super().__init__()
        self.domains = DOMAINS
        self.change = change
        self.scale = nn.Parameter(torch.ones(()))
        self.rows: list[int] = []

    def random_style(self, batch: int, generator: torch.Generator | None = None) -> Tensor:
        return 0.1 * torch.randn(batch, 2, generator=generator)

    def style_of(self, image: Tensor, domain: int) -> Tensor:
        self.rows.append(len(image))
        return self.scale * image[:, ::2].mean((2, 3))

    def forward(self, image: Tensor, domain: int, style: Tensor | None = None) -> Tensor:
        assert style is not None and len(style) == len(image)
        self.rows.append(len(image))
        return rendered(image, self.domains[domain], self.change(style))


class FakeMethod(nn.Module):
    generator_name = "G"

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.G = generator


def figures_of(change: Callable[[Tensor], Tensor] = lambda style: style, **sizes: int) -> dict[str, float]:
    return StyleEvaluation(style_batch(**sizes))(FakeMethod(Fake(change)))


def mean_spread(images: Tensor) -> float:
    """Of (S, R, 3, H, W) in [-1, 1]."""
    values = images.double().add(1).div(2)
    variance = (values - values.mean(1, keepdim=True)).square().mean(1)
    return float(variance.sqrt().mean())


def test_distances_of_all_are_the_distances_of_each_pair() -> None:
    draw = torch.Generator().manual_seed(1)
    images, truths = (torch.rand(n, 3, 9, 7, generator=draw) * 2 - 1 for n in (2, 3))
    found = delta_e_of_all(images, truths)
    wanted = torch.stack([delta_e(image.expand(3, -1, -1, -1), truths) for image in images])
    torch.testing.assert_close(found, wanted)
    with pytest.raises(ValueError, match=r"truths: expected images \(3, 9, 7\), got \(3, 9, 6\)"):
        delta_e_of_all(images, truths[..., :6])


def test_a_perfect_method_reaches_the_truth() -> None:
    batch = style_batch()
    figures = figures_of()
    assert figures.keys() == {f"style/{name}{of}" for name in FIGURES for of in ("", "/day", "/night")}
    assert figures["style/right"] < 1e-3 and figures["style/share"] == figures["style/both"] == 1
    assert figures["style/code_error"] < 1e-6 and figures["style/random_code_error"] < 1e-6
    for name in DOMAINS:
        truth = batch[f"truth_{name}"]
        wrong = [
            float(delta_e(truth[s, other][None], truth[s, r][None]))
            for s in range(5)
            for r in range(6)
            for other in range(6)
            if other != r
        ]
        assert figures[f"style/wrong/{name}"] == pytest.approx(sum(wrong) / len(wrong), rel=1e-4)
        assert figures[f"style/true_spread/{name}"] == pytest.approx(mean_spread(truth), rel=1e-4)
        assert figures[f"style/spread/{name}"] == pytest.approx(mean_spread(truth), rel=1e-4)
    assert figures["style/wrong/day"] > 1.3 * figures["style/wrong/night"]  # whose looks are closer to each other
    for name in FIGURES:
        of_domains = [figures[f"style/{name}/{domain}"] for domain in DOMAINS]
        assert figures[f"style/{name}"] == pytest.approx(sum(of_domains) / 2)


def test_the_classical_baseline_gives_each_scene_the_colours_of_the_reference() -> None:
    batch, figures = style_batch(), figures_of(lambda style: torch.zeros_like(style))
    for name in DOMAINS:
        right, nearer = [], []
        for scene, truth in zip(batch["A"], batch[f"truth_{name}"], strict=True):
            made = [
                colour_transfer(scene[None], colour_statistics([reference[None]]))
                for reference in batch[f"reference_{name}"]
            ]
            far = [[float(delta_e(image, wanted[None])) for wanted in truth] for image in made]
            right += [far[r][r] for r in range(6)]
            nearer += [far[r][r] < far[other][r] for r in range(6) for other in set(range(6)) - {r}]
        assert figures[f"style/transfer_right/{name}"] == pytest.approx(sum(right) / len(right), rel=1e-4)
        assert figures[f"style/transfer_share/{name}"] == pytest.approx(sum(nearer) / len(nearer))


def test_a_tie_is_not_right_where_the_reference_is_ignored() -> None:
    figures = figures_of(lambda style: torch.zeros_like(style))
    assert figures["style/share"] == figures["style/both"] == 0
    assert figures["style/spread"] < 1e-7 and figures["style/random_spread"] < 1e-7
    assert figures["style/right"] == pytest.approx(figures["style/wrong"]) and figures["style/right"] > 1
    assert figures["style/true_spread"] > 0.02


def test_a_method_that_turns_looks_around_is_always_wrong() -> None:
    figures = figures_of(lambda style: -style, references=2)
    assert figures["style/share"] == figures["style/both"] == 0
    assert figures["style/right"] > 5 * figures["style/wrong"]
    assert figures["style/spread"] == pytest.approx(figures["style/true_spread"], rel=1e-4)


def test_share_asks_for_the_direction_and_spread_for_the_amount() -> None:
    first = looks(2)[0]
    figures = figures_of(lambda style: first + 0.05 * (style - first), references=2)
    assert figures["style/share/day"] == figures["style/both/day"] == 1
    assert figures["style/spread/day"] == pytest.approx(0.05 * figures["style/true_spread/day"], rel=1e-3)


def test_one_translation_that_is_nearer_to_both_truths_is_right_once() -> None:
    figures = figures_of(lambda style: 2 * (style[:, :1] > 0).float().expand(-1, 2), references=2)
    assert figures["style/share"] == 0.5 and figures["style/both"] == 0


def test_what_all_translations_are_off_by_does_not_count_for_the_change() -> None:
    """Looks that are right but for one shift, larger than they differ: nearness is lost, the change is not."""
    figures = figures_of(lambda style: style + torch.tensor([0.5, 0.0]), references=2)
    assert figures["style/share"] == 0.5 and figures["style/change_share"] == 1
    assert figures_of(lambda style: -style, references=2)["style/change_share"] == 0
    assert figures_of(lambda style: torch.zeros_like(style))["style/change_share"] == 0


def test_shares_are_those_counted_one_by_one() -> None:
    def change(style: Tensor) -> Tensor:
        return 0.2 * torch.sin(60 * style)

    batch, figures = style_batch(), figures_of(change)
    for name in DOMAINS:
        styles = change(batch[f"reference_{name}"][:, ::2].mean((2, 3)))
        nearer, both = [], []
        for scene, truth in zip(batch["A"], batch[f"truth_{name}"], strict=True):
            made = [rendered(scene, name, style).clamp(-1, 1)[None] for style in styles]
            far = [[float(delta_e(image, wanted[None])) for wanted in truth] for image in made]
            for r in range(6):
                for other in set(range(6)) - {r}:
                    nearer.append(far[r][r] < far[other][r])
                    both.append(nearer[-1] and far[other][other] < far[r][other])
        assert 0.2 < figures[f"style/share/{name}"] < 0.8
        assert figures[f"style/share/{name}"] == pytest.approx(sum(nearer) / len(nearer))
        assert figures[f"style/both/{name}"] == pytest.approx(sum(both) / len(both))


def test_errors_of_codes_are_beside_those_of_the_best_constant() -> None:
    """Half of the style is lost on the way."""
    batch = style_batch()
    evaluation, fake = StyleEvaluation(batch), Fake(lambda style: 0.5 * style)
    figures = evaluation(FakeMethod(fake))
    draw = torch.Generator().manual_seed(0)
    for name in DOMAINS:
        codes = batch[f"reference_{name}"][:, ::2].double().mean((2, 3))
        drawn = 0.1 * torch.randn(5 * 6, 2, generator=draw).double()
        torch.testing.assert_close(evaluation.codes(fake, name).detach().double(), codes, atol=1e-6, rtol=0)
        for kind, styles in (("code", codes), ("random_code", drawn)):
            constant = (styles - styles.quantile(0.5, dim=0)).abs().mean()
            assert figures[f"style/{kind}_error/{name}"] == pytest.approx(float(styles.abs().mean()) / 2, rel=1e-4)
            assert figures[f"style/{kind}_constant/{name}"] == pytest.approx(float(constant), rel=1e-4)
        spread = ((codes - codes.mean(0)).square().mean(0)).sqrt()
        assert figures[f"style/code_spread/{name}"] == pytest.approx(float(spread.mean()), rel=1e-4)
        drawn = 0.5 * drawn.float().view(5, 6, 2)
        images = torch.stack(
            [rendered(a.expand(6, -1, -1, -1), name, s) for a, s in zip(batch["A"], drawn, strict=True)]
        )
        assert figures[f"style/random_spread/{name}"] == pytest.approx(mean_spread(images), rel=1e-4)


def test_few_images_are_translated_at_once_and_generators_are_left_alone() -> None:
    fake, evaluation = Fake(), StyleEvaluation(style_batch())
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = evaluation(FakeMethod(fake))
    assert torch.equal(torch.get_rng_state(), before) and max(fake.rows) == 4
    torch.manual_seed(4)
    assert evaluation(FakeMethod(fake)) == first


def test_values_beyond_the_range_are_clipped_as_in_a_picture() -> None:
    figures = figures_of(lambda style: style + 10)
    assert figures["style/spread"] < 1e-7 and math.isfinite(figures["style/right"])


def test_a_batch_needs_truths_and_two_references() -> None:
    with pytest.raises(ValueError, match="batch: expected at least 2 references, got 1"):
        StyleEvaluation(style_batch(references=1))
    with pytest.raises(ValueError, match="batch: expected a truth_NAME for each domain, got none"):
        StyleEvaluation({"A": torch.zeros(1, 3, 8, 8)})


def test_only_methods_with_styles_of_references_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    def batch_of(self: StreetsDataset, scenes: int, references: int) -> dict[str, Tensor]:
        asked.append((scenes, references))
        return style_batch(scenes, references)

    monkeypatch.setattr(StreetsDataset, "style_batch", batch_of)
    streets, fake = open_dataset(None, size=32), FakeMethod(Fake())
    evaluation = style_evaluation_of(streets, fake, 17)
    assert evaluation is not None and asked == [(5, 4)]
    assert (evaluation.scenes, evaluation.references, evaluation.domains) == (5, 4, DOMAINS)
    for other in (nn.Conv2d(3, 3, 1), MGUITGenerator(ngf=4, style_nc=4, items=(2, 2), n_blocks=1)):
        assert style_evaluation_of(streets, FakeMethod(other), 16) is None
        assert evaluation(FakeMethod(other)) == {}
    monkeypatch.setattr(StreetsDataset, "style_batch", lambda self, scenes, references: None)
    assert style_evaluation_of(streets, fake, 16) is None


def test_table_has_a_column_a_domain_and_their_mean() -> None:
    evaluation = StyleEvaluation(style_batch())
    lines = style_table(evaluation(FakeMethod(Fake())), evaluation).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert "5 test scenes, 6 references a domain" in lines[0] and lines[0].split()[-3:] == ["day", "night", "mean"]
    assert lines[1].split()[-3:] == ["100%", "100%", "100%"] and "50 %: by chance" in lines[1]
    assert "Reinhard" in lines[3] and lines[4].split()[-3:] == ["0.00", "0.00", "0.00"]


def test_a_run_notes_them_at_every_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def batch_of(self: StreetsDataset, scenes: int, references: int) -> dict[str, Tensor]:
        found = style_batch(scenes, references)
        return {name.replace("day", "sunny"): value for name, value in found.items()}

    monkeypatch.setattr(StreetsDataset, "style_batch", batch_of)
    sizes = "--size 32 --object-size 16 --ngf 4 --ndf 4 --n-blocks 1 --mlp-dim 8 --d-layers 2 --nce-dim 8 --limit 4"
    run = f"cgcl {sizes} --domains [sunny,night] --device cpu --workers 0 --save-every 1 --steps 2 --eval-images 8"
    assert main([*run.split(), "--output", str(tmp_path)]) == 0
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2]
    noted = {f"style/{name}/{domain}" for name in FIGURES for domain in ("sunny", "night")}
    assert all(noted <= line.keys() for line in lines)
    assert lines[0]["style/true_spread"] == lines[2]["style/true_spread"] and "psnr/after" in lines[2]
    assert lines[0]["style/right"] != lines[2]["style/right"]
    assert "what a reference changes, 2 test scenes, 4 references" in capsys.readouterr().out
