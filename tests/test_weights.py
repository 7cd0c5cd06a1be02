"""Files of ``torch.save``: no code is executed, no more is loaded than they hold, and no damage goes unnoticed."""

from __future__ import annotations

import io
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from hostile import calling, damaged, doubling_lists, no_waiting, rezipped, saved, text, with_pickle
from torch import nn

from cgcl_fast._weights import MOST_PICKLE, is_finite, read_torch_file

sys.path.insert(0, str(Path(__file__).parent / "engine"))
from engine_checks import assert_same  # noqa: E402

NUMBER = b"\x8a\x05" + (10**10).to_bytes(5, "little")


def read(content: bytes, folder: Path) -> object:
    path = folder / "x.pt"
    path.write_bytes(content)
    with no_waiting():
        return read_torch_file(path)


def overlapping() -> bytes:
    """A zip whose entries are one and the same megabyte."""
    buffer = io.BytesIO(saved({"x": torch.zeros(2**18)}))
    with zipfile.ZipFile(buffer, "a") as archive:
        (large,) = (one for one in archive.infolist() if one.file_size == 2**20)
        for number in range(1, 2000):
            again = zipfile.ZipInfo(f"archive/data/{number}")
            again.header_offset, again.CRC = large.header_offset, large.CRC
            again.file_size = again.compress_size = large.file_size
            archive.filelist.append(again)
        archive._didModify = True
    return buffer.getvalue()


def nested(levels: int) -> list:
    found: list = []
    for _ in range(levels):
        found = [found]
    return found


LISTS, VALUES, MANY = "lists within lists", "tensors claim more values", "entries claim more bytes"
OLD = {"_use_new_zipfile_serialization": False}

HOSTILE = {
    "doubling lists": (lambda: with_pickle(doubling_lists()), LISTS),
    "doubling lists in an old file": (lambda: old_file(doubling_lists()), LISTS),
    "a list that holds itself": (lambda: with_pickle(b"\x80\x02]q\x00h\x00a."), LISTS),
    "deep lists": (lambda: saved({"x": nested(60)}), LISTS),
    "compressed entries": (lambda: rezipped(saved({}), lambda p: p, zipfile.ZIP_DEFLATED), "entries are compressed"),
    "entries that are one": (lambda: overlapping(), MANY),
    "two entries of one name": (lambda: twice(saved({"x": 1})), "several entries of one name"),
    "another zip": (lambda: saved({}).replace(b"data.pkl", b"data.txt"), "not of torch.save"),
    "a long pickle": (lambda: saved({"x": "y" * MOST_PICKLE}), "its pickle has 41943.. bytes"),
    "a long pickle in an old file": (lambda: saved({"x": "y" * MOST_PICKLE}, **OLD), "its pickles are larger"),
    "gigabytes of zeros": (lambda: with_pickle(calling("builtins", "bytearray", NUMBER)), "call builtins.bytearray"),
    "a storage by its size": (
        lambda: with_pickle(calling("torch.storage", "UntypedStorage", NUMBER)),
        "call torch.storage.UntypedStorage",
    ),
    "a sparse tensor": (lambda: saved({"x": torch.zeros(9, 9).to_sparse()}), "call .*_rebuild_sparse_tensor"),
    "a tensor without numbers": (lambda: saved({"x": torch.zeros(9**9, device="meta")}), "call .*_rebuild_meta"),
    "a set": (lambda: saved({"x": {1, 2}}), r"call __builtin__\.set"),
    "names that are no text": (lambda: saved({(1, 2): 3}), "names are not all text"),
    "a tensor of strides 0": (lambda: saved({"x": torch.zeros(1).expand(10**6, 10**6)}), VALUES),
    "a tensor under many names": (lambda: saved(dict.fromkeys(map(str, range(50)), torch.zeros(10**5))), VALUES),
    "more values than are there": (lambda: larger(saved({"x": torch.zeros(1000)})), f"(RuntimeError|{VALUES})"),
    "more values than are in an old file": (
        lambda: larger(saved({"x": torch.zeros(1000)}, **OLD)),
        f"(RuntimeError|{VALUES})",
    ),
    "a dictionary with attributes": (
        lambda: with_pickle(b"\x80\x02ccollections\nOrderedDict\n)R}" + text("items") + b"K\x01sb."),
        "attributes of a dictionary",
    ),
}


def larger(content: bytes) -> bytes:
    """The same file, but with 2^30 where there was the number 1000."""

    def change(pickle: bytes) -> bytes:
        return pickle.replace(b"M\xe8\x03", b"J\x00\x00\x00\x40")

    return rezipped(content, change) if content.startswith(b"PK") else change(content)


def old_file(pickle: bytes) -> bytes:
    """A file of PyTorch before 1.6 with another pickle in it."""
    return saved({}, _use_new_zipfile_serialization=False).replace(saved_pickle({}), pickle)


def saved_pickle(thing: object) -> bytes:
    with zipfile.ZipFile(io.BytesIO(saved(thing))) as archive:
        return archive.read("archive/data.pkl")


def twice(content: bytes) -> bytes:
    buffer = io.BytesIO(content)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("archive/DATA.PKL", with_pickle(doubling_lists()))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_file_that_claims_more_than_it_holds_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    content, said = HOSTILE[kind]
    with pytest.raises(ValueError, match=rf"x\.pt: [^\n]*{said}[^\n]*$"):
        read(content(), tmp_path)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "old"])
def test_what_weights_are_saved_as_is_read(tmp_path: Path, new: bool) -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    table = torch.arange(12.0).view(3, 4)
    thing = {
        "module": module.state_dict(),
        "views": [table[1:], table.t(), table[:0]],
        "parameter": nn.Parameter(table),
        "kinds": [table.to(dtype) for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool)],
        "plain": {"a": (1, 2.5, None, True), 3: "ü", "nothing": OrderedDict()},
    }
    found = read(saved(thing, _use_new_zipfile_serialization=new), tmp_path)
    assert_same(found, thing)
    assert found["module"]._metadata == thing["module"]._metadata  # type: ignore[index]


def test_every_flipped_bit_and_every_cut_is_noticed_or_harmless(tmp_path: Path) -> None:
    thing = {"weights": torch.randn(50, 7, generator=torch.Generator().manual_seed(0)), "step": 3, "names": ["a", "b"]}
    refused = 0
    for content in damaged(saved(thing), 60):
        try:
            found = read(content, tmp_path)
        except ValueError as error:
            assert str(error).startswith(f"{tmp_path / 'x.pt'}: ") and "\n" not in str(error)
            refused += 1
        else:
            assert_same(found, thing)
    assert refused > 20


def test_finite_numbers_are_told_from_others() -> None:
    largest = torch.full((3, 2), torch.finfo(torch.float32).max)
    assert is_finite(largest) and is_finite(largest[:0]) and is_finite(torch.tensor(1.0))
    for value in ("nan", "inf", "-inf"):
        assert not is_finite(torch.tensor([[1.0, float(value)], [2.0, 3.0]]).t())
    assert not is_finite(torch.tensor([float("inf"), -float("inf")]))
