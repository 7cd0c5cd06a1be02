"""Tars as folders: what is in them is found and read as files are, and nothing else is."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hostile import NO_FILES, no_waiting
from hypothesis import given
from hypothesis import strategies as st
from image_files import noise, write
from PIL import Image
from tar_files import write_tar

from cgcl_fast.data import DataError, Reading, UnreadableImageError, list_images, read_file
from cgcl_fast.data import tars as module
from cgcl_fast.data.annotations.annotation import bytes_of
from cgcl_fast.data.decoding import look_at, read_size, read_stored
from cgcl_fast.data.tars import MemberFile, left_out, members, open_file, open_member, size_of_file, stem_of

pytestmark = pytest.mark.usefixtures("tar_cache")


def content_of(tar):
    found = {}
    for member in members(tar):
        with open_member(tar, member.offset, member.size) as file:
            found[member.name] = file.read()
    return found


FILES = {
    "b/2.jpg": b"two" * 400,
    "a.jpg": b"",
    "name with spaces and ümläute.png": bytes(range(256)) * 2,
    "/".join(["a folder of a long name"] * 12) + "/0.png": b"deep",
    "x" * 180 + ".png": b"long",
}


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_the_files_that_were_put_in(tmp_path, form):
    tar = write_tar(tmp_path / "a.tar", FILES, form)
    assert content_of(tar) == FILES and [member.name for member in members(tar)] == sorted(FILES)
    for name, data in FILES.items():
        with open_file(tar / name) as file:
            assert isinstance(file, MemberFile) and file.read() == data
        assert size_of_file(tar / name) == len(data)
    assert left_out(tar) == {}


def test_names_are_those_of_paths(tmp_path):
    tar = write_tar(tmp_path / "a.tar", {"./1.jpg": b"1", "b//2.jpg": b"2", "c/./3.jpg": b"3"}, tarfile.USTAR_FORMAT)
    assert content_of(tar) == {"1.jpg": b"1", "b/2.jpg": b"2", "c/3.jpg": b"3"}
    with open_file(str(tar) + "/./1.jpg") as file:
        assert file.read() == b"1"


@given(st.binary(max_size=200), st.lists(st.tuples(st.integers(0, 2), st.integers(-250, 250), st.integers(0, 99))))
def test_a_member_is_a_file_of_its_own(tmp_path_factory, data, moves):
    """Of any moves and reads, among neighbours that are never read."""
    tar = tmp_path_factory.getbasetemp() / "window.tar"
    write_tar(tar, {"0": b"before" * 50, "1": data, "2": b"after" * 50})
    offset = next(member.offset for member in members(tar) if member.name == "1")
    with open_member(tar, offset, len(data)) as file, io.BytesIO(data) as truth:
        for whence, distance, count in moves:
            start = (0, truth.tell(), len(data))[whence]
            if start + distance < 0:  # of which BytesIO makes 0
                with pytest.raises(OSError):
                    file.seek(distance, whence)
                continue
            assert file.seek(distance, whence) == truth.seek(start + distance)
            assert file.read(count) == truth.read(count)
        file.seek(0)
        assert file.read() == data
        with pytest.raises(OSError):  # by which others would read the tar
            file.fileno()


def test_what_is_no_file_or_leads_out_is_left_out_and_counted(tmp_path):
    tar = tmp_path / "a.tar"
    with tarfile.open(tar, "w") as opened:
        for name, kind in (
            ("folder", tarfile.DIRTYPE),
            ("1.jpg", tarfile.REGTYPE),
            ("2.jpg", tarfile.SYMTYPE),
            ("3.jpg", tarfile.LNKTYPE),
            ("4.jpg", tarfile.FIFOTYPE),
            ("5.jpg", tarfile.CHRTYPE),
            ("/6.jpg", tarfile.REGTYPE),
            ("../7.jpg", tarfile.REGTYPE),
            ("a/../../8.jpg", tarfile.REGTYPE),
            ("9.jpg", tarfile.REGTYPE),
            (".", tarfile.REGTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            member.pax_headers = {"path": "9\0.jpg"} if name == "9.jpg" else {}
            opened.addfile(member)
    assert [member.name for member in members(tar)] == ["1.jpg"]
    assert left_out(tar) == {
        "links": 2,
        "devices or unknown": 2,
        "with absolute names or ..": 5,
    }
    said = []
    assert list_images(tmp_path, tars=[tar], left_out=said.append) == [tar / "1.jpg"]
    assert said == ["9 files left out: 5 with absolute names or .., 2 devices or unknown, 2 links"]
    for name in ("2.jpg", "../7.jpg", "nothing.jpg"):
        with pytest.raises(OSError, match="no such file in the tar|Not a directory"):
            open_file(f"{tar}/{name}")


def test_two_members_of_one_name_are_refused(tmp_path):
    tar = tmp_path / "a.tar"
    with tarfile.open(tar, "w") as opened:
        for name in ("1.jpg", "2.jpg", "./1.jpg"):
            opened.addfile(tarfile.TarInfo(name))
    with pytest.raises(ValueError, match=r"a\.tar holds 1\.jpg twice; leave only one"):
        list(members(tar))


@pytest.mark.parametrize(
    ("kind", "compress"),
    [("gzip", gzip.compress), ("bzip2", bz2.compress), ("xz", lzma.compress)],
)
def test_compressed_tars_are_refused_by_their_content(tmp_path, kind, compress):
    whole = write_tar(tmp_path / "whole.tar", {"1.jpg": b"1"}).read_bytes()
    for name in ("a.tar", "a.tar.gz"):
        (tmp_path / name).write_bytes(compress(whole))
        with pytest.raises(
            ValueError, match=rf"{name} is compressed \({kind}\).* expected a plain tar, .*; decompress it"
        ) as why:
            list(members(tmp_path / name))
        assert "\n" not in str(why.value)


def test_a_tar_that_is_cut_anywhere_is_refused(tmp_path):
    data = write_tar(tmp_path / "whole.tar", {f"{n}.jpg": bytes([n]) * 700 for n in range(3)}).read_bytes()
    end = len(data.rstrip(b"\0"))  # the padding of the last member and two blocks follow
    for size in range(0, end + 512, 128):
        tar = tmp_path / f"{size}.tar"
        tar.write_bytes(data[:size])
        with pytest.raises(
            ValueError, match=rf"/{size}\.tar \({size} bytes\) is not a complete tar: after [0-3] members?, "
        ):
            list(members(tar))


def test_damaged_headers_are_refused_and_never_end_a_tar_early(tmp_path):
    data = write_tar(tmp_path / "whole.tar", {f"{n}.jpg": bytes([n]) * 700 for n in range(3)}).read_bytes()
    block = 512 + 1024  # of a member: its header, and its content
    for number in range(3):
        for place in (0, 100, 124, 130, 148, 156, 257):
            damaged = bytearray(data)
            damaged[number * block + place] ^= 0x15
            tar = tmp_path / f"{number}-{place}.tar"
            tar.write_bytes(damaged)
            with pytest.raises(ValueError, match=f"is not a complete tar: after {number} members?, "):
                list(members(tar))


def test_a_tar_behind_the_end_of_another_is_not_overlooked(tmp_path):
    data = write_tar(tmp_path / "one.tar", {"1.jpg": b"1"}).read_bytes()
    (tmp_path / "two.tar").write_bytes(data + write_tar(tmp_path / "other.tar", {"2.jpg": b"2"}).read_bytes())
    with pytest.raises(ValueError, match="after 1 member, something that is not a header: .* another tar was appended"):
        list(members(tmp_path / "two.tar"))


def test_headers_of_every_claim_end_in_one_line(tmp_path):
    """Sizes that lead back, or beyond everything, and headers inside headers."""

    def header(size, kind=b"0", name=b"1.jpg"):
        block = bytearray(512)
        block[: len(name)], block[124:136], block[156:157] = name, size, kind
        block[257:265] = b"ustar\x0000"
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
        return bytes(block)

    negative = b"\xff" * 11 + b"\x00"
    endless = b"\x80" + b"\x7f" * 11
    for number, claim in enumerate(
        (
            header(negative),
            header(b"%011o\0" % 3) + b"abc".ljust(512, b"\0") + header(negative),
            header(endless),
            header(negative, b"L", b"././@LongLink"),
            header(endless, b"x", b"pax"),
            header(b"%011o\0" % 14, b"x", b"pax") + b"14 size=-1024\n".ljust(512, b"\0") + header(b"%011o\0" % 3),
            header(b"%011o\0" % 0, b"x", b"pax") * 3000,
        )
    ):
        tar = tmp_path / f"{number}.tar"
        tar.write_bytes(claim + bytes(4096))
        with (
            no_waiting(20),
            pytest.raises(ValueError, match=rf"/{number}\.tar \(\d+ bytes\) is not a complete tar") as why,
        ):
            list(members(tar))
        assert "\n" not in str(why.value)


@given(st.data())
def test_damage_anywhere_never_gives_another_image(tmp_path_factory, data):
    """What is found in a tar of which some bytes have changed has its true content, unless those were it."""
    names = {f"{n}.jpg": zlib.crc32(bytes([n])).to_bytes(4, "big") * 150 for n in range(3)}
    tar = tmp_path_factory.getbasetemp() / "damaged.tar"
    whole = write_tar(tar, names).read_bytes()
    place, value = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 255))
    tar.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
    module._indexes.clear()
    try:
        index = module._read(tar, module._stamp(os.stat(tar)))
    except ValueError:
        return
    for name, (offset, size) in zip(index.names, index.places.tolist(), strict=True):
        if name in names and not offset <= place < offset + size:
            assert whole[offset : offset + size] == names[name]


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_is_not_waited_for(tmp_path, kind):
    NO_FILES[kind](tmp_path / "a.tar")
    with no_waiting(), pytest.raises(ValueError, match=rf"a\.tar cannot be read: {kind}, not a regular file"):
        list(members(tmp_path / "a.tar"))


def test_a_tar_that_is_missing_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"a\.tar cannot be read: No such file"):
        list(members(tmp_path / "a.tar"))
    with pytest.raises(FileNotFoundError):
        open_file(tmp_path / "a.tar" / "1.jpg")
    (tmp_path / "note").touch()
    with pytest.raises(NotADirectoryError):
        open_file(tmp_path / "note" / "1.jpg")


@pytest.mark.parametrize(
    ("name", "stem"),
    [("a-0.tar", "a-0"), ("a.TAR", "a"), ("a.tar.gz", "a"), ("a.tgz", "a"), ("a.zip", None), ("._a.tar", None)],
)
def test_names_of_tars(name, stem):
    assert stem_of(name) == stem


# ---- the index


def never(*_):
    raise AssertionError("reads the headers again")


def test_an_index_is_made_once_for_all_processes(tmp_path, tar_cache, monkeypatch):
    tar = write_tar(tmp_path / "a.tar", FILES)
    before = list(members(tar))
    (kept,) = tar_cache.iterdir()
    assert json.loads(kept.read_text())["tar"] == str(tar)
    monkeypatch.setattr(module, "_read", never)
    module._indexes.clear()  # as in another process
    assert list(members(tar)) == before
    module._indexes.clear()
    with open_file(tar / "b/2.jpg") as file:
        assert file.read() == FILES["b/2.jpg"]


def test_a_tar_that_is_written_anew_is_indexed_anew(tmp_path):
    tar = write_tar(tmp_path / "a.tar", {"1.jpg": b"one", "2.jpg": b"two"})
    assert content_of(tar) == {"1.jpg": b"one", "2.jpg": b"two"}
    times = os.stat(tar)
    write_tar(tar, {"2.jpg": b"zwei", "1.jpg": b"eins"})
    os.utime(tar, ns=(times.st_atime_ns, times.st_mtime_ns + 10**9))  # whatever the clock of the file system
    with pytest.raises(DataError, match=r"a\.tar has changed since its members were listed: start again"):
        open_file(tar / "1.jpg")
    with pytest.raises(DataError, match="has changed"):  # of the whole tar, not of this image
        look_at(tar / "1.jpg")
    assert content_of(tar) == {"1.jpg": b"eins", "2.jpg": b"zwei"}


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: None,
        lambda content: {**content, "version": 0},
        lambda content: {**content, "names": content["names"][:1]},
        lambda content: {**content, "names": content["names"][::-1]},
        lambda content: {**content, "names": [1, 2]},
        lambda content: {**content, "places": [[0, 10**9], [0, 1]]},
        lambda content: {**content, "places": [[-512, 3], [0, 1]]},
        lambda content: {**content, "places": [[0, 10**30], [0, 1]]},
        lambda content: {**content, "left_out": []},
        lambda content: [content],
    ],
)
def test_an_index_that_cannot_be_right_is_made_again(tmp_path, tar_cache, damage):
    tar = write_tar(tmp_path / "a.tar", {"1.jpg": b"one", "2.jpg": b"two"})
    before = list(members(tar))
    (kept,) = tar_cache.iterdir()
    kept.write_text(json.dumps(damage(json.loads(kept.read_text()))))
    module._indexes.clear()
    assert list(members(tar)) == before
    kept.write_bytes(b"\xff{")
    module._indexes.clear()
    assert list(members(tar)) == before
    assert json.loads(kept.read_text())["names"] == ["1.jpg", "2.jpg"] and list(tar_cache.iterdir()) == [kept]


def test_without_a_cache_all_works(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert content_of(write_tar(tmp_path / "a.tar", FILES)) == FILES


# ---- images


def pictures(folder: Path) -> dict[str, Reading]:
    """Files of every way in which images are opened, with how they are read."""
    folder.mkdir()
    photo = Image.fromarray(noise((40, 56, 3), "uint8", 0, 255))
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save(folder / "turned.jpg", exif=exif)
    photo.save(folder / "turned.png", exif=exif)
    for name in ("plain.png", "plain.webp", "plain.bmp", "plain.gif"):
        photo.save(folder / name)
    for compression in ("raw", "tiff_lzw", "tiff_deflate", "jpeg"):
        photo.save(folder / f"{compression}.tif", compression=compression)
    colour, grey = Reading(), Reading(1)
    found = dict.fromkeys((path.name for path in folder.iterdir()), colour)
    write(folder / "deep.png", noise((20, 30), "uint16", 0, 4000))
    deep = noise((20, 30, 3), "uint16", 0, 60000).astype(">u2").tobytes()
    rows = b"".join(b"\0" + deep[row * 180 : row * 180 + 180] for row in range(20))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = (30).to_bytes(4, "big") + (20).to_bytes(4, "big") + bytes((16, 2, 0, 0, 0))
    (folder / "colours.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    write(folder / "c.npy", noise((20, 30, 3), "float32", -1, 1))
    write(folder / "f.npy", np.asfortranarray(noise((20, 30), "int16", -9, 900)))
    found |= {"deep.png": grey, "colours.png": colour, "c.npy": colour, "f.npy": grey}
    try:
        import tifffile  # noqa: F401
    except ImportError:
        return found
    write(folder / "bands.tif", noise((20, 30, 5), "uint16", 0, 999), planarconfig="contig")
    write(folder / "packed.tif", noise((20, 30, 4), "float32", 0, 1), planarconfig="contig", compression="zlib")
    return found | {"bands.tif": Reading(5), "packed.tif": Reading(4)}


def test_every_kind_of_image_is_what_it_is_as_a_file(tmp_path):
    kinds = pictures(tmp_path / "loose")
    files = {name: (tmp_path / "loose" / name).read_bytes() for name in kinds}
    tar = write_tar(tmp_path / "all.tar", files)
    for name, reading in kinds.items():
        loose, packed = tmp_path / "loose" / name, tar / name
        truth, read = read_file(loose, reading), read_file(packed, reading)
        np.testing.assert_array_equal(read.numbers, truth.numbers)
        assert read.form == truth.form and read.values == truth.values, name
        assert look_at(packed, reading) == look_at(loose, reading)
        assert read_size(packed, reading) == read_size(loose, reading)
        assert read_stored(packed, reading=reading)[1:] == read_stored(loose, reading=reading)[1:]
        small = {"at_least": (8, 8), "reading": reading}
        same = np.asarray(read_stored(packed, **small).image) == np.asarray(read_stored(loose, **small).image)
        assert same.all(), name


def test_an_image_that_is_cut_off_does_not_go_on_in_the_next_one(tmp_path):
    """Each is followed by its own rest, which a reader that does not keep to the member would find."""
    kinds = pictures(tmp_path / "loose")
    for name, reading in kinds.items():
        data = (tmp_path / "loose" / name).read_bytes()
        cut = len(data) // 1024 * 512  # blocks, so that nothing lies between but a header
        if cut == 0:
            continue
        (tmp_path / "loose" / name).write_bytes(data[:cut])
        tar = write_tar(tmp_path / f"{name}.tar", {name: data[:cut], "rest": data[cut:]})
        reasons = []
        for path in (tmp_path / "loose" / name, tar / name):
            try:
                reasons.append(read_file(path, reading).numbers.tobytes())
            except UnreadableImageError as error:
                reasons.append(type(error))
        assert reasons[0] == reasons[1], name


def test_suffixes_that_are_unknown_are_told_by_content(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    files = {"1.picture": data, "2.cls": b"7", "3": data, ".hidden.png": data, "a/.b/4.png": data, "5.json": b"{}"}
    tar = write_tar(tmp_path / "a.tar", files)
    said = []
    assert list_images(tmp_path, tars=[tar], left_out=said.append) == [tar / "1.picture", tar / "3"]
    assert said == ["1 file left out: 1 .cls"]


def test_texts_of_more_than_is_read_are_refused(tmp_path):
    tar = write_tar(tmp_path / "a.tar", {"1.txt": b"x" * 100, "2.txt": b"y" * 101})
    assert bytes_of(tar / "1.txt", 100) == b"x" * 100
    with pytest.raises(ValueError, match="larger than"):
        bytes_of(tar / "2.txt", 100)
