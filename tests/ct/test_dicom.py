"""Whole series: HU and place by hand and against SimpleITK, and what is refused by name."""

import copy
import logging
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from lesionkeras.ct import dicom_files
from lesionkeras.ct.dicom import list_folders, list_series, read_dicom
from lesionkeras.ct.findings import CtError
from lesionkeras.ct.volume import to_source
from tests.ct.made_dicom import (
    SERIES,
    make_slices,
    make_stored,
    set_pixels,
    write_slice,
    write_slices,
)

STORED = make_stored()
HU = STORED.astype(np.int16) - 1024
HAND_AFFINE = np.array(  # (z, y, x, 1) -> LPS mm of `make_slices`
    [[0, 0, 0.6, -100], [0, 0.8, 0, -120], [2.5, 0, 0, 50], [0, 0, 0, 1]]
)
TURNED = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])  # rows: unit vectors


def refuse(path, **options) -> CtError:
    with pytest.raises(CtError) as error:
        read_dicom(path, **options)
    return error.value


def names(volume) -> list[str]:
    return [correction.name for correction in volume.corrections]


def look_up(volume, place_mm) -> int:
    index = np.linalg.solve(volume.affine, [*place_mm, 1])[:3]
    assert abs(index - np.round(index)).max() < 1e-4
    return int(volume.array[tuple(np.round(index).astype(int))])


def test_hu_and_place_by_hand(tmp_path):
    volume = read_dicom(write_slices(make_slices(STORED), tmp_path))
    assert volume.array.dtype == np.int16 and volume.array.flags.c_contiguous
    np.testing.assert_array_equal(volume.array, HU)
    np.testing.assert_allclose(volume.affine, HAND_AFFINE, atol=1e-9)
    np.testing.assert_allclose(volume.spacing_mm, (2.5, 0.8, 0.6))
    assert volume.source.kind == "dicom" and volume.corrections == ()


@pytest.mark.parametrize(
    ("orientation", "step"),
    [
        ((1, 0, 0, 0, -1, 0), (0, 0, 2.5)),  # rows run to the front
        ((-1, 0, 0, 0, 1, 0), (0, 0, 2.5)),
        ((1, 0, 0, 0, 1, 0), (0, 0, -2.5)),  # from head to feet
        ((1, 0, 0, 0, 0, -1), (0, 2.5, 0)),  # coronal
        ((0, 1, 0, 0, 0, -1), (-2.5, 0, 0)),  # sagittal
        ((*TURNED[0], *TURNED[1]), 2.5 * np.cross(TURNED[0], TURNED[1])),  # oblique
    ],
)
def test_each_voxel_stays_in_its_place(tmp_path, orientation, step):
    slices = make_slices(STORED, orientation=orientation, step=step)
    volume = read_dicom(write_slices(slices, tmp_path))
    along_row, along_column = np.array(orientation[:3]), np.array(orientation[3:])
    for k, row, column in ((0, 0, 0), (4, 3, 5), (2, 1, 4), (3, 2, 0)):
        place = np.array([-100, -120, 50]) + k * np.array(step)
        place = place + row * 0.8 * along_column + column * 0.6 * along_row  # PS3.3 C.7.6.2.1.1
        assert look_up(volume, place) == HU[k, row, column]
    stored, _ = to_source(volume)
    assert stored.shape == HU.shape


def test_simpleitk_sees_the_same(tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    normal = np.cross(TURNED[0], TURNED[1])
    for number, (orientation, step) in enumerate(
        [
            ((1, 0, 0, 0, 1, 0), (0, 0, 2.5)),
            ((1, 0, 0, 0, -1, 0), (0, 0, 1.25)),
            ((*TURNED[0], *TURNED[1]), 3 * normal),
        ]
    ):
        folder = tmp_path / str(number)
        write_slices(make_slices(STORED, orientation=orientation, step=step), folder)
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
        image = reader.Execute()
        volume = read_dicom(folder)
        theirs = sitk.GetArrayFromImage(image)
        for index in ((0, 0, 0), (4, 3, 5), (1, 2, 3)):
            place = image.TransformIndexToPhysicalPoint([int(i) for i in index[::-1]])
            assert look_up(volume, place) == theirs[index]


@pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
    ],
)
def test_uncompressed_syntaxes(tmp_path, syntax):
    slices = make_slices(STORED)
    if syntax == ExplicitVRBigEndian:
        for ds, plane in zip(slices, STORED, strict=True):
            ds.add_new("PixelData", "OW", plane.astype(">u2").tobytes())
    volume = read_dicom(write_slices(slices, tmp_path, syntax))
    np.testing.assert_array_equal(volume.array, HU)
    np.testing.assert_allclose(volume.affine, HAND_AFFINE, atol=1e-9)


def test_order_comes_from_positions_alone(tmp_path):
    slices = make_slices(STORED)
    for number, name in enumerate(("b/x", "a/é 1.dcm", "9", "a/b/c.txt", "0")):
        slices[number].InstanceNumber = (number * 3) % 5
        write_slice(slices[number], tmp_path / name)
    np.testing.assert_array_equal(read_dicom(tmp_path).array, HU)


def test_zip_folder_in_zip_and_single_file(tmp_path):
    write_slices(make_slices(STORED), tmp_path / "CT")
    mask = make_slices((STORED % 2).astype(np.uint8))
    for ds in mask:
        ds.SeriesInstanceUID = SERIES + ".9"
        del ds.RescaleSlope, ds.RescaleIntercept
    write_slices(mask, tmp_path / "LIVER")
    archive = tmp_path / "all.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(tmp_path.rglob("IM*")):
            packed.write(path, f"ROOT/{path.relative_to(tmp_path).as_posix()}")
    assert list_folders(archive) == ["ROOT/CT", "ROOT/LIVER"]
    np.testing.assert_array_equal(read_dicom(archive / "ROOT/CT").array, HU)
    labels = read_dicom(archive / "ROOT" / "LIVER", kind="mask").array
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, STORED % 2)
    np.testing.assert_array_equal(read_dicom(tmp_path / "CT" / "IM3").array, HU)
    assert refuse(archive / "ROOT/BONE").name == "not-found"
    assert refuse(archive).name == "several-series"
    assert refuse(tmp_path / "CT" / "IM3" / "x").name == "not-found"


def test_a_mask_is_where_values_are_above_zero(tmp_path):
    stored = np.array([[[0, 1, 255]], [[7, 0, 0]]], np.uint8)
    volume = read_dicom(write_slices(make_slices(stored), tmp_path), kind="mask")
    assert volume.array.tolist() == [[[0, 1, 1]], [[1, 0, 0]]]
    assert refuse(tmp_path).name == "not-16-bit"


def test_several_series_are_listed_and_chosen(tmp_path):
    write_slices(make_slices(STORED), tmp_path / "a")
    late = make_slices(STORED[:, :3] + 1, spacing=(0.5, 0.5))
    for ds in late:
        ds.SeriesInstanceUID = SERIES + ".2"
    write_slices(late, tmp_path / "b")
    error = refuse(tmp_path)
    assert error.name == "several-series"
    assert error.found == (
        f"{SERIES} (CT, 5 files, 4 x 6 px, 0.8 x 0.6 mm) in a; "
        f"{SERIES}.2 (CT, 5 files, 3 x 6 px, 0.5 x 0.5 mm) in b"
    )
    np.testing.assert_array_equal(
        read_dicom(tmp_path, series_uid=SERIES + ".2").array, HU[:, :3] + 1
    )
    assert SERIES in str(error) and SERIES not in error.kept
    assert "found (CT, 5 files, 4 x 6 px, 0.8 x 0.6 mm) in a; (CT, 5 files, 3 x 6" in error.kept
    assert refuse(tmp_path, series_uid="1.2").what == "No series has this UID"
    summary = list_series(tmp_path)[1]
    assert (summary.series_uid, summary.num_files, summary.rows) == (SERIES + ".2", 5, 3)
    assert summary.spacing_mm == (0.5, 0.5) and summary.is_candidate


def test_scouts_reports_and_other_files_are_left_out(tmp_path):
    slices = make_slices(STORED)
    scout = copy.deepcopy(slices[0])
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    scout.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    own_series = copy.deepcopy(scout)
    own_series.SeriesInstanceUID = SERIES + ".8"
    dose = copy.deepcopy(slices[0])
    dose.SOPClassUID, dose.SeriesInstanceUID = "1.2.840.10008.5.1.4.1.1.7", SERIES + ".999"
    report = Dataset()
    report.SOPClassUID, report.Modality = "1.2.840.10008.5.1.4.1.1.88.33", "SR"
    for name, ds in (("s", scout), ("t", own_series), ("d", dose), ("r", report)):
        write_slice(ds, tmp_path / name)
    (tmp_path / ".DS_Store").write_bytes(b"\0\0\0\1Bud1" + bytes(200))
    (tmp_path / "notes.txt").write_text("nothing")
    volume = read_dicom(write_slices(slices, tmp_path))
    np.testing.assert_array_equal(volume.array, HU)
    assert names(volume) == ["other-files-left-out", "localizer-left-out"]
    assert volume.corrections[0].detail == "3 of 11 files"


def test_a_broken_file_named_like_a_slice_is_not_left_out(tmp_path):
    write_slices(make_slices(STORED), tmp_path)
    (tmp_path / "IM5").write_bytes(b"")
    error = refuse(tmp_path)
    assert (error.name, error.where) == ("truncated", "IM5")
    (tmp_path / "IM5").write_bytes(bytes(4000))
    assert refuse(tmp_path).name == "damaged"


def test_other_modality_and_other_patient(tmp_path):
    slices = make_slices(STORED)
    slices[3].Modality = "MR"
    error = refuse(write_slices(slices, tmp_path))
    assert (error.name, error.where, error.found) == ("not-ct", "IM3", "modality MR")
    slices[3].Modality, slices[1].PatientID = "CT", "SECRET"
    error = refuse(write_slices(slices, tmp_path))
    assert (error.name, error.where) == ("several-patients", "IM1")
    assert "SECRET" not in str(error)


def test_no_patient_in_logs_and_corrections(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    slices = make_slices(STORED)
    slices[2].add_new("PatientBirthDate", "DA", "19991231")
    slices.append(slices[0])
    volume = read_dicom(write_slices(slices, tmp_path))
    assert names(volume) == ["copies-left-out"]
    text = caplog.text + repr(volume.source)
    assert "PLANTED" not in text and SERIES not in text and "19991231" not in text


def test_bare_files_and_wrong_types_are_corrected(tmp_path):
    slices = make_slices(STORED)
    for ds in slices:
        ds.PixelSpacing = None
    folder = write_slices(slices, tmp_path)
    for path in folder.iterdir():
        data = path.read_bytes()
        data = data.replace(b"DS\0\0", b"DS\x08\x000,8\\0,60", 1)
        path.write_bytes(data[132 + 12 + int.from_bytes(data[140:144], "little") :])
    volume = read_dicom(folder)
    np.testing.assert_array_equal(volume.array, HU)
    np.testing.assert_allclose(volume.affine, HAND_AFFINE, atol=1e-9)
    assert names(volume) == ["no-meta-header", "vr-corrected"]


def test_enhanced_ct(tmp_path):
    ds, *_ = slices = make_slices(STORED)
    groups = []
    for number in (2, 0, 1, 4, 3):  # frames in no order
        frame, place, values = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = slices[number].ImagePositionPatient
        values.RescaleSlope, values.RescaleIntercept = "1", str(-1024 - number)
        frame.PlanePositionSequence = Sequence([place])
        frame.PixelValueTransformationSequence = Sequence([values])
        groups.append(frame)
    shared, turn, measures = Dataset(), Dataset(), Dataset()
    turn.ImageOrientationPatient = ds.ImageOrientationPatient
    measures.PixelSpacing = ds.PixelSpacing
    shared.PlaneOrientationSequence = Sequence([turn])
    shared.PixelMeasuresSequence = Sequence([measures])
    set_pixels(ds, STORED[[2, 0, 1, 4, 3]].reshape(20, 6))
    ds.Rows, ds.NumberOfFrames, ds.SOPClassUID = 4, 5, "1.2.840.10008.5.1.4.1.1.2.1"
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    ds.PerFrameFunctionalGroupsSequence = Sequence(groups)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(ds, keyword)
    write_slice(ds, tmp_path / "IM0")
    volume = read_dicom(tmp_path / "IM0")
    np.testing.assert_array_equal(volume.array, HU - np.arange(5)[:, None, None])
    np.testing.assert_allclose(volume.affine, HAND_AFFINE, atol=1e-9)
    assert names(volume) == ["per-slice-rescale"]
    del ds.PerFrameFunctionalGroupsSequence
    write_slice(ds, tmp_path / "IM0")
    assert refuse(tmp_path).name == "multi-frame"


def test_gaps_are_refused_and_resampled(tmp_path):
    slices = make_slices(STORED)
    del slices[2]
    error = refuse(write_slices(slices, tmp_path))
    assert error.name == "missing-slice"
    assert str(error) == (
        "1 slice is missing in the series between IM1 and IM2: found a distance of 5.000 mm, "
        "wanted 2.500 mm; export the series again, or resample it from its true positions "
        "(--resample)."
    )
    volume = read_dicom(tmp_path, resample=True)
    np.testing.assert_array_equal(volume.array, HU)  # values grow evenly from slice to slice
    np.testing.assert_allclose(volume.affine, HAND_AFFINE, atol=1e-9)
    assert names(volume) == ["resampled"]


def test_counts_tell_of_a_slice_missing_at_an_end(tmp_path):
    slices = make_slices(STORED)
    for ds in slices:
        ds.ImagesInAcquisition = 5
    assert read_dicom(write_slices(slices, tmp_path / "whole")).array.shape == (5, 4, 6)
    error = refuse(write_slices([*slices[:4], slices[0]], tmp_path / "cut"))
    assert (error.name, error.found) == ("missing-slice", "4 images")
    assert error.wanted == "5 (ImagesInAcquisition)"
    assert read_dicom(tmp_path / "cut", resample=True).array.shape == (4, 4, 6)


def test_tilt_is_refused_and_resampled(tmp_path):
    """Each slice lies one pixel, 0.8 mm, further down: 17.7 degrees."""
    stored = np.zeros((5, 9, 6), np.uint16) + 1000
    for number in range(5):
        stored[number, 6 - number, 2] = 1124  # a straight rod along z
    slices = make_slices(stored, step=(0, 0.8, 2.5))
    error = refuse(write_slices(slices, tmp_path))
    assert (error.name, error.found) == ("gantry-tilt", "17.74 degrees, 3.20 mm sideways")
    volume = read_dicom(tmp_path, resample=True)
    assert volume.array.shape == (5, 13, 6)
    assert (volume.array[:, 6, 2] == 100).all() and (volume.array == 100).sum() == 5
    assert look_up(volume, (-100 + 2 * 0.6, -120 + 6 * 0.8, 50 + 3 * 2.5)) == 100
    assert volume.array[0, 12, 0] == -1024  # where no slice was


def test_unsafe_and_damaged_archives(tmp_path, monkeypatch):
    def pack(name, member, data=b"x"):
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(member, data)
        return tmp_path / name

    link = zipfile.ZipInfo("IM0")
    link.external_attr = 0o120777 << 16
    for member in ("../a", "/a", "a/../../b", "C:\\a", link):
        assert refuse(pack("a.zip", member)).name == "unsafe-archive"
    assert refuse(pack("a.zip", "readme.txt")).name == "empty-folder"
    monkeypatch.setattr(dicom_files, "BOMB_BYTES", 1 << 20)
    assert refuse(pack("bomb.zip", "IM0", bytes((1 << 20) + 1))).name == "too-large"
    monkeypatch.setattr(dicom_files, "MAX_ARCHIVE_BYTES", 99)
    assert refuse(pack("large.zip", "IM0", bytes(100))).name == "too-large"
    data = pack("b.zip", "a").read_bytes()
    (tmp_path / "cut.zip").write_bytes(data[:-30])
    assert refuse(tmp_path / "cut.zip").name == "damaged"


def test_links_pipes_and_absent_paths(tmp_path):
    write_slices(make_slices(STORED), tmp_path / "CT")
    (tmp_path / "CT" / "up").symlink_to("..", target_is_directory=True)
    os.mkfifo(tmp_path / "CT" / "IM9")
    np.testing.assert_array_equal(read_dicom(tmp_path / "CT").array, HU)
    (tmp_path / "CT" / "IM8").symlink_to("gone")
    error = refuse(tmp_path / "CT")
    assert (error.name, error.where) == ("unreadable-file", "IM8")
    assert refuse(tmp_path / "none").name == "not-found"
    assert refuse(tmp_path / "CT" / "IM9").name == "unreadable-file"
    (tmp_path / "empty").mkdir()
    assert refuse(tmp_path / "empty").name == "empty-folder"


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    write_slices(make_slices(STORED), tmp_path)
    real_open = Path.open

    def forbid(self, *args, **kwargs):
        if self.name == "IM2":
            raise PermissionError(13, "Permission denied")
        return real_open(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", forbid)
    error = refuse(tmp_path)
    assert (error.name, error.where, error.found) == ("unreadable-file", "IM2", "Permission denied")


def test_dicomdir_is_never_followed(tmp_path):
    index = Dataset()
    index.FileSetID = "X"
    write_slices(make_slices(STORED), tmp_path)
    index.SOPClassUID = "1.2.840.10008.1.3.10"
    write_slice(index, tmp_path / "DICOMDIR")
    volume = read_dicom(tmp_path)
    np.testing.assert_array_equal(volume.array, HU)
    assert names(volume) == ["other-files-left-out"]


@pytest.mark.real
def test_ircadb_as_published(real_data):
    """Liver 1489 ml and its median of 113 HU, as in the data's description."""
    folder = real_data / "ircadb01" / "3Dircadb1.1"
    image = read_dicom(folder / "PATIENT_DICOM.zip")
    assert image.array.shape == (129, 512, 512) and image.corrections == ()
    np.testing.assert_allclose(image.spacing_mm, (1.6, 0.57, 0.57), atol=1e-6)
    assert "MASKS_DICOM/livertumor07" in list_folders(folder / "MASKS_DICOM.zip")
    liver = read_dicom(folder / "MASKS_DICOM.zip" / "MASKS_DICOM" / "liver", kind="mask")
    np.testing.assert_array_equal(liver.affine, image.affine)
    assert liver.array.sum() * np.prod(liver.spacing_mm) / 1000 == pytest.approx(1489, abs=1)
    assert abs(np.median(image.array[liver.array > 0]) - 113) <= 1
