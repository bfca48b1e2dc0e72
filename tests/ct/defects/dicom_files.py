"""Writes made scans as DICOM series in the many ways in which scanners and archives write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from tests.ct.defects import jpeg_lossless
from tests.ct.defects.cases import Case
from tests.ct.defects.scans import Ramp, Scan, make_scan

PLAIN = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
COMPRESSED = (RLELossless, JPEGLosslessSV1, JPEG2000Lossless, JPEGLSLossless)
ROOT = "1.2.826.0.1.3680043.8.498."


def make_uid(rng: np.random.Generator) -> str:
    """Return a new UID."""
    return ROOT + str(rng.integers(10**17, 10**18))


def to_ds(value: float) -> str:
    """Return a decimal string of at most 16 characters."""
    for digits in range(15, 0, -1):
        text = f"{value:.{digits}g}"
        if len(text) <= 16:
            return text
    raise AssertionError(value)


def make_series(
    rng: np.random.Generator, scan: Scan, *, intercept: int | None = None, optional: bool = True
) -> list[Dataset]:
    """Return one dataset a slice, k ascending, pixels not compressed and little endian.

    Args:
        rng: Draws what does not matter.
        scan: Values and place.
        intercept: Of the rescale; None: drawn.
        optional: Whether to add what a reader must not need.
    """
    if intercept is None:
        intercept = int(rng.choice([-1024, -1024, 0, -1000, -8192]))
    series_uid, frame_uid, study_uid = (make_uid(rng) for _ in range(3))
    patient = f"P{rng.integers(10**6)}"
    first_number = int(rng.choice([1, 1, 0, 37]))
    up = bool(rng.random() < 0.5)
    with_optional = optional and rng.random() < 0.4
    datasets = []
    for k, plane in enumerate(scan.array):
        ds = Dataset()
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, make_uid(rng)
        ds.StudyInstanceUID, ds.SeriesInstanceUID = study_uid, series_uid
        ds.FrameOfReferenceUID = frame_uid
        ds.Modality, ds.PatientID, ds.PatientName = "CT", patient, "Made^Up"
        ds.InstanceNumber = first_number + (k if up else len(scan.array) - 1 - k)
        place(ds, scan, k)
        set_pixels(ds, plane, 1, intercept)
        if with_optional:
            add_optional(rng, ds, scan, k, len(scan.array))
        datasets.append(ds)
    return datasets


def place(ds: Dataset, scan: Scan, k: int) -> None:
    """Set the tags that place slice k."""
    spacing_mm = scan.spacing_mm
    row_axis, column_axis = (scan.affine[:3, i] / spacing_mm[i] for i in (1, 2))
    position = scan.affine[:3, 3] + scan.affine[:3, 0] * k
    # PS3.3 C.7.6.2.1.1: first the direction in which columns are counted, then that of rows.
    ds.ImageOrientationPatient = [to_ds(v) for v in (*column_axis, *row_axis)]
    ds.ImagePositionPatient = [to_ds(v) for v in position]
    ds.PixelSpacing = [to_ds(v) for v in spacing_mm[1:]]


def set_pixels(
    ds: Dataset, plane_hu: np.ndarray, slope: float, intercept: float, signed: bool | None = None
) -> None:
    """Set pixels and rescale so that slope * stored + intercept are the HU, to rounding."""
    stored = np.round((plane_hu.astype(np.float64) - intercept) / slope).astype(np.int64)
    signed = bool(stored.min() < 0) if signed is None else signed
    assert stored.min() >= (-32768 if signed else 0), "does not fit"
    assert stored.max() <= (32767 if signed else 65535), "does not fit"
    set_stored(ds, stored.astype(np.int16 if signed else np.uint16))
    ds.RescaleSlope, ds.RescaleIntercept = to_ds(slope), to_ds(intercept)


def set_stored(ds: Dataset, stored: np.ndarray) -> None:
    """Set 16-bit pixels."""
    ds.Rows, ds.Columns = stored.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
    ds.PixelRepresentation = int(stored.dtype == np.int16)
    ds.add_new("PixelData", "OW", stored.astype(stored.dtype.newbyteorder("<")).tobytes())


def get_stored(ds: Dataset) -> np.ndarray:
    """Return pixels that `set_stored` set."""
    dtype = "<i2" if ds.PixelRepresentation else "<u2"
    return np.frombuffer(ds.PixelData, dtype).reshape(ds.Rows, ds.Columns)


def add_optional(rng: np.random.Generator, ds: Dataset, scan: Scan, k: int, num: int) -> None:
    """Add tags that say nothing about geometry or values, or say it less well."""
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SliceThickness = to_ds(scan.spacing_mm[0] * 1.6)  # overlapping reconstruction
    normal = np.cross(scan.affine[:3, 2], scan.affine[:3, 1])
    normal /= np.linalg.norm(normal)
    position = scan.affine[:3, 3] + scan.affine[:3, 0] * k
    ds.SliceLocation = to_ds(round(float(normal @ position), 3))
    ds.RescaleType, ds.KVP, ds.ConvolutionKernel = "HU", "120", "B30f"
    ds.WindowCenter, ds.WindowWidth = [40, 300], [400, 1500]
    ds.AcquisitionNumber, ds.PatientPosition, ds.BodyPartExamined = 1, "HFS", "ABDOMEN"
    ds.StudyDate, ds.SeriesDescription = "20200101", "Abdomen 1.0 B30f"
    ds.SpacingBetweenSlices = to_ds(scan.spacing_mm[0])
    ds.ImagesInAcquisition = num
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CTImageStorage, ROOT + "1"
    ds.ReferencedImageSequence = [item]
    block = ds.private_block(0x0019, "MADE UP", create=True)
    block.add_new(0x01, "DS", "3.5")
    block.add_new(0x02, "UN", b"\x00\x01\x02\x03")


def encode(ds: Dataset, syntax: str) -> Dataset:
    """Return a copy with the pixels as the transfer syntax wants them."""
    ds = Dataset(dict(ds._dict))  # copy.copy would share the dictionary
    if syntax == ExplicitVRBigEndian:
        pixels = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
        ds.add_new("PixelData", "OW", pixels)
    elif syntax in COMPRESSED:
        ds.add_new("PixelData", "OB", encapsulate([ENCODERS[syntax](ds)], has_bot=False))
        ds["PixelData"].is_undefined_length = True
    return ds


def _encode_rle(ds: Dataset) -> bytes:
    """PS3.5 annex G, two segments of literal runs and of replicates."""
    stored = get_stored(ds).astype(">u2").view(np.uint8).reshape(ds.Rows, -1)
    segments = []
    for plane in (stored[:, 0::2], stored[:, 1::2]):  # high bytes first
        segment = b"".join(_pack_bits(row.tobytes()) for row in plane)
        segments.append(segment + b"\x00" * (len(segment) % 2))
    header = np.zeros(16, "<u4")
    header[:3] = 2, 64, 64 + len(segments[0])
    return header.tobytes() + b"".join(segments)


def _pack_bits(row: bytes) -> bytes:
    out, i = bytearray(), 0
    while i < len(row):
        run = 1
        while i + run < len(row) and run < 128 and row[i + run] == row[i]:
            run += 1
        if run > 2:
            out += bytes((257 - run, row[i]))
        else:
            run = min(2, len(row) - i)
            out += bytes((run - 1,)) + row[i : i + run]
        i += run
    return bytes(out)


def _encode_jpeg_lossless(ds: Dataset) -> bytes:
    return jpeg_lossless.encode(get_stored(ds).view(np.uint16))


def _encode_jpeg2000(ds: Dataset) -> bytes:
    from openjpeg.utils import encode_array

    return bytes(encode_array(get_stored(ds), photometric_interpretation=2))


def _encode_jpeg_ls(ds: Dataset) -> bytes:
    import jpeg_ls

    return bytes(jpeg_ls.encode_array(get_stored(ds).astype(np.uint16)))


ENCODERS = {
    RLELossless: _encode_rle,
    JPEGLosslessSV1: _encode_jpeg_lossless,
    JPEG2000Lossless: _encode_jpeg2000,
    JPEGLSLossless: _encode_jpeg_ls,
}


def write_file(ds: Dataset, path: Path, syntax: str = ExplicitVRLittleEndian) -> None:
    """Write one file in a transfer syntax."""
    write_encoded(encode(ds, syntax), path, syntax)


def write_encoded(ds: Dataset, path: Path, syntax: str) -> None:
    """Write one file whose pixels are as the transfer syntax wants them, or are meant to be."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    path.parent.mkdir(parents=True, exist_ok=True)
    dcmwrite(path, ds, enforce_file_format=True)


def make_names(rng: np.random.Generator, num: int) -> list[str]:
    """Return file names of one of the styles in use; their order tells nothing."""
    order = rng.permutation(num)
    style = rng.integers(6)
    if style == 0:
        return [f"IM{i:06d}" for i in order]
    if style == 1:
        return [f"slice ({i}).dcm" for i in order]
    if style == 2:
        return [f"{rng.integers(10**9, 10**10)}.{i}" for i in order]  # as UIDs: no suffix at all
    if style == 3:
        return [f"{i}.DCM" for i in order]
    if style == 4:
        return [f"disk{i % 2}/s {i:03d}/I.ima" for i in order]
    return [f"CT.{i:04d}.dcm" for i in range(num)]


def write_series(
    rng: np.random.Generator, datasets: list[Dataset], folder: Path, syntax: str | None = None
) -> list[Path]:
    """Write a series in a transfer syntax (drawn of the plain ones) and return the files."""
    chosen = str(rng.choice(PLAIN)) if syntax is None else syntax
    paths = [folder / name for name in make_names(rng, len(datasets))]
    for ds, path in zip(datasets, paths, strict=True):
        write_file(ds, path, chosen)
    return paths


def start(rng: np.random.Generator, **options) -> tuple[Scan, list[Dataset]]:
    """Return a scan, oblique in one case of four, and its series; options of `make_series`."""
    scan = make_scan(rng, degrees=rng.choice([0, 0, 0, 12]))
    return scan, make_series(rng, scan, **options)


def finish(
    rng: np.random.Generator,
    folder: Path,
    datasets: list[Dataset],
    truth: Scan | Ramp | None,
    syntax: str | None = None,
    **options,
) -> Case:
    """Write a series and return what is to be read, with options of `read_volume`."""
    write_series(rng, datasets, folder / "CT", syntax)
    return Case(folder / "CT", truth, options)
