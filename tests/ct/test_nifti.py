import gzip
import io
import struct
import sys
import threading

import nibabel as nib
import numpy as np
import pytest

from lesionkeras.ct.nifti import read_nifti, read_nifti_header, write_nifti
from lesionkeras.ct.orientation import CODES, reorient
from tests.ct.made_nifti import (
    IMAGE,
    LPS,
    MASK,
    RAS,
    check_like_nibabel,
    make,
    names,
    read,
    say,
)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("dtype", ["i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
def test_equals_nibabel(dtype, order):
    array = (abs(IMAGE) if dtype[0] == "u" else IMAGE).astype(dtype)
    check_like_nibabel(make(array, order=order))


def test_nifti_2_equals_nibabel():
    for order in "<>":
        data = make(version=2, order=order)
        assert read_nifti_header(io.BytesIO(data)).version == 2
        volume = read(data)
        np.testing.assert_array_equal(volume.array, IMAGE[:, ::-1].T)
        np.testing.assert_allclose(volume.spacing_mm, (2.5, 0.9, 0.7))


def test_hand_made_file():
    """No library between: 2 x 1 x 1 voxels, R to L, of .5 mm, by the tables of nifti1.h."""
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, 2, 1, 1, 1, 1, 1, 1)
    struct.pack_into("<hh", header, 70, 4, 16)
    struct.pack_into("<f", header, 108, 352)
    struct.pack_into("<hh", header, 252, 0, 1)
    struct.pack_into("<12f", header, 280, -0.5, 0, 0, 10, 0, 2, 0, 20, 0, 0, 3, 30)
    header[344:348] = b"n+1\0"
    volume = read(bytes(header) + struct.pack("<2h", 40, -100))
    assert volume.array.tolist() == [[[40, -100]]]
    # RAS (10, 20, 30) is LPS (-10, -20, 30); stored x grows to the left, as ours does.
    np.testing.assert_array_equal(volume.affine[:3, 3], [-10, -20, 30])
    assert volume.spacing_mm == (3, 2, 0.5)
    assert volume.source.code == "LAS" and volume.source.kind == "nifti"


@pytest.mark.parametrize("code", ["LAS", "RAS", "LPS", "SPL", "PIR", "AIL", "RSA"])
def test_orientations_equal_nibabel(code):
    target = nib.orientations.axcodes2ornt(code)
    image = nib.Nifti1Image(IMAGE, RAS).as_reoriented(
        nib.orientations.ornt_transform(nib.orientations.io_orientation(RAS), target)
    )
    data = make(np.asarray(image.dataobj), image.affine)
    check_like_nibabel(data)
    assert read(data).source.code == code
    np.testing.assert_array_equal(read(data).array, read(make()).array)


def test_parts_of_a_slice():
    """A slice larger than a part is read by rows, and a row larger than a part alone."""
    for shape in ((400, 300, 2), (20000, 5, 2), (3, 4, 2500), (90, 80, 20)):
        array = np.resize(IMAGE, shape).astype(np.float64)
        volume = read(gzip.compress(make(array), 1))
        np.testing.assert_array_equal(volume.array, array[:, ::-1].T.astype(np.int16))


def test_large_files_are_inflated_ahead(monkeypatch):
    """The thread ends with the reading, also where that breaks off, and finds the same damage."""
    monkeypatch.setattr("lesionkeras.ct.nifti_stream.THREAD_BYTES", 0)
    before = threading.active_count()
    data = gzip.compress(make(np.resize(IMAGE, (200, 100, 90))))
    volume = read(data)
    np.testing.assert_array_equal(volume.array[0, ::-1].T, np.resize(IMAGE, (200, 100, 90))[..., 0])
    assert say(data[:-1])[0] == say(data[: len(data) // 2])[0] == "truncated"
    assert say(data[:-8] + bytes([data[-8] ^ 1]) + data[-7:])[0] == "damaged"
    assert say(data[:900] + bytes(50) + data[950:])[0] in ("damaged", "truncated")
    assert say(gzip.compress(make(sform=0, qform=0) + bytes(10**7)))[0] == "no-geometry"
    assert threading.active_count() == before


def test_gzip_is_known_by_content(tmp_path):
    (tmp_path / "a.nii").write_bytes(gzip.compress(make()))
    (tmp_path / "b.nii.gz").write_bytes(make())
    (tmp_path / "Ünï 1.dat").write_bytes(gzip.compress(make()[:400]) + gzip.compress(make()[400:]))
    for path in tmp_path.iterdir():
        np.testing.assert_array_equal(read_nifti(path).array, IMAGE[:, ::-1].T)


@pytest.mark.parametrize("missing", ["isal", ""])
def test_zlib_stands_in_for_isal(monkeypatch, tmp_path, missing):
    if missing:
        monkeypatch.setitem(sys.modules, "isal", None)
        monkeypatch.setitem(sys.modules, "isal.igzip", None)
    data = gzip.compress(make())
    assert read(data).array[0, 0, 0] == IMAGE[0, -1, 0]
    assert say(data[:-9])[0] == "truncated"
    assert say(data[:-8] + bytes([data[-8] ^ 1]) + data[-7:])[0] == "damaged"
    write_nifti(tmp_path / "a.nii.gz", read(data))
    assert gzip.decompress((tmp_path / "a.nii.gz").read_bytes())[352:] == IMAGE.tobytes("F")


# Rescale and values -------------------------------------------------------------------------------


def test_rescale():
    stored = (IMAGE + 1024).astype(np.uint16)
    volume = read(make(stored, scl_slope=1, scl_inter=-1024))
    np.testing.assert_array_equal(volume.array, IMAGE[:, ::-1].T)
    assert volume.array.dtype == np.int16 and names(volume) == []
    doubled = read(make(IMAGE, scl_slope=2, scl_inter=10))
    np.testing.assert_array_equal(doubled.array, np.maximum(2 * IMAGE[:, ::-1].T + 10, -1024))


def test_slope_0_is_none():
    volume = read(make(scl_slope=0, scl_inter=-1024))
    np.testing.assert_array_equal(volume.array, IMAGE[:, ::-1].T)


def test_slope_not_whole_is_rounded():
    volume = read(make(scl_slope=0.5, scl_inter=0.25))
    np.testing.assert_array_equal(volume.array, np.rint(IMAGE[:, ::-1].T * 0.5 + 0.25))
    assert [str(c) for c in volume.corrections] == ["rounded-to-hu: values moved by up to 0.25 HU"]
    # 2 * x is whole whatever the type of the file.
    assert names(read(make(IMAGE.astype(np.float32), scl_slope=0.5, scl_inter=0))) != []
    assert names(read(make((2 * IMAGE).astype(np.int32), scl_slope=0.5, scl_inter=0))) == []


@pytest.mark.parametrize("field", ["scl_slope", "scl_inter"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_rescale_not_finite(field, value):
    header = {"scl_slope": 1, "scl_inter": 0, field: value}
    assert say(make(**header))[0] == "bad-rescale"


def test_negative_slope():
    assert say(make(scl_slope=-1, scl_inter=0)) == (
        "bad-rescale",
        "A rescale slope or intercept is no CT's in the file: found slope -1, intercept 0, wanted "
        "a positive slope and a finite intercept; set scl_slope to 1 and scl_inter to 0 if the "
        "stored values are HU.",
    )


def test_padding_becomes_air():
    padded = IMAGE.copy()
    padded[0], padded[1] = -2048, -3024
    volume = read(make(padded))
    assert volume.array.min() == -1024
    assert [str(c) for c in volume.corrections] == [
        "padding-to-air: values down to -3024 became -1024 HU"
    ]
    np.testing.assert_array_equal(volume.array, np.maximum(padded, -1024)[:, ::-1].T)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("kind", "outside"),
    [("image", "-1024 outside the field of view"), ("mask", "0 for background")],
)
def test_values_not_finite(value, kind, outside):
    array = MASK.astype(np.float32)
    array[3, 2, 1] = value
    assert say(make(array), kind) == (
        "not-finite",
        "A value is NaN or infinite in the file: found 1 such voxels in one part; save the volume "
        f"again with numbers, {outside}.",
    )


def test_values_beyond_int16():
    assert say(make((IMAGE.astype(np.int32) + 32768).astype(np.uint16))) == (
        "not-hu",
        f"Values cannot be Hounsfield units in the file: found {int(IMAGE.min()) + 32768} to "
        f"{int(IMAGE.max()) + 32768}, wanted values around -1024 to 3071; convert the scan again "
        "from its source, with its rescale slope and intercept.",
    )
    for value in (2**40, -(2**40)):
        array = IMAGE.astype(np.int64)
        array[0, 0, 0] = value
        assert say(make(array))[0] == "not-hu"


@pytest.mark.parametrize("dtype", ["u1", "i1"])
def test_8_bits(dtype):
    assert say(make(MASK.astype(dtype))) == (
        "not-16-bit",
        "A NIfTI file cannot hold CT values in the file: found 8 bits a voxel, wanted 16 bits or "
        "more; convert the scan again from its source.",
    )


def test_colours_and_complex():
    rgb = make(np.zeros((4, 3, 2), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])))
    assert say(rgb)[0] == "not-16-bit" and "found RGB," in say(rgb)[1]
    assert say(rgb, "mask")[0] == "bad-label"
    assert say(make(IMAGE.astype(np.complex64)))[0] == "not-hu"
    assert say(make(MASK.astype(np.complex64)), "mask")[0] == "bad-label"


# Masks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
def test_masks_of_any_type(dtype):
    volume = read(make(MASK.astype(dtype)), "mask")
    assert volume.array.dtype == np.uint8
    np.testing.assert_array_equal(volume.array, MASK[:, ::-1].T)
    assert names(volume) == ([] if dtype == "u1" else ["mask-to-uint8"])


def test_largest_label():
    assert read(make(MASK + np.uint8(252)), "mask").array.max() == 254


@pytest.mark.parametrize(("dtype", "value"), [("u1", 255), ("i2", -1), ("f4", 0.5), ("i4", 70000)])
def test_bad_labels(dtype, value):
    array = MASK.astype(dtype)
    array[1, 2, 3] = value
    assert say(make(array), "mask") == (
        "bad-label",
        f"A mask holds a value that is no label in the file: found {value}, wanted whole numbers "
        "from 0 to 254; map its values to labels: 0 background, 1 liver, 2 tumour.",
    )


def test_mask_slope_counts():
    assert say(make(MASK, scl_slope=0.5, scl_inter=0), "mask")[0] == "bad-label"
    np.testing.assert_array_equal(
        read(make(MASK, scl_slope=1, scl_inter=1), "mask").array, MASK[:, ::-1].T + 1
    )


# Geometry -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sform", "qform"), [(1, 0), (0, 1), (2, 4), (1, 1)])
def test_either_form(sform, qform):
    volume = read(make(sform=sform, qform=qform))
    np.testing.assert_allclose(volume.affine[:3, 2], LPS[:3, 0], atol=1e-6)
    np.testing.assert_allclose(volume.spacing_mm, (2.5, 0.9, 0.7), rtol=1e-6)


def test_form_without_code_does_not_count():
    def spoil(header):
        header["srow_x"] += 50

    np.testing.assert_allclose(
        read(make(change=spoil, sform=0)).affine, read(make()).affine, atol=1e-4
    )


@pytest.mark.parametrize("flip", [[1, 1, 1], [-1, 1, 1], [-1, -1, 1], [1, -1, -1], [-1, -1, -1]])
def test_qform_equals_nibabel(flip):
    data = make(affine=RAS @ np.diag([*flip, 1]), sform=0)
    check_like_nibabel(data)


def test_half_turn_in_single_precision():
    """Two of float32's roots of a half make 1 - c*c - d*d 5e-8, whose root would be .03 degrees."""

    def turn(header):
        header["quatern_b"], header["quatern_c"], header["quatern_d"] = 0, 0.5**0.5, 0.5**0.5

    affine = read(make(change=turn, sform=0)).affine  # j runs to S, k to A, i to L
    np.testing.assert_allclose(abs(affine[:3, :3]), np.diag([0.7, 2.5, 0.9])[:, ::-1], atol=1e-6)


@pytest.mark.parametrize(
    ("degrees", "agree"), [(0.0, True), (0.02, True), (-0.03, True), (0.2, False)]
)
def test_forms_of_nearly_a_half_turn(degrees, agree):
    """A quaternion of float32 cannot tell 180 from 179.97 degrees: .15 mm of 280."""
    angle = np.pi + np.deg2rad(degrees)
    turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])

    def turn(header):
        header["quatern_b"] = header["quatern_c"] = 0
        header["quatern_d"] = 1
        header["srow_x"][0, :2], header["srow_y"][0, :2] = turned * [0.7, 0.9]

    affine = np.diag([-0.7, -0.9, 2.5, 1])
    data = make(np.zeros((400, 3, 2), np.int16), affine, change=turn)
    if agree:
        np.testing.assert_allclose(read(data).spacing_mm, (2.5, 0.9, 0.7), rtol=1e-5)
    else:
        assert say(data)[0] == "affine-mismatch"


def test_forms_that_disagree():
    def move(header):
        header["qoffset_x"] += 0.3

    assert say(make(change=move)) == (
        "affine-mismatch",
        "sform and qform disagree in the file: found corners up to 0.30 mm apart, wanted at most "
        "0.1 mm; set one of the two to the true affine and the code of the other to 0.",
    )


def test_no_geometry():
    assert say(make(sform=0, qform=0)) == (
        "no-geometry",
        "A NIfTI file does not say where its voxels lie in the file: found sform_code 0 and "
        "qform_code 0; convert the scan again from its source, or set the affine and its code.",
    )
    assert say(make(xyzt_units=1))[0] == "no-geometry"
    assert "found metres" in say(make(xyzt_units=1))[1]
    assert read(make(xyzt_units=0)).spacing_mm == read(make(xyzt_units=10)).spacing_mm


@pytest.mark.parametrize("signs", [[1, 1, 1], [-1, -1, 1], [-1, 1, 1]])
def test_identity_affine(signs):
    assert say(make(affine=np.diag([*signs, 1.0]))) == (
        "identity-affine",
        "An affine is the identity, so that millimetres are unknown in the file: found 1 mm along "
        "each axis and the origin at 0; convert the scan again from its source, or set its true "
        "affine.",
    )


@pytest.mark.parametrize("code", CODES)
def test_identity_affine_that_was_turned(code):
    """What a tool leaves that turns an identity's axes: 1 mm is as false."""
    hollow = np.broadcast_to(np.int16(0), IMAGE.shape)
    view, affine = reorient(hollow, np.eye(4), code)
    name, text = say(make(np.ascontiguousarray(view), affine=affine))
    assert name == "identity-affine" and "found 1 mm along each axis and the origin at " in text


@pytest.mark.parametrize("factor", [0.001, 1000.0])
def test_voxels_in_another_unit_than_mm(factor):
    name, text = say(make(affine=np.diag([0.7 * factor, 0.9 * factor, 2.5 * factor, 1.0])))
    assert name == "no-geometry"
    assert text.startswith("A voxel size is impossible in millimetres in the file: found ")
    assert text.endswith(
        " mm, wanted 0.001 to 100 mm; convert the affine to millimetres and set xyzt_units to 2."
    )


def test_1_mm_elsewhere_is_no_identity():
    affine = np.eye(4)
    affine[:3, 3] = -100, -90, -80
    assert read(make(affine=affine)).spacing_mm == (1, 1, 1)


def test_known_affine_replaces_the_false_one():
    volume = read(make(affine=np.eye(4)), affine=LPS)
    np.testing.assert_allclose(volume.affine, read(make()).affine, atol=1e-4)
    assert (
        read_nifti_header(io.BytesIO(make(affine=np.eye(4)))).sform.tolist() == np.eye(4).tolist()
    )


def test_other_affines():
    def spoil(value, *places):
        def change(header):
            for name, idx in places:
                header[name][0, idx] = value

        return change

    rows = ("srow_x", "srow_y", "srow_z")
    assert say(make(change=spoil(np.nan, ("srow_x", 0))))[0] == "not-finite-affine"
    assert say(make(change=spoil(np.inf, ("srow_z", 3))))[0] == "not-finite-affine"
    assert say(make(change=spoil(0, *((row, 1) for row in rows))))[0] == "singular-affine"
    assert say(make(change=spoil(0.1, ("srow_y", 0))))[0] == "sheared-affine"
    assert say(make(sform=0, pixdim=0))[0] == "singular-affine"
    assert say(make(sform=0, quatern_b=np.nan))[0] == "not-finite-affine"
    assert say(make(quatern_b=np.nan))[0] == "affine-mismatch"
    assert say(make(sform=0, quatern_b=3))[0] == "damaged"
    assert say(make(sform=0, change=spoil(7, ("pixdim", 0))))[0] == "damaged"
    assert say(make(sform=0, change=spoil(-2, ("pixdim", 3))))[0] == "damaged"
