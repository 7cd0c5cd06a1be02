"""Files of ``torch.save``, read so that they neither run code nor cost more than they hold.

``torch.load(weights_only=True)`` runs no code of a file, but believes its sizes: a kilobyte may stand for lists that no
one can walk through, for a tensor that no memory holds, or for hours of decompression. So a file is looked through
before it is loaded, and what was loaded before anyone uses it.
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
"""Bytes of the part of a file that is not tensors: names, numbers and lists. Checkpoints of all methods have less than
a tenth of it."""

MOST_DEPTH = 50
"""Containers in containers."""

MOST_SHARED = 4
"""How many times its own size the tensors of a file may come to, where several names stand for one."""

_BUILDERS = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor|tensor_v2|parameter)|torch(\.cuda)? \w+Storage"
)
"""What a pickle of named tensors calls. ``torch.load`` allows more, some of which turn a number into gigabytes."""

_LEGACY_PICKLES = 5
"""Of a file from before PyTorch 1.6: magic number, version, machine, content, and the order of the tensors."""


class _RefusedError(ValueError):
    """Something wrong that is known well enough to be said."""


def read_torch_file(path: Path) -> Any:
    """What ``torch.save`` wrote, of this program or another one: tensors, on the CPU, and plain containers.

    The checksums of the file are verified, which ``torch.load`` does not do.

    Raises:
        OSError: there is no such file, or it is no regular one.
        ValueError: it is truncated, damaged, hostile or something else; one line that names it.
    """
    check_regular(path)
    try:
        size = path.stat().st_size
        pickled = _look_through(path, size)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd pickles; they are refused or harmless
            content = torch.load(path, map_location="cpu", weights_only=True)
        _check_claims(content, pickled, size)
        return content
    except OSError as error:
        if error.filename is not None:
            raise
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from error
    except _RefusedError as error:
        raise ValueError(f"{path}: {error}") from error
    except Exception as error:  # whatever zipfile and the unpickler make of a hostile or foreign file
        raise ValueError(f"{path}: truncated, damaged, or no file of weights ({type(error).__name__})") from error


def is_finite(tensor: Tensor) -> bool:
    """Whether none of the numbers is NaN or infinite."""
    # A sum reads the tensor once and writes nothing. Where it is not finite, large numbers may be to blame.
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def _look_through(path: Path, size: int) -> int:
    """Look at what a file is made of, without building any of it; gives the bytes that are not tensors."""
    with open(path, "rb") as file:
        if file.read(4) == b"PK\x03\x04":  # where torch.load takes a file for a zip
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
    """Go to the end of one pickle; what it would call must be what builds tensors."""
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "GLOBAL" and not _BUILDERS.fullmatch(str(argument)):
            name = ".".join(str(argument).split())
            raise _RefusedError(f"it would call {name[:100]}, which is not safe or builds no weights")


def _check_claims(content: Any, pickled: int, size: int) -> None:
    """What was loaded is no larger than the file. A reference takes a byte at least, so more values than bytes are
    lists that hold one another; a tensor takes its own bytes, unless its strides go over the same ones again."""
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
            if type(value) is OrderedDict:  # state dicts have the versions of their modules in an attribute
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
