"""``python -m cgcl_fast.app RUN``: drop a picture into a browser, choose a domain and a style, and compare.

Needs the extra ``app`` (gradio). Serves this machine only, unless ``--host`` says otherwise. Exit status: 0 when it was
ended, 2 for wrong options or a missing extra.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from cgcl_fast._command import Parser, UsageError, as_usage_error, run, underscored
from cgcl_fast._extras import require
from cgcl_fast._generator import find_generator
from cgcl_fast._translator import Translator, domain_by
from cgcl_fast.data import UnreadableImageError
from cgcl_fast.data.decoding import read_stored, to_tensor
from cgcl_fast.data.values import as_picture
from cgcl_fast.engine import make_accelerator
from cgcl_fast.methods.options import Count, Within, check
from cgcl_fast.networks import StyledGenerator

OWN, REFERENCE, RANDOM = "the generator's own", "of a reference image", "random, by its number"
MOST_SEED = 2**31 - 1


@dataclass
class AppOptions:
    """The app.

    Attributes:
        checkpoint: A run folder, one of its checkpoints, a .safetensors generator, a published latest_net_G.pth, or a
            folder of cgcl_fast.hub or its name on the Hugging Face Hub.
        direction: AtoB or BtoA, for a method with a generator of each way; if not given, that of the training.
        device: auto, cpu or cuda.
        precision: fp32, bf16 or fp16.
        longest: Larger pictures are shrunk to this longer side in pixels.
        host: Address to serve; 0.0.0.0 for the whole network.
        port: 0 picks a free one.
    """

    checkpoint: Path
    direction: str | None = None
    device: str = "auto"
    precision: str = "fp32"
    longest: Count = 1024
    host: str = "127.0.0.1"
    port: Annotated[int, Within(0, 65535)] = 7860

    def __post_init__(self) -> None:
        check(self)


class Studio:
    """Translates pictures from files, independent of how they are shown.

    Args:
        generator: in any state.
        device, precision: for the translation.
        longest: larger pictures are shrunk to this longer side in pixels.
    """

    def __init__(
        self, generator: nn.Module, device: torch.device, precision: str = "fp32", longest: int = 1024
    ) -> None:
        self.generator, self.device, self.precision, self.longest = generator, device, precision, longest
        styled = isinstance(generator, StyledGenerator)
        self.domains: tuple[str, ...] = generator.domains if isinstance(generator, StyledGenerator) else ()
        references = styled and generator.reads_references
        self.styles = [*([REFERENCE] if references else []), RANDOM, OWN] if styled else []

    def translate(
        self,
        picture: str | os.PathLike[str],
        domain: str | None = None,
        style: str | None = None,
        reference: str | os.PathLike[str] | None = None,
        number: int = 0,
    ) -> tuple[Image.Image, Image.Image]:
        """A picture and its translation, ready to show and of the same size.

        Args:
            picture: an image file.
            domain: one of ``domains``; None for a generator without any, or for the second of two.
            style: one of ``styles``; None is the generator's default.
            reference: the image file whose style ``REFERENCE`` uses.
            number: seed of a random style.

        Raises:
            ValueError: an argument is missing or not as above; one line.
            UnreadableImageError: a file is not a readable image.
        """
        chosen = {REFERENCE: reference, RANDOM: str(int(number))}.get(style or OWN)
        if style == REFERENCE and reference is None:
            raise ValueError("reference: expected an image to take the style from, got none")
        given = None if chosen is None else os.fspath(chosen)
        translator = Translator(self.generator, self.device, self.precision, domain, given)
        source = self._shrunk(to_tensor(read_stored(picture, reading=translator.reading).image)[None])
        return as_picture(source), as_picture(translator.for_batch(1)(source))

    def _shrunk(self, image: Tensor) -> Tensor:
        share = self.longest / max(image.shape[-2:])
        if share >= 1:
            return image
        size = [max(1, round(side * share)) for side in image.shape[-2:]]
        return F.interpolate(image, size, mode="bilinear", antialias=True).clamp(-1, 1)


def build(studio: Studio, title: str) -> Any:
    """The page, a ``gradio.Blocks``. Its API has one function, ``/translate``: from picture, domain, style, reference
    and number to (before, after). What a generator lacks is left out of the page and None in the API.

    Raises:
        MissingExtraError: gradio is not installed.
    """
    gr = _gradio()

    def translate(
        picture: str | None, domain: str | None, style: str | None, reference: str | None, number: float
    ) -> tuple[Image.Image, Image.Image]:
        if picture is None:
            raise gr.Error("Choose a picture first.")
        try:
            return studio.translate(picture, domain, style, reference, int(number))
        except (UnreadableImageError, ValueError) as error:
            raise gr.Error(str(error)) from error

    styled, references = bool(studio.styles), REFERENCE in studio.styles
    with gr.Blocks(title=title, analytics_enabled=False) as page:
        gr.Markdown(f"# {title}")
        with gr.Row():
            with gr.Column():
                picture = gr.Image(type="filepath", label="Picture")
                domain = gr.Dropdown(
                    list(studio.domains),
                    value=studio.domains[-1] if styled else None,
                    label="Domain",
                    visible=styled,
                )
                style = gr.Radio(studio.styles, value=RANDOM if styled else None, label="Style", visible=styled)
                reference = gr.Image(type="filepath", label="Reference image of that domain", visible=False)
                number = gr.Number(0, precision=0, minimum=0, maximum=MOST_SEED, label="Number", visible=styled)
                another = gr.Button("Another style", visible=styled)
                go = gr.Button("Translate", variant="primary")
            result = gr.ImageSlider(label="Before and after", type="pil", format="png", interactive=False)

        inputs = [picture, domain, style, reference, number]
        go.click(translate, inputs, result, api_name="translate")
        if styled:
            picked = another.click(lambda: random.randrange(MOST_SEED), None, number, api_visibility="private")
            picked.then(translate, inputs, result, api_visibility="private")

            def fields(style: str) -> tuple[Any, Any, Any]:
                random_style = style == RANDOM
                return (
                    gr.update(visible=references and style == REFERENCE),
                    gr.update(visible=random_style),
                    gr.update(visible=random_style),
                )

            style.change(fields, style, [reference, number, another], api_visibility="private")
    return page


def _gradio() -> Any:
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    return require("gradio", "app")


def app(arguments: Sequence[str]) -> int:
    """The command; see the module."""
    parser = Parser(prog="python -m cgcl_fast.app", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="A run folder or a generator's file, as translate takes it.")
    parser.add_class_arguments(AppOptions, None, skip={"checkpoint"})
    parsed = parser.parse_args(underscored(arguments)).as_dict()
    with as_usage_error():
        options = AppOptions(**parsed)
        _gradio()  # before anything slow
        device = make_accelerator(device=options.device, precision=options.precision).device
        generator, file = find_generator(options.checkpoint, options.direction)
        domain_by(options.direction, generator)
    page = build(Studio(generator, device, options.precision, options.longest), f"cgcl_fast: {file.parent.parent.name}")
    try:
        page.queue(default_concurrency_limit=1).launch(server_name=options.host, server_port=options.port or None)
    except OSError as error:  # for example gradio's error about a port in use
        raise UsageError(f"--port: {error}") from error
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    return run(app, arguments)


if __name__ == "__main__":
    sys.exit(main())
