"""Folders to share: a generator, what there is to know of it, and a model card; on the disk or on the Hugging Face Hub.

``model.safetensors`` is the generator as runs save it, with all that builds it again, and ``generator_B.safetensors``
that of the way back, of a method with two. ``config.json`` says the same to readers, with the method and the options of
the training; nothing is built from it. ``README.md`` is the model card.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from cgcl_fast import __version__
from cgcl_fast._command import one_line
from cgcl_fast._files import check_regular
from cgcl_fast.engine import CheckpointError
from cgcl_fast.engine.files import write_together
from cgcl_fast.networks import StyledGenerator
from cgcl_fast.networks.files import describe_generator, generator_bytes

WEIGHTS = "model.safetensors"
BACKWARD = "generator_B.safetensors"
CONFIG = "config.json"
CARD = "README.md"
FILES = (WEIGHTS, BACKWARD, CONFIG, CARD)

LIBRARY = "cgcl_fast"

_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", re.ASCII)
_OF_WEIGHTS = (".pt", ".pth", ".safetensors")


def hub_name(path: Path) -> tuple[str, str | None] | None:
    """The name and the revision of a model on the Hub that ``USER/NAME`` or ``USER/NAME@REVISION`` stands for; None: it
    is a path. What is here, or would be in a folder that is here, always is."""
    match = _NAME.fullmatch(path.as_posix())
    if match is None or path.suffix in _OF_WEIGHTS or path.exists() or path.parent.is_dir():
        return None
    return match[1], match[2]


def local_path(path: Path, **download: Any) -> Path:
    """``path``, or the folder of the model that it names on the Hub, which is fetched if it has not been.

    Args:
        download: of ``huggingface_hub.snapshot_download``: revision, cache_dir, token, local_files_only.

    Raises:
        CheckpointError: it names a model that cannot be had.
    """
    named = hub_name(path)
    if named is None:
        return path
    name, revision = named
    options = {"revision": revision, **{key: value for key, value in download.items() if value is not None}}
    import huggingface_hub  # here, since most commands need none of it

    try:
        folder = huggingface_hub.snapshot_download(
            name, allow_patterns=list(FILES), library_name=LIBRARY, library_version=__version__, **options
        )
    except Exception as error:  # of the network, of the Hub, of the cache: each has its own
        raise CheckpointError(
            f"{path.as_posix()}: is not here, and cannot be had from the Hugging Face Hub ({one_line(error)[:300]})"
        ) from error
    if not is_pretrained(Path(folder)):
        raise CheckpointError(f"{path.as_posix()}: on the Hub, but no generator of {LIBRARY} (no {WEIGHTS})")
    return Path(folder)


def is_pretrained(folder: Path) -> bool:
    """Whether a folder is one of :func:`write_pretrained`."""
    return (folder / WEIGHTS).is_file()


def check_no_run(folder: Path) -> None:
    """Raise a ValueError if a folder holds a run: whoever reads it is given the run's newest generator."""
    if (folder / "checkpoints").is_dir() or any(folder.glob("step_*")):
        raise ValueError(f"{folder}: expected a folder without a run in it, whose generator would be read instead")


def write_pretrained(
    folder: Path, generator: nn.Module, backward: nn.Module | None, about: Mapping[str, Any], card: str
) -> None:
    """Write a folder to share: all of its files, or, where that fails, those of before. The weights come last: a folder
    of which a part is of another model is none.

    Args:
        backward: the generator of the way back, if there is one.
        about: what ``config.json`` says beside what describes the generators.
        card: the model card.

    Raises:
        TypeError: a generator is none of this package.
        ValueError: the folder holds a run.
        OSError: a file cannot be written.
    """
    check_no_run(folder)
    contents = {
        CARD: card.encode(),
        CONFIG: (json.dumps(_described(generator, backward, about), indent=1) + "\n").encode(),
        **({} if backward is None else {BACKWARD: generator_bytes(backward, **_facts(backward))}),
        WEIGHTS: generator_bytes(generator, **_facts(generator)),
    }
    for name in contents:
        check_regular(folder / name, missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    # A way back of another model would be taken for this one's.
    write_together(folder, contents, last=WEIGHTS, remove=() if backward is not None else (BACKWARD,))


def _described(generator: nn.Module, backward: nn.Module | None, about: Mapping[str, Any]) -> dict[str, Any]:
    described = {"library_name": LIBRARY, "library_version": __version__, **about}
    described |= describe_generator(generator, **_facts(generator))
    if backward is not None:
        described["backward"] = describe_generator(backward, **_facts(backward))
    return described


def _facts(generator: nn.Module) -> dict[str, Any]:
    """What a loaded generator has as attributes. One with named domains translates in no direction."""
    direction = None if isinstance(generator, StyledGenerator) else getattr(generator, "direction", None)
    return {"ranges": getattr(generator, "ranges", None), "direction": direction}


def read_about(folder: Path) -> dict[str, Any]:
    """What ``config.json`` says; nothing, where there is none of this library.

    Raises:
        ValueError: it is no JSON; one line.
    """
    path = folder / CONFIG
    if not is_pretrained(folder) or not path.is_file():
        return {}
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is not JSON ({one_line(error)})") from error
    return found if isinstance(found, dict) and found.get("library_name") == LIBRARY else {}
