"""Writes made scans as NIfTI, byte by byte, so that every field can be made wrong.

Source: nifti1.h and nifti2.h (nifti.nimh.nih.gov).
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.ct.defects.scans import Scan

NIFTI_1 = [
    ("sizeof_hdr", "i4"), ("data_type", "S10"), ("db_name", "S18"), ("extents", "i4"),
    ("session_error", "i2"), ("regular", "S1"), ("dim_info", "u1"), ("dim", "i2", 8),
    ("intent_p", "f4", 3), ("intent_code", "i2"), ("datatype", "i2"), ("bitpix", "i2"),
    ("slice_start", "i2"), ("pixdim", "f4", 8), ("vox_offset", "f4"), ("scl_slope", "f4"),
    ("scl_inter", "f4"), ("slice_end", "i2"), ("slice_code", "u1"), ("xyzt_units", "u1"),
    ("cal_max", "f4"), ("cal_min", "f4"), ("slice_duration", "f4"), ("toffset", "f4"),
    ("glmax", "i4"), ("glmin", "i4"), ("descrip", "S80"), ("aux_file", "S24"),
    ("qform_code", "i2"), ("sform_code", "i2"), ("quatern", "f4", 3), ("qoffset", "f4", 3),
    ("srow", "f4", (3, 4)), ("intent_name", "S16"), ("magic", "S4"),
]  # fmt: skip
NIFTI_2 = [
    ("sizeof_hdr", "i4"), ("magic", "S8"), ("datatype", "i2"), ("bitpix", "i2"), ("dim", "i8", 8),
    ("intent_p", "f8", 3), ("pixdim", "f8", 8), ("vox_offset", "i8"), ("scl_slope", "f8"),
    ("scl_inter", "f8"), ("cal_max", "f8"), ("cal_min", "f8"), ("slice_duration", "f8"),
    ("toffset", "f8"), ("slice_start", "i8"), ("slice_end", "i8"), ("descrip", "S80"),
    ("aux_file", "S24"), ("qform_code", "i4"), ("sform_code", "i4"), ("quatern", "f8", 3),
    ("qoffset", "f8", 3), ("srow", "f8", (3, 4)), ("slice_code", "i4"), ("xyzt_units", "i4"),
    ("intent_code", "i4"), ("intent_name", "S16"), ("dim_info", "u1"), ("unused", "S15"),
]  # fmt: skip
DATATYPES = {  # numpy -> code, nifti1.h
    "uint8": 2, "int16": 4, "int32": 8, "float32": 16, "complex64": 32, "float64": 64,
    "int8": 256, "uint16": 512, "uint32": 768, "int64": 1024, "uint64": 1280,
}  # fmt: skip
RGB = 128
TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass
class Nifti:
    """A file that is not yet written: change what you like.

    Attributes:
        header: A NIfTI-1 or NIfTI-2 header of native byte order, one record.
        data: [i, j, k] as stored, or any shape.
        order: "<" or ">".
        extension: Bytes after the header.
        rest: Bytes after the data.
    """

    header: np.ndarray
    data: np.ndarray
    order: str = "<"
    extension: bytes = b"\x00\x00\x00\x00"
    rest: bytes = field(default=b"")

    def to_bytes(self) -> bytes:
        """Return the file."""
        header = self.header.astype(self.header.dtype.newbyteorder(self.order))
        data = self.data.astype(self.data.dtype.newbyteorder(self.order))
        return header.tobytes() + self.extension + data.tobytes(order="F") + self.rest

    def write(self, path: Path) -> Path:
        """Write .nii or .nii.gz by the name, and return the path."""
        content = self.to_bytes()
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.name.endswith(".gz"):
            content = gzip.compress(content, 1, mtime=0)
        path.write_bytes(content)
        return path


def make_quaternion(rotation: np.ndarray) -> np.ndarray:
    """Return b, c, d of a proper rotation, a >= 0 (nifti1.h, method 2)."""
    outer = np.empty((4, 4))
    # 4 q q' of q = (a, b, c, d): its largest column is q up to a factor, without cancellation.
    signs = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    np.fill_diagonal(outer, 1 + signs @ np.diag(rotation))
    r = rotation
    outer[0, 1:] = outer[1:, 0] = r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]
    outer[1, 2] = outer[2, 1] = r[0, 1] + r[1, 0]
    outer[1, 3] = outer[3, 1] = r[0, 2] + r[2, 0]
    outer[2, 3] = outer[3, 2] = r[1, 2] + r[2, 1]
    column = outer[:, np.argmax(np.diag(outer))]
    column = column / np.linalg.norm(column)
    return (column if column[0] >= 0 else -column)[1:]


def set_forms(header: np.ndarray, affine_ras: np.ndarray, qform: int = 1, sform: int = 1) -> None:
    """Set spacing, and the forms whose code is not 0."""
    spacing_mm = np.linalg.norm(affine_ras[:3, :3], axis=0)
    rotation = affine_ras[:3, :3] / spacing_mm
    hand = 1.0 if np.linalg.det(rotation) > 0 else -1.0
    header["pixdim"][1:4] = spacing_mm
    header["qform_code"], header["sform_code"] = qform, sform
    if qform:
        header["pixdim"][0] = hand
        header["quatern"] = make_quaternion(rotation * [1, 1, hand])
        header["qoffset"] = affine_ras[:3, 3]
    if sform:
        header["srow"] = affine_ras[:3]


def make_nifti(
    scan: Scan, dtype: str = "int16", *, version: int = 1, qform: int = 1, sform: int = 1
) -> Nifti:
    """Return a file of a scan; its first axis is the scan's last."""
    data = np.transpose(scan.array, (2, 1, 0)).astype(dtype)
    header = np.zeros((), NIFTI_1 if version == 1 else NIFTI_2)
    header["sizeof_hdr"] = header.dtype.itemsize
    header["magic"] = b"n+1\0" if version == 1 else b"n+2\0\r\n\x1a\n"
    header["dim"] = (3, *data.shape, 1, 1, 1, 1)
    header["pixdim"] = 1
    header["datatype"], header["bitpix"] = DATATYPES[dtype], data.dtype.itemsize * 8
    header["vox_offset"] = header.dtype.itemsize + 4
    header["scl_slope"], header["xyzt_units"] = 1, 2
    affine_ras = TO_RAS @ scan.affine[:, [2, 1, 0, 3]]
    set_forms(header, affine_ras, qform, sform)
    return Nifti(header, data)
