"""Small scans with an abdomen's landmarks, written as the data sets write theirs."""

from pathlib import Path

import nibabel
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

SHAPE = (20, 48, 64)  # z, y, x, canonical: cranial, dorsal, left
# As small as a fist: too little body to be compared with other patients' (they are all alike).
SPACING_MM = (1.75, 1.5, 1.25)
LIVER_HU, LESION_HU = 110, 60
LESIONS = ((6, 9, 18, 24, 15, 22), (11, 13, 24, 26, 20, 21))  # z, y, x ranges, half-open


def make_abdomen(seed=0, shape=SHAPE, lesions=LESIONS):
    """int16 HU and uint8 mask [z, y, x]: liver right, spine dorsal, lungs around the dome."""
    rng = np.random.default_rng(seed)
    z, y, x = (
        np.arange(n).reshape([-1 if i == a else 1 for i in range(3)]) for a, n in enumerate(shape)
    )
    v, w = (y + 0.5) / shape[1] * 2 - 1, (x + 0.5) / shape[2] * 2 - 1  # -1 ventral, right
    u = (z + 0.5) / shape[0] * 2 - 1  # -1 caudal
    full = np.ones(shape, bool)
    image = np.full(shape, -1000.0)
    body = full & ((v / 0.8) ** 2 + (w / 0.85) ** 2 < 1)
    image[body] = -100
    image[full & ((v / 0.7) ** 2 + (w / 0.75) ** 2 < 1)] = 40
    for side in (-1, 1):
        lung = ((v + 0.05) / 0.5) ** 2 + ((w - side * 0.38) / 0.3) ** 2 < 1
        image[full & lung & (u > 0.35)] = -850
    image[full & (((v - 0.05) / 0.3) ** 2 + ((w - 0.45) / 0.15) ** 2 < 1) & (u < 0.3)] = 95
    image[full & (((v - 0.45) / 0.15) ** 2 + (w / 0.1) ** 2 < 1)] = 350  # the spine, in all slices
    tilt = 1 + 0.02 * (seed % 5)
    wide = 1 + 0.35 * u  # a liver is wider below the dome than at its tip
    across = ((v + 0.1) / 0.42) ** 2 + ((w + 0.33) / 0.33 * tilt) ** 2
    liver = across / wide**2 + (u / 0.8) ** 2 < 1
    liver &= body & (image < 300)
    mask = liver.astype(np.uint8)
    image[liver] = LIVER_HU
    for z1, z2, y1, y2, x1, x2 in lesions:
        assert liver[z1:z2, y1:y2, x1:x2].all()
        mask[z1:z2, y1:y2, x1:x2] = 2
        image[z1:z2, y1:y2, x1:x2] = LESION_HU
    image[body] += rng.normal(0, 8, int(body.sum()))
    return image.astype(np.int16), mask


def to_stored(array, code="LAS"):
    """Canonical [z, y, x] to [i, j, k] as a file of RAS-style code stores it."""
    stored = array.transpose(2, 1, 0)  # L, P, S
    flips = [
        axis for axis, (now, wanted) in enumerate(zip("LPS", code, strict=True)) if now != wanted
    ]
    return np.flip(stored, flips)


def make_affine(code="LAS", spacing_mm=SPACING_MM, shape=SHAPE):
    """RAS affine of what `to_stored` gives; the canonical corner is at LPS (-150, -120, 7)."""
    affine = np.eye(4)
    for axis, (letter, mm, size) in enumerate(
        zip(code, spacing_mm[::-1], shape[::-1], strict=True)
    ):
        first, sign = (-150.0, -120.0, 7.0)[axis], (-1, -1, 1)[axis]
        grows = letter == "LPS"[axis]
        start = first if grows else first + mm * (size - 1)
        affine[axis, axis] = sign * mm * (1 if grows else -1)
        affine[axis, 3] = sign * start
    return affine


def write_nifti(path: Path, stored, affine):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(np.asarray(stored), affine)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)


def write_lits(folder: Path, number, seed=None, code="LAS", suffix=".nii.gz", **kwargs):
    """A LiTS pair; returns its canonical image and mask."""
    image, mask = make_abdomen(number if seed is None else seed, **kwargs)
    affine = make_affine(code, shape=image.shape)
    write_nifti(folder / f"volume-{number}{suffix}", to_stored(image, code), affine)
    write_nifti(folder / f"segmentation-{number}{suffix}", to_stored(mask, code), affine)
    return image, mask


def write_dicom(folder: Path, array, spacing_mm=SPACING_MM, *, mask=False):
    """A series of axial slices, caudal first, as 3D-IRCADb-01 has them: no suffix."""
    folder.mkdir(parents=True, exist_ok=True)
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    for z, plane in enumerate(array):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = CTImageStorage
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        ds.SeriesInstanceUID, ds.StudyInstanceUID, ds.FrameOfReferenceUID = series, study, frame
        ds.Modality, ds.PatientID, ds.PatientName = "CT", "made", "made"
        ds.InstanceNumber, ds.SliceThickness = z + 1, spacing_mm[0]
        ds.ImagePositionPatient = [-150.0, -120.0, 7.0 + z * spacing_mm[0]]
        ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing = list(spacing_mm[1:])
        ds.Rows, ds.Columns = plane.shape
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        bits, ds.PixelRepresentation = (8, 0) if mask else (16, 1)
        ds.BitsAllocated = ds.BitsStored = bits
        ds.HighBit = bits - 1
        if not mask:
            ds.RescaleSlope, ds.RescaleIntercept = 1, 0
        ds.PixelData = (plane.astype(np.uint8) * 255 if mask else plane.astype("<i2")).tobytes()
        ds.save_as(folder / f"image_{z}", enforce_file_format=True)


def write_ircadb01(
    folder: Path, number, *, names=("livertumor01", "livertumor02"), lesions=LESIONS
):
    """A case with one mask a lesion; returns its canonical image and mask."""
    image, mask = make_abdomen(number, lesions=lesions)
    case = folder / f"3Dircadb1.{number}"
    write_dicom(case / "PATIENT_DICOM", image)
    write_dicom(case / "MASKS_DICOM" / "liver", mask > 0, mask=True)
    write_dicom(case / "MASKS_DICOM" / "bone", image > 250, mask=True)
    for name, (z1, z2, y1, y2, x1, x2) in zip(names, lesions, strict=True):
        part = np.zeros(mask.shape, bool)
        part[z1:z2, y1:y2, x1:x2] = True
        write_dicom(case / "MASKS_DICOM" / name, part, mask=True)
    return image, mask
