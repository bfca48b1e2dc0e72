"""Headers against pydicom, hand-made bytes, and limits."""

import io
import struct
import time
import warnings
import zlib
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_files

from lesionkeras.ct import dicom_parse
from lesionkeras.ct import dicom_tags as tags
from lesionkeras.ct.dicom_parse import Header, inflate, parse_header
from lesionkeras.ct.findings import CtError

PREAMBLE = bytes(128) + b"DICM"
ROWS = struct.pack("<HH2sHH", 0x28, 0x10, b"US", 2, 7)
DEEP = struct.pack("<HHI", 0x0008, 0x1140, 0xFFFFFFFF) + struct.pack(
    "<HHI", 0xFFFE, 0xE000, 2**32 - 1
)


def make_text(group: int, number: int, vr: bytes, text: bytes) -> bytes:
    return struct.pack("<HH2sH", group, number, vr, len(text)) + text


def make_meta(syntax: bytes) -> bytes:
    return PREAMBLE + make_text(2, 0x10, b"UI", syntax + b"\0" * (len(syntax) % 2))


def parse(data: bytes) -> Header | None:
    return parse_header(io.BytesIO(data), len(data), "a.dcm")


def refuse(data: bytes) -> str:
    with pytest.raises(CtError) as error:
        parse(data)
    assert error.value.where == "a.dcm"
    return error.value.name


SHARED = [
    path
    for path in map(Path, get_testdata_files("*.dcm"))
    if path.parent.name == "test_files" and path.name not in ("rtplan_truncated.dcm", "no_meta.dcm")
]


@pytest.mark.parametrize("path", SHARED, ids=lambda path: path.name)
def test_pydicom_reads_the_same(path):
    """Every kept number and word of the files that pydicom brings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = pydicom.dcmread(path, force=True, stop_before_pixels=True)
    with path.open("rb") as file:
        header = parse_header(file, path.stat().st_size, path.name)
    assert header is not None
    syntax = theirs.file_meta.get("TransferSyntaxUID") if hasattr(theirs, "file_meta") else None
    assert syntax is None or header.syntax == syntax
    if "Rows" not in theirs:
        assert tags.ROWS not in header.elements
        return
    order = "big" if header.is_big_endian else "little"
    assert int.from_bytes(header.elements[tags.ROWS].value, order) == theirs.Rows
    for tag in (tags.SERIES, tags.POSITION, tags.SLOPE, tags.PIXEL_SPACING):
        text = (
            "" if tag not in header.elements else header.elements[tag].value.decode().strip("\0 ")
        )
        value = theirs.get(tag).value if tag in theirs else None
        values = value if isinstance(value, pydicom.multival.MultiValue) else [value]
        words = [str(word) for word in values if word not in (None, "")]
        assert [word.strip() for word in text.split("\\") if word] == words
    assert header.pixels_vr in ("OB", "OW")


def test_by_hand():
    name = make_text(0x10, 0x10, b"PN", b"DOE^JOHN")
    pixels = struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OW", 0, 98)
    data = make_meta(b"1.2.840.10008.1.2.1") + name + ROWS + pixels + bytes(98)
    header = parse(data)
    assert header.elements[tags.ROWS].value == b"\x07\x00"
    assert header.pixels_offset == len(data) - 98 and header.pixels_length == 98
    assert b"DOE" not in repr(header).encode()  # only a hash is kept
    assert len(header.elements[tags.PATIENT_NAME].value) == 32


def test_what_is_not_dicom_is_none():
    assert parse(b"") is None
    assert parse(b"%PDF-1.7" + bytes(500)) is None
    assert parse(b"\x08\x00") is None
    directory = PREAMBLE + make_text(2, 2, b"UI", b"1.2.840.10008.1.3.10")
    assert parse(directory) is None


def test_elements_of_an_item_do_not_reach_the_data_set():
    inner = make_text(0x28, 0x1052, b"DS", b"77")
    item = struct.pack("<HHI", 0xFFFE, 0xE000, len(inner)) + inner
    sequence = struct.pack("<HH2sHI", 0x08, 0x1140, b"SQ", 0, len(item)) + item
    open_end = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    endless = struct.pack("<HH2sHI", 0x09, 0x1140, b"UN", 0, 2**32 - 1)
    implicit = struct.pack("<HHI", 0x28, 0x1053, 2) + b"88"
    endless += struct.pack("<HHI", 0xFFFE, 0xE000, 2**32 - 1) + implicit + open_end
    header = parse(make_meta(b"1.2.840.10008.1.2.1") + sequence + endless + ROWS)
    assert tags.INTERCEPT not in header.elements and tags.SLOPE not in header.elements
    assert tags.ROWS in header.elements


def test_syntax_of_the_file_wins():
    implicit = struct.pack("<HHI", 8, 0x60, 2) + b"CT" + struct.pack("<HHIH", 0x28, 0x10, 2, 9)
    header = parse(make_meta(b"1.2.840.10008.1.2.1") + implicit)
    assert header.syntax == tags.IMPLICIT and header.num_odd == 1
    assert header.elements[tags.MODALITY].value == b"CT"
    explicit = make_text(8, 0x60, b"CS", b"CT") + ROWS
    assert parse(make_meta(b"1.2.840.10008.1.2") + explicit).syntax == tags.EXPLICIT
    bare = parse(explicit)
    assert not bare.has_meta and bare.elements[tags.ROWS].value == b"\x07\x00"


def test_ends_and_depths_are_named():
    meta = make_meta(b"1.2.840.10008.1.2")
    assert refuse(meta + DEEP * 300) == "damaged"
    assert refuse(meta + DEEP) == "truncated"
    assert refuse(meta + struct.pack("<HHI", 8, 0x1111, 2**32 - 16)) == "truncated"
    assert refuse(meta[:-3]) == "truncated"
    assert refuse(meta + struct.pack("<HHI", 8, 8, 1 << 17) + bytes(1 << 17)) == "too-large"
    no_item = struct.pack("<HHI", 8, 0x1140, 2**32 - 1) + bytes(16)
    assert refuse(meta + no_item) == "damaged"


def test_limits(monkeypatch):
    meta = make_meta(b"1.2.840.10008.1.2")
    many = meta + struct.pack("<HHI", 9, 1, 0) * 1000
    monkeypatch.setattr(dicom_parse, "MAX_ELEMENTS", 999)
    assert refuse(many) == "too-large"
    monkeypatch.setattr(dicom_parse, "MAX_HEADER_BYTES", 5000)
    assert refuse(meta + struct.pack("<HHI", 9, 1, 6000) + bytes(6000)) == "too-large"


def test_many_elements_end_soon():
    data = make_meta(b"1.2.840.10008.1.2") + struct.pack("<HHI", 9, 1, 0) * 300_000
    start = time.process_time()
    assert refuse(data) == "too-large"
    assert time.process_time() - start < 2


def test_deflated(monkeypatch):
    packer = zlib.compressobj(wbits=-15)
    packed = packer.compress(make_text(8, 0x60, b"CS", b"CT") + ROWS) + packer.flush()
    header = parse(make_meta(b"1.2.840.10008.1.2.1.99") + packed)
    assert header.elements[tags.ROWS].value == b"\x07\x00"
    assert header.deflated_offset == len(make_meta(b"1.2.840.10008.1.2.1.99"))
    assert refuse(make_meta(b"1.2.840.10008.1.2.1.99") + packed[:-4]) == "truncated"
    assert refuse(make_meta(b"1.2.840.10008.1.2.1.99") + b"\xff" * 50) == "damaged"
    monkeypatch.setattr(dicom_parse, "MAX_INFLATED_BYTES", 19)
    with pytest.raises(CtError) as error:
        inflate(packed, "a.dcm")
    assert error.value.name == "too-large"
