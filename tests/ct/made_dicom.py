"""CT series written from arrays with pydicom, for tests."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

SERIES = "1.2.826.0.1.3680043.8.498.1"


def make_stored(num: int = 5, rows: int = 4, columns: int = 6) -> np.ndarray:
    """Return uint16 [N, H, W] of pairwise different values: HU + 1024."""
    return (np.arange(num * rows * columns).reshape(num, rows, columns) * 7 + 100).astype(np.uint16)


def make_slices(
    stored: np.ndarray,
    *,
    origin=(-100.0, -120.0, 50.0),
    orientation=(1, 0, 0, 0, 1, 0),
    step=(0.0, 0.0, 2.5),
    spacing=(0.8, 0.6),
    slope="1",
    intercept="-1024",
) -> list[Dataset]:
    """Return one dataset a slice.

    Args:
        stored: uint16 or int16 [N, H, W].
        origin: Of the first pixel of the first slice, LPS mm.
        orientation: ImageOrientationPatient.
        step: From slice to slice, LPS mm.
        spacing: Between rows, between columns.
        slope: Of the rescale.
        intercept: Likewise.
    """
    slices = []
    for number, plane in enumerate(stored):
        ds = Dataset()
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, f"{SERIES}.{number}"
        ds.SeriesInstanceUID, ds.Modality, ds.InstanceNumber = SERIES, "CT", number + 1
        ds.PatientID, ds.PatientName = "PLANTED-ID", "PLANTED^NAME"
        position = np.array(origin) + np.array(step) * number
        ds.ImagePositionPatient = [f"{value:.6f}" for value in position]
        ds.ImageOrientationPatient = [f"{value:.9g}" for value in orientation]
        ds.PixelSpacing = [f"{value:.6g}" for value in spacing]
        ds.SliceThickness, ds.SliceLocation = "99", "-7"  # must not be asked
        ds.RescaleSlope, ds.RescaleIntercept = slope, intercept
        set_pixels(ds, plane)
        slices.append(ds)
    return slices


def set_pixels(ds: Dataset, plane: np.ndarray) -> None:
    """Set pixels and their format."""
    ds.Rows, ds.Columns = plane.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    bits = plane.dtype.itemsize * 8
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = bits, bits, bits - 1
    ds.PixelRepresentation = int(plane.dtype.kind == "i")
    data = plane.astype(plane.dtype.newbyteorder("<")).tobytes()
    ds.add_new("PixelData", "OB" if bits == 8 else "OW", data + b"\0" * (len(data) % 2))


def write_slice(ds: Dataset, path: Path, syntax: str = ExplicitVRLittleEndian) -> None:
    """Write a dataset, its pixels as the syntax wants them."""
    ds = copy.copy(ds)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.get("SOPInstanceUID", SERIES)
    path.parent.mkdir(parents=True, exist_ok=True)
    dcmwrite(path, ds, enforce_file_format=True)


def write_slices(slices: list[Dataset], folder: Path, syntax: str = ExplicitVRLittleEndian) -> Path:
    """Write slices as IM0, IM1, ... and return the folder."""
    for number, ds in enumerate(slices):
        write_slice(ds, folder / f"IM{number}", syntax)
    return folder
