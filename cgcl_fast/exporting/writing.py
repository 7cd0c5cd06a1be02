"""A generator to a file that is whole and right, or to none."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from torch import nn

from cgcl_fast._extras import MissingExtraError, require
from cgcl_fast.engine.files import write_atomically
from cgcl_fast.exporting.checking import LIMIT, Difference, ExportError, check
from cgcl_fast.exporting.formats import FORMATS
from cgcl_fast.exporting.interface import interface_of


def export_generator(generator: nn.Module, kind: str, output: Path, limit: float = LIMIT) -> list[Difference]:
    """Write ``output`` and compare it with eager on three sizes, before it gets its name.

    Args:
        generator: one of this package, of any device and floating-point type, which stays as it is.
        kind: one of ``FORMATS``: "torchscript", "torch-export", "aoti" or "onnx".
        output: the file; one that is there is replaced.
        limit: the largest absolute difference allowed, of numbers in [-1, 1].

    Returns:
        What the comparisons found.

    Raises:
        ValueError: there is no such format.
        TypeError: ``generator`` is not one of this package.
        MissingExtraError: a package that the format needs is not installed.
        ExportError: the generator cannot be exported, or the file differs from it by more than ``limit``.
        OSError: the file cannot be written.
    """
    form = FORMATS.get(kind)
    if form is None:
        raise ValueError(f"kind: expected one of {', '.join(FORMATS)}, got {kind!r}")
    for package in form.packages:
        require(package, "export")
    interface = interface_of(generator)
    with tempfile.TemporaryDirectory(prefix="cgcl_fast-export-") as folder:
        made = Path(folder) / f"generator{form.suffix}"
        try:
            form.write(interface, made)
            found = check(interface, form.load(made), limit)
        except ExportError as error:
            raise ExportError(f"{output}: {error}") from error
        except (MissingExtraError, MemoryError, OSError):
            raise
        except Exception as error:  # exporters and compilers raise nearly anything
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise ExportError(f"{output}: cannot be exported as {kind} ({reason})") from error
        with open(made, "rb") as source:
            write_atomically(output, lambda file: shutil.copyfileobj(source, file))
    return found
