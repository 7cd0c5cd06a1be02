"""The rows of the papers' ablation tables, by their options alone: each trains, and changes what it should."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from op_checks import DEVICE
from torch import Tensor

from cgcl_fast.methods import METHODS, Method

from .one_step import phases_of_a_step

TINY: dict[str, Any] = {"ngf": 2, "ndf": 2, "nce_dim": 8}

CUT_FIG_4: dict[str, dict[str, Any]] = {
    "CUT (default)": {},
    "no id": {"lambda_y": 0.0},
    "no id, 15 neg": {"lambda_y": 0.0, "num_patches": 16},
    "no id, 15 neg, last": {"lambda_y": 0.0, "num_patches": 16, "nce_layers": (16,)},
    "last": {"nce_layers": (16,)},
    "int and ext": {"negatives": "both"},
    "ext only": {"negatives": "external"},
    "ext only, last": {"negatives": "external", "nce_layers": (16,)},
}
"""CUT's Fig. 4: [Id], [Negs], [Layers], [Int] and [Ext]."""

ENCO_TABLE_3: dict[str, dict[str, Any]] = {
    "A": {"scales": (2,)},
    "B": {"scales": (1, 2)},
    "C": {"scales": (2, 4)},
    "D": {"sampling": "random"},
    "E": {"shared_projector": False},
    "F": {},
}

ENCO_TABLE_4: dict[str, dict[str, Any]] = {
    "uniform": {"oversample": 1.0, "importance": 0.0},
    "mildly biased": {"importance": 0.75},
    "heavily biased": {"importance": 1.0},
    "small margin": {"oversample": 2.0},
    "large margin": {"oversample": 8.0},
    "default": {},
}


class Seen:
    """What one step of a method does: positions drawn, queries and keys compared, losses, parameters moved."""

    def __init__(self, name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        torch.manual_seed(0)
        kind = METHODS[name]
        self.method: Method = kind(kind.Config(**TINY, **options)).to(DEVICE)
        self.losses: dict[str, Tensor] = {}
        self.compared: list[tuple[list[Tensor], list[Tensor], dict[str, Any]]] = []
        module = __import__(f"cgcl_fast.methods.{name}", fromlist=["x"]) if name == "enco" else None
        target = module or __import__("cgcl_fast.nn.patch_nce", fromlist=["x"])
        compare: Callable[..., Any] = target.patch_nce_layers

        def recorded(queries: list[Tensor], keys: list[Tensor], **arguments: Any) -> Any:
            self.compared.append((queries, keys, arguments))
            return compare(queries, keys, **arguments)

        monkeypatch.setattr(target, "patch_nce_layers", recorded)
        self.step()

    def step(self) -> None:
        images = torch.rand(2, 2, 3, 32, 32, generator=torch.Generator(device="cpu").manual_seed(1), device="cpu")
        a, b = images.to(DEVICE) * 2 - 1
        batch, shared = {"A": a, "B": b}, self.method.choose(0.0)
        before = {name: p.detach().clone() for name, p in self.method.named_parameters()}
        for phase, losses in phases_of_a_step(self.method, batch, shared):
            networks = [getattr(self.method, name) for name in phase.networks]
            torch.optim.Adam([p for network in networks for p in network.parameters()], lr=1e-3).step()
            self.losses.update(losses)
        assert all(value.isfinite() for value in self.losses.values())
        self.moved = {
            name.split(".")[0] for name, p in self.method.named_parameters() if not torch.equal(p, before[name])
        }


@pytest.mark.parametrize("row", CUT_FIG_4)
def test_rows_of_cut(row: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Seen("cut", CUT_FIG_4[row], monkeypatch)
    assert {"G", "D", "H"} <= seen.moved
    assert ("NCE_Y" in seen.losses) == ("no id" not in row)
    queries, keys, arguments = seen.compared[0]
    patches = 16 if "15 neg" in row else 256
    layers = 1 if "last" in row else 5
    assert [key.shape[1] for key in keys] == [min(patches, 64)] if layers == 1 else [patches, patches, patches, 64, 64]
    assert len(queries) == layers
    external = "ext" in row
    assert (arguments["extra_negatives"] is not None) == external
    assert arguments["negatives"] == ("none" if "ext only" in row else "image")
    if external:
        assert all(rows.shape == (16384, 8) for rows in arguments["extra_negatives"])
        domains = seen.method.queues
        assert all(queue.position == 2 * k.shape[1] for d in domains.values() for queue, k in zip(d, keys, strict=True))
    assert ("momentum_G" in seen.moved) == external
    # Images of x and of y, unless the queues are: they are of one domain.
    assert [len(query) for query in queries] == [4 if not external and "no id" not in row else 2] * layers


@pytest.mark.parametrize("row", ENCO_TABLE_3)
def test_rows_of_enco(row: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Seen("enco", ENCO_TABLE_3[row], monkeypatch)
    scales = {"A": (2,), "B": (1, 2), "C": (2, 4)}.get(row, (1, 2, 4))
    pairs = {1: (3, 28), 2: (7, 24), 4: (13, 18)}
    method = seen.method
    assert [*zip(method.encoder_layers, method.decoder_layers, strict=True)] == [pairs[scale] for scale in scales]
    ((queries, keys, _),) = seen.compared
    assert [tuple(key.shape) for key in keys] == [(2, min(256, 32 * 32 // scale**2), 8) for scale in scales]
    assert seen.moved == ({"G", "D", "H", "K"} if row == "E" else {"G", "D", "H"})
    # Each side has its projector, and gradients flow into both; a shared one learns from the queries.
    assert all(query.requires_grad for query in queries) and all(key.requires_grad == (row == "E") for key in keys)


@pytest.mark.parametrize("table", ["3 D", *(f"4 {row}" for row in ENCO_TABLE_4)])
def test_positions_of_enco(table: str) -> None:
    """Where the score grows along the image, the share of positions in its most fake part tells k and β."""
    number, row = table.split(" ", 1)
    options = ENCO_TABLE_3[row] if number == "3" else ENCO_TABLE_4[row]
    method = METHODS["enco"](METHODS["enco"].Config(**TINY, num_patches=64, **options)).to(DEVICE)
    torch.manual_seed(0)
    rows, columns = 32, 32
    shared = {"score": torch.arange(rows * 4.0, device=DEVICE).view(1, 1, rows * 4, 1).expand(1, 1, -1, columns * 4)}
    feature = torch.zeros(1, 4, rows, columns, device=DEVICE)
    heights = torch.cat([method.draw(feature, shared)[0] for _ in range(20)]) // columns / rows
    oversample, importance = options.get("oversample", 4.0), options.get("importance", 0.5)
    if row in ("D", "uniform"):
        oversample, importance = 1.0, 0.0
    # kK candidates spread evenly: the lowest βK of them lie below β/k, the others above 1 - (1 - β)/k.
    low = heights < importance / oversample + 0.02
    high = heights > 1 - (1 - importance) / oversample - 0.06
    if oversample == 1:
        assert abs(heights.mean() - 0.5) < 0.05 and abs((heights < 0.25).float().mean() - 0.25) < 0.05
    else:
        assert abs(low.float().mean() - importance) < 0.06 and abs(high.float().mean() - (1 - importance)) < 0.06


def test_wrong_scales_are_named() -> None:
    for scales in ((), (3,), (4, 2), (1, 1)):
        with pytest.raises(ValueError, match="scales: expected some of 1, 2, 4, in order"):
            METHODS["enco"](METHODS["enco"].Config(**TINY, scales=scales))
