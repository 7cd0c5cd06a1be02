"""SinCUT's losses against a slow computation on plain networks, and what each phase may change."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from networks import plain_stylegan2
from op_checks import DEVICE
from torch import Tensor, nn

from cgcl_fast._translator import Translator, in_tiles
from cgcl_fast.data.decoding import FileImage
from cgcl_fast.data.formats import FileFormat
from cgcl_fast.data.values import Values
from cgcl_fast.engine import translate_tiled
from cgcl_fast.methods import METHODS
from cgcl_fast.methods.sincut import SinCUT, SinCUTConfig, split_into_tiles

SMALL: dict[str, Any] = {"ngf": 1, "ndf": 1, "n_blocks": 2, "nce_dim": 8, "num_crops": 3, "crop_size": 16}


def batch_of(n: int = 3, side: int = 16, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(2, n, 3, side, side, generator=generator, dtype=dtype, device="cpu")
    a, b = images.to(DEVICE) * 2 - 1
    return {"A": a, "B": b}


def method_of(**options: Any) -> SinCUT:
    method = SinCUT(SinCUTConfig(**{**SMALL, **options})).double().to(DEVICE)
    torch.manual_seed(1)
    for parameter in method.parameters():
        nn.init.normal_(parameter, 0.0, 0.7)
    return method


def plain_g(method: SinCUT, x: Tensor) -> list[Tensor]:
    """Feature layers; the border of the image, where the blur's order shows, is the package's."""
    layers = plain_stylegan2.generator(method.G.state_dict(), x, method.config.n_blocks)
    image = method.G(x)
    torch.testing.assert_close(image[..., 2:-2, 2:-2], layers[-1][..., 2:-2, 2:-2])
    return [*layers[:-1], image]


def plain_d(method: SinCUT, x: Tensor) -> Tensor:
    config = method.D.config
    return plain_stylegan2.discriminator(
        method.D.state_dict(), x, len(method.D.blocks), bool(config["minibatch_stddev"])
    )


def tiles_by_hand(images: Tensor, size: int) -> Tensor:
    found = []
    for image in images:
        for top in range(0, image.shape[1], size):
            for left in range(0, image.shape[2], size):
                found.append(image[:, top : top + size, left : left + size])
    return torch.stack(found)


def nce_by_hand(q: Tensor, k: Tensor) -> Tensor:
    """Eq. 2 for one layer, (B, P, C): the negatives of a row are the rows of all images, one at a time."""
    q, k = (v.reshape(-1, v.shape[2]) for v in (q, k))
    q, k = (v / (v.norm(dim=1, keepdim=True) + 1e-7) for v in (q, k))
    losses = []
    for s, query in enumerate(q):
        logits = [float(query @ key) / 0.07 for key in k]
        losses.append(math.log(sum(map(math.exp, logits))) - logits[s])
    return torch.tensor(losses, dtype=torch.float64, device=DEVICE).mean()


@pytest.mark.parametrize(
    "options", [{}, {"crops": "published", "minibatch_stddev": False}, {"num_patches": 5}], ids=str
)
def test_losses_equal_the_plain_computation(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    method = method_of(**options, lambda_r1=3.0).eval()  # without noise, which is tested with the generator
    batch, shared = batch_of(), {}
    draws: list[list[Tensor]] = []
    sample = method.nce.sample
    monkeypatch.setattr(method.nce, "sample", lambda features: draws.append(sample(features)) or draws[-1])
    d_losses = method.discriminator_loss(batch, shared)
    losses = method.generator_loss(batch, shared)

    size = 16 if "crops" in options else 8
    assert method.tile_size == size
    with torch.no_grad():
        fake, same = plain_g(method, batch["A"]), plain_g(method, batch["B"])
        logits = plain_d(method, tiles_by_hand(fake[-1], size))
        real = tiles_by_hand(batch["B"], size)
    expected = {
        "D_fake": torch.log1p(torch.exp(logits)).mean(),
        "D_real": torch.log1p(torch.exp(-plain_d(method, real))).mean().detach(),
        "R1": 1.5 * squared_gradients(method, real).mean(),
    }
    for name, value in expected.items():
        torch.testing.assert_close(d_losses[name], value, msg=name)
    torch.testing.assert_close(
        d_losses["loss"].detach(), (expected["D_fake"] + expected["D_real"]) / 2 + expected["R1"]
    )

    torch.testing.assert_close(losses["G_GAN"], torch.log1p(torch.exp(-logits)).mean())
    torch.testing.assert_close(losses["idt"], (same[-1] - batch["B"]).abs().mean())
    assert len(draws) == 2 and all(len(ids) == options.get("num_patches", 1) for draw in draws for ids in draw)
    for name, source, draw in (("NCE", fake, draws[0]), ("NCE_Y", same, draws[1])):
        target = plain_g(method, source[-1])
        layers = []
        for i, number in enumerate((0, 2, 4)):
            rows = [
                method.H.mlps[i](features[number].flatten(2).transpose(1, 2)[:, draw[i]]).detach()
                for features in (target, source)
            ]
            layers.append(nce_by_hand(*rows))
        torch.testing.assert_close(losses[name], 4 * torch.stack(layers).mean(), msg=name)
    total = losses["G_GAN"] + (losses["NCE"] + losses["NCE_Y"]) / 2 + losses["idt"]
    torch.testing.assert_close(losses["loss"].detach(), total)


def squared_gradients(method: SinCUT, real: Tensor) -> Tensor:
    """|∇_y ΣD(y)|² of each tile, through the plain discriminator."""
    real = real.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(plain_d(method, real).sum(), real)
    return torch.stack([tile.flatten() @ tile.flatten() for tile in gradient])


def test_each_phase_trains_its_own_networks() -> None:
    method = method_of()
    batch, shared = batch_of(), {}
    discriminator, generator = method.phases()
    assert (discriminator.networks, generator.networks, generator.frozen) == (("D",), ("G", "H"), ("D",))
    assert all((p.optimizer.lr, p.optimizer.betas) == (2e-3, (0.0, 0.99)) for p in (discriminator, generator))
    discriminator.loss(batch, shared)["loss"].backward()
    assert all(p.grad is None for network in (method.G, method.H) for p in network.parameters())
    assert all(p.grad is not None for p in method.D.parameters())
    method.D.requires_grad_(False).zero_grad()
    assert all(not feature.requires_grad for feature in shared["source_features"])
    generator.loss(batch, shared)["loss"].backward()
    assert all(p.grad is None for p in method.D.parameters())
    for network in (method.G, method.H):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name
    assert METHODS["sincut"] is SinCUT


def test_the_penalty_moves_the_discriminator() -> None:
    """The gradient of the penalty with respect to D's weights, against differences of its value."""
    method = method_of()
    real = split_into_tiles(batch_of()["B"], 8)
    _, penalty = method.gradient_penalty(real)
    penalty.backward()
    for parameter in (method.D.stem.weight, method.D.blocks[0].conv2.weight, method.D.linear.weight):
        assert parameter.grad is not None
        values = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                parameter.view(-1)[1] += step
            values.append(method.gradient_penalty(real)[1].item())
            with torch.no_grad():
                parameter.view(-1)[1] -= step
        slope = (values[0] - values[1]) / 2e-6
        assert parameter.grad.view(-1)[1].item() == pytest.approx(slope, rel=1e-4, abs=1e-6)


def test_one_pass_of_the_generator_and_one_of_its_encoder() -> None:
    method = method_of()
    passes: list[tuple[str, int]] = []
    method.G.stem.register_forward_hook(lambda _, x, y: passes.append(("stem", len(y))))
    method.G.head.register_forward_hook(lambda _, x, y: passes.append(("head", len(y))))
    shared: dict[str, Any] = {}
    for phase in method.phases():
        phase.loss(batch_of(), shared)
    assert passes == [("stem", 6), ("head", 6), ("stem", 6)]


def test_the_penalty_is_float32_under_autocast() -> None:
    method = SinCUT(SinCUTConfig(**SMALL)).to(DEVICE)
    batch = batch_of(dtype=torch.float32)
    shared: dict[str, Any] = {}
    with torch.autocast(DEVICE.type, torch.bfloat16):
        discriminator, generator = (phase.loss(batch, shared) for phase in method.phases())
    expected = method.gradient_penalty(split_into_tiles(batch["B"], 8))[1]
    torch.testing.assert_close(discriminator["R1"], 0.5 * expected.detach(), rtol=1e-5, atol=1e-7)
    discriminator["loss"].backward()
    generator["loss"].backward()
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert all(p.grad.any() for p in method.H.parameters() if p.grad is not None)


def test_tiles_are_in_reading_order() -> None:
    images = torch.arange(2 * 3 * 8 * 12.0, device=DEVICE).view(2, 3, 8, 12)
    assert torch.equal(split_into_tiles(images, 4), tiles_by_hand(images, 4))
    assert torch.equal(split_into_tiles(images[..., :8], 8), images[..., :8])


def test_what_it_asks_of_its_data() -> None:
    crops = SinCUT.needs(SinCUTConfig()).crops
    assert crops is not None
    assert (crops.count, crops.size, crops.min_width, crops.max_width) == (16, 128, 384, 1024)
    assert not crops.per_crop and not crops.independent and not crops.grid and SinCUT(SinCUTConfig()).tile_size == 64
    published = SinCUTConfig(crops="published")
    crops = SinCUT.needs(published).crops
    assert crops is not None
    assert (crops.count, crops.size, crops.min_width, crops.max_width) == (16, 64, None, None)
    assert crops.per_crop and crops.independent and crops.grid and SinCUT(published).tile_size == 64
    for name, zoom in (("paper", "crop"), ("published", "minibatch")):
        crops = SinCUT.needs(SinCUTConfig(crops=name, zoom=zoom)).crops
        assert crops is not None and crops.per_crop == (zoom == "crop") and crops.grid == (name == "published")
    crops = SinCUT.needs(SinCUTConfig(crop_size=32, min_width=40, max_width=50, num_crops=2)).crops
    assert crops is not None and (crops.count, crops.size, crops.min_width, crops.max_width) == (2, 32, 40, 50)


@pytest.mark.parametrize("size", [(31, 42), (3, 2), (1, 1)])
def test_translate_keeps_any_size(size: tuple[int, int]) -> None:
    method = SinCUT(SinCUTConfig(**SMALL)).eval().to(DEVICE)
    image = torch.rand(1, 3, *size, device=DEVICE) * 2 - 1
    found = method.translate(image)
    assert found.shape == image.shape and torch.equal(found, method.translate(image))


@pytest.mark.parametrize("size", [(200, 150), (131, 97), (64, 301)])
def test_tiles_give_the_whole(size: tuple[int, int]) -> None:
    method = SinCUT(SinCUTConfig(**SMALL)).eval()
    with torch.no_grad():
        for parameter in method.G.parameters():
            nn.init.normal_(parameter, 0.0, 1.0)
    translator = Translator(method.G, torch.device("cpu"))
    image = torch.rand(3, *size, device="cpu") * 2 - 1
    form = FileFormat("NPY", "float32")
    file = FileImage(image.permute(1, 2, 0).numpy(), None, Values("float32", -1, 1), form)
    translate = translator.for_batch(1)
    whole = translate(image[None])[0]
    scale = float(whole.std())
    for tile in (64, 75):  # margins of 16 pixels
        found = torch.cat(list(in_tiles(file, translator, tile, None, 2)), dim=1)[:, : size[0], : size[1]]
        torch.testing.assert_close(found / scale, whole / scale, atol=1e-5, rtol=1e-5)
    blended = translate_tiled(translate, image, tile=64, overlap=8)
    assert (blended - whole).abs().max() > 0.01 * scale  # so that the equality above means something


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crops": "grid"}, "crops: expected 'paper' or 'published', got 'grid'"),
        ({"tile_size": 12}, "tile_size: expected a divisor of crop_size 16, got 12"),
        ({"crop_size": 40}, "tile_size: expected a power of two and at least 8, got 20"),
        ({"nce_layers": ()}, "nce_layers: expected at least one"),
        ({"nce_layers": (0, 40)}, "nce_layers: expected numbers from 0 to 6"),
        ({"networks": "small"}, "networks: expected 'paper' or 'published', got 'small'"),
        ({"gan": "wgangp"}, "gan: expected 'lsgan'"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SinCUT(SinCUTConfig(**{**SMALL, **options}))
