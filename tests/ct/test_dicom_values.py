"""Numbers in the types that the standard wants, and in those that archives make of them."""

import struct

import pytest

from lesionkeras.ct import dicom_tags as tags
from lesionkeras.ct.dicom_parse import Element
from lesionkeras.ct.dicom_values import DataSet
from lesionkeras.ct.findings import CtError


def read(vr: str, value: bytes, count: int = 1, tag: int = tags.SLOPE, big: bool = False):
    data = DataSet({tag: Element(vr, value)}, "a.dcm", big)
    return data.read_numbers(tag, count, "bad-rescale"), data.num_odd[0]


@pytest.mark.parametrize(
    ("vr", "value", "number", "num_odd"),
    [
        ("DS", b"1.5 ", 1.5, 0),
        ("", b"-1.5e2\0", -150.0, 0),
        ("UN", b" +.5", 0.5, 0),
        ("LO", b"2", 2.0, 1),
        ("DS", b"0,703", 0.703, 1),
        ("DS", b"-12,5", -12.5, 1),
        ("FD", struct.pack("<d", 0.25), 0.25, 1),
        ("SS", struct.pack("<h", -1024), -1024.0, 1),
    ],
)
def test_one_number(vr, value, number, num_odd):
    assert read(vr, value) == ([number], num_odd)


@pytest.mark.parametrize(
    "value",
    [b"NaN", b"inf", b"1_000", b"one", b"1,024", b"0x10", b"1e999", b"1\\2", b"1 2", b"\xb2"],
)
def test_no_number(value):
    with pytest.raises(CtError) as error:
        read("DS", value)
    assert error.value.name == "bad-rescale" and error.value.where == "a.dcm"
    assert "RescaleSlope" in error.value.what


def test_absent_and_empty():
    assert read("DS", b"  ") == (None, 0)
    assert DataSet({}, "a").read_numbers(tags.SLOPE, 1, "damaged") is None


def test_byte_order_and_zero():
    assert read("US", b"\x01\x02", 1, tags.ROWS)[0] == [513]
    assert read("US", b"\x01\x02", 1, tags.ROWS, big=True)[0] == [258]
    assert read("US", b"\0\0", 1, tags.SIGN)[0] == [0]


def test_bytes_of_no_number():
    for vr, value in (("US", b"\1\2\3"), ("OB", b"\1\2"), ("FD", struct.pack("<d", float("nan")))):
        with pytest.raises(CtError):
            read(vr, value, 1, tags.ROWS)


def test_whole_numbers():
    data = DataSet({tags.NUM_FRAMES: Element("IS", b"2.0")}, "a")
    assert (data.read_integer(tags.NUM_FRAMES, "damaged"), data.num_odd) == (2, [1])
    data = DataSet({tags.NUM_FRAMES: Element("IS", b"2.5")}, "a")
    with pytest.raises(CtError, match=r"NumberOfFrames is not a whole number in a: found 2\.5"):
        data.read_integer(tags.NUM_FRAMES, "damaged")


def test_items_share_place_and_count():
    inner = {tags.SLOPE: Element("LO", b"2")}
    data = DataSet({tags.PIXEL_VALUES: Element("SQ", [inner])}, "a", True)
    (item,) = data.read_items(tags.PIXEL_VALUES)
    assert item.read_numbers(tags.SLOPE, 1, "damaged") == [2.0]
    assert (item.where, item.is_big_endian, data.num_odd) == ("a", True, [1])
    assert data.read_text(tags.PIXEL_VALUES) == "" and data.read_items(tags.SLOPE) == []


@pytest.mark.parametrize(
    ("vr", "value", "pattern"),
    [
        ("US", struct.pack("<H", 63536), 63536),
        ("SS", struct.pack("<h", -2000), 63536),
        ("", struct.pack("<h", -2000), 63536),
        ("IS", b"-2000 ", 63536),
        ("SL", struct.pack("<i", -2000), 63536),
    ],
)
def test_padding_is_read_as_bits(vr, value, pattern):
    data = DataSet({tags.PADDING: Element(vr, value)}, "a")
    assert data.read_pattern(tags.PADDING, 2) == pattern
