"""Test images of a run beside their translations: to every domain, in a reference's style and in random styles."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cgcl_fast.data.values import as_picture
from cgcl_fast.methods.base import translate_any_size
from cgcl_fast.networks import StyledGenerator

QUALITY = 92
"""JPEG quality of the page's pictures."""


@dataclass(frozen=True)
class Translation:
    """One translation of a test image.

    Attributes:
        name: the domain, and the source of the style.
        image: a data URL.
        truth: the true counterpart, a data URL; "" if unknown.
    """

    name: str
    image: str
    truth: str = ""


@dataclass(frozen=True)
class Scene:
    """A test image, as a data URL, its sides in pixels, and its translations."""

    source: str
    width: int
    height: int
    translations: list[Translation]


@torch.no_grad()
def translations(generator: nn.Module, batch: Mapping[str, Any], styles: int = 2) -> list[Scene]:
    """All images of a test batch with their translations.

    Args:
        generator: of the run, in evaluation mode.
        batch: from the data set's ``sample_batch``: "A" and, if known, references of each domain ("reference_NAME") and
            truths ("truth", "truth_NAME").
        styles: number of random styles per domain, the same ones every time, for a generator with styles.
    """
    device = next(generator.parameters()).device
    scenes = []
    for row in range(len(batch["A"])):
        source = batch["A"][row : row + 1].to(device)
        pictures = [
            Translation(name, data_url(image), "" if truth is None else data_url(truth))
            for name, image, truth in _of(generator, source, batch, row, styles)
        ]
        scenes.append(Scene(data_url(source), source.shape[-1], source.shape[-2], pictures))
    return scenes


def _of(
    generator: nn.Module, source: Tensor, batch: Mapping[str, Any], row: int, styles: int
) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    multiple = getattr(generator, "multiple", 4)

    def truth(name: str) -> Tensor | None:
        return batch[name][row : row + 1] if name in batch else None

    if not isinstance(generator, StyledGenerator):
        yield "translated", translate_any_size(generator, source, multiple), truth("truth")
        return
    drawn = generator.random_style(styles, torch.Generator().manual_seed(0)) if styles else ()
    own = "A_domain" not in batch  # with two domains, the sources are from the first
    here = 0 if own else int(batch["A_domain"][row])
    others = [domain for domain in range(len(generator.domains)) if domain != here]
    for domain in others if own else [*others, here]:  # the largest change first
        name = generator.domains[domain]
        known = truth(f"truth_{name}") if not own else truth("truth")
        # The truth of a random style is unknown.
        chosen: list[tuple[str, Tensor | None, Tensor | None]] = [
            (f"{name}, random style {number}", style[None], None) for number, style in enumerate(drawn, 1)
        ]
        if generator.reads_references and f"reference_{name}" in batch:
            reference = batch[f"reference_{name}"][row : row + 1].to(source.device)
            chosen.insert(0, (f"{name}, in a reference's style", generator.style_of(reference, domain), known))
        elif own:
            chosen.insert(0, (f"{name}, its own style", None, known))
        for what, style, right in chosen:

            def generate(image: Tensor, domain: int = domain, style: Tensor | None = style) -> Tensor:
                return generator(image, domain, style)

            yield what, translate_any_size(generate, source, multiple), right


def data_url(image: Tensor) -> str:
    """(1, C, H, W) in [-1, 1] as a JPEG in a data URL, with channels as in sample grids."""
    file = io.BytesIO()
    as_picture(image).save(file, format="JPEG", quality=QUALITY, subsampling=0)
    return in_url(file.getvalue(), "jpeg")


def in_url(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
