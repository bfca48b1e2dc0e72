"""Stored words to HU by hand: bits, sign, padding, rescale."""

import numpy as np
import pytest

from lesionkeras.ct.dicom import read_dicom
from lesionkeras.ct.dicom_pixels import BEYOND, PADDED, build_table
from lesionkeras.ct.dicom_slices import PixelFormat
from lesionkeras.ct.findings import CtError
from tests.ct.made_dicom import make_slices, make_stored, set_pixels, write_slices

STORED = make_stored()
HU = STORED.astype(np.int16) - 1024


def look_up(words: list[int], **options) -> list[int]:
    pixels = {"bits_allocated": 16, "bits_stored": 16, "high_bit": 15, "is_signed": False}
    return build_table(PixelFormat(**{**pixels, **options}), "image").values[words].tolist()


@pytest.mark.parametrize(
    ("words", "options", "wanted"),
    [
        ([0, 1024, 1064], {"intercept": -1024.0}, [-1024, 0, 40]),
        ([65535, 1, 64512], {"is_signed": True}, [-1, 1, -1024]),
        ([0xF428, 0x0428], {"bits_stored": 12, "high_bit": 11}, [0x428, 0x428]),  # overlay above
        ([0x0FFF, 0x07FF], {"bits_stored": 12, "high_bit": 11, "is_signed": True}, [-1, 2047]),
        ([0x4280, 0x428F], {"bits_stored": 12, "high_bit": 15}, [0x428, 0x428]),  # left-justified
        ([0, 1, 3], {"slope": 0.5, "intercept": -10.0}, [-10, -10, -8]),  # -9.5 to even
        ([100, 4096], {"slope": 10.0, "intercept": -10240.0}, [-9240, 30720]),  # extended scale
    ],
)
def test_words_to_hu(words, options, wanted):
    assert look_up(words, **options) == wanted


@pytest.mark.parametrize(
    ("padding", "limit", "is_signed", "bits", "padded"),
    [
        (63536, None, True, 16, {63536}),
        (63536, None, False, 16, {63536}),
        (0, None, False, 16, {0}),
        (63536, None, False, 12, {63536, 2096, 2096 + 4096}),  # needs more bits than are stored
        (10, 12, False, 16, {10, 11, 12}),
        (12, 10, False, 16, {10, 11, 12}),
        (65534, 1, True, 16, {65534, 65535, 0, 1}),  # -2 to 1
    ],
)
def test_padding(padding, limit, is_signed, bits, padded):
    pixels = PixelFormat(16, bits, bits - 1, is_signed, padding, limit)
    table = build_table(pixels, "image")
    found = set(np.flatnonzero(table.flags == PADDED).tolist())
    assert padded <= found and all(table.values[list(found)] == -1024)
    if bits == 16:
        assert found == padded


def test_more_than_int16_is_marked():
    table = build_table(PixelFormat(16, 16, 15, False), "image")
    assert table.flags[32767] != BEYOND and table.flags[32768] == BEYOND
    assert table.values[65535] == 32767


def test_masks():
    table = build_table(PixelFormat(8, 8, 7, True), "mask")
    assert (
        table.values[[0, 1, 127, 128]].tolist() == [0, 1, 1, 0] and table.values.dtype == np.uint8
    )


def read(tmp_path, slices):
    return read_dicom(write_slices(slices, tmp_path))


def refuse(tmp_path, slices) -> CtError:
    with pytest.raises(CtError) as error:
        read(tmp_path, slices)
    return error.value


def test_rescale_of_each_slice(tmp_path):
    slices = make_slices(STORED)
    for number, ds in enumerate(slices):
        ds.RescaleIntercept, ds.RescaleSlope = str(-1024 + number), "2" if number == 3 else "1"
    volume = read(tmp_path, slices)
    wanted = HU + np.arange(5, dtype=np.int16)[:, None, None]
    wanted[3] += STORED[3].astype(np.int16)
    np.testing.assert_array_equal(volume.array, wanted)
    assert [str(one) for one in volume.corrections] == [
        "per-slice-rescale: 5 pairs of slope and intercept in 5 slices"
    ]


def test_fractions_are_rounded_and_said(tmp_path):
    volume = read(tmp_path, make_slices(STORED, slope="0.1", intercept="-100.25"))
    np.testing.assert_array_equal(volume.array, np.rint(STORED * 0.1 - 100.25))
    assert [one.name for one in volume.corrections] == ["rounded-to-hu"]


def test_padding_becomes_air_and_is_said(tmp_path):
    stored = STORED.astype(np.int16) - 1024
    stored[:, 0, :2] = -2000  # announced
    slices = make_slices(stored, intercept="0")
    for ds in slices:
        ds.add_new("PixelPaddingValue", "US", 63536)  # the bits of -2000 in the other type
    volume = read(tmp_path / "a", slices)
    assert (volume.array[:, 0, :2] == -1024).all() and (volume.array[:, 1:] == HU[:, 1:]).all()
    assert [str(one) for one in volume.corrections] == ["padding-to-air: 10 voxels, 8.3%"]
    stored[:, 0, :2] = -3024  # not announced
    volume = read(tmp_path / "b", make_slices(stored, intercept="0"))
    assert (volume.array[:, 0, :2] == -1024).all()
    assert [one.name for one in volume.corrections] == ["padding-to-air"]


@pytest.mark.parametrize(
    ("keyword", "value", "name"),
    [
        ("RescaleSlope", None, "no-rescale"),
        ("RescaleIntercept", None, "no-rescale"),
        ("RescaleSlope", "0", "bad-rescale"),
        ("RescaleSlope", "-1", "bad-rescale"),
        ("RescaleIntercept", "1e6", "bad-rescale"),
        ("RescaleSlope", "60", "bad-rescale"),  # leaves int16
        ("RescaleType", "ED", "not-hu"),
        ("RescaleIntercept", "-9999", "not-hu"),  # all below air
        ("PhotometricInterpretation", "MONOCHROME1", "monochrome1"),
        ("PhotometricInterpretation", "PALETTE COLOR", "not-16-bit"),
        ("SamplesPerPixel", 3, "not-16-bit"),
        ("BitsAllocated", 32, "not-16-bit"),
        ("BitsStored", 17, "damaged"),
        ("BitsStored", 0, "damaged"),
        ("HighBit", 3, "damaged"),
        ("PixelRepresentation", 2, "damaged"),
        ("Rows", 0, "damaged"),
        ("Rows", 5, "truncated"),
        ("Rows", 3, "damaged"),
        ("Columns", 9000, "too-large"),
        ("NumberOfFrames", 2, "multi-frame"),
        ("LossyImageCompression", "01", "not-decodable"),
        ("PixelSpacing", None, "no-geometry"),
        ("PixelSpacing", ["0", "1"], "no-geometry"),
        ("ImagePositionPatient", None, "no-geometry"),
        ("ImageOrientationPatient", None, "no-geometry"),
        ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0], "sheared-affine"),
        ("ImageOrientationPatient", [2, 0, 0, 0, 1, 0], "no-geometry"),
        ("PixelData", None, "no-pixels"),
    ],
)
def test_refused_by_name(tmp_path, keyword, value, name):
    slices = make_slices(STORED)
    for ds in slices:
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    error = refuse(tmp_path, slices)
    assert error.name == name, error
    assert "PLANTED" not in str(error)


def test_bytes_after_the_pixels_may_be_padding_only(tmp_path):
    slices = make_slices(STORED)
    for ds in slices:
        ds.PixelData += bytes(6)
    np.testing.assert_array_equal(read(tmp_path, slices).array, HU)
    for ds in slices:
        ds.PixelData += bytes(2)  # a column of four rows
    assert refuse(tmp_path, slices).name == "damaged"


def test_truncated_file_is_named(tmp_path):
    folder = write_slices(make_slices(STORED), tmp_path)
    path = folder / "IM2"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CtError) as error:
        read_dicom(folder)
    assert (error.value.name, error.value.where) == ("truncated", "IM2")


def test_not_subtracted_is_not_hu(tmp_path):
    slices = make_slices(np.full((3, 40, 40), 1080, np.uint16), intercept="0")
    assert refuse(tmp_path, slices).name == "not-hu"


def test_big_endian_mask_of_words(tmp_path):
    """Two pixels of eight bits in a big-endian word are stored the other way round."""
    plane = np.array([[0, 1, 1, 0]], np.uint8)
    slices = make_slices(np.stack([plane, plane]))
    for ds in slices:
        set_pixels(ds, plane)
        ds.add_new("PixelData", "OW", b"\1\0\0\1")
    folder = write_slices(slices, tmp_path, "1.2.840.10008.1.2.2")
    assert read_dicom(folder, kind="mask").array[0].tolist() == [[0, 1, 1, 0]]
