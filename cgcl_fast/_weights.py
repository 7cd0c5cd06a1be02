"""Reading files of ``torch.save`` without executing code and without using more memory than their size justifies.

``torch.load(weights_only=True)`` executes no code of a file, but trusts its sizes: a kilobyte can encode lists too long
to walk through, a tensor too large for memory, or hours of decompression. So a file is inspected before it is loaded,
and the loaded content before it is used.
"""

from __future__ import annotations

import pickletools
import re
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from cgcl_fast._files import check_regular

MOST_PICKLE = 4 * 2**20
"""Maximum bytes of a file outside tensors: names, numbers and lists. Checkpoints of all methods have less than a tenth
of it."""

MOST_DEPTH = 50
"""Maximum nesting of containers."""

MOST_SHARED = 4
"""Maximum total size of the tensors relative to the file, as several names may share one tensor."""

_BUILDERS = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor|tensor_v2|parameter)|torch(\.cuda)? \w+Storage"
)
"""Functions that a pickle of named tensors calls. ``torch.load`` allows more, some of which turn a number into
gigabytes."""

_LEGACY_PICKLES = 5
"""Pickles in a file from before PyTorch 1.6: magic number, version, machine, content, and the order of the tensors."""


class _RefusedError(ValueError):
    """A problem whose message is clear enough for the user."""


def read_torch_file(path: Path) -> Any:
    """The content of a ``torch.save`` file of any program: tensors, on the CPU, and plain containers.

    Verifies the file's checksums, which ``torch.load`` does not.

    Raises:
        OSError: there is no such file, or it is not a regular file.
        ValueError: it is truncated, damaged, hostile or something else; one line that names it.
    """
    check_regular(path)
    try:
        size = path.stat().st_size
        pickled = _look_through(path, size)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd pickles, which are rejected or harmless
            content = torch.load(path, map_location="cpu", weights_only=True)
        _check_claims(content, pickled, size)
        return content
    except OSError as error:
        if error.filename is not None:
            raise
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from error
    except _RefusedError as error:
        raise ValueError(f"{path}: {error}") from error
    except Exception as error:  # whatever zipfile and the unpickler raise for a hostile or foreign file
        raise ValueError(f"{path}: truncated, damaged, or no file of weights ({type(error).__name__})") from error


def is_finite(tensor: Tensor) -> bool:
    """Whether no number is NaN or infinite."""
    # A sum reads the tensor once and writes nothing. If it is not finite, it may have overflowed: check the elements.
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def _look_through(path: Path, size: int) -> int:
    """Inspect the parts of a file without loading any; returns the number of bytes outside tensors."""
    with open(path, "rb") as file:
        if file.read(4) == b"PK\x03\x04":  # this is how torch.load recognises a zip
            with zipfile.ZipFile(path) as archive:
                pickle = _look_through_zip(archive, size)
                with archive.open(pickle) as content:
                    _check_calls(content)
            return pickle.file_size
        file.seek(0)
        for _ in range(_LEGACY_PICKLES):
            _check_calls(file)
            if file.tell() > MOST_PICKLE:
                raise _RefusedError(f"its pickles are larger than {MOST_PICKLE} bytes")
        return file.tell()


def _look_through_zip(archive: zipfile.ZipFile, size: int) -> zipfile.ZipInfo:
    entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise _RefusedError("its entries are compressed, and torch.save compresses none")
    if sum(entry.file_size for entry in entries) > size:
        raise _RefusedError("its entries claim more bytes than the file has")
    if len({entry.filename.lower() for entry in entries}) < len(entries):
        raise _RefusedError("it has several entries of one name")
    pickles = [entry for entry in entries if re.fullmatch(r"[^/]+/data\.pkl", entry.filename)]
    if len(pickles) != 1:
        raise _RefusedError("a zip, but not of torch.save")
    if pickles[0].file_size > MOST_PICKLE:
        raise _RefusedError(f"its pickle has {pickles[0].file_size} bytes, more than {MOST_PICKLE}")
    damaged = archive.testzip()
    if damaged is not None:
        raise _RefusedError(f"damaged (checksum of {damaged})")
    return pickles[0]


def _check_calls(file: IO[bytes]) -> None:
    """Read one pickle to its end; it may only call functions that build tensors."""
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "GLOBAL" and not _BUILDERS.fullmatch(str(argument)):
            name = ".".join(str(argument).split())
            raise _RefusedError(f"it would call {name[:100]}, which is not safe or builds no weights")


def _check_claims(content: Any, pickled: int, size: int) -> None:
    """Check that the loaded content is no larger than the file. Each reference takes at least a byte, so more values
    than bytes mean lists that contain one another. A tensor takes its own bytes, unless its strides repeat them."""
    values, claimed, held = 0, 0, 0
    storages: set[int] = set()
    waiting = [(content, 0)]
    while waiting:
        value, depth = waiting.pop()
        values += 1
        if values > pickled or depth > MOST_DEPTH:
            raise _RefusedError("it holds lists within lists, more than its size allows")
        inner: list[Any] = []
        if type(value) in (dict, OrderedDict):
            if not all(isinstance(key, (str, int)) for key in value):
                raise _RefusedError("its names are not all text or numbers")
            inner = list(dict.values(value))
            if type(value) is OrderedDict:  # state dicts have their modules' versions in an attribute
                if vars(value).keys() - {"_metadata"}:
                    raise _RefusedError("it holds attributes of a dictionary")
                inner += vars(value).values()
        elif type(value) in (list, tuple):
            inner = list(value)
        elif type(value) in (Tensor, nn.Parameter):
            if value.layout != torch.strided or value.device.type != "cpu":
                raise _RefusedError(f"it holds a tensor that is {value.layout} on {value.device}")
            storage = value.untyped_storage()
            if storage.data_ptr() not in storages:
                storages.add(storage.data_ptr())
                held += storage.nbytes()
            needed = value.numel() * value.element_size()
            claimed += needed
            if needed > storage.nbytes() or held > size or claimed > MOST_SHARED * size:
                raise _RefusedError("its tensors claim more values than it holds")
        elif value is not None and not isinstance(value, (str, int, float)):
            raise _RefusedError(f"it holds a {type(value).__name__}, which is no weight")
        waiting += [(one, depth + 1) for one in inner]
