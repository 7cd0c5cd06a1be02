from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hostile import NO_FILES, damaged, no_waiting
from torch import nn

from cgcl_fast import compat, networks
from cgcl_fast.networks import ResnetGenerator, generator_bytes, load_generator, save_generator


@pytest.mark.parametrize("load", [load_generator, compat.load_generator])
def test_a_generator_comes_back_with_its_config(tmp_path: Path, load: object) -> None:
    generator = ResnetGenerator(1, 2, ngf=3, n_blocks=2, antialias=False, dropout=True, antialias_up=True)
    save_generator(tmp_path / "g.safetensors", generator)
    found = load(tmp_path / "g.safetensors")  # type: ignore[operator]
    assert found.config == generator.config
    for name, tensor in generator.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor)
    for parameter, like in zip(found.parameters(), generator.parameters(), strict=True):
        assert parameter.requires_grad == like.requires_grad


def test_damaged_and_foreign_files_give_one_line(tmp_path: Path) -> None:
    path = tmp_path / "g.safetensors"
    content = generator_bytes(ResnetGenerator(ngf=2, n_blocks=0))
    for bad in (content[: len(content) // 2], b"", b"not at all", safetensors.torch.save({"x": torch.zeros(1)})):
        path.write_bytes(bad)
        with pytest.raises(ValueError, match=r"g\.safetensors: ") as caught:
            load_generator(path)
        assert "\n" not in str(caught.value)
    write_old(path, '{"ngf": 2, "n_blocks": 0}')
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="lacks down.0.bias and 11 more"):
        load_generator(path)


@pytest.mark.parametrize(
    "config",
    ["{", "[" * 10**5, "[]", "3", '{"ngf": 0}', '{"ngf": 1e400}', '{"ngf": "4"}', '{"ngf": 1%s}' % ("0" * 99), "{}}"],
)
def test_a_config_that_is_none_gives_one_line(config: str, tmp_path: Path) -> None:
    write_old(tmp_path / "g.safetensors", config)
    with pytest.warns(UserWarning), pytest.raises(ValueError, match=r"safetensors: config: does not describe [^\n]*$"):
        load_generator(tmp_path / "g.safetensors")


@pytest.mark.parametrize("network", networks.files.GENERATORS)
def test_a_config_may_ask_for_no_more_than_anyone_needs(network: str, tmp_path: Path) -> None:
    """10^8 blocks would be built for days before they were found not to be in the file."""
    more = {"domains": ["a", "b"]} if network in ("DisentangledGenerator", "MGUITGenerator") else {}
    depth, said = ("n_down", "at most 16") if network == "UnetGenerator" else ("n_blocks", "at most 2000 tensors of we")
    write_old(tmp_path / "g.safetensors", json.dumps({depth: 10**8, **more}), network)
    with no_waiting(), pytest.warns(UserWarning), pytest.raises(ValueError, match=said):
        load_generator(tmp_path / "g.safetensors")


def test_equal_generators_are_equal_files() -> None:
    generator = ResnetGenerator(ngf=2, n_blocks=1)
    files = {generator_bytes(generator) for _ in range(8)}
    assert len(files) == 1
    header = int.from_bytes(next(iter(files))[:8], "little")
    assert header % 8 == 0  # so that the tensors lie where processors like them


def test_every_flipped_bit_and_every_cut_is_noticed_or_harmless(tmp_path: Path) -> None:
    generator, path = ResnetGenerator(ngf=2, n_blocks=1), tmp_path / "g.safetensors"
    refused = 0
    for content in damaged(generator_bytes(generator), 60):
        path.write_bytes(content)
        try:
            found = load_generator(path)
        except ValueError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
            refused += 1
        else:
            assert found.config == generator.config
            for name, tensor in generator.state_dict().items():
                assert torch.equal(found.state_dict()[name], tensor)
    assert refused > 40


def test_a_generator_without_a_checksum_loads_with_a_warning(tmp_path: Path) -> None:
    generator, path = ResnetGenerator(ngf=2, n_blocks=0), tmp_path / "g.safetensors"
    write_old(path, json.dumps(generator.config), tensors=generator.state_dict())
    for load in (load_generator, compat.load_generator):
        with pytest.warns(UserWarning, match=r"g\.safetensors: has no checksum"):
            found = load(path)
        assert torch.equal(found.head.weight, generator.head.weight)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(value: float, tmp_path: Path) -> None:
    generator = ResnetGenerator(ngf=2, n_blocks=0)
    with torch.no_grad():
        generator.head.bias[1] = value
    save_generator(tmp_path / "g.safetensors", generator)
    torch.save(compat.published_state_dict(generator), tmp_path / "latest_net_G.pth")
    for load, name in (
        (load_generator, "g.safetensors"),
        (compat.load_generator, "g.safetensors"),
        (compat.load_generator, "latest_net_G.pth"),
    ):
        with pytest.raises(ValueError, match=rf"{name}: .*head\.bias: expected finite numbers"):
            load(tmp_path / name)


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_is_not_waited_for(kind: str, tmp_path: Path) -> None:
    for load, name in ((load_generator, "g.safetensors"), (compat.load_generator, "latest_net_G.pth")):
        NO_FILES[kind](tmp_path / name)
        with no_waiting(), pytest.raises(OSError, match=f"{kind}, not a regular file"):
            load(tmp_path / name)


def write_old(
    path: Path, config: str, network: str = "ResnetGenerator", tensors: dict[str, torch.Tensor] | None = None
) -> None:
    """A generator file as it was before there were checksums."""
    metadata = {"network": network, "config": config}
    path.write_bytes(safetensors.torch.save(tensors or {"x": torch.zeros(1)}, metadata))


def test_other_modules_are_refused() -> None:
    with pytest.raises(TypeError, match="expected one of ResnetGenerator, .*got Linear"):
        generator_bytes(nn.Linear(1, 1))
