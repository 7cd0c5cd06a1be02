"""Published checkpoints: names and shapes as published, read back from files good and bad."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import pytest
import torch
from methods import plain_cut
from networks.plain_weights import randomise
from torch import Tensor, nn

from cgcl_fast import compat
from cgcl_fast.networks import PatchDiscriminator, ResnetGenerator
from cgcl_fast.nn import Projector


def shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


GENERATORS = [
    {},
    {"antialias": False},
    {"n_blocks": 6, "dropout": True},
    {"n_blocks": 6, "antialias": False, "dropout": True},
    {"antialias": True, "antialias_up": False},
    {"antialias": False, "antialias_up": True, "n_blocks": 1},
    {"n_blocks": 0},
    {"input_nc": 1, "output_nc": 2},
    {"norm": "batch", "n_blocks": 2},
    {"norm": "batch", "n_blocks": 2, "antialias": False, "dropout": True},
    {"norm": "none", "n_blocks": 1, "antialias": True, "antialias_up": False},
]


@pytest.mark.parametrize("config", GENERATORS, ids=str)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_generator_there_and_back(config: dict[str, int], prefix: str, tmp_path: Path) -> None:
    plain = plain_cut.Generator(ngf=3, **config)
    randomise(plain)
    torch.save({prefix + name: tensor for name, tensor in plain.state_dict().items()}, tmp_path / "latest_net_G.pth")
    found = compat.load_generator(tmp_path / "latest_net_G.pth")
    back = compat.published_state_dict(found)
    expected = plain.state_dict()
    assert list(back) == list(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(back[name], tensor, atol=0, rtol=1e-7)
    assert found.config["dropout"] == bool(config.get("dropout", False))
    assert found.config["n_blocks"] == config.get("n_blocks", 9)
    assert found.config["norm"] == config.get("norm", "instance")


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("n_blocks", [0, 2])
def test_a_generator_with_one_halving_is_read_as_it_is_written(antialias: bool, n_blocks: int) -> None:
    """The published code has none; the small presets of 64x64 pixels do."""
    generator = ResnetGenerator(ngf=2, n_blocks=n_blocks, antialias=antialias, n_down=1)
    state = compat.published_state_dict(generator)
    back = compat.load_generator(state)
    assert back.config == generator.config
    again = compat.published_state_dict(back)
    assert list(again) == list(state) and all(torch.equal(again[name], tensor) for name, tensor in state.items())


DISCRIMINATORS = [
    {},
    {"antialias": False},
    {"n_layers": 1},
    {"n_layers": 5, "input_nc": 6},
    {"norm": "batch"},
    {"norm": "none", "antialias": False},
]


@pytest.mark.parametrize("config", DISCRIMINATORS, ids=str)
def test_discriminator_there_and_back(config: dict[str, int]) -> None:
    plain = plain_cut.Discriminator(ndf=2, **config)
    randomise(plain)
    back = compat.published_state_dict(compat.load_discriminator(plain.state_dict()))
    assert list(back) == list(plain.state_dict())
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(back[name], tensor, atol=0, rtol=1e-7)


def test_projector_there_and_back() -> None:
    plain = plain_cut.Heads([3, 8, 16], 5)
    found = compat.load_projector({f"module.{name}": tensor for name, tensor in plain.state_dict().items()})
    assert found.channels == (3, 8, 16) and found.dim == 5
    back = compat.published_state_dict(found)
    assert list(back) == list(plain.state_dict())
    assert all(torch.equal(back[name], tensor) for name, tensor in plain.state_dict().items())


def test_projector_of_the_later_enco_there_and_back() -> None:
    """Norms after both layers, the last one without scale and shift, and predictors; from the published description."""
    plain = nn.Module()
    for i, width in enumerate((4, 8)):
        norm, last = nn.BatchNorm1d(6), nn.BatchNorm1d(6, affine=False)
        mlp = nn.Sequential(nn.Linear(width, 6, bias=False), norm, nn.ReLU(), nn.Linear(6, 6, bias=False), last)
        prj = nn.Sequential(nn.Linear(6, 3, bias=False), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 6))
        plain.add_module(f"mlp_{i}", mlp)
        plain.add_module(f"prj_{i}", prj)
    for seed, buffer in enumerate(b for b in plain.buffers() if b.is_floating_point()):
        buffer.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(seed))
    found = compat.load_projector(plain.state_dict()).eval()
    back = compat.published_state_dict(found)
    assert back.keys() == plain.state_dict().keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in plain.state_dict().items())
    feature = torch.rand(2, 8, 3, 3)
    features, ids = [torch.rand(2, 4, 3, 3), feature], [torch.arange(9), torch.arange(9)]
    expected = plain.eval().prj_1(plain.mlp_1(feature.flatten(2).transpose(1, 2).flatten(0, 1)))
    torch.testing.assert_close(found(features, ids, predict=True)[1].flatten(0, 1), expected)


def test_published_names_and_shapes() -> None:
    """From the published files, not from any code here."""
    g = shapes(compat.published_state_dict(ResnetGenerator()))
    assert g["model.1.weight"] == (64, 3, 7, 7) and g["model.4.weight"] == (128, 64, 3, 3)
    assert g["model.7.filt"] == (128, 1, 3, 3) and g["model.11.filt"] == (256, 1, 3, 3)
    assert g["model.21.filt"] == (256, 1, 4, 4) and g["model.25.filt"] == (128, 1, 4, 4)
    assert g["model.22.weight"] == (128, 256, 3, 3) and g["model.30.weight"] == (3, 64, 7, 7)
    convolutions = {1, 4, 8, 22, 26, 30}
    names = {f"model.{i}.{t}" for i in convolutions for t in ("weight", "bias")}
    names |= {f"model.{i}.filt" for i in (7, 11, 21, 25)}
    names |= {f"model.{i}.conv_block.{j}.{t}" for i in range(12, 21) for j in (1, 5) for t in ("weight", "bias")}
    assert set(g) == names

    g = shapes(compat.published_state_dict(ResnetGenerator(antialias=False, dropout=True)))
    names = {f"model.{i}.{t}" for i in (1, 4, 7, 19, 22, 26) for t in ("weight", "bias")}
    names |= {f"model.{i}.conv_block.{j}.{t}" for i in range(10, 19) for j in (1, 6) for t in ("weight", "bias")}
    assert set(g) == names
    assert g["model.19.weight"] == (256, 128, 3, 3)

    d = shapes(compat.published_state_dict(PatchDiscriminator()))
    names = {f"model.{i}.{t}" for i in (0, 3, 7, 11, 14) for t in ("weight", "bias")}
    assert set(d) == names | {f"model.{i}.filt" for i in (2, 6, 10)}
    assert d["model.10.filt"] == (256, 1, 3, 3) and d["model.14.weight"] == (1, 512, 4, 4)
    d = shapes(compat.published_state_dict(PatchDiscriminator(antialias=False)))
    assert set(d) == {f"model.{i}.{t}" for i in (0, 2, 5, 8, 11) for t in ("weight", "bias")}

    h = shapes(compat.published_state_dict(Projector([3, 128, 256, 256, 256])))
    assert set(h) == {f"mlp_{i}.{j}.{t}" for i in range(5) for j in (0, 2) for t in ("weight", "bias")}
    assert h["mlp_1.0.weight"] == (256, 128) and h["mlp_1.2.weight"] == (256, 256)


def test_half_precision_and_the_statistics_of_old_files_are_taken() -> None:
    plain = plain_cut.Generator(ngf=2, n_blocks=1)
    state = {name: tensor.half() for name, tensor in plain.state_dict().items()}
    state["model.2.running_mean"] = torch.zeros(2)
    state["model.2.num_batches_tracked"] = torch.tensor(3)
    found = compat.load_generator(state)
    assert found.stem.weight.dtype == torch.float32
    torch.testing.assert_close(found.stem.weight.detach(), plain.model[1].weight.detach(), atol=1e-3, rtol=1e-3)


def test_loading_does_not_share_memory_with_the_state_dict() -> None:
    plain = plain_cut.Generator(ngf=2, n_blocks=0)
    found = compat.load_generator(plain.state_dict())
    nn.init.zeros_(found.stem.weight)
    assert plain.model[1].weight.any()


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("__import__('pathlib').Path('ran').touch()",)


def saved(thing: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(thing, buffer)
    return buffer.getvalue()


LOADERS = [compat.load_generator, compat.load_discriminator, compat.load_projector]


@pytest.mark.parametrize("load", LOADERS)
def test_bad_files_give_one_line_and_run_nothing(load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    good = saved(plain_cut.Generator(ngf=2, n_blocks=1).state_dict())
    files = {
        "hostile": saved({"model.1.weight": Hostile()}),
        "pickle": pickle.dumps(Hostile()),
        "truncated": good[: len(good) // 2],
        "cut": good[:-10],
        "empty": b"",
        "text": b"hello",
        "image": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "list": saved([torch.zeros(1)]),
        "numbers": saved({"model.1.weight": 3}),
        "nested": saved({"state_dict": plain_cut.Generator(ngf=2, n_blocks=1).state_dict()}),
        "nothing": saved({}),
        "foreign": saved(nn.Linear(2, 2).state_dict()),
        "batch_norm": saved(nn.Sequential(nn.Conv2d(3, 2, 7), nn.BatchNorm2d(2)).state_dict()),
    }
    for name, content in files.items():
        path = tmp_path / f"{name}.pth"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name}\.pth: ") as caught:
            load(path)
        assert "\n" not in str(caught.value)
        assert not Path("ran").exists()


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        compat.load_generator(tmp_path / "no.pth")


def test_wrong_networks_are_named() -> None:
    state = plain_cut.Generator(ngf=2, n_blocks=2).state_dict()
    with pytest.raises(ValueError, match="not a published PatchGAN"):
        compat.load_discriminator(state)
    less = {k: v for k, v in state.items() if k != "model.12.conv_block.5.bias"}
    with pytest.raises(ValueError, match="lacks blocks.0.conv2.bias"):
        compat.load_generator(less)
    with pytest.raises(ValueError, match=r"has the unknown model.2.weight"):
        compat.load_generator({**state, "model.2.weight": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"blur kernel of \[1, 2, 1\]"):
        compat.load_generator({**state, "model.7.filt": torch.zeros(4, 1, 5, 5)})
    with pytest.raises(ValueError, match="expected .* got"):
        compat.load_generator({**state, "model.8.weight": torch.zeros(8, 5, 3, 3)})


def test_other_modules_have_no_published_layout() -> None:
    with pytest.raises(TypeError, match="got Linear"):
        compat.published_state_dict(nn.Linear(1, 1))
