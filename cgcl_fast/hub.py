"""``python -m cgcl_fast.hub RUN --output DIR [--push USER/NAME]``: a folder to share of a run's generator, and the Hub.

The folder holds the generator (``model.safetensors``, and ``generator_B.safetensors`` of the way back), ``config.json``
and a model card with what was measured of it. ``translate``, ``evaluate``, ``app`` and ``train --init`` take the folder
or, from the Hugging Face Hub, its name. Exit status: 0 when it is written (and pushed), 1 when it could not be, 2 for
wrong options, or where there is no generator. Programs have ``save_pretrained``, ``from_pretrained`` and
``push_to_hub`` of this module.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from cgcl_fast._command import Parser, UsageError, as_usage_error, one_line, run, underscored
from cgcl_fast._generator import find_generator
from cgcl_fast._model_card import Facts, model_card
from cgcl_fast._networks import OTHER_WAY, check_direction
from cgcl_fast._pretrained import CARD, CONFIG, FILES, check_no_run, is_pretrained, local_path, write_pretrained
from cgcl_fast.data.formats import printable
from cgcl_fast.engine import CheckpointError
from cgcl_fast.networks import StyledGenerator
from cgcl_fast.report.contents import Contents, read_contents

__all__ = ["from_pretrained", "push_to_hub", "save_pretrained"]

_PATHS = ("data", "init", "output")
"""Options of a training that name places on its machine, which concern nobody else."""


def save_pretrained(
    generator: nn.Module,
    folder: str | Path,
    *,
    backward: nn.Module | None = None,
    about: Mapping[str, Any] | None = None,
    card: str | None = None,
) -> Path:
    """Write a generator as a folder that :func:`from_pretrained` and the commands read.

    Args:
        generator: one of this package's. Its ``ranges`` and ``direction``, as loaded ones have them, go with it.
        folder: made if it is missing; what is there of the same names is replaced, but for a model card.
        backward: the generator of the way back, if there is one.
        about: what ``config.json`` says besides, as JSON can hold it.
        card: text of ``README.md``; if not given, that which is there stays, and a new one says how to use it.

    Returns:
        The folder.

    Raises:
        TypeError: a generator is none of this package.
        ValueError: the folder holds a run.
        OSError: a file cannot be written.
    """
    folder = Path(folder)
    if card is None and (folder / CARD).is_file():
        card = (folder / CARD).read_text(encoding="utf-8")
    card = card or model_card(generator, Facts(folder.resolve().name, both_ways=backward is not None))
    write_pretrained(folder, generator, backward, about or {}, card)
    return folder


def from_pretrained(
    name: str | Path,
    *,
    direction: str | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool | None = None,
) -> nn.Module:
    """The generator of a folder of :func:`save_pretrained`, of a model on the Hub, or of whatever else ``--checkpoint``
    takes: a run, one of its files, a published file.

    Args:
        name: a path, or ``USER/NAME`` (or ``USER/NAME@REVISION``) of a model on the Hub. What is here comes first.
        direction: AtoB or BtoA, of a model with a generator of each way; None: that of its training.
        revision, cache_dir, token, local_files_only: of ``huggingface_hub.snapshot_download``.

    Returns:
        The generator, on the CPU, in evaluation mode. It has ``config``, ``ranges`` and ``direction`` as attributes.

    Raises:
        CheckpointError: there is none, or it cannot be had or read; one line.
        ValueError: ``direction`` is none.
    """
    if direction is not None:
        check_direction(direction)
    download = {"revision": revision, "cache_dir": cache_dir, "token": token, "local_files_only": local_files_only}
    return find_generator(local_path(Path(name), **download), direction)[0].eval()


def push_to_hub(
    generator: nn.Module,
    name: str,
    *,
    backward: nn.Module | None = None,
    about: Mapping[str, Any] | None = None,
    card: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    message: str | None = None,
) -> str:
    """Put a generator on the Hugging Face Hub, as :func:`save_pretrained` writes it.

    Args:
        generator, backward, about, card: as there; the card's examples have ``name``.
        name: ``USER/NAME``; made if it is missing.
        private: whether a new one is; None: as the account's default says.
        token: of the Hub; None: that of ``hf auth login`` or ``HF_TOKEN``.
        message: of the commit.

    Returns:
        Its address.

    Raises:
        ValueError: ``name`` is none.
        TypeError: a generator is none of this package.
        CheckpointError: it could not be pushed; one line.
    """
    check_name(name)
    card = card or model_card(generator, Facts(name, both_ways=backward is not None))
    with TemporaryDirectory() as folder:
        save_pretrained(generator, folder, backward=backward, about=about, card=card)
        return upload(Path(folder), name, private=private, token=token, message=message)


def check_name(name: str) -> None:
    """Raise a ValueError unless a model on the Hub may be called ``name``."""
    from huggingface_hub.utils import validate_repo_id

    if "/" not in name:
        raise ValueError(f"name: expected USER/NAME, got {name!r}")
    try:
        validate_repo_id(name)
    except ValueError as error:
        raise ValueError(f"name: {one_line(error)}") from error


def upload(
    folder: Path,
    name: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    message: str | None = None,
) -> str:
    """Put a folder to share on the Hub, as one commit; other files in it stay here. Arguments, result and errors as
    :func:`push_to_hub`."""
    import huggingface_hub

    api = huggingface_hub.HfApi(token=token)
    try:
        # Not None, which is no value to older versions.
        visibility: dict[str, Any] = {} if private is None else {"private": private}
        address = api.create_repo(name, exist_ok=True, **visibility)
        api.upload_folder(
            repo_id=name,
            folder_path=folder,
            allow_patterns=list(FILES),
            delete_patterns=[f for f in FILES if not (folder / f).exists()],  # such as the way back of an older model
            commit_message=message or "Upload a generator of cgcl_fast",
        )
    except Exception as error:  # of the network, of the Hub, of the account: each has its own
        raise CheckpointError(f"{name}: could not be pushed to the Hub ({one_line(error)[:300]})") from error
    return str(address)


# --------------------------------------------------------------------------------------------------------- the command


@dataclass
class HubOptions:
    """What is shared.

    Attributes:
        output: Folder for the files; none is kept if it is not given, which needs --push.
        push: USER/NAME of a model on the Hugging Face Hub to put them into; of the account that hf auth login or
            HF_TOKEN says.
        private: A new model there is private.
        license: Of the weights, by the Hub's identifier, such as cc-by-4.0; not said if not given.
        data_description: Words about the training images for the model card; if not given the name of their folder.
    """

    output: Path | None = None
    push: str | None = None
    private: bool = False
    license: str | None = None
    data_description: str | None = None

    def __post_init__(self) -> None:
        if self.output is None and self.push is None:
            raise ValueError("output: expected --output DIR, --push USER/NAME or both")
        if self.push is None and self.private:
            raise ValueError("private: is of --push")
        if self.push is not None:
            check_name(self.push)

    def check_for_folder(self, folder: Path) -> None:
        """Raise a ValueError unless these options are for a folder that this command has written: it is pushed as it
        is, with the model card as someone may have changed it."""
        for name in ("output", "license", "data_description"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name}: is for a run; {printable(folder)} is a folder to share, pushed as it is")


def share(arguments: Sequence[str]) -> int:
    """The command; see the module."""
    parser = Parser(prog="python -m cgcl_fast.hub", description=__doc__)
    parser.add_argument(
        "run",
        type=Path,
        metavar="RUN",
        help="A run folder or a generator's file, as translate takes it; or a folder of this command, to be pushed.",
    )
    parser.add_class_arguments(HubOptions, None, skip={"private"})
    parser.add_argument("--private", action="store_true", help="A new model on the Hub is private.")
    parser.add_argument("--overwrite", action="store_true", help="Replace files that are there already.")
    parsed = parser.parse_args(underscored(arguments)).as_dict()
    path, overwrite = parsed.pop("run"), parsed.pop("overwrite")
    with TemporaryDirectory() as scratch:
        with as_usage_error():
            options = HubOptions(**parsed)
            written = is_pretrained(path) and not (path / "checkpoints").is_dir()
            folder = path if written else options.output or Path(scratch)
            if written:
                options.check_for_folder(path)
            content = None if written else content_of(path, folder, options, overwrite)
        if content is not None:
            save_pretrained(content.generator, folder, **content.more)
            if options.output is not None:
                print(f"{printable(folder)}: {CARD}, {CONFIG} and the generator of {printable(content.file)}")
        if options.push is not None:
            print(f"pushed to {upload(folder, options.push, private=options.private or None)}")
    return 0


@dataclass(frozen=True)
class Content:
    """What a folder to share is written of.

    Attributes:
        generator: which is shared.
        file: that it was read from.
        more: the other arguments of :func:`save_pretrained`.
    """

    generator: nn.Module
    file: Path
    more: dict[str, Any]


def content_of(path: Path, folder: Path, options: HubOptions, overwrite: bool) -> Content:
    """The content of the folder to be written for the run, or the generator's file, at ``path``.

    Raises:
        UsageError: the folder cannot be used.
        CheckpointError, ValueError: there is no generator, its run cannot be read, or the folder holds a run.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--output: {printable(folder)} is no folder")
    check_no_run(folder)
    if there := [folder / name for name in FILES if (folder / name).exists() and not overwrite]:
        raise UsageError(f"--output: {printable(there[0])} would be overwritten (--overwrite allows it)")
    generator, backward, file = both_ways(path)
    run_of_it, step = contents_of(path, file), step_of(file)
    facts = Facts(
        name=options.push or folder.resolve().name,
        both_ways=backward is not None,
        run=run_of_it,
        step=step,
        data=options.data_description,
        license=options.license,
    )
    card = model_card(generator, facts)
    return Content(generator, file, {"backward": backward, "about": about_run(run_of_it, step), "card": card})


def both_ways(path: Path) -> tuple[nn.Module, nn.Module | None, Path]:
    """The generator that ``path`` names, as ``--checkpoint`` does; that of the way back, if there is one; and the file.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    generator, file = find_generator(path)
    if isinstance(generator, StyledGenerator):
        return generator, None, file
    try:
        return generator, find_generator(file, OTHER_WAY[str(generator.direction)])[0], file
    except CheckpointError:  # it translates one way only
        return generator, None, file


def step_of(file: Path) -> int | None:
    """The step of a run's file, as its name says it."""
    match = re.search(r"\d{8}", file.name)
    return int(match[0]) if match else None


def contents_of(path: Path, file: Path) -> Contents | None:
    """The run that a generator's file lies in; None: it lies in none.

    Raises:
        ValueError: it lies in one that cannot be read.
    """
    for folder in (path, file.parent, file.parent.parent):
        if (folder / "config.yaml").is_file():
            return read_contents(folder)
    return None


def about_run(contents: Contents | None, step: int | None) -> dict[str, Any]:
    """What ``config.json`` says of a run: method, step and options. Of the places on this machine only that there was
    no data folder, of a run on the built-in streets, so that ``evaluate`` finds the same test scenes."""
    if contents is None:
        return {}
    options = {
        option.name: option.value
        for option in contents.options
        if option.name not in _PATHS or (option.name == "data" and option.value is None)
    }
    return {"method": contents.method, "step": step, "options": options}


def main(arguments: Sequence[str] | None = None) -> int:
    return run(share, arguments)


if __name__ == "__main__":
    sys.exit(main())
