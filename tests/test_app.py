"""The app, through its client API."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cgcl_fast.app import OWN, RANDOM, REFERENCE, Studio, build, main
from cgcl_fast.networks import DisentangledGenerator, ResnetGenerator
from cgcl_fast.networks.files import generator_bytes

CPU = torch.device("cpu")


def styled() -> DisentangledGenerator:
    torch.manual_seed(0)
    return DisentangledGenerator(domains=("sunny", "night"), ngf=4, n_blocks=1)


def plain() -> ResnetGenerator:
    torch.manual_seed(0)
    return ResnetGenerator(ngf=4, n_blocks=1)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    return noise(tmp_path / "picture.png", (20, 32), seed=1)


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    return noise(tmp_path / "reference.png", (24, 24), seed=2)


def noise(path: Path, size: tuple[int, int], seed: int) -> Path:
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)).save(path)
    return path


def tensor(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.asarray(Image.open(path)).astype(np.float32)).permute(2, 0, 1)[None] / 127.5 - 1


def as_image(result: torch.Tensor) -> np.ndarray:
    return ((result[0].clamp(-1, 1) + 1) * 127.5).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("style", [OWN, RANDOM, REFERENCE])
@torch.no_grad()
def test_the_translation_is_the_generators(picture: Path, reference: Path, style: str) -> None:
    generator = styled().eval()
    before, after = Studio(generator, CPU).translate(picture, "night", style, reference, number=7)
    expected = generator(
        tensor(picture),
        1,
        {
            OWN: None,
            RANDOM: generator.random_style(1, torch.Generator().manual_seed(7)),
            REFERENCE: generator.style_of(tensor(reference), 1),
        }[style],
    )
    assert np.array_equal(np.asarray(before), np.asarray(Image.open(picture)))
    assert np.abs(np.asarray(after).astype(float) - as_image(expected)).max() <= 1.01


def test_large_pictures_are_shrunk(tmp_path: Path) -> None:
    path = noise(tmp_path / "large.png", (30, 60), seed=3)
    before, after = Studio(plain(), CPU, longest=32).translate(path)
    assert before.size == after.size == (32, 16)


def test_what_a_generator_has_is_offered() -> None:
    assert Studio(styled(), CPU).styles == [REFERENCE, RANDOM, OWN]
    assert Studio(styled(), CPU).domains == ("sunny", "night")
    assert Studio(plain(), CPU).styles == []


def test_what_is_missing_is_said(picture: Path) -> None:
    studio = Studio(styled(), CPU)
    with pytest.raises(ValueError, match="reference: expected an image"):
        studio.translate(picture, "night", REFERENCE)
    with pytest.raises(ValueError, match="domain: expected one of sunny, night"):
        studio.translate(picture, "dusk")


@pytest.fixture(params=[styled, plain])
def client(request: pytest.FixtureRequest) -> Iterator[tuple[Studio, Any]]:
    pytest.importorskip("gradio")
    from gradio_client import Client

    studio = Studio(request.param(), CPU)
    page = build(studio, "test")
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, inbrowser=False, ssr_mode=False)
    try:
        yield studio, Client(url, verbose=False, analytics_enabled=False)
    finally:
        page.close()


def test_by_its_client(client: tuple[Studio, Any], picture: Path, reference: Path, tmp_path: Path) -> None:
    from gradio_client import handle_file
    from gradio_client.exceptions import AppError

    studio, page = client
    known = [name for name in page.view_api(return_format="dict")["named_endpoints"]]
    assert known == ["/translate"]
    chosen = ("night", REFERENCE) if studio.styles else (None, None)
    before, after = page.predict(handle_file(picture), *chosen, handle_file(reference), 0, api_name="/translate")
    expected = studio.translate(picture, *chosen, reference, 0)
    for shown, image in zip((before, after), expected, strict=True):
        assert np.array_equal(np.asarray(Image.open(shown).convert("RGB")), np.asarray(image))
    with pytest.raises(AppError, match="Choose a picture first"):
        page.predict(None, *chosen, None, 0, api_name="/translate")
    (tmp_path / "words.png").write_text("no picture")
    with pytest.raises(AppError):
        page.predict(handle_file(tmp_path / "words.png"), *chosen, handle_file(reference), 0, api_name="/translate")


def test_without_gradio_or_a_checkpoint_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "step_00000001.safetensors"
    file.write_bytes(generator_bytes(plain()))
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main([str(file)]) == 2
    assert 'gradio is not installed; pip install "cgcl_fast[app]"' in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "gradio", type(sys)("gradio"))
    assert main([str(tmp_path / "nothing")]) in (1, 2)
    assert "nothing: does not exist" in capsys.readouterr().err
