"""The scripts in examples/ do what they say; that of C++ is run beside the program that it calls, in test_cmake.py."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from types import ModuleType

import pytest
import torch

from cgcl_fast import compat, networks
from cgcl_fast.engine import read_checkpoint

FOLDER = Path(__file__).parent.parent / "examples"
LINES = {"dclgan.py": 80}  # a whole method


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LINES.get(path.name, 60)


def test_a_loop_of_one_s_own_makes_translations_correspond() -> None:
    losses = example("own_training_loop").main(16)
    assert len(losses) == 16 and sum(losses[-4:]) < 0.9 * sum(losses[:4])


def test_a_published_script_trains_with_one_import_changed() -> None:
    losses = example("published_script").main(16)
    assert len(losses) == 16 and sum(losses[-4:]) < 0.95 * sum(losses[:4])


def test_fine_tuning_goes_on_from_the_weights_and_keeps_those_of_the_encoder(tmp_path: Path) -> None:
    before = networks.ResnetGenerator(ngf=4, n_blocks=5)
    torch.save(compat.published_state_dict(before), tmp_path / "latest_net_G.pth")
    figures = example("fine_tuning").main(str(tmp_path / "latest_net_G.pth"), str(tmp_path / "run"), "4", size=32)
    assert [row["step"] for row in figures] == [0, 1, 2, 3, 4]
    assert all(math.isfinite(value) for row in figures for value in row.values())
    after = networks.load_generator(tmp_path / "run" / "checkpoints" / "step_00000004.safetensors")
    old, new = before.state_dict(), after.state_dict()
    changed = {name.split(".")[0] for name in old if not torch.equal(old[name], new[name])}
    assert changed == {"blocks", "up", "head"}  # neither stem nor down
    assert max((old[name] - new[name]).abs().max() for name in old) < 1e-3  # and these by little


def test_a_new_method_trains_both_ways_and_shares_its_generator(tmp_path: Path) -> None:
    outcome = example("dclgan").main(str(tmp_path), steps=3, size=32, width=4)
    assert outcome.step == 3 and outcome.signal is None and outcome.grid is not None and outcome.grid.exists()
    first, last = (read_checkpoint(tmp_path / "checkpoints" / f"step_0000000{step}.pt")["method"] for step in (0, 3))
    moved = {name.split(".")[0] for name in first if not torch.equal(first[name], last[name])}
    assert moved == {"G", "F", "D", "H"}
    generator = networks.load_generator(tmp_path / "checkpoints" / "step_00000003.safetensors")
    torch.testing.assert_close(generator.state_dict()["stem.weight"], last["G.stem.weight"])


def test_the_new_method_s_losses_are_those_of_its_paper() -> None:
    """Against a plain version, one way after the other: no shared passes."""
    dclgan = example("dclgan")
    config = dclgan.DCLGANConfig(width=4, lambda_idt=0.5)
    method = dclgan.DCLGAN(config)
    batch = {name: torch.rand(2, 3, 32, 32) * 2 - 1 for name in "AB"}
    with torch.no_grad():
        torch.manual_seed(1)
        found = method.generator_loss(batch, {})["loss"]
        torch.manual_seed(1)
        wanted = torch.zeros(())
        for G, other, x, y, own, of_fake, D in (
            (method.G, method.F, batch["A"], batch["B"], method.H["A"], method.H["B"], method.D["B"]),
            (method.F, method.G, batch["B"], batch["A"], method.H["B"], method.H["A"], method.D["A"]),
        ):
            sources, fakes = G.encode(x, config.nce_layers), other.encode(G(x), config.nce_layers)
            ids = method.nce.sample(sources)
            layers = []
            for q, k in zip(of_fake(fakes, ids), own(sources, ids), strict=True):
                q, k = (rows / (rows.norm(dim=2, keepdim=True) + 1e-7) for rows in (q, k))
                labels = torch.arange(q.shape[1]).expand(2, -1)
                logits = q @ k.mT / 0.07
                layers.append(torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()))
            wanted += (D(G(x)) - 1).square().mean() + 2 * sum(layers) / len(layers) + 0.5 * (G(y) - y).abs().mean()
    torch.testing.assert_close(found, wanted / 2, rtol=1e-4, atol=1e-4)
