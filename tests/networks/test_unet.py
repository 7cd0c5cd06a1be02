from __future__ import annotations

import copy

import pytest
import torch

from cgcl_fast import compat
from cgcl_fast.networks import UnetGenerator, load_generator, save_generator
from networks.plain_unet import Unet
from networks.plain_weights import check_alike, randomise


def test_its_size_is_the_published_one() -> None:
    """54.414 M and 41.829 M are the numbers that the published code prints of pix2pix' networks, with batch norm."""
    with torch.device("meta"):
        large, small = UnetGenerator(norm="batch"), UnetGenerator(norm="batch", n_down=7)
    assert [round(sum(p.numel() for p in g.parameters()) / 1e6, 3) for g in (large, small)] == [54.414, 41.829]
    assert (large.multiple, small.multiple) == (256, 128)


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
@pytest.mark.parametrize("config", [{"n_down": 5}, {"n_down": 6, "input_nc": 1, "output_nc": 2}], ids=str)
def test_outputs_gradients_and_statistics_are_those_of_the_published_levels(config: dict, norm: str) -> None:
    plain = Unet(ngf=2, norm=norm, **config).double()
    randomise(plain)
    ours = UnetGenerator(ngf=2, norm=norm, **config).double()
    randomise(ours)
    plain.load_state_dict(compat.published_state_dict(ours))
    side = ours.multiple
    x = torch.rand(2, config.get("input_nc", 3), side, 2 * side, dtype=torch.float64)
    assert check_alike(plain, ours, x).std() > 0.05
    after = compat.published_state_dict(ours)
    assert list(after) == list(plain.state_dict())
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(after[name], tensor)
    torch.testing.assert_close(ours.eval()(x), plain.eval()(x))


def test_dropout_is_between_the_doublings_of_the_middle() -> None:
    counts = []
    generator = UnetGenerator(ngf=1, n_down=7, dropout=True)
    generator.dropout.register_forward_hook(lambda _, x, y: counts.append(tuple(y.shape[1:])))
    x = torch.rand(1, 3, 128, 128)
    assert not torch.equal(generator(x), generator(x))
    assert counts[:2] == [(8, 4, 4), (8, 8, 8)] and len(counts) == 4
    generator.eval()
    assert torch.equal(generator(x), generator(x))


def test_files_come_back_with_their_statistics(tmp_path) -> None:  # type: ignore[no-untyped-def]
    generator = UnetGenerator(ngf=1, n_down=5, norm="batch")
    generator(torch.rand(2, 3, 32, 32))
    save_generator(tmp_path / "g.safetensors", generator)
    torch.save(compat.published_state_dict(generator), tmp_path / "latest_net_G.pth")
    for found in (load_generator(tmp_path / "g.safetensors"), compat.load_generator(tmp_path / "latest_net_G.pth")):
        assert found.config == generator.config
        for name, tensor in generator.state_dict().items():
            assert torch.equal(found.state_dict()[name], tensor) and found.state_dict()[name].dtype == tensor.dtype
    wrong = copy.deepcopy(compat.published_state_dict(generator))
    wrong["model.model.1.model.2.num_batches_tracked"] = torch.tensor(1.5)
    with pytest.raises(ValueError, match="not a published U-Net generator .*num_batches_tracked: expected .*int64"):
        compat.load_generator(wrong)
    del wrong["model.model.1.model.2.num_batches_tracked"]  # as PyTorch before 0.4.1 wrote them
    assert compat.load_generator(wrong).down_norms[0].batch.num_batches_tracked == 0


def test_what_it_cannot_take_is_named() -> None:
    generator = UnetGenerator(ngf=1, n_down=5)
    with pytest.raises(
        ValueError, match=r"x: expected \(B, 3, H, W\) with H and W multiples of 32, got \(1, 3, 32, 48\)"
    ):
        generator(torch.zeros(1, 3, 32, 48))
    for options, said in (({"n_down": 4}, "n_down"), ({"ngf": 0}, "ngf"), ({"norm": "layer"}, "norm: expected one of")):
        with pytest.raises(ValueError, match=said):
            UnetGenerator(**{"ngf": 1, "n_down": 5, **options})
