"""Clean series and files in all the ways in which they may differ: none may be refused."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from tests.ct.defects import dicom_files as files
from tests.ct.defects import nifti_files as nifti
from tests.ct.defects.cases import RIGHT, Case, Defect, accept
from tests.ct.defects.scans import HANDS, make_mask, make_scan

DEGREES = (0, 0, 0.01, 0.3, 2, 7, 20, 40)
# Compressed series take half a second for a decoder's process, so there are fewer.
SYNTAXES = (*files.PLAIN * 8, *[DeflatedExplicitVRLittleEndian] * 4, *files.COMPRESSED)


def _round_positions(rng: np.random.Generator, datasets: list[Dataset]) -> None:
    """Write positions with two to four decimals, as many scanners do: a tilt of .01 degrees."""
    digits = int(rng.integers(2, 5))
    for ds in datasets:
        ds.ImagePositionPatient = [f"{float(v):.{digits}f}" for v in ds.ImagePositionPatient]


def _round_spacing(rng: np.random.Generator, datasets: list[Dataset]) -> None:
    """Write spacing as single precision does: .7249999 in some slices and .725 in the others."""
    for ds in datasets:
        values = [float(np.float32(v)) for v in ds.PixelSpacing]
        digits = int(rng.choice([6, 9, 12]))
        ds.PixelSpacing = [f"{v:.{digits}f}"[:16] for v in values]


def _round_orientation(rng: np.random.Generator, datasets: list[Dataset]) -> None:
    """Write cosines with six decimals, and as -0.0 or 6e-17 where they are 0."""
    for ds in datasets:
        values = [round(float(v), 6) for v in ds.ImageOrientationPatient]
        small = str(rng.choice(["-0", "0.0", "6.123234e-17", "-1.2e-16"]))
        ds.ImageOrientationPatient = [small if v == 0 else f"{v:.6f}" for v in values]


def _make_time(rng: np.random.Generator) -> str:
    """Return a time of a day as HHMMSS.F."""
    minutes, seconds = divmod(int(rng.integers(10**5, 2 * 10**5)) % 86400, 60)
    return f"{minutes // 60:02d}{minutes % 60:02d}{seconds:02d}.5"


def _vary_tags(rng: np.random.Generator, datasets: list[Dataset]) -> None:
    """Change what a scanner may write one way or the other."""
    for ds in datasets:
        ds.WindowCenter = [["40", "300"], "40", ""][int(rng.integers(3))]
        ds.ContentTime, ds.AcquisitionTime = _make_time(rng), "101010"
        ds.AcquisitionNumber = [1, 3, ""][int(rng.integers(3))]
        ds.ImageComments = "nothing to see"
    if rng.random() < 0.3:  # an arm was moved or the dose changed on the way
        for ds in datasets[len(datasets) // 2 :]:
            ds.XRayTubeCurrent = "200"
    if rng.random() < 0.3:
        for ds in datasets:
            ds.ImageType = ["DERIVED", "SECONDARY", "MPR"]
    if rng.random() < 0.3:
        for ds in datasets:
            ds.PatientName = ds.PatientID = ds.PatientBirthDate = ""
    if rng.random() < 0.2:
        for ds in datasets:
            ds.add_new("PixelPaddingValue", "SS" if ds.PixelRepresentation else "US", 0)
            if ds.PixelRepresentation or float(ds.RescaleIntercept) > -8192:
                ds["PixelPaddingValue"].value = -32768 if ds.PixelRepresentation else 65535


def make_dicom(rng: np.random.Generator, folder: Path) -> Case:
    """Return a clean series in a folder, nested or not, or in a zip."""
    hand = HANDS[int(rng.integers(len(HANDS)))] if rng.random() < 0.4 else None
    scan = make_scan(rng, hand, degrees=float(rng.choice(DEGREES)))
    datasets = files.make_series(rng, scan)
    for change in (_round_positions, _round_spacing, _round_orientation, _vary_tags):
        if rng.random() < 0.3:
            change(rng, datasets)
    name = ["CT", "a b/c/Sérié 1", "x/y.z/1.2.3"][int(rng.integers(3))]
    files.write_series(rng, datasets, folder / "D" / name, str(rng.choice(SYNTAXES)))
    if rng.random() < 0.85:
        return Case(folder / "D", scan)
    path = folder / "D.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted((folder / "D").rglob("*")):
            archive.write(file, file.relative_to(folder))
    return Case(path, scan, not_for=("SimpleITK", "nibabel"))


def make_nifti(rng: np.random.Generator, folder: Path) -> Case:
    """Return a clean file: any orientation, type, version, byte order and form."""
    hand = HANDS[int(rng.integers(len(HANDS)))]
    scan = make_scan(rng, hand, degrees=float(rng.choice(DEGREES)))
    if rng.random() < 0.1:  # a long axis shows what single precision does to forms
        array = np.repeat(scan.array, 16, int(rng.integers(3)))
        scan = replace(scan, array=np.ascontiguousarray(array))
    dtype = str(rng.choice(["int16", "int16", "int32", "float32", "float64"]))
    qform, sform = [(1, 1), (1, 0), (0, 1), (2, 1), (1, 4)][int(rng.integers(5))]
    version = int(rng.choice([1, 1, 1, 2]))
    file = nifti.make_nifti(scan, dtype, version=version, qform=qform, sform=sform)
    file.order = str(rng.choice(["<", "<", ">"]))
    header = file.header
    header["scl_slope"] = rng.choice([0, 1])
    header["descrip"], header["intent_name"] = b"made 5.0.10", b""
    header["cal_min"], header["cal_max"] = -1024, 3071
    header["pixdim"][4:] = rng.choice([0, 1])
    header["dim"][4:] = rng.choice([0, 1])
    header["xyzt_units"] = rng.choice([0, 2, 10])  # unknown; mm; mm and seconds
    name = str(rng.choice(["volume-3.nii", "scan.nii.gz", "liver 01_0000.nii.gz", "a.b.c.nii"]))
    return Case(file.write(folder / name), scan)


def make_mask_file(rng: np.random.Generator, folder: Path) -> Case:
    """Return a clean image and its mask, whose affine went through single precision."""
    hand = HANDS[int(rng.integers(len(HANDS)))]
    scan = make_scan(rng, hand, degrees=float(rng.choice(DEGREES)))
    qform, sform = [(1, 1), (1, 0), (0, 1)][int(rng.integers(3))]
    nifti.make_nifti(scan, qform=qform, sform=sform).write(folder / "image.nii.gz")
    mask = nifti.make_nifti(make_mask(rng, scan), "uint8", qform=1, sform=1)
    return Case(folder / "image.nii.gz", scan, mask=mask.write(folder / "mask.nii.gz"))


def make_folder(rng: np.random.Generator, folder: Path) -> Case:
    """Return nnU-Net's layout with one case."""
    case = make_nifti(rng, folder)
    path = folder / "D" / "imagesTr" / "case_001_0000.nii.gz"
    path.parent.mkdir(parents=True)
    (folder / "D" / "dataset.json").write_text('{"channel_names": {"0": "CT"}}')
    content = nifti.gzip.compress(case.path.read_bytes(), 1)
    path.write_bytes(case.path.read_bytes() if case.path.suffix == ".gz" else content)
    return Case(folder / "D", case.truth, not_for=("SimpleITK", "nibabel"))


def make_any(rng: np.random.Generator, folder: Path) -> Case:
    """Return any of these."""
    makers = (make_dicom, make_nifti, make_mask_file, make_folder)
    return makers[int(rng.choice(4, p=[0.5, 0.35, 0.1, 0.05]))](rng, folder)


CLEAN: Defect = accept(make_any, RIGHT)
