from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from cgcl_fast import compat
from cgcl_fast.networks import ResnetGenerator, generator_bytes, load_generator, save_generator


@pytest.mark.parametrize("load", [load_generator, compat.load_generator])
def test_a_generator_comes_back_with_its_config(tmp_path: Path, load: object) -> None:
    generator = ResnetGenerator(1, 2, ngf=3, n_blocks=2, antialias=False, dropout=True, antialias_up=True)
    save_generator(tmp_path / "g.safetensors", generator)
    found = load(tmp_path / "g.safetensors")  # type: ignore[operator]
    assert found.config == generator.config
    for name, tensor in generator.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor)
    assert all(parameter.requires_grad for parameter in found.parameters())


def test_damaged_and_foreign_files_give_one_line(tmp_path: Path) -> None:
    path = tmp_path / "g.safetensors"
    content = generator_bytes(ResnetGenerator(ngf=2, n_blocks=0))
    for bad in (content[: len(content) // 2], b"", b"not at all", safetensors.torch.save({"x": torch.zeros(1)})):
        path.write_bytes(bad)
        with pytest.raises(ValueError, match=r"g\.safetensors: ") as caught:
            load_generator(path)
        assert "\n" not in str(caught.value)
    metadata = {"network": "ResnetGenerator", "config": "{"}
    path.write_bytes(safetensors.torch.save({"x": torch.zeros(1)}, metadata))
    with pytest.raises(ValueError, match="config: does not describe"):
        load_generator(path)
    metadata["config"] = '{"ngf": 2, "n_blocks": 0}'
    path.write_bytes(safetensors.torch.save({"x": torch.zeros(1)}, metadata))
    with pytest.raises(ValueError, match="lacks down.0.bias and 11 more"):
        load_generator(path)


def test_other_modules_are_refused() -> None:
    with pytest.raises(TypeError, match="expected one of ResnetGenerator, .*got Linear"):
        generator_bytes(nn.Linear(1, 1))
