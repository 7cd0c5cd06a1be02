"""What ``--checkpoint RUN_OR_FILE`` names: the generator of a run, of one of its files, or of a published file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from cgcl_fast import compat
from cgcl_fast.engine import CheckpointError, safe_load
from cgcl_fast.engine.checkpoint import FORMAT, first_readable
from cgcl_fast.methods import METHODS
from cgcl_fast.networks.files import build_empty, fill


def find_generator(path: Path) -> tuple[nn.Module, Path]:
    """The generator that ``path`` holds, and the file it was read from.

    Args:
        path: a run folder or its ``checkpoints`` (the newest file that loads; a newer one that does not is named in a
            warning), one of their ``.safetensors`` or ``.pt`` files, or a generator file in the published layout
            (``latest_net_G.pth``) or a folder with it.

    Raises:
        CheckpointError: there is none, or none that can be read.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: does not exist")
    if not path.is_dir():
        return read_generator(path), path
    files = [
        *_newest_first(path / "checkpoints"),
        *_newest_first(path),
        *(file for file in [path / "latest_net_G.pth"] if file.exists()),
    ]
    if not files:
        raise CheckpointError(f"{path}: holds no checkpoint")
    file, generator = first_readable(files, read_generator)
    return generator, file


def _newest_first(folder: Path) -> list[Path]:
    """Of one step the small file, with G alone, before the other."""
    return sorted((file for file in folder.glob("step_*") if file.suffix in (".safetensors", ".pt")), reverse=True)


def read_generator(path: Path) -> nn.Module:
    """The generator in one file.

    Raises:
        CheckpointError: the file cannot be read, or holds something else; one line that names it.
    """
    try:
        if path.suffix == ".safetensors":
            return compat.load_generator(path)
        state = safe_load(path)
        if not isinstance(state, dict):
            raise CheckpointError(f"{path}: expected a checkpoint or named tensors, got {type(state).__name__}")
        return _of_run(state) if state.get("format") == FORMAT else compat.load_generator(state)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # foreign files fail in many ways: missing keys, other shapes, wrong types
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise CheckpointError(reason if str(path) in reason else f"{path}: not a generator ({reason})") from error


def _of_run(state: dict[str, Any]) -> nn.Module:
    """The generator in a checkpoint of a run. Its config describes the whole method; only G gets weights."""
    described = state["config"]
    kind = METHODS[described["method"]]
    method = build_empty(lambda: kind(kind.Config(**described["config"])))
    prefix = f"{method.generator_name}."
    weights = {name.removeprefix(prefix): t for name, t in state["method"].items() if name.startswith(prefix)}
    generator = fill(getattr(method, method.generator_name), weights)
    generator.ranges = described.get("ranges")
    return generator
