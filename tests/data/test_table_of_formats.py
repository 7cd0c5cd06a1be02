"""Formats, modes and suffixes: files that installed libraries write are read correctly, or rejected with a reason."""

from __future__ import annotations

from pathlib import Path

import pytest
import table_of_formats as table
from PIL import Image
from table_of_formats import EQUAL, LOSSY, NEARLY, REFUSED, UNREAD, WRONG, Found

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:PIL")  # of formats that it will not read one day

DOCUMENT = Path(__file__).parents[2] / "docs" / "formats.md"


@pytest.fixture(scope="module")
def modes(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Found]:
    found = table.of_modes(tmp_path_factory.mktemp("modes"), slow=False)
    return {(name, mode): one for name, mode, one in found}


def has_sign(name: str) -> bool:
    """Whether the beginning of a file says that it is of this format."""
    return name == "MPO" or Image.OPEN[name][1] is not None


def test_every_mode_of_every_format_is_read_right_or_named(modes: dict[tuple[str, str], Found]) -> None:
    for key, found in modes.items():
        assert WRONG not in (found.read, found.again), f"{key}: {found}"
        assert found.read != UNREAD or found.reason.isprintable(), key
        upper, other = found.renamed
        assert upper == EQUAL and (other == EQUAL or (other == UNREAD and not has_sign(key[0]))), f"{key}: {found}"
    plain = [("BMP", "1 L P RGB"), ("PNG", "1 L P RGB I;16"), ("PPM", "1 L RGB I"), ("TGA", "L P RGB")]
    plain += [("TIFF", "1 L P RGB CMYK I;16 I F"), ("GIF", "1 L P RGB"), ("PCX", "1 L P RGB"), ("SGI", "L RGB")]
    for name, kinds in plain:
        assert all(modes[name, mode].read == EQUAL for mode in kinds.split()), name
    for name, kinds in (("PNG", "LA RGBA"), ("TIFF", "LA RGBA"), ("TGA", "LA RGBA")):
        assert all(table.cell(modes[name, mode]) == "=α" for mode in kinds.split()), name
    assert all(modes["JPEG", mode].read in (EQUAL, NEARLY) for mode in ("L", "RGB", "CMYK", "YCbCr"))


def test_every_suffix_will_do_in_upper_case_and_wrong(tmp_path: Path) -> None:
    """Content decides; only what has no sign at its beginning needs its suffix."""
    for name, called in table.of_suffixes(tmp_path, slow=False):
        *own, upper, other = called
        if name in REFUSED or name not in {*Image.OPEN, "MPO"}:  # which Pillow opens as a JPEG
            assert not any(one.read or one.listed for one in own) and all(one.reason for one in called), name
            continue
        assert all(one.read and one.listed for one in (*own, upper)), (name, called)
        assert other.listed and (other.read or (not has_sign(name) and other.reason)), (name, other)


def test_tiffs_of_every_type_and_number_of_bands_come_back(tmp_path: Path) -> None:
    pytest.importorskip("tifffile")
    for kind, bands, found in table.of_bands(tmp_path):
        assert found == Found(EQUAL, False, f"TIFF {kind}", EQUAL), (kind, bands)  # whatever their suffix


def test_the_document_says_what_is_so(modes: dict[tuple[str, str], Found]) -> None:
    """But for what the codecs that are installed decide, and what only some versions of Pillow write."""
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text.startswith(table.HEAD) and table.WRITTEN in text and table.BANDS_HEAD in text
    lines = text[text.index("## Modes") : text.index(table.WRITTEN)].splitlines()
    head, _, *rows = ([part.strip() for part in line[1:-1].split("|")] for line in lines if line.startswith("|"))
    told = {(row[0], mode): sign for row in rows for mode, sign in zip(head[1:], row[1:], strict=True) if sign}
    compared = 0
    for key in told.keys() & modes.keys():
        signs = {told[key], table.cell(modes[key])}
        if key[0] not in LOSSY and all(sign.startswith((EQUAL, NEARLY)) for sign in signs):
            assert len(signs) == 1, (
                f"{key}: {signs}; python tests/data/table_of_formats.py docs/formats.md writes it anew"
            )
            compared += 1
    assert compared > 50
