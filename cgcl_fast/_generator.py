"""What ``--checkpoint RUN_OR_FILE`` names: the generator of a run, of one of its files, or of a published file."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from cgcl_fast import compat
from cgcl_fast.engine import CheckpointError, safe_load
from cgcl_fast.engine.checkpoint import FORMAT, first_readable
from cgcl_fast.methods import METHODS


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
        if isinstance(state, dict) and state.get("format") == FORMAT:
            kind = METHODS[state["config"]["method"]]
            method = kind(kind.Config(**state["config"]["config"]))
            method.load_state_dict(state["method"])
            return getattr(method, method.generator_name)
        return compat.load_generator(state)
    except CheckpointError:
        raise
    except Exception as error:  # foreign files fail in many ways: missing keys, other shapes, wrong types
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(reason if str(path) in reason else f"{path}: not a generator ({reason})") from error
